"""DDPM, DDIM and classifier-free guidance: losses by the equations, drawing, seeds, texts, interpolation, refusals."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TypeVar, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from intermodal.core.capabilities import capabilities_of
from intermodal.core.drawing import Drawing, Sampler, Spacing
from intermodal.core.errors import ConfigError, DataError
from intermodal.data.processors import TextProcessor, signed_pixels
from intermodal.data.tokenizers import special_ids, train_words
from intermodal.diffusion.schedules import DiscreteSchedule
from intermodal.diffusion.settings import CONTINUOUS, ScheduleConfig, grid_of
from intermodal.methods.base import generator_of
from intermodal.methods.image_generation.cfg import CFG, CFGConfig
from intermodal.methods.image_generation.ddim import DDIM, DDIMConfig
from intermodal.methods.image_generation.ddpm import DDPM, DDPMConfig
from intermodal.methods.image_generation.text import TextEncoderConfig
from intermodal.nn.text import TextConfig
from intermodal.nn.unet import UNetConfig

TEXTS = ["red heart", "blue apple", "green cat", "a star", "red cat", "blue heart"]
SIDE = 8
NETWORK = UNetConfig(channels=(8,), blocks=1, attention=(), groups=4, head_width=8, mid_attention=False)
LEVELS = NETWORK.replace(channels=(8, 8))
FEW = Drawing(steps=4)
M = TypeVar("M", bound=nn.Module)


def processor() -> TextProcessor:
    tokenizer = train_words(TEXTS, 64)
    pad, eos = special_ids(tokenizer)
    return TextProcessor(tokenizer, context_length=6, eos_id=eos, pad_id=pad)


def shaken(model: M, amount: float = 0.3) -> M:
    """Give the layers that begin at zero something to say; the same for every model of one shape."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator) / math.sqrt(parameter[0].numel()))
    return model.eval()


def plain(cls: type[DDPM] = DDPM, **changes) -> DDPM:
    torch.manual_seed(0)
    made = DDIMConfig if cls is DDIM else DDPMConfig
    network = NETWORK.replace(out_channels=6 if changes.get("learns_variance") else 3)
    config = made(network=network, learns_variance=changes.get("learns_variance", False)).replace(**changes)
    return shaken(cls(config, {"image": signed_pixels(SIDE, "crop")}))


def texted(cls: type[DDPM] = CFG, *, frozen: bool = True, told: str = "both", **changes) -> DDPM:
    torch.manual_seed(0)
    text = processor()
    tower = TextConfig(
        vocab_size=text.vocab_size,
        context_length=6,
        width=8,
        depth=1,
        heads=2,
        eos_id=text.eos_id,
        pad_id=text.pad_id,
        causal=False,
        pool="mean",
    )
    network = NETWORK.replace(
        attention=(0,),
        mid_attention=True,
        context_dim=None if told == "vector" else 8,
        class_kind=None if told == "tokens" else "vector",
    )
    made = CFGConfig if cls is CFG else DDPMConfig
    config = made(network=network, text=TextEncoderConfig(tower=tower, frozen=frozen)).replace(**changes)
    return shaken(cls(config, {"image": signed_pixels(SIDE, "crop"), "text": text}))


def batch(count: int = 6, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    levels = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))
    return {"image": levels.to(dtype) / 127.5 - 1, "seed": torch.arange(count) + seed}


def with_texts(given: dict[str, Tensor]) -> dict[str, Tensor]:
    texts = itertools.islice(itertools.cycle(TEXTS), len(given["image"]))
    return {**given, "text": processor()(list(texts))}


def values(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture).astype(int) for picture in pictures])


def made(model: DDPM, drawing: Drawing, texts: list[str], seeds: list[int] | None = None) -> Tensor:
    """Return pictures as the network leaves them."""
    noise = [torch.Generator().manual_seed(seed) for seed in seeds or range(len(texts))]
    grid = grid_of(model.schedule, drawing)
    with torch.no_grad():
        return model.sampled(model.noise(noise, grid, drawing), texts, grid, drawing, noise=noise)


# What is learnt


