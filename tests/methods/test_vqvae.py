"""VQ-VAE: equation 3 end to end, the gradient past the codes, rates, levels, warnings; what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from intermodal.core.capabilities import capabilities_of
from intermodal.core.errors import ConfigError, DataError, TrainingError
from intermodal.data.folder import FolderSource
from intermodal.data.processors import ImageProcessor, signed_pixels
from intermodal.methods.image_tokenizers.codebook import collapsed
from intermodal.methods.image_tokenizers.vqvae import VQVAE, VQVAEConfig
from intermodal.nn.autoencoder import AutoencoderConfig
from intermodal.nn.quantizers import (
    FiniteScalarQuantizerConfig,
    ResidualQuantizerConfig,
    VectorQuantizerConfig,
)
from intermodal.recipes.vqvae import vqvae, vqvae_fsq, vqvae_residual
from intermodal.train.run import fit

NETWORK = AutoencoderConfig(channels=(8, 8), blocks=1, latent_channels=3, groups=4, mid_attention=False)
CODEBOOK = VectorQuantizerConfig(codes=16, dim=3)
QUANTIZERS = {
    "ema": CODEBOOK,
    "loss": CODEBOOK.replace(update="loss", initial="random"),
    "cosine": CODEBOOK.replace(cosine=True),
    "residual": ResidualQuantizerConfig(level=CODEBOOK, levels=3),
    "fsq": FiniteScalarQuantizerConfig(levels=(5, 4, 3)),
}


def small(kind="ema", size=8, **changes) -> VQVAE:
    torch.manual_seed(0)
    config = VQVAEConfig(network=NETWORK, quantizer=QUANTIZERS[kind]).replace(**changes)
    return VQVAE(config, {"image": signed_pixels(size, "crop")})


def batch(count=6, size=8, seed=0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (count, 3, size, size), generator=generator)
    return {"image": levels / 127.5 - 1, "seed": torch.arange(count) + 100 * seed}


def photos(count=3, size=(20, 13)) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)) for _ in range(count)]


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_codes_and_back(quantizer):
    method = small(quantizer).eval()
    shape = (4, 4, 3) if quantizer == "residual" else (4, 4)
    assert method.latent_shape() == shape and capabilities_of(method) == ("reconstruct",)
    codes = method.encode(photos())
    assert codes.shape == (3, *shape) and codes.dtype == np.int64 and codes.max() < method.codebook_size
    pictures = method.decode(codes)
    assert [p.size for p in pictures] == [(8, 8)] * 3
    image = method.picture(photos())
    exact = method.decoder(method.quantizer(method.encoder(image)).z)
    torch.testing.assert_close(method.to_image(method.to_latent(image)), exact, rtol=1e-4, atol=1e-5)
    each = math.log2(60 if quantizer == "fsq" else 16) * math.prod(shape)
    np.testing.assert_allclose(method.bits(photos()), [each] * 3, rtol=1e-6)


@pytest.mark.parametrize("scale", ["fixed", "learnt", "optimal"])
def test_the_loss_is_equation_3(scale):
    method = small("loss", scale=scale, sigma=0.4).eval()
    values = batch()
    z = method.encoder(values["image"])
    rows = z.movedim(1, -1).reshape(-1, 3)
    chosen = method.quantizer.codebook[(rows[:, None] - method.quantizer.codebook).square().sum(2).argmin(1)]
    made = method.decoder(chosen.view(6, 4, 4, 3).movedim(-1, 1))
    error = (made - values["image"]).square().mean()
    variance = error.detach() if scale == "optimal" else torch.tensor(0.16)
    if scale == "learnt":
        variance = variance + 1 / 255**2
    expected = error / (2 * variance) + (0 if scale == "fixed" else variance.log() / 2)
    expected = expected + 1.25 * (rows - chosen).square().mean()
    found = method.loss(values)
    torch.testing.assert_close(found.total, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.parts["mse"], error.detach(), rtol=1e-5, atol=1e-6)
    default = VQVAEConfig(network=NETWORK, quantizer=CODEBOOK)
    assert default.scale == "fixed" and 2 * default.sigma**2 == pytest.approx(1), "the mean squared error as it is"


def test_the_optimal_width_has_the_gradient_of_the_logarithm_of_the_error():
    method = small("fsq", scale="optimal")
    assert method.contrasts_batch and not small("fsq").contrasts_batch
    error = torch.tensor(0.3, requires_grad=True)
    torch.testing.assert_close(method.distortion(error), 0.5 + 0.5 * torch.log(error))
    assert torch.autograd.grad(method.distortion(error), error)[0].item() == pytest.approx(0.5 / 0.3)
    assert torch.isfinite(method.distortion(torch.tensor(0.0))), "where all pictures come back"


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_the_decoder_s_gradient_reaches_the_encoder_as_if_there_were_no_codes(quantizer):
    method = small(quantizer).eval()
    values = batch()["image"]
    z = method.encoder(values)
    made = method.quantizer(z).z
    outer = torch.autograd.grad(method.decoder(made).square().sum(), made, retain_graph=True)[0]
    got = torch.autograd.grad(method.decoder(made).square().sum(), z, retain_graph=True)[0]
    assert float(got.abs().max()) > 0
    if quantizer in ("ema", "loss", "residual"):
        torch.testing.assert_close(got, outer, rtol=1e-5, atol=1e-7)


def test_same_batch_same_loss_and_the_seeds_decide_what_a_codebook_begins_with():
    first, again, other = (small().train() for _ in range(3))
    values = batch()
    others = {**values, "seed": values["seed"] + 1}
    losses = [m.loss(v).total.item() for m, v in ((first, values), (again, values), (other, others))]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(first.quantizer.codebook, again.quantizer.codebook)
    codes = [m.eval().encode(photos()) for m in (first, again)]
    assert np.array_equal(*codes)


def test_the_codebook_is_saved_with_its_averages(tmp_path):
    method = small("residual").train()
    for seed in range(3):
        method.loss(batch(seed=seed))
    method.save(tmp_path / "model")
    again = VQVAE.load(tmp_path / "model").train()
    method.train()
    for seed in (3, 4):
        assert torch.equal(method.loss(batch(seed=seed)).total, again.loss(batch(seed=seed)).total)
    for name, value in method.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_first_codes_of_a_residual_quantizer_decode_by_themselves():
    method = small("residual").train()
    for seed in range(5):
        method.loss(batch(seed=seed))
    codes = method.eval().encode(photos())
    assert method.levels == 3 and [len(method.decode(codes[..., :q])) for q in (1, 2, 3)] == [3, 3, 3]
    z = method.encoder(method.picture(photos()))
    found = [method.quantizer.look_up(torch.from_numpy(codes[..., :q])) for q in (1, 2, 3)]
    errors = [float((made - z).detach().square().mean()) for made in found]
    assert errors[0] > errors[1] > errors[2]
    assert small("ema").levels == small("fsq").levels == 1
    with pytest.raises(DataError, match="latents have the shape"):
        small("ema").decode(codes[..., :1])


def test_health_speaks_of_a_collapsed_codebook_in_words():
    method = small()
    assert method.health() == []
    values = batch(64)
    for _ in range(2):
        method.train().loss(values)
    assert method.health() == []
    for broken in (method, small("fsq")):
        broken.loss(values)
        broken._seen = {**broken._seen, "used": torch.tensor(1 / 16), "perplexity": torch.tensor(1.0)}
        assert len(broken.health()) == 1 and "has collapsed" in broken.health()[0]
        assert ("restart" in broken.health()[0]) == (broken is method)


@pytest.mark.parametrize(
    ("used", "perplexity", "codes", "places", "warned"),
    [
        (0.9, 300, 512, 8192, False),
        (2 / 512, 1.5, 512, 8192, True),
        (0.5, 5, 512, 8192, True),
        (0.04, 200, 512, 8192, True),
        (16 / 512, 14, 512, 16, False),  # a batch of few places cannot use more
        (1 / 512, 1, 512, 1, False),
        (1.0, 1.0, 1, 100, False),
    ],
)
def test_when_a_codebook_is_called_collapsed(used, perplexity, codes, places, warned):
    found = collapsed(used, perplexity, codes, places, "Do this.")
    assert bool(found) == warned
    assert all(f"{used * codes:,.0f} of {codes:,} codes" in words and words.endswith("Do this.") for words in found)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_pictures_of_every_kind_and_of_one_colour(quantizer):
    method = small(quantizer).eval()
    kinds = [Image.new(mode, (1, 1)) for mode in ("RGB", "L", "RGBA", "P", "CMYK", "1")]
    deep = Image.fromarray(np.full((5, 7), 40_000, np.uint16))
    grey = Image.new("RGB", (30, 30), (9, 9, 9))
    codes = method.encode([*kinds, deep, grey])
    assert codes.shape[0] == 8 and len(method.decode(codes)) == 8
    assert method.encode([]).shape == (0, *method.latent_shape()) and method.decode(method.encode([])) == []
    method.train()
    for _ in range(3):
        losses = method.loss({"image": torch.zeros(4, 3, 8, 8), "seed": torch.arange(4)})
        assert torch.isfinite(losses.total) and losses.parts["perplexity"] < 16


def test_a_codebook_larger_than_the_data_trains():
    config = VQVAEConfig(network=NETWORK, quantizer=CODEBOOK.replace(codes=300, restart=0.1))
    method = VQVAE(config, {"image": signed_pixels(8, "crop")}).train()
    for seed in range(4):
        assert torch.isfinite(method.loss(batch(2, seed=seed)).total)  # 32 places
    assert method.health() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantizer": CODEBOOK.replace(dim=4)}, "must be the same"),
        ({"quantizer": FiniteScalarQuantizerConfig(levels=(5, 5))}, "must be the same"),
        ({"network": NETWORK.replace(moments=True)}, "no moments"),
        ({"network": NETWORK.replace(out_channels=1)}, "as many channels"),
        ({"sigma": 0.0}, "sigma must be above 0"),
    ],
)
def test_bad_configurations_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        small(**changes)


def test_a_size_that_the_stride_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"multiples of 2 pixels, found 9 x 9"):
        small(size=9)
    with pytest.raises(DataError, match="made by another model"):
        small().decode(np.zeros((1, 5, 4), np.int64))
    with pytest.raises(DataError, match="this model knows 0 to 15"):
        small().decode(np.full((1, 4, 4), 16))
    with pytest.raises(DataError, match="codes"):
        small().decode(np.zeros((1, 4, 4), np.float32))


def test_pictures_that_are_not_numbers_stop_the_training_and_leave_the_codebook(tmp_path, monkeypatch):
    values = batch()
    values["image"][2, 1, 3, 3] = float("nan")
    method = small().train()
    method.loss(batch())
    before = {name: value.clone() for name, value in method.quantizer.state_dict().items()}
    assert not torch.isfinite(method.loss(values).total)
    assert all(torch.equal(value, before[name]) for name, value in method.quantizer.state_dict().items())
    with pytest.raises(DataError, match="not finite"):
        method.eval().to_latent(values["image"])
    monkeypatch.setattr(ImageProcessor, "prepare", lambda self, batch: batch.float() * float("nan"))
    with pytest.raises(TrainingError, match="loss is nan at step 0"):
        fit(vqvae().smoke(), tmp_path / "run", quiet=True)


@pytest.mark.parametrize("recipe", [vqvae, vqvae_residual, vqvae_fsq])
def test_recipes_train_judge_and_load(recipe, pictures, tmp_path):
    made = recipe().smoke()
    if recipe is vqvae_residual:
        made = made.on(FolderSource(path=pictures)).replace(size=16, train__batch_size=4)
    run = fit(made, tmp_path / "run", quiet=True)
    metrics = run.evaluation().metrics
    assert {"psnr", "chance_psnr", "bits_per_pixel", "usage", "perplexity"} <= set(metrics)
    if recipe is vqvae_residual:
        assert {"psnr_1", "psnr_2", "psnr_3", "psnr_4"} <= set(metrics)
    full = recipe()
    assert full.build().codebook_size == 512 and full.size == 64
