"""wav2vec 2.0's method: what its loss depends on, its temperature, its health, and how it is fine-tuned."""

import numpy as np
import pytest
import torch

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.audio import Waveform
from intermodal.data.transcripts import AudioProcessor, CharacterProcessor
from intermodal.methods.speech.ctc import CTC, CTCConfig
from intermodal.methods.speech.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from intermodal.nn.wav2vec2 import Wav2Vec2EncoderConfig
from intermodal.nn.wav2vec2_targets import GumbelConfig
from intermodal.nn.wave_encoder import WaveEncoderConfig
from intermodal.recipes import get_recipe

SMALL = Wav2Vec2EncoderConfig(
    conv_channels=(6, 8), conv_kernels=(10, 4), conv_strides=(5, 4), width=12, depth=1, heads=3, position_kernel=6,
    position_groups=4, conv_norm="layer", pre_norm=True,
)  # fmt: skip
CONFIG = Wav2Vec2Config(
    encoder=SMALL,
    quantizer=GumbelConfig(groups=2, codes=4, dim=6),
    space=5,
    negatives=4,
    mask_span=3,
    feature_penalty=1.0,
)


@pytest.fixture
def method():
    torch.manual_seed(0)
    return Wav2Vec2(CONFIG, {"audio": AudioProcessor(rate=8000)})


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "audio": torch.randn(3, 900, generator=generator),
        "audio_length": torch.tensor([900, 500, 20]),
        "seed": torch.tensor([4, 5, 6]),
    }


def test_the_batchs_seed_alone_decides_masks_negatives_and_noise(method, batch):
    torch.manual_seed(1)
    first = method.loss(batch).total
    torch.manual_seed(2)
    assert torch.equal(method.loss(batch).total, first)
    assert not torch.equal(method.loss(batch | {"seed": batch["seed"] + 1}).total, first)


def test_chance_counts_the_negatives_that_are_left(method, batch):
    with torch.no_grad():
        method.quantizer.logits.weight.zero_()
        method.quantizer.logits.bias[0] = 1.0  # one code of each group for all frames: no negative is left
    method.eval()
    parts = method.loss({k: v[:2] for k, v in batch.items()}).parts
    assert parts["chance"] == parts["accuracy"] == 1 and parts["contrastive"] == 0
    torch.manual_seed(0)
    other = Wav2Vec2(CONFIG.replace(quantizer__groups=1, quantizer__codes=512, quantizer__dim=512), {}).eval()
    assert 1 / (CONFIG.negatives + 1) <= other.loss(batch).parts["chance"] < 0.5


def test_padding_changes_nothing(method, batch):
    longer = batch | {"audio": torch.cat([batch["audio"], torch.full((3, 300), 7.0)], 1)}
    torch.testing.assert_close(method.loss(longer).total, method.loss(batch).total, rtol=1e-5, atol=1e-6)


def test_recordings_that_are_too_short_are_told_in_words(method, batch):
    with pytest.raises(DataError, match="two frames"):
        method.loss({k: v[2:] for k, v in batch.items()})


def test_the_temperature_falls_geometrically_and_is_saved(method, tmp_path):
    seen = []
    for step in range(11):
        method.begin_step(step, 10)
        seen.append(method.gumbel.item())
    assert seen[0] == pytest.approx(2.0) and seen[7] == seen[9] == pytest.approx(0.5)
    assert seen[1] / seen[0] == pytest.approx(seen[4] / seen[3], rel=1e-5)
    method.begin_step(3, 10)
    method.save(tmp_path / "model")
    assert Wav2Vec2.load(tmp_path / "model").gumbel == method.gumbel