@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_loss_is_that_of_diffusers_noise(kind, name):
    diffusers = pytest.importorskip("diffusers")
    model = plain(predicts=kind, schedule__name=name).double()
    assert isinstance(model.schedule, DiscreteSchedule)
    theirs = diffusers.DDPMScheduler()
    theirs.alphas_cumprod = model.schedule.alpha_bar.clone()
    given = batch(dtype=torch.float64)
    total = model.loss(given).total

    generator = generator_of(given)
    t = model.schedule.draw(6, generator).long()
    noise = torch.randn(given["image"].shape, generator=generator).double()
    assert 0 <= int(t.min()) < int(t.max()) <= 999
    said = model.network(theirs.add_noise(given["image"], noise, t), t)
    wanted = {"eps": noise, "x0": given["image"], "v": theirs.get_velocity(given["image"], noise, t)}[kind]
    assert torch.allclose(total, nn.functional.mse_loss(said, wanted), rtol=1e-9)


def test_flow_learns_the_straight_line():
    model = plain(predicts="flow", schedule__name="flow").double()
    given = batch(dtype=torch.float64)
    generator = generator_of(given)
    t = torch.rand(6, generator=generator, dtype=torch.float64)
    noise = torch.randn(given["image"].shape, generator=generator).double()
    part = t.view(-1, 1, 1, 1)
    said = model.network((1 - part) * given["image"] + part * noise, (1000 * t).float())
    assert torch.allclose(model.loss(given).total, nn.functional.mse_loss(said, noise - given["image"]), rtol=1e-9)


def test_min_snr_weighs_the_steps():
    weighed, same = (plain(predicts="v", min_snr=gamma).double() for gamma in (5.0, None))
    given = batch(1, torch.float64, seed=4)
    t = weighed.schedule.draw(1, generator_of(given))
    snr = float(weighed.schedule.level(t).snr)
    ratio = (weighed.loss(given).total / same.loss(given).total).detach()
    assert float(ratio) == pytest.approx(min(snr, 5) / (snr + 1))


