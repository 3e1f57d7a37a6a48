"""CLIP-guided decoding: scores by hand, steps that only rise, the optimum that a search of all texts finds."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

from intermodal.core.captioning import Captioning
from intermodal.core.errors import ConfigError
from intermodal.decode.guided import Guided, ascend
from intermodal.methods.captioning.clip_guided import ClipGuided
from toy_captioner import TEXTS, pictures
from toy_joint import LENGTH, batch_of, clip, language, learn


def built(length: int = LENGTH, texts: list[str] | None = None, **settings) -> ClipGuided:
    return ClipGuided.over(clip(), language(texts=texts), length=length, **settings).eval()


def by_hand(model: ClipGuided, vector: torch.Tensor, row: list[int]) -> float:
    """The score of one text: CLIP reads it alone, and the decoder token by token."""
    text = model.clip.encode_text(model.clip.processors["text"]([model.say(row)]))[0]
    ids, total = [model.writes.bos_id, *row, model.end], 0.0
    for place in range(1, len(ids)):
        logits = model.language.network(torch.tensor([ids[:place]]))[0, -1]
        total += float(logits.log_softmax(-1)[ids[place]])
    return model.config.match * float(vector @ text) + model.config.fluency * total / (len(row) + 1)


@torch.no_grad()
def test_scores_are_those_by_hand_whatever_stands_beside():
    model = built(fluency=0.3).double()
    image = model.pictures(pictures())
    rows, owners = [[2, 3], [4, 5, 2, 6], [7], [3, 3, 3]], [0, 1, 3, 1]
    vectors = model.see(image)
    found = model.score(vectors, rows, owners)
    for row, owner, score in zip(rows, owners, found.tolist(), strict=True):
        assert score == pytest.approx(by_hand(model, vectors[owner], row), abs=1e-9)


@torch.no_grad()
def test_with_room_for_all_texts_it_finds_the_best_of_all():
    model = built(
        4, ["red green blue"], beams=40, candidates=4, fluency=0.2, sweeps=1
    )  # three words, up to two of them
    words = [token for token in range(model.writes.vocab_size) if token not in (model.end,)]
    image = model.pictures(pictures())
    vectors = model.see(image)
    every = [list(row) for size in (1, 2) for row in itertools.product(words, repeat=size)]
    assert len(every) == 4 + 16
    for i, found in enumerate(model.guide(image)):
        scores = model.score(vectors, every, [i] * len(every))
        assert found.score == pytest.approx(float(scores.max()), abs=1e-6)
        assert found.tokens == every[int(scores.argmax())]


@torch.no_grad()
def test_every_accepted_step_scores_higher_than_the_one_before():
    model = built(beams=1, candidates=5, fluency=0.05, sweeps=4).double()
    image = model.pictures(pictures())
    vectors, steps = model.see(image), 0
    begun = [Guided([2, 3, 2, 2], 0.0) for _ in range(4)]  # from anything, not from what the beam has found
    ascend(begun, model.proposals, functools.partial(model.score, vectors), sweeps=4)
    for i, found in enumerate([*begun, *model.guide(image)]):
        i %= 4
        exact = [by_hand(model, vectors[i], row) for _, row in found.trace]
        assert all(after > before for before, after in itertools.pairwise(exact))
        assert all(after > before for (before, _), (after, _) in itertools.pairwise(found.trace))
        assert exact == pytest.approx([score for score, _ in found.trace], abs=1e-9)
        assert found.trace[-1] == (found.score, found.tokens)
        assert len({len(row) for _, row in found.trace}) == 1
        for (_, one), (_, other) in itertools.pairwise(found.trace):
            assert sum(a != b for a, b in zip(one, other, strict=True)) == 1
        steps += len(found.trace) - 1
    assert steps > 4


@torch.no_grad()
def test_where_it_stops_no_exchange_of_one_word_is_better():
    model = built(beams=1, candidates=100, fluency=0.05, sweeps=50).double()
    image = model.pictures(pictures())
    vectors = model.see(image)
    for i, found in enumerate(model.guide(image)):
        words = [token for token in range(model.writes.vocab_size) if token != model.end]
        others = [
            [*found.tokens[:place], word, *found.tokens[place + 1 :]]
            for place in range(len(found.tokens))
            for word in words
        ]
        assert float(model.score(vectors, others, [i] * len(others)).max()) <= found.score + 1e-12


def test_it_captions_with_what_clip_prefers_and_its_decoder_knows():
    model = learn(built(match=0.0, fluency=1.0))
    found = model.caption(pictures())
    assert {c.text for c in found} <= set(TEXTS) and all(c.ended and c.tokens == 4 and c.log_prob < 0 for c in found)
    loud = ClipGuided(model.config.replace(match=50.0, fluency=1.0, beams=8), model.processors).eval()
    loud.load_state_dict(model.state_dict())
    image, text = model.clip.embed("image", pictures()), model.clip.embed("text", TEXTS)
    said = [c.text for c in loud.caption(pictures())]
    for row, one in zip(image, said, strict=True):
        assert float(row @ model.clip.embed("text", [one])[0]) >= float((text @ row).max()) - 1e-5
    assert all(len(c.text.split()) <= 2 for c in loud.caption(pictures(), Captioning(most=2)))


def test_training_is_the_decoders_own_and_drawing_is_refused():
    model = built()
    batch = batch_of(model)
    assert set(model.needs) == {"text"}
    assert model.loss(batch).total.item() == model.language.loss(batch).total.item()
    with pytest.raises(ConfigError, match="draws nothing"):
        model.caption(pictures(), Captioning(temperature=1.0))
    with pytest.raises(ConfigError, match="candidates at least 1"):
        model.config.replace(candidates=0)