def test_the_gradient_of_the_convolutions_is_scaled(batch):
    def gradient(scale):
        torch.manual_seed(0)
        method = Wav2Vec2(CONFIG.replace(feature_gradient=scale), {})
        method.loss(batch).total.backward()
        return method.encoder.convolutions[0].conv.weight.grad, method.encoder.project.weight.grad

    whole, other = gradient(1.0), gradient(0.1)
    torch.testing.assert_close(other[0], 0.1 * whole[0], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(other[1], whole[1])


def test_health_speaks_of_collapsed_codebooks(batch):
    method = Wav2Vec2(CONFIG.replace(quantizer__codes=64), {})
    assert method.health() == []
    with torch.no_grad():
        method.quantizer.logits.weight.zero_()
        method.quantizer.logits.bias[::64] = 50.0
    method.loss(batch)
    assert "collapsed" in method.health()[0]


def test_it_embeds_recordings_alone_as_together(method):
    method.eval()
    noise = np.random.default_rng(0).standard_normal(900).astype(np.float32)
    waves = [Waveform(noise, 8000), Waveform(noise[:300], 8000), Waveform(noise[:5], 8000)]
    together = method.embed("audio", waves)
    assert together.shape == (3, 12) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for row, wave in zip(together, waves, strict=True):
        np.testing.assert_allclose(method.embed("audio", [wave])[0], row, atol=1e-5)
    assert method.embed("audio", []).shape == (0, 12)
    with pytest.raises(DataError, match="audio"):
        method.embed("image", [])


def test_numbers_out_of_range_are_refused_in_words():
    for changes in (
        {"temperature": 0.0},
        {"mask_share": 0.0},
        {"feature_gradient": 0.0},
        {"encoder__mask_embedding": False},
    ):
        with pytest.raises(ConfigError, match=r"wav2vec 2\.0"):
            CONFIG.replace(**changes)


def test_ctc_on_its_network_masks_in_training_alone_and_by_the_batchs_seed(batch):
    torch.manual_seed(0)
    text = CharacterProcessor.of(["AB C"])
    encoder = WaveEncoderConfig(network=SMALL, mask_share=0.5, mask_span=2)
    config = CTCConfig(features=None, encoder=encoder, augment=None)
    method = CTC(config, {"audio": AudioProcessor(rate=8000), "text": text})
    assert method.frame_seconds == pytest.approx(20 / 8000)
    whole = batch | {"text": torch.tensor([[1, 2, 3], [2, 2, 0], [1, 0, 0]]), "text_length": torch.tensor([3, 2, 1])}
    first = method.loss(whole).total
    torch.manual_seed(9)
    assert torch.equal(method.loss(whole).total, first)
    assert not torch.equal(method.loss(whole | {"seed": whole["seed"] + 1}).total, first)
    first.backward()
    assert method.encoder.network.mask_embedding.grad.any()
    method.eval()
    assert torch.equal(method.loss(whole).total, method.loss(whole | {"seed": whole["seed"] + 1}).total)
    with pytest.raises(ConfigError, match="features to None"):
        CTC(config.replace(features=CTCConfig().features), {"audio": AudioProcessor(), "text": text})


def test_fine_tuning_begins_with_the_network_that_was_learnt(tmp_path, monkeypatch):
    recipe = get_recipe("wav2vec2-ctc").smoke()
    monkeypatch.setattr(type(recipe.source), "training_texts", lambda self: ["ONE TWO"])
    torch.manual_seed(3)
    trained = Wav2Vec2(
        CONFIG.replace(encoder=recipe.model.encoder.network.replace(dropout=0.0)), {"audio": AudioProcessor()}
    )
    trained.save(tmp_path / "model")
    method = recipe.replace(start=tmp_path / "model").build()
    own = method.encoder.network.state_dict()
    assert all(torch.equal(own[k], v) for k, v in trained.encoder.state_dict().items())
    with pytest.raises(ConfigError, match="other sizes"):
        recipe.replace(start=tmp_path / "model", model__encoder__network__depth=2).build()
    with pytest.raises(ConfigError, match="--start"):
        recipe.replace(start=tmp_path / "nowhere").build()


def test_what_begins_at_random_is_trained_whole_and_differs_in_nothing_else(monkeypatch):
    recipe = get_recipe("wav2vec2-ctc-random")
    monkeypatch.setattr(type(recipe.source), "training_texts", lambda self: ["ONE TWO"])
    frozen = recipe.replace(model__encoder__network__trains_convolutions=False)
    assert all(p.requires_grad for p in frozen.build().encoder.network.convolutions.parameters())
    own = get_recipe("wav2vec2-ctc")
    assert own.start is not None and own.replace(name=recipe.name, start=None, expect=()) == recipe.replace(expect=())