def normal_mass(low: Tensor, high: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    normal = torch.distributions.Normal(mean, sigma)
    return normal.cdf(high) - normal.cdf(low)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_hybrid_loss_by_hand(seed):
    """Nichol & Dhariwal 2021, equations 15 and 16, of eight steps, so that the decoder's term is among them."""
    model = plain(learns_variance=True, schedule__name="linear", schedule__steps=8, schedule__end=0.4).double()
    given = batch(24, torch.float64, seed)
    x0, generator = given["image"], generator_of(given)
    t = torch.floor(torch.rand(24, generator=generator, dtype=torch.float64) * 8).long()
    noise = torch.randn(x0.shape, generator=generator).double()
    betas = torch.linspace(1e-4, 0.4, 8, dtype=torch.float64)
    bar = torch.cumprod(1 - betas, 0)
    before = torch.cat((torch.ones(1).double(), bar[:-1]))
    tilde = betas * (1 - before) / (1 - bar)
    tilde[0] = tilde[1]  # as the published code clips it

    def at(table: Tensor) -> Tensor:
        return table[t].view(-1, 1, 1, 1)

    x_t = at(bar).sqrt() * x0 + (1 - at(bar)).sqrt() * noise
    said, fraction = model.network(x_t, t).chunk(2, 1)
    share = (fraction + 1) / 2
    sigma = torch.exp(0.5 * (share * at(betas).log() + (1 - share) * at(tilde).log()))
    x0_said = ((x_t - (1 - at(bar)).sqrt() * said) / at(bar).sqrt()).detach()

    def mean_of(clean: Tensor) -> Tensor:
        of_clean = at(before).sqrt() * at(betas) / (1 - at(bar))
        return of_clean * clean + (1 - at(betas)).sqrt() * (1 - at(before)) / (1 - at(bar)) * x_t

    mean = mean_of(x0_said)
    normal = torch.distributions.Normal
    last = t == 0
    assert bool(last.any()) and not bool(last.all())
    inner = torch.distributions.kl_divergence(normal(mean_of(x0), at(tilde).sqrt()), normal(mean, sigma))[~last]
    low = torch.where(x0 < -0.999, -100.0, x0 - 1 / 255)[last]
    high = torch.where(x0 > 0.999, 100.0, x0 + 1 / 255)[last]
    decoder = -normal_mass(low, high, mean[last], sigma[last]).log()
    assert bool(decoder.isfinite().all())
    nats = torch.cat((inner, decoder)).mean()
    wanted = (said - noise).square().mean() + 0.001 * 8 * nats

    losses = model.loss(given)
    assert torch.allclose(losses.total, wanted, rtol=1e-7)
    assert float(losses.parts["bound"]) == pytest.approx(8 * float(nats.detach()) / math.log(2), rel=1e-6)
    parameters = list(model.parameters())
    for found, one in zip(
        torch.autograd.grad(losses.total, parameters), torch.autograd.grad(wanted, parameters), strict=True
    ):
        assert torch.allclose(found, one, rtol=1e-6, atol=1e-9)


def test_the_bound_is_the_sum_of_its_terms():
    model = plain(learns_variance=True, schedule__steps=12)
    image = batch(3)["image"]
    whole = model.bound(image, torch.Generator().manual_seed(0))
    assert whole.steps == tuple(range(12)) and whole.steps_BK.shape == (3, 12)
    assert torch.allclose(whole.total_B, whole.prior_B + whole.steps_BK.sum(1))
    assert bool((whole.prior_B >= 0).all()) and bool(whole.total_B.isfinite().all())
    some = model.bound(image, torch.Generator().manual_seed(0), steps=[0])
    assert torch.equal(some.steps_BK[:, 0], whole.steps_BK[:, 0])
    with pytest.raises(ConfigError, match="this model's schedule is continuous"):
        plain(schedule__name="vp_cosine", predicts="v").bound(image, torch.Generator())
    by_text = texted(schedule__steps=5)
    told, untold = (by_text.bound(image, torch.Generator(), texts=texts) for texts in (TEXTS[:3], ()))
    assert not torch.equal(told.total_B, untold.total_B)


def test_the_loss_is_decided_by_the_seeds():
    model = plain()
    torch.manual_seed(1)
    first = model.loss(batch()).total
    torch.manual_seed(2)
    assert torch.equal(model.loss(batch()).total, first)
    assert not torch.equal(model.loss({**batch(), "seed": torch.arange(6) + 9}).total, first)


# Drawing


def test_a_picture_does_not_depend_on_the_batch_it_is_drawn_with():
    model = texted()
    for drawing in (FEW, FEW.replace(sampler="ddpm", guidance=3.0), FEW.replace(sampler="dpm-sde")):
        together = made(model, drawing, TEXTS[:4], [3, 4, 5, 6])
        alone = made(model, drawing, TEXTS[2:3], [5])
        assert torch.allclose(together[2:3], alone, atol=1e-5)
    pictures = values(model.draw(TEXTS[:4], [3, 4, 5, 6], FEW))
    assert abs(pictures[2:3] - values(model.draw(TEXTS[2:3], [5], FEW))).max() <= 1
    model.__class__ = type("Small", (CFG,), {"chunk": 3})  # three at a time
    assert abs(pictures - values(model.draw(TEXTS[:4], [3, 4, 5, 6], FEW))).max() <= 1


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm-sde"])
def test_the_same_seed_gives_the_same_bits(sampler):
    model, drawing = plain(), FEW.replace(sampler=sampler, eta=0.5)
    torch.manual_seed(1)
    first = made(model, drawing, [""] * 2)
    torch.manual_seed(2)
    assert torch.equal(made(model, drawing, [""] * 2), first)
    assert not torch.equal(made(model, drawing, [""] * 2, [7, 8]), first)
    assert not torch.equal(first[0], first[1])
    before = torch.random.get_rng_state()
    made(model, drawing, [""])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_generating_counts_the_seeds_on():
    model = plain(drawing=FEW)
    three = values(model.generate(3, seed=5))
    assert abs(three - values(model.draw([None] * 3, [5, 6, 7]))).max() == 0
    assert three.shape == (3, SIDE, SIDE, 3)
    assert not np.array_equal(three, values(model.generate(3, seed=5, steps=2)))


COMBINED = [
    *itertools.product(["linear", "cosine", "sigmoid"], ["eps", "v", "x0"]),
    *itertools.product(["scaled_linear"], ["eps", "flow"]),
    *itertools.product(["zero", "vp_cosine", "flow"], ["v", "x0", "flow"]),
    *itertools.product(["vp_linear"], ["eps", "v", "flow"]),
]


def schedule_of(name: str) -> ScheduleConfig:
    return ScheduleConfig(name="linear", zero_terminal_snr=True) if name == "zero" else ScheduleConfig(name=name)


@pytest.mark.parametrize(("name", "kind"), COMBINED)
def test_every_sampler_draws_with_every_spacing(name, kind):
    model = plain(schedule=schedule_of(name), predicts=kind)
    for sampler, spacing in itertools.product(get_args(Sampler), get_args(Spacing)):
        drawing = Drawing(steps=3, sampler=sampler, spacing=spacing, eta=0.5 if sampler == "ddim" else 0.0)
        if name in CONTINUOUS and spacing in ("leading", "linspace"):
            with pytest.raises(ConfigError, match="In continuous time steps are spaced trailing, karras"):
                model.draw([None], [0], drawing)
            continue
        seen = []
        (picture,) = model.draw([None], [0], drawing, watch=seen.append)
        assert picture.size == (SIDE, SIDE)
        assert [glimpse.done for glimpse in seen] == [0, 1, 2]
        x = made(model, drawing, [""])
        assert bool(x.isfinite().all()) and float(x.std()) > 0.01, (sampler, spacing)


@pytest.mark.parametrize("name", ["zero", "vp_cosine", "flow"])
def test_eps_says_nothing_of_the_picture_in_noise_alone(name):
    with pytest.raises(ConfigError, match="predict v, x0 or flow"):
        plain(schedule=schedule_of(name))
    if name in CONTINUOUS:  # where drawing begins a little later, it can
        model = plain(schedule=schedule_of(name), drawing=FEW.replace(spacing="karras"))
        assert len(model.generate(1)) == 1
        with pytest.raises(ConfigError, match="eps"):
            model.draw([None], [0], FEW)


def test_whoever_watches_sees_every_step():
    model, seen = plain(predicts="v"), []
    (picture,) = model.draw(
        [None], [0], Drawing(steps=5), watch=lambda glimpse: seen.append((glimpse, glimpse.pictures()))
    )
    glimpses = [glimpse for glimpse, _ in seen]
    assert [(glimpse.done, glimpse.steps) for glimpse in glimpses] == [(i, 5) for i in range(5)]
    noises = [glimpse.noise for glimpse in glimpses]
    assert noises == sorted(noises, reverse=True) and 0.99 < noises[0] <= 1 and noises[-1] < 0.2
    assert (
        values([picture]).tolist() == values(seen[-1][1]).tolist()
    )  # a last step that ends clean ends at the prediction
    assert glimpses[0].noisy()[0].size == (SIDE, SIDE)
    counted = []
    model.draw([None] * 3, [0, 1, 2], FEW, watch=counted.append)
    assert len(counted) == 4 and len(counted[0].pictures()) == 3


def test_settings_are_followed():
    model = plain(predicts="v")
    base = made(model, FEW, [""])
    # Clipped prediction: the last step ends at it.
    assert float(base.abs().max()) <= 1
    assert float(made(model, FEW.replace(clip=False), [""]).abs().max()) > 1
    for change in (
        {"steps": 5},
        {"eta": 1.0},
        {"spacing": "leading"},
        {"clip": False},
        {"keep_noise": True},
        {"end": "least"},
        {"sampler": "heun"},
        {"precision": "bf16"},
        {"spacing": "leading", "offset": 1},
    ):
        assert not torch.equal(made(model, FEW.replace(**change), [""]), base), change
    orders = [made(model, Drawing(steps=16, sampler="dpm", order=order), [""]) for order in (1, 2, 3)]
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[1], orders[2])
    assert torch.allclose(orders[0], made(model, Drawing(steps=16), [""]), atol=1e-5)  # DDIM
    half, whole = made(model, FEW.replace(precision="bf16"), [""]), base
    assert float((half - whole).abs().mean()) < 0.05


