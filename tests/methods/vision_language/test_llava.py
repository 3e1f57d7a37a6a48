"""LLaVA: its loss by hand, its stages, what it answers once it has learnt, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from intermodal.core.captioning import Captioning
from intermodal.core.chat import Turn
from intermodal.core.errors import ConfigError, DataError
from intermodal.methods.vision_language.llava import LLaVA
from intermodal.nn import tower as towers
from intermodal.recipes.base import OptimConfig
from intermodal.train.optim import build_optimizer
from toy_captioner import pictures
from toy_llava import ANSWERS, ASKED, FRUIT, batch_of, chats, clip, language, learn, tiny


@pytest.fixture(scope="module")
def learnt() -> LLaVA:
    return learn(tiny())


@pytest.mark.parametrize("resnet", [False, True])
def test_the_loss_is_that_of_each_answer_alone_token_by_token(resnet):
    model = tiny(resnet).double().eval()
    wanted, count = 0.0, 0
    for chat, picture in zip(chats(), pictures(), strict=True):
        seen = model.see(model.pictures([picture]))[0]
        history = []
        for turn in chat:
            begun, _ = model.chats.chat([*history, Turn(turn.question, None, turn.pictures)])
            whole, _ = model.chats.chat([*history, turn])
            for place in range(len(begun), len(whole)):
                ids = torch.tensor(whole[:place])
                read = model.language.network.embed(ids)
                read[ids == model.config.image_id] = seen
                wanted -= float(model.language.network(read[None])[0, -1].log_softmax(-1)[whole[place]].detach())
                count += 1
            history.append(turn)
    assert count == 4 * (3 + 1 + 4 + 1), "words of the answers, and their ends"
    assert float(model.loss(batch_of(model)).total.detach()) == pytest.approx(wanted / count, rel=1e-9)


def test_a_chat_without_its_picture_is_read_without_it_and_several_pictures_in_their_order():
    model = tiny().eval()
    bare = batch_of(model, image=False)
    other = {**bare, "image": torch.randn_like(bare["image"])}
    assert torch.equal(model.loss(bare).total, model.loss(other).total)
    one, two = pictures()[0], pictures()[1]
    chat = [Turn(ASKED, ANSWERS[0], (one, two))]
    both = model.pictures([one, two])
    encoded = model.chats.encode(chat)[None]
    swapped = model.predicted(both.flip(0)[None], encoded)[0]
    kept = model.predicted(both[None], encoded)[0]
    assert not torch.allclose(kept, swapped)
    prompt, padding = model.prompt([[Turn(ASKED, None, (two, one))], [Turn(ASKED, None, (one, two))]])
    assert padding is None
    places = (torch.tensor(model.chats.chat(chat)[0]) == model.config.image_id).nonzero().flatten()
    seen = model.see(both).flatten(0, 1)
    torch.testing.assert_close(prompt[1, places], seen)
    torch.testing.assert_close(prompt[0, places], model.see(both.flip(0)).flatten(0, 1))


@pytest.mark.parametrize(
    ("stage", "tuned", "moves"),
    [
        (1, False, {"projector"}),
        (1, True, {"projector"}),
        (2, False, {"projector", "language"}),
        (2, True, {"projector", "language", "tower"}),
    ],
)
def test_each_stage_trains_what_it_should(stage, tuned, moves):
    model = tiny(stage=stage, tuned=tuned)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learn(model, 3)
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == moves
    if tuned:
        read = {n for n in before if n.startswith("tower.") and not torch.equal(model.state_dict()[n], before[n])}
        assert not any("blocks.1." in n or "post_norm" in n for n in read), (
            "what lies above the layer that is read stays"
        )


def test_a_tuned_tower_learns_at_its_share_of_the_rate():
    model = tiny(tuned=True)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = build_optimizer(model, OptimConfig(layer_decay=0.2), model.phases()[0]).param_groups
    share = {id(p): group["scale"] for group in groups for p in group["params"]}
    assert {name for name, p in trained.items() if share[id(p)] == 0.2} == {
        n for n in trained if n.startswith("tower.")
    }
    assert {share[id(p)] for name, p in trained.items() if not name.startswith("tower.")} == {1.0}


def test_it_answers_what_it_has_learnt_in_turns_and_streams(learnt):
    asked = [[Turn(ASKED, None, (picture,))] for picture in pictures()]
    again = [[turns[0], Turn(FRUIT)] for turns in chats()]
    for settings in (None, Captioning(beam=2)):
        said = learnt.answer(asked + again, settings)
        assert [c.text for c in said] == ANSWERS + ["that cannot be seen"] * 4
        assert all(c.ended for c in said)
        assert "".join(learnt.answering(asked[2], settings)) == ANSWERS[2]
    assert [c.text for c in learnt.caption(pictures())] == ANSWERS
    assert len(list(learnt.answering(asked[1]))) > 1, "word by word"
    with learnt.sightless():
        assert len({c.text for c in learnt.answer(asked)}) == 1
    assert [c.text for c in learnt.answer(asked)] == ANSWERS


def test_an_answer_that_never_ends_is_bounded(learnt, monkeypatch):
    found = learnt.answer([[Turn(ASKED, None, (pictures()[0],))]], Captioning(most=2))[0]
    assert (found.tokens, found.ended) == (2, False)
    monkeypatch.setattr(LLaVA, "end", property(lambda self: 0))  # which it never writes
    chat = [Turn(ASKED, None, (pictures()[0],))]
    found = learnt.answer([chat])[0]
    assert not found.ended and found.tokens == 96 - len(learnt.chats.chat(chat)[0]) + 1


class Counting(torch.nn.Module):
    """Counts what the network reads and the pictures that are seen."""

    def __init__(self, model, monkeypatch):
        super().__init__()
        self.tokens = self.pictures = 0
        network, see = model.language.network, model.see
        hidden = network.hidden

        def counted(read, *more, **named):
            self.tokens += read.shape[1]
            return hidden(read, *more, **named)

        def seen(image):
            self.pictures += len(image)
            return see(image)

        monkeypatch.setattr(network, "hidden", counted)
        monkeypatch.setattr(model, "see", seen)


def test_with_a_memory_only_what_is_new_is_read_and_answers_are_the_same(monkeypatch):
    model = learn(tiny(), 40).double()  # not to the end: answers depend on all that is read
    one, two = pictures()[:2]
    counted, memory, turns, new = Counting(model, monkeypatch), model.memory(), [], []
    for asked, shown in ((ASKED, (one,)), (FRUIT, ()), (ASKED, (two,)), (FRUIT, ())):
        chat = [*turns, Turn(asked, None, shown)]
        before = counted.tokens, counted.pictures
        said = "".join(model.answering(chat, Captioning(most=5), memory))
        new.append((counted.tokens - before[0], counted.pictures - before[1]))
        assert said == "".join(model.answering(chat, Captioning(most=5)))
        assert said.strip() == model.answer([chat], Captioning(most=5))[0].text
        turns.append(Turn(asked, said.strip(), shown))
    assert [pictures for _, pictures in new] == [1, 0, 1, 0], "no picture is seen twice"
    ids = [len(model.chats.chat([*turns[:n], Turn(t.question, None, t.pictures)])[0]) for n, t in enumerate(turns)]
    for (tokens, _), whole, earlier in zip(new[1:], ids[1:], ids, strict=False):
        assert tokens <= whole - earlier + 5, "what stood before the last answer is not read again"
    changed = [turns[0], Turn(FRUIT, "yes"), Turn(ASKED)]
    swapped = [Turn(ASKED, turns[0].answer, (two,)), Turn(FRUIT)]
    for chat in (changed, swapped, [Turn(FRUIT)], [Turn(ASKED, None, (one, two))]):
        found = "".join(model.answering(chat, Captioning(most=5), memory))
        assert found == "".join(model.answering(chat, Captioning(most=5))), "what does not fit is forgotten"


def test_a_memory_of_an_answer_that_was_broken_off_goes_on(learnt):
    chat = [Turn(ASKED, None, (pictures()[3],))]
    memory = learnt.memory()
    broken = learnt.answering(chat, None, memory)
    next(broken)
    del broken
    assert "".join(learnt.answering(chat, None, memory)) == ANSWERS[3]
    with pytest.raises(DataError, match="reads at most 96"):
        next(learnt.answering([*[Turn(ASKED, "red " * 30)] * 4, Turn(FRUIT)], None, memory))
    assert "".join(learnt.answering(chat, None, memory)) == ANSWERS[3]


def test_answering_changes_the_mode_while_it_computes_alone():
    model = tiny(stage=2).train()
    chat = [Turn(ASKED, None, (pictures()[0],))]
    pieces = model.answering(chat, Captioning(most=8))
    next(pieces)
    assert model.training and model.language.training, "in the middle of an answer"
    del pieces
    assert model.training and not model.tower.training
    with pytest.raises(DataError):
        next(model.answering([Turn(" ")]))
    assert model.training
    model.answer([chat])
    assert model.training


def test_words_look_at_places(learnt):
    rows, grid = learnt.looks_of(pictures()[:2], ASKED)
    assert grid == (2, 2)
    for (_, words, looks), answer in zip(rows, ANSWERS, strict=False):
        assert words == answer.split()
        assert looks.shape == (3, 4) and (looks >= 0).all() and (looks.sum(1) <= 1 + 1e-5).all()


def test_saved_and_loaded_it_answers_the_same(learnt, tmp_path):
    learnt.save(tmp_path / "model")
    again = LLaVA.load(tmp_path / "model")
    assert again.chats == learnt.chats and again.config == learnt.config
    asked = [[Turn(ASKED, None, (picture,))] for picture in pictures()]
    assert again.answer(asked) == learnt.answer(asked)
    assert not any(p.requires_grad for p in again.tower.parameters())


def test_places_of_a_tower_are_those_of_its_layer():
    vit = clip().image.eval()
    image = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        _, last = vit(image)
        torch.testing.assert_close(towers.places(vit, image, [-1]), last[:, 1:])
        torch.testing.assert_close(towers.places(vit, image, [2], whole=True), last)
        both = towers.places(vit, image, [0, -1])
    assert both.shape == (2, 4, 48)
    torch.testing.assert_close(both[..., :24], vit.embed_patches(image)[:, 1:])
    resnet = clip(True).image.eval()
    with torch.no_grad():
        _, last = resnet(torch.randn(1, 3, 32, 32))
        assert towers.places(resnet, torch.randn(1, 3, 32, 32), [-2]).shape == (
            1,
            16,
            towers.width(resnet.config, [-2]),
        )
    assert towers.grid(resnet.config, [-1]) == (2, 2) and last.shape[1] == 4


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="does not fit a decoder of 96 places"):
        LLaVA.over(clip(), language(), length=97)
    with pytest.raises(ConfigError, match="no layers"):
        tiny(layers=(7,))
    with pytest.raises(ConfigError, match="no tokenizer"):
        LLaVA(tiny().config, {}).answer([[Turn(ASKED)]])
    model = tiny()
    with pytest.raises(DataError, match="reads at most 96: shorten"):
        model.answer([[Turn("colour " * 99, None)]])
    with pytest.raises(DataError, match="4 tokens for pictures, the pictures 8 places"):
        model.predicted(torch.zeros(1, 2, 3, 16, 16), model.chats.encode([Turn(ASKED, "red", pictures()[:1])])[None])
    with pytest.raises(DataError, match="pictures do not fit"):
        model.chats.encode([Turn(ASKED, "red", tuple(pictures() * 7))])
