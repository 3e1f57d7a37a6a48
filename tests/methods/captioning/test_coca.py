"""CoCa: its losses by hand, what its decoder may see, captions in every way, and where words look."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from intermodal.core.captioning import Captioning
from intermodal.core.errors import ConfigError, DataError
from intermodal.methods.captioning.coca import CoCa
from toy_captioner import TEXTS, pictures, tiny


@pytest.fixture(scope="module")
def learnt() -> CoCa:
    """A model that has learnt four pictures by heart."""
    model = tiny().train()
    batch = model.prepare(
        {
            "image": torch.stack([model.processors["image"].encode(p) for p in pictures()]),
            "text": torch.stack([model.processors["text"].encode(t) for t in TEXTS]),
        }
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        loss = model.loss(batch).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["parallel", "shared"])
def test_both_losses_are_the_written_out_equations(pooling):
    model = tiny(pooling).double().eval()
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(3, 3, 16, 16, generator=generator, dtype=torch.float64)
    text = torch.tensor([[0, 3, 4, 1, 0, 0, 0], [0, 5, 1, 0, 0, 0, 0], [0, 2, 3, 4, 5, 2, 1]])
    lengths = [4, 3, 7]
    losses = model.loss({"image": image, "text": text})

    vectors, read = model.see(image)
    words, _ = model.read_text(text)
    scale = math.exp(float(model.logit_scale.detach()))
    similarity = scale * vectors @ words.T
    wanted = 0.0
    for i in range(3):
        row, column = similarity[i].exp(), similarity[:, i].exp()
        wanted -= float(torch.log(row[i] / row.sum()) + torch.log(column[i] / column.sum())) / 6
    assert float(losses.parts["contrastive"]) == pytest.approx(wanted, rel=1e-10)

    nats, count = 0.0, 0
    for i, length in enumerate(lengths):  # each text alone, without padding: padding must change nothing
        _, token = model.read_text(text[i : i + 1, :length])
        logits = model.decoder.head(model.decoder(token, read[i : i + 1]))[0]
        for place in range(length - 1):
            chances = logits[place].exp()
            nats -= float(torch.log(chances[text[i, place + 1]] / chances.sum()))
            count += 1
    assert float(losses.parts["captioning"]) == pytest.approx(nats / count, rel=1e-10)
    assert float(losses.total) == pytest.approx(wanted + 2.0 * nats / count, rel=1e-10)


def test_the_text_is_read_before_the_picture_and_no_word_sees_the_next():
    model = tiny().double().eval()
    image = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    text = torch.tensor([[0, 2, 3, 4, 1, 0, 0]]).expand(2, -1)
    logits = model.logits(image, text)
    assert not torch.allclose(logits[0, 0], logits[1, 0])  # the picture matters
    assert torch.equal(*model.read_text(text)[0])  # but not to the text's vector
    changed = text.clone()
    changed[:, 3] = 5
    assert torch.allclose(model.logits(image, changed)[:, :3], logits[:, :3], rtol=1e-12)
    assert not torch.allclose(model.logits(image, changed)[:, 3], logits[:, 3])
    assert not torch.allclose(model.read_text(changed)[0], model.read_text(text)[0])  # the class token sees every word


def test_each_picture_gets_its_own_caption_greedily_and_by_beam(learnt):
    for settings in (None, Captioning(beam=3), Captioning(temperature=0.01), Captioning(temperature=1.0, top_k=1)):
        found = learnt.caption(pictures(), settings)
        assert [c.text for c in found] == TEXTS
        assert all(c.ended and c.tokens == 4 and c.log_prob < 0 for c in found)


@torch.no_grad()
def test_log_prob_is_that_of_the_written_tokens(learnt):
    model = learnt
    prepared = model.pictures(pictures())
    found = model.write_prepared(prepared)
    text = model.processors["text"](TEXTS)
    log_probs = model.logits(prepared, text)[:, :-1].log_softmax(-1).gather(2, text[:, 1:, None])[..., 0]
    for row, caption in zip(log_probs, found, strict=True):
        assert caption.log_prob == pytest.approx(float(row[:4].sum()), rel=1e-4)


def test_captions_are_cut_where_asked_and_do_not_depend_on_their_neighbours(learnt):
    cut = learnt.caption(pictures(), Captioning(most=2))
    assert all(not c.ended and c.tokens == 2 and len(c.text.split()) == 2 for c in cut)
    hot = Captioning(temperature=3.0, seed=5)
    together = learnt.caption(pictures(), hot)
    alone = [learnt.caption([p], hot.replace(seed=5 + i))[0] for i, p in enumerate(pictures())]
    assert [c.text for c in together] == [c.text for c in alone]
    assert [c.text for c in learnt.caption(pictures(), hot)] == [c.text for c in together]
    assert learnt.caption([]) == []


def test_pictures_and_texts_share_a_space(learnt):
    image, text = learnt.embed("image", pictures()), learnt.embed("text", TEXTS)
    assert np.allclose(np.linalg.norm(image, axis=1), 1, atol=1e-5)
    assert (image @ text.T).argmax(1).tolist() == [0, 1, 2, 3]
    assert learnt.embed("text", []).shape == (0, 16)
    with pytest.raises(DataError, match="not 'audio'"):
        learnt.embed("audio", [])


@pytest.mark.parametrize("resnet", [False, True])
def test_where_words_look_is_a_distribution_over_the_picture(resnet):
    model = tiny(resnet=resnet).eval()
    text = model.processors["text"](TEXTS)
    looks = model.looks(model.pictures(pictures()), text)
    places = 4 if resnet else 16
    assert looks.shape == (4, 7, places)
    total = looks.sum(-1)
    assert bool((looks >= 0).all()) and bool((total <= 1 + 1e-5).all())
    assert not resnet or torch.allclose(total, torch.ones(4, 7), atol=1e-5)


def test_repeating_captions_are_told():
    model = tiny().train()
    batch = torch.randn(32, 3, 16, 16)
    model.keep_probe(batch)
    with torch.no_grad():  # the end follows whatever was written, whatever the picture
        model.decoder.head.weight.zero_()
        model.decoder.final_norm.weight.zero_()
        model.decoder.final_norm.bias.fill_(1.0)
        model.decoder.head.weight[1] = 1.0
    assert "32 pictures get 1 distinct" in model.health()[0]


def test_what_does_not_fit_is_refused():
    config = tiny().config
    with pytest.raises(ConfigError, match="pool='cls'"):
        config.replace(image=config.image.replace(pool="mean"))
    with pytest.raises(ConfigError, match="at least one block"):
        config.replace(multimodal_depth=0)
    with pytest.raises(ConfigError, match="query"):
        config.replace(pooling="shared", queries=1)