def test_the_large_variance_is_another_process():
    small, large = (plain(variance=variance, predicts="v") for variance in ("small", "large"))
    drawing = Drawing(steps=6, sampler="ddpm")
    first, second = (made(model, drawing, [""]) for model in (small, large))
    assert not torch.equal(first, second)
    assert torch.equal(made(small, FEW, [""]), made(large, FEW, [""]))  # DDIM does not ask


# Texts


def test_a_scale_of_one_is_no_guidance():
    model = texted()
    free = texted(DDPM, predicts="v")
    free.load_state_dict(model.state_dict())
    assert torch.equal(made(model, FEW, TEXTS), made(free, FEW, TEXTS))
    assert not torch.allclose(made(model, FEW.replace(guidance=4.0), TEXTS), made(model, FEW, TEXTS), atol=1e-3)


def test_an_empty_prompt_is_unconditional_at_any_scale():
    model, nothing = texted(), [""] * 3
    wanted = made(model, FEW, nothing)
    for scale in (0.0, 2.0, 7.5, -1.0):
        assert torch.allclose(made(model, FEW.replace(guidance=scale), nothing), wanted, atol=1e-5)
    # A scale of 0 does not hear the text.
    assert torch.allclose(made(model, FEW.replace(guidance=0.0), TEXTS[:3]), wanted, atol=1e-5)
    assert values(model.draw([None, ""], [0, 0], FEW)).std(0).max() == 0


