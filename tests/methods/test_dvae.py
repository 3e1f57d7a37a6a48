"""The discrete VAE: its relaxation and bound against exact ones, its schedules, its precision, and what it refuses."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.processors import signed_pixels
from intermodal.methods.base import generator_of
from intermodal.methods.image_tokenizers.dvae import (
    DVAE,
    DVAEConfig,
    divergence_from_uniform,
    gumbel,
    mapped_pixels,
)
from intermodal.nn.dalle_coder import DalleCoderConfig, logit_laplace_log_prob, map_pixels
from intermodal.recipes import get_recipe

CODER = DalleCoderConfig(codes=7, hidden=8, multiples=(1, 2, 2), blocks=1, decoder_hidden=6, gain=0.5)


def model(size=8, **changes) -> DVAE:
    torch.manual_seed(0)
    return DVAE(DVAEConfig(**{"coder": CODER, **changes}), {"image": mapped_pixels(size)})


def batch_of(count=6, size=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(count, 3, size, size, generator=generator, dtype=dtype)
    return {"image": map_pixels(image), "seed": torch.arange(count)}


def test_the_processor_maps_pixels_as_the_paper_does():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    processor = mapped_pixels(16)
    prepared = processor.prepare(levels)
    torch.testing.assert_close(prepared, map_pixels(levels / 255), rtol=0, atol=1e-6)
    back = np.asarray(processor.decode(prepared)[0])
    assert np.array_equal(back, levels[0].permute(1, 2, 0).numpy())


def test_the_loss_is_the_equation_of_the_paper():
    """In float64, written out: the likelihood of all values, beta times the divergence of all codes, over C H W."""
    method = model(beta=3.3, temperature=(1.0, 0.4)).double()
    batch = batch_of(dtype=torch.float64)
    losses = method.loss(batch)
    logits = method.encoder(batch["image"])
    uniform = torch.rand(logits.shape, generator=generator_of(batch)).double()
    mixture = F.softmax((logits - torch.log(-torch.log(uniform))) / method.temperature, 1)
    location, log_scale = method.decoder(mixture)
    b = log_scale.exp()
    x = batch["image"]
    density = torch.exp(-(torch.logit(x) - location).abs() / b) / (2 * b * x * (1 - x))
    q = torch.distributions.Categorical(logits=logits.movedim(1, -1))
    prior = torch.distributions.Categorical(logits=torch.zeros_like(q.logits))
    kl = torch.distributions.kl_divergence(q, prior)
    values = 3 * 8 * 8
    wanted = (-density.log().sum((1, 2, 3)) + method.beta * kl.sum((1, 2))).mean() / values
    assert losses.total.item() == pytest.approx(
        wanted.item(), abs=1e-5
    )  # the noise is drawn and taken the log of in float32
    assert float(losses.parts["divergence"]) == pytest.approx(kl.mean().item(), abs=1e-12)


def test_beta_over_192_at_stride_eight():
    """Appendix A.2: with 8 x 8 pixels of three channels to a code, the mean divergence has the weight beta / 192."""
    coder = CODER.replace(multiples=(1, 1, 1, 1))
    weights = []
    for beta in (0.0, 6.6):
        method = model(size=16, coder=coder, beta=beta).eval()
        losses = method.loss(batch_of(size=16))
        weights.append(losses.total.item())
        divergence = float(losses.parts["divergence"])
    assert weights[1] - weights[0] == pytest.approx(6.6 / 192 * divergence, rel=1e-4)


def test_divergence_is_between_nothing_and_all_that_a_code_can_say():
    even, sure = torch.zeros(1, 7, 2, 2), torch.zeros(1, 7, 2, 2)
    sure[:, 3] = 1000.0
    assert torch.allclose(divergence_from_uniform(even), torch.zeros(1, 2, 2), atol=1e-6)
    assert torch.allclose(divergence_from_uniform(sure), torch.full((1, 2, 2), math.log(7)), atol=1e-6)


def test_codes_are_drawn_with_the_encoder_s_probabilities():
    """The Gumbel-max trick: the largest weight of the mixture has the distribution of the softmax, at any temperature."""
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0])
    noise = gumbel((100_000, 4), torch.Generator().manual_seed(0))
    drawn = (logits + noise).argmax(1)
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    expected = logits.softmax(0)
    assert ((share - expected).abs() < 4 * (expected * (1 - expected) / len(drawn)).sqrt()).all()


def test_noise_is_standard_gumbel_and_always_finite(monkeypatch):
    noise = gumbel((400_000,), torch.Generator().manual_seed(0))
    assert float(noise.mean()) == pytest.approx(0.5772156649, abs=0.01)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, rel=0.01)
    monkeypatch.setattr(torch, "rand", lambda shape, generator: torch.tensor([0.0, 1 - 2**-24]))
    ends = gumbel((2,), torch.Generator())
    assert ends.isfinite().all() and float(ends[1]) == pytest.approx(16.6, abs=0.1) and float(ends[0]) < -4


def test_the_noise_of_eight_bits_would_not_do():
    """What the page says of bfloat16: its largest noise is 5.5, while the largest of 8,192 has a mean of 9.6."""
    largest = -math.log(-math.log(1 - 2**-8))
    assert largest == pytest.approx(5.5, abs=0.05)
    assert math.log(8192) + 0.5772 == pytest.approx(9.6, abs=0.05)


def test_the_mixture_becomes_a_code_as_the_temperature_falls():
    peaks = []
    for temperature in (1.0, 1 / 4, 1 / 16, 1e-4):
        peaks.append(float(model(temperature=(1.0, temperature)).loss(batch_of()).parts["peak"]))
    assert all(a < b for a, b in itertools.pairwise(peaks)) and peaks[-1] > 0.999


def test_the_schedules_are_the_paper_s_cosines():
    method = model(temperature=(1.0, 1 / 16), temperature_share=0.5, beta=6.6, beta_share=0.1)
    assert (float(method.temperature), float(method.beta)) == pytest.approx((1 / 16, 6.6))  # before any training
    seen = []
    for step in (0, 25, 50, 99):
        method.begin_step(step, 100)
        seen.append(float(method.temperature))
    assert seen == pytest.approx([1.0, (1 + 1 / 16) / 2, 1 / 16, 1 / 16])
    for step, wanted in ((0, 0.0), (5, 3.3), (10, 6.6), (99, 6.6)):
        method.begin_step(step, 100)
        assert float(method.beta) == pytest.approx(wanted, abs=1e-6)
    at_once = model(temperature_share=0.0, beta_share=0.0)
    at_once.begin_step(0, 100)
    assert (float(at_once.temperature), float(at_once.beta)) == pytest.approx((1 / 16, 6.6))


def test_published_schedules_are_the_default():
    """150,000 and 5,000 of 3,000,000 steps (appendix A.2)."""
    config = DVAEConfig(coder=CODER)
    assert config.temperature_share * 3_000_000 == pytest.approx(150_000)
    assert config.beta_share * 3_000_000 == pytest.approx(5_000)


def test_a_checkpoint_keeps_its_temperature(tmp_path):
    method = model(temperature_share=1.0, beta_share=1.0)
    method.begin_step(40, 100)
    method.save(tmp_path / "model")
    again = DVAE.load(tmp_path / "model")
    assert torch.equal(again.temperature, method.temperature) and torch.equal(again.beta, method.beta)
    method.eval()
    assert torch.equal(again.loss(batch_of()).total, method.loss(batch_of()).total)


def test_straight_through_decodes_codes_and_keeps_the_mixture_s_gradient():
    """Forwards it is what the codes give; backwards the encoder's gradient is not zero, and depends on the temperature."""
    method = model(straight_through=True, temperature=(1.0, 0.5)).double()
    seen = {}
    method.decoder.register_forward_hook(lambda _, given, out: seen.update(mixture=given[0], location=out[0]))
    batch = batch_of(dtype=torch.float64)
    method.loss(batch).total.backward()
    codes = seen["mixture"].argmax(1)
    assert torch.allclose(seen["mixture"], F.one_hot(codes, 7).movedim(-1, 1).double(), atol=1e-12)
    torch.testing.assert_close(method.decoder.of_codes(codes)[0], seen["location"], rtol=0, atol=1e-12)
    assert float(method.encoder.head.weight.grad.abs().max()) > 0


