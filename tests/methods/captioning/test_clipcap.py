"""ClipCap: its loss by hand, what is frozen, captions after learning, and what does not fit."""

from __future__ import annotations

import pytest
import torch

from intermodal.core.captioning import Captioning
from intermodal.core.errors import ConfigError
from intermodal.methods.captioning.clipcap import ClipCap
from intermodal.methods.captioning.joint import check_clip
from intermodal.nn.prefix import PrefixTransformer
from toy_captioner import TEXTS, pictures
from toy_joint import LENGTH, batch_of, clip, language, learn

KINDS = [
    {"mapping": "mlp", "tuned": True},
    {"mapping": "transformer", "tuned": False, "depth": 1, "heads": 2, "spread": 3},
]


def built(**settings) -> ClipCap:
    torch.manual_seed(2)
    return ClipCap.over(clip(), language(), length=LENGTH, prefix=3, **settings)


@pytest.mark.parametrize("settings", KINDS)
def test_the_loss_is_that_of_each_caption_alone_token_by_token(settings):
    model = built(**settings).double().eval()
    batch = batch_of(model)
    batch["text"][0, 2:] = torch.tensor([1, 0, 0, 0, 0, 0])  # one is shorter: padding counts nothing
    prefix = model.mapping(model.see(batch["image"].double()))
    wanted, count = 0.0, 0
    network = model.language.network
    for row, ids in zip(prefix, batch["text"], strict=True):
        length = int(model.writes.real(ids[None]).sum())
        for place in range(1, length):
            read = torch.cat([row, network.embed(ids[:place]).double()])
            wanted -= float(network(read[None])[0, -1].log_softmax(-1)[ids[place]].detach())
            count += 1
    assert count == 3 * 4 + 2  # three words and an end, but of one caption a word and an end
    batch["image"] = batch["image"].double()
    assert model.loss(batch).total.item() == pytest.approx(wanted / count, rel=1e-10)


@pytest.mark.parametrize("settings", KINDS)
def test_what_is_frozen_stays_and_the_rest_learns_to_caption(settings):
    model = built(**settings)
    if not settings["tuned"]:
        model.language.load_state_dict(learn(built(**KINDS[0])).language.state_dict())  # it knows what follows a prefix
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learn(model, 200)
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == ({"mapping", "language"} if settings["tuned"] else {"mapping"})
    for asked in (None, Captioning(beam=3)):
        found = model.caption(pictures(), asked)
        assert [c.text for c in found] == TEXTS
        assert all(c.ended and c.tokens == 4 for c in found)
    assert len(model.nearest_words(model.pictures(pictures()))[0]) == 3


def test_saved_with_both_tokenizers_it_captions_the_same(tmp_path):
    model = learn(built(**KINDS[0]), 60)
    model.save(tmp_path / "model")
    again = ClipCap.load(tmp_path / "model")
    assert again.processors["text"] == model.processors["text"] and again.processors["read"] == model.processors["read"]
    assert again.processors["text"].vocab_size != again.processors["read"].vocab_size
    assert [c.text for c in again.caption(pictures())] == [c.text for c in model.caption(pictures())]
    assert not any(p.requires_grad for p in again.clip.parameters())


def test_constants_become_the_prefix_and_read_the_vector():
    network = PrefixTransformer(6, 4, 8, spread=3, depth=2, heads=2)
    assert network(torch.randn(2, 6)).shape == (2, 4, 8)
    one, other = network(torch.randn(2, 6))
    assert not torch.allclose(one, other)


def test_repeating_captions_are_told():
    model = built(**KINDS[0])
    model.keep_probe(torch.zeros(32, 3, 16, 16))
    assert "32 pictures get 1 distinct" in model.health()[0]
    assert built(**KINDS[0]).health() == []


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="does not fit a decoder of 16 places"):
        ClipCap.over(clip(), language(), length=14, prefix=3)
    with pytest.raises(ConfigError, match="at least 1"):
        built(mapping="mlp", tuned=True).config.replace(prefix=0)
    with pytest.raises(ConfigError, match="needs a clip"):
        check_clip(language(), "runs/x")
    bare = clip()
    bare.processors = {}
    with pytest.raises(ConfigError, match="no processors"):
        ClipCap.over(bare, language(), length=LENGTH)