def test_guidance_extrapolates():
    model = texted()
    grid = grid_of(model.schedule, FEW)
    x, told = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), model.condition(TEXTS[:3])
    plain_one, guided = model.plain_denoiser(), model.denoiser(FEW.replace(guidance=3.0, clip=False))
    with torch.no_grad():
        with_text = plain_one(x, grid[1], told)
        without, other = (plain_one(x, grid[1], model.condition([text] * 3)) for text in ("", "a star"))
        said = guided(x, grid[1], told)
        negative = model.denoiser(FEW.replace(guidance=3.0, negative="a star", clip=False))(x, grid[1], told)
    assert torch.allclose(said.x0, without.x0 + 3 * (with_text.x0 - without.x0), atol=1e-4)
    assert torch.allclose(negative.x0, other.x0 + 3 * (with_text.x0 - other.x0), atol=1e-4)


def test_a_negative_prompt_takes_the_place_of_the_empty_text():
    model, guided = texted(), FEW.replace(guidance=3.0)
    plain_one = made(model, guided, TEXTS[:2])
    avoided = made(model, guided.replace(negative="a star"), TEXTS[:2])
    assert not torch.allclose(plain_one, avoided, atol=1e-3)
    same = made(model, guided.replace(negative=TEXTS[0]), TEXTS[:1])
    assert torch.allclose(same, made(model, FEW, TEXTS[:1]), atol=1e-5)  # there is nowhere to go


def test_guidance_in_an_interval_and_rescaled():
    model, guided = texted(), FEW.replace(guidance=4.0)
    everywhere = made(model, guided, TEXTS[:2])
    assert torch.equal(made(model, guided.replace(interval=(0.0, 1e9)), TEXTS[:2]), everywhere)
    nowhere = made(model, guided.replace(interval=(1e8, 1e9)), TEXTS[:2])
    assert torch.equal(nowhere, made(model, FEW, TEXTS[:2]))
    assert not torch.allclose(made(model, guided.replace(interval=(0.1, 5.0)), TEXTS[:2]), everywhere, atol=1e-4)
    assert not torch.allclose(made(model, guided.replace(rescale=0.7), TEXTS[:2]), everywhere, atol=1e-4)


def test_texts_are_dropped_in_training_and_never_in_evaluation():
    model, share = texted(drop=0.3), []
    given = with_texts(batch(48))
    empty = model.nothing()[0]
    heard = []
    model.text.register_forward_hook(lambda module, inputs, output: heard.append(inputs[0]))
    model.train()
    for seed in range(40):
        model.told(given, torch.Generator().manual_seed(seed))
        share.append(float((heard[-1] == empty).all(1).float().mean()))
    count = 48 * 40
    assert abs(np.mean(share) - 0.3) < 4 * math.sqrt(0.3 * 0.7 / count)
    kept = ~(heard[-1] == empty).all(1)
    assert torch.equal(heard[-1][kept], given["text"][kept])
    model.eval()
    model.told(given, torch.Generator().manual_seed(0))
    assert torch.equal(heard[-1], given["text"])
    always = texted(DDPM).train()
    always.text.register_forward_hook(lambda module, inputs, output: heard.append(inputs[0]))
    always.loss(given)
    assert torch.equal(heard[-1], given["text"])