def test_bfloat16_autocast_keeps_noise_logits_and_mixture_in_float32():
    method = model(coder=CODER.replace(hidden=16))
    seen = {}
    method.decoder.register_forward_hook(lambda _, given, out: seen.update(mixture=given[0], out=out[0]))
    with torch.autocast("cpu", torch.bfloat16):
        losses = method.loss(batch_of())
    assert seen["mixture"].dtype == seen["out"].dtype == losses.total.dtype == torch.float32
    assert torch.allclose(seen["mixture"].sum(1), torch.ones(6, 2, 2), atol=1e-5)


def test_same_batch_same_loss_other_seed_other_loss_and_no_global_randomness():
    method = model()
    state = torch.random.get_rng_state()
    first, again = method.loss(batch_of()).total, method.loss(batch_of()).total
    other = method.loss({**batch_of(), "seed": torch.arange(6) + 9}).total
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())


def test_least_scale_bounds_the_density_of_what_is_predicted_exactly():
    x = torch.full((1, 3, 8, 8), 0.9)
    location, log_scale = torch.logit(x), torch.full_like(x, -50.0)
    free, bounded = model(), model(least_scale=0.1)
    assert float(free.log_likelihood(x, location, log_scale)) > 40 * 192
    wanted = logit_laplace_log_prob(x, location, torch.full_like(x, math.log(0.1))).sum()
    assert float(bounded.log_likelihood(x, location, log_scale)) == pytest.approx(float(wanted), rel=1e-5)
    wide = torch.full_like(x, 3.0)
    scale = torch.full_like(x, math.log(math.exp(3.0) + 0.1))
    assert float(bounded.log_likelihood(x, location, wide)) == pytest.approx(
        float(logit_laplace_log_prob(x, location, scale).sum()), rel=1e-5
    )