@pytest.mark.parametrize("told", ["tokens", "vector", "both"])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_encoder_is_frozen_or_learns_and_is_in_the_checkpoint(told, frozen, tmp_path):
    model = texted(told=told, frozen=frozen).train()
    assert model.text.training is not frozen
    model.loss(with_texts(batch())).total.backward()
    own = {name: p for name, p in model.named_parameters() if name.startswith("text.")}
    assert own and {p.requires_grad for p in own.values()} == {not frozen}
    rest = [name for name, p in model.named_parameters() if not name.startswith("text.") and p.grad is None]
    assert rest == []
    if frozen:
        assert all(p.grad is None for p in own.values())
        model.requires_grad_(True)
        assert not any(p.requires_grad for p in own.values())
    else:
        assert [name for name, p in own.items() if p.grad is None or not bool(p.grad.any())] == []
    model.eval()
    model.save(tmp_path / "saved")
    again = CFG.load(tmp_path / "saved")
    assert torch.equal(made(again, FEW.replace(guidance=2.0), TEXTS), made(model, FEW.replace(guidance=2.0), TEXTS))
    assert {p.requires_grad for name, p in again.named_parameters() if name.startswith("text.")} == {not frozen}


def test_what_a_text_is_padded_with_is_not_heard():
    model = texted(told="both")
    with torch.no_grad():
        tokens = model.tokens_of(["red heart"])
        x, t = torch.randn(1, 3, SIDE, SIDE), torch.tensor([3.0])
        said = model.predict(x, t, model.text(tokens))
        longer = model.text(tokens)
        changed = longer.tokens.clone()
        changed[~longer.mask] += 5
        assert torch.equal(model.predict(x, t, longer._replace(tokens=changed)), said)


# Between


def smooth(cls: type[DDPM], **changes) -> DDPM:
    """A model that says of a noisy picture what a Gaussian's exact denoiser would: smooth, as a trained network is."""
    model = plain(cls, predicts="x0", **changes)

    class Exact(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            level = model.schedule.level(t.double())
            alpha, sigma = (value.view(-1, 1, 1, 1).to(x) for value in (level.alpha, level.sigma))
            return alpha * 0.3 * x / (alpha**2 * 0.3 + sigma**2)

    model.network = Exact()
    model.register_parameter("anchor", nn.Parameter(torch.zeros(1)))
    return model


def two_pictures() -> tuple[Image.Image, Image.Image]:
    ramp = np.linspace(60, 190, SIDE * SIDE * 3).reshape(SIDE, SIDE, 3)
    return Image.fromarray(ramp.astype(np.uint8)), Image.fromarray(ramp[::-1, ::-1].astype(np.uint8))


def test_ddim_interpolates_through_the_noise():
    model, (first, second) = smooth(DDIM, schedule__name="linear"), two_pictures()
    drawing = Drawing(steps=100, end="least")
    between = model.interpolate(first, second, 5, drawing=drawing)
    assert len(between) == 5
    ends = values([first, second])
    assert abs(values([between[0], between[-1]]) - ends).max() <= 3
    gaps = [abs(values([picture]) - ends[:1]).mean() for picture in between]
    assert gaps == sorted(gaps)
    image = model.picture([first, second])
    noise = model.invert(image, drawing=drawing)
    assert float(noise.std()) > 0.5
    assert torch.allclose(model.restore(noise, drawing=drawing), image, atol=0.02)
    assert torch.equal(noise, model.invert(image, drawing=drawing))
    with pytest.raises(DataError, match="depth is 1"):
        model.interpolate(first, second, 5, drawing=drawing, depth=0.5)


def test_ddpm_interpolates_at_a_depth():
    model, (first, second) = smooth(DDPM, schedule__name="linear"), two_pictures()
    drawing = Drawing(steps=40, sampler="ddpm")
    shallow, deep = (values(model.interpolate(first, second, 3, drawing=drawing, depth=d)) for d in (0.05, 1.0))
    ends = values([first, second])
    assert abs(shallow[[0, 2]] - ends).mean() < abs(deep[[0, 2]] - ends).mean()
    again = values(model.interpolate(first, second, 3, drawing=drawing, depth=0.05))
    assert np.array_equal(shallow, again)
    other = values(model.interpolate(first, second, 3, drawing=drawing, depth=0.05, seed=1))
    assert not np.array_equal(shallow, other)


def test_between_texts():
    model = texted()
    pictures = values(model.interpolate("red heart", "blue apple", 4, drawing=FEW, seed=3))
    assert abs(pictures[[0]] - values(model.draw(["red heart"], [3], FEW))).max() <= 1
    assert len(pictures) == 4 and len({picture.tobytes() for picture in pictures}) > 1
    guided = FEW.replace(guidance=3.0)
    ends = values(model.interpolate("red heart", "", 3, drawing=guided))[[0, -1]]  # whatever their lengths
    assert abs(ends - values(model.draw(["red heart", ""], [0, 0], guided))).max() <= 1


@pytest.mark.parametrize("cls", [DDPM, DDIM])
def test_what_lies_between_nothing_is_refused(cls):
    model, (first, second) = plain(cls, drawing=FEW), two_pictures()
    for ends, words in (
        ((first, second, 1), "at least 2 pictures, found 1"),
        ((first, "a star", 3), "from a picture to a picture, or from a text to a text"),
        ((first, None, 3), "from a picture to a picture, or from a text to a text"),
        (("red heart", "a star", 3), "takes no prompt"),
    ):
        with pytest.raises(DataError, match=words):
            model.interpolate(*ends)
    if cls is DDPM:
        with pytest.raises(ConfigError, match="A strength is a share"):
            model.interpolate(first, second, 3, depth=0.0)


# Bad input


def test_prompts_that_are_odd_or_refused():
    model = texted()
    for prompt in ("", " ", "zebra \u2603 \U0001f98a \u0639\u0631", "red " * 2000, "\x00\n\t", None):
        (picture,) = model.draw([prompt], [0], FEW)
        assert picture.size == (SIDE, SIDE)
    with pytest.raises(DataError, match="at most 10,000 characters"):
        model.draw(["word " * 10_000], [0], FEW)
    with pytest.raises(ConfigError, match="at most 10,000 characters"):
        FEW.replace(negative="word " * 10_000)
    alone = plain()
    with pytest.raises(DataError, match="takes no prompt \\('a red heart' was given\\): it was trained without texts"):
        alone.draw(["a red heart"], [0], FEW)
    with pytest.raises(DataError, match="takes no prompt"):
        alone.generate(1, prompt="a red heart")
    assert len(alone.draw([None, ""], [0, 1], FEW)) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "at least 1 step, found 0"),
        ({"steps": -3}, "at least 1 step, found -3"),
        ({"guidance": math.nan}, "finite number, found nan"),
        ({"guidance": math.inf}, "finite number, found inf"),
        ({"sampler": "plms"}, "found 'plms'"),
        ({"spacing": "even"}, "found 'even'"),
        ({"eta": 1.5}, "from 0 to 1"),
        ({"rescale": -0.1}, "from 0 to 1"),
        ({"order": 4}, "An order is 1, 2 or 3"),
        ({"offset": -1}, "an offset at least 0"),
        ({"end": "late"}, "the end clean or least"),
        ({"interval": (2.0, 1.0)}, "a smaller and a larger"),
    ],
)
def test_settings_out_of_range(change, words):
    with pytest.raises(ConfigError, match=words):
        FEW.replace(**change)