def test_the_gaussian_is_torch_s_and_decodes_to_its_mean():
    method = model(likelihood="gaussian")
    x, location, log_scale = (torch.rand(2, 3, 8, 8) for _ in range(3))
    wanted = torch.distributions.Normal(location, log_scale.exp()).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(method.log_likelihood(x, location, log_scale), wanted, rtol=1e-5, atol=1e-3)
    codes = torch.zeros(1, 2, 2, dtype=torch.long)
    assert torch.equal(method.to_image(codes), method.decoder.of_codes(codes)[0])
    with_sigmoid = model()
    assert torch.equal(with_sigmoid.to_image(codes), with_sigmoid.decoder.of_codes(codes)[0].sigmoid())


def test_codes_are_the_most_probable_ones_and_pictures_come_back_in_size():
    method = model(size=12)
    pictures = [Image.new("RGB", (20, 16), colour) for colour in ("red", "white", "navy")]
    codes = method.encode(pictures)
    assert codes.shape == (3, 3, 3) == (3, *method.latent_shape()) and codes.dtype == np.int64
    wanted = method.encoder(method.picture(pictures)).argmax(1)
    assert np.array_equal(codes, wanted.numpy())
    assert [p.size for p in method.decode(codes)] == [(12, 12)] * 3
    assert method.bits(pictures).tolist() == pytest.approx([9 * math.log2(7)] * 3)


def test_perplexity_and_use_are_those_of_the_batch_s_codes():
    method = model()
    parts = method.loss(batch_of()).parts
    counts = torch.bincount(method.to_latent(batch_of()["image"]).flatten(), minlength=7)
    share = counts / counts.sum()
    entropy = -sum(p * math.log(p) for p in share.tolist() if p)
    assert float(parts["perplexity"]) == pytest.approx(math.exp(entropy), rel=1e-5)
    assert float(parts["used"]) == pytest.approx(float((counts > 0).float().mean()))


def test_health_speaks_of_collapse_and_of_codes_that_say_nothing():
    method = model(coder=CODER.replace(codes=100))
    assert method.health() == []
    method.loss(batch_of(40))
    fine = {"used": 0.5, "perplexity": 30.0, "divergence": 2.0, "beta": 6.6, "places": 160.0}
    for changes, words in (
        ({}, None),
        ({"perplexity": 1.0, "used": 0.01}, "The codebook has collapsed"),
        ({"divergence": 0.01}, "say nothing about the picture"),
        ({"divergence": 0.01, "beta": 0.0}, None),
    ):
        method._seen = {k: torch.tensor(v) for k, v in (fine | changes).items()}
        warnings = method.health()
        assert len(warnings) == (words is not None) and all(words in w for w in warnings)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": (1.0, 0.0)},
        {"temperature_share": 1.5},
        {"beta_share": -0.1},
        {"beta": -1.0},
        {"least_scale": -0.1},
    ],
    ids=str,
)
def test_bad_configurations_are_refused(changes):
    with pytest.raises(ConfigError, match="DVAE"):
        model(**changes)


@pytest.mark.parametrize("size", [(10, 8), (8, 30), 1])
def test_a_size_that_the_stride_does_not_divide_is_refused(size):
    with pytest.raises(ConfigError, match="multiples of 4"):
        model(size=size)


def test_pictures_of_another_processor_give_no_silent_nan():
    """Values in -1..1 have no logit-Laplace density: the processor is refused before the first step."""
    with pytest.raises(ConfigError, match=r"0\.1\.\.0\.9"):
        DVAE(DVAEConfig(coder=CODER), {"image": signed_pixels(8, "crop")})


def test_a_published_encoder_alone_refuses_what_it_cannot_do():
    method = model(decoder=False)
    with pytest.raises(ConfigError, match="encoder alone"):
        method.loss(batch_of())
    with pytest.raises(DataError, match="encoder alone"):
        method.decode(np.zeros((1, 2, 2), np.int64))


def test_a_few_seconds_of_training_make_codes_that_tell_dark_from_light():
    """Two colours, seven codes: the codes learn to say which, and the pictures come back."""
    coder = CODER.replace(hidden=16, decoder_hidden=16)
    method = model(coder=coder, least_scale=0.1, temperature_share=1.0, beta_share=0.1).train()
    colours = torch.tensor([[0.8, 0.3, 0.2], [0.1, 0.2, 0.9]])
    optimizer = torch.optim.AdamW(method.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(100):
        chosen = torch.randint(2, (8, 2, 2), generator=generator)
        image = colours[chosen].movedim(-1, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
        method.begin_step(step, 100)
        method.loss({"image": image, "seed": torch.tensor([step])}).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        error = (method.to_image(method.to_latent(image)) - image).abs().mean()
    one_colour = (colours.mean(0) - colours[0]).abs().mean()
    assert float(error) < 0.4 * float(one_colour)


def test_the_recipe_is_small_enough_to_smoke_and_trains_on_mapped_pixels():
    recipe = get_recipe("dvae")
    method = recipe.smoke().build()
    assert isinstance(method, DVAE)
    assert method.picture.prepare(torch.tensor([[[[0.0]], [[0.5]], [[1.0]]]])).flatten().tolist() == pytest.approx(
        [0.1, 0.5, 0.9]
    )