def test_settings_that_a_model_cannot_follow():
    model, alone, always = texted(), plain(), texted(DDPM)
    for steps in (1001, 5000):
        with pytest.raises(ConfigError, match=f"trained with 1000 steps, which allows no {steps}"):
            model.draw([None], [0], FEW.replace(steps=steps))
    with pytest.raises(ConfigError, match="it was trained without texts"):
        alone.draw([None], [0], FEW.replace(guidance=2.0))
    with pytest.raises(ConfigError, match="its texts always told"):
        always.draw([""], [0], FEW.replace(guidance=2.0))
    with pytest.raises(ConfigError, match="acts through guidance"):
        model.draw([""], [0], FEW.replace(negative="a star"))
    for seeds in ([0], [0, 1, 2], [0, -1], [0, 2**63]):
        with pytest.raises(DataError, match="as many seeds of at least 0"):
            model.draw(["", ""], seeds, FEW)
    for arguments in ({"count": 0}, {"count": 1, "steps": 0}, {"count": -1}):
        with pytest.raises(DataError, match="at least 1"):
            model.generate(**arguments)
    assert model.draw([], [], FEW) == []


def test_sizes_that_the_network_cannot_take():
    config = DDPMConfig(network=LEVELS.replace(down_padding=0), drawing=FEW)
    model = DDPM(config, {"image": signed_pixels(1, "crop")})
    with pytest.raises(DataError, match="needs at least 2 places on a side, found 1 x 1"):
        model.generate(1)
    with pytest.raises(DataError, match="takes maps of shape"):
        plain().loss({"image": torch.zeros(2, 1, 8, 8), "seed": torch.arange(2)})
    odd = shaken(DDPM(DDPMConfig(network=LEVELS, drawing=FEW), {"image": signed_pixels(7, "crop")}))
    assert odd.generate(1)[0].size == (7, 7)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: plain(network__in_channels=1), "must take 3 channels"),
        (lambda: plain(network__out_channels=6), "give 3, found 3 and 6"),
        (lambda: plain(network__context_dim=8), "reads a context, and there is no text encoder"),
        (lambda: plain(network__classes=5), "no class"),
        (lambda: texted(told="tokens", network__context_dim=None), "neither a context nor a vector"),
        (lambda: texted(network__context_dim=12), "have 8 numbers, the network reads 12"),
        (lambda: plain(learns_variance=True, schedule__name="flow", predicts="v"), "choose a schedule with steps"),
        (lambda: plain(predicts="noise"), "noise"),
        (lambda: plain(schedule=schedule_of("zero")), "zero terminal SNR"),
        (lambda: plain(drawing__guidance=3.0), "nothing to guide by"),
        (lambda: texted(drop=0.0), "between 0 and 1, found 0.0"),
        (lambda: texted(drop=1.0), "between 0 and 1, found 1.0"),
        (lambda: CFGConfig(network=NETWORK, drawing=FEW), "nothing to drop"),
        (lambda: ScheduleConfig(name="quadratic"), "found 'quadratic'"),
        (lambda: ScheduleConfig(steps=0), "at least 1 step"),
        (lambda: ScheduleConfig(name="flow", zero_terminal_snr=True), "no last step to bend"),
        (lambda: ScheduleConfig(start=0.1), "found 0.1 of 'cosine'"),
        (lambda: ScheduleConfig(name="linear", end=1.0), "found 1.0"),
        (lambda: ScheduleConfig(name="table"), "one for each of its 1000 steps; found 0"),
        (lambda: ScheduleConfig(name="linear", steps=2, betas=(0.1, 0.2)), "and no other"),
    ],
)
def test_configurations_whose_parts_do_not_fit(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_health_and_capabilities():
    model = plain()
    assert model.health() == []
    with torch.no_grad():
        for parameter in model.network.conv_out.parameters():
            parameter.zero_()
    model.loss(batch())
    (warning,) = model.health()
    assert "100% of that of saying nothing" in warning
    for cls in (model, texted()):
        assert set(capabilities_of(cls)) == {"generate", "draw", "interpolate"}
    assert model.needs.keys() == {"image", "seed"} and texted().needs.keys() == {"image", "text", "seed"}


def test_configurations_go_through_json():
    for model in (plain(), plain(DDIM), texted(frozen=False, drawing__interval=(0.1, 5.0))):
        config = model.config
        again = type(config).from_json(config.to_json())
        assert again == config and dataclasses.asdict(again) == dataclasses.asdict(config)
    table = ScheduleConfig(name="table", steps=3, betas=(0.1, 0.2, 0.3))
    assert ScheduleConfig.from_json(table.to_json()) == table
    assert torch.allclose(table.build().betas, torch.tensor(table.betas).double())
