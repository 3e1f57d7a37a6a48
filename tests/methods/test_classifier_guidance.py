"""Classifier guidance: exact on a mixture through the whole method, its gradient, its two phases, prompts, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from intermodal.core.capabilities import capabilities_of
from intermodal.core.drawing import Drawing
from intermodal.core.errors import ConfigError, DataError
from intermodal.data.processors import LabelProcessor, signed_pixels
from intermodal.diffusion.denoiser import Prediction
from intermodal.diffusion.mixtures import Mixture
from intermodal.diffusion.predictions import target
from intermodal.diffusion.schedules import CLEAN
from intermodal.diffusion.settings import ScheduleConfig, grid_of, sample
from intermodal.methods.base import generator_of
from intermodal.methods.image_generation.classifier_guidance import (
    ENOUGH,
    ClassifierGuidance,
    ClassifierGuidanceConfig,
)
from intermodal.methods.image_generation.ddim import DDIM, DDIMConfig
from intermodal.methods.image_generation.text import TextEncoderConfig
from intermodal.nn.noisy_classifier import NoisyClassifierConfig
from intermodal.nn.text import TextConfig
from intermodal.recipes.diffusion import TINY
from intermodal.train.optim import alone

SIDE = 8
NAMES = ("animal", "fruit", "heart")
DETERMINISTIC, STOCHASTIC = ("ddim", "euler", "heun", "dpm"), ("ddpm", "euler-a", "dpm-sde")
MIXTURE = Mixture(
    torch.tensor([[0.6, 0.0, -0.4], [-0.5, 0.5, 0.2], [0.0, -0.6, 0.5]], dtype=torch.float64),
    torch.tensor(
        [
            [[0.05, 0.02, 0.0], [0.02, 0.04, 0.01], [0.0, 0.01, 0.03]],
            [[0.03, 0.0, 0.0], [0.0, 0.06, -0.01], [0.0, -0.01, 0.05]],
            [[0.06, -0.02, 0.01], [-0.02, 0.05, 0.0], [0.01, 0.0, 0.04]],
        ],
        dtype=torch.float64,
    ),
    torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    torch.tensor([0, 1, 1]),
)


def small(names=NAMES, size=SIDE, seed=0, **changes) -> ClassifierGuidance:
    """Return a model with random weights, also where the architecture begins with zeros."""
    torch.manual_seed(seed)
    config = ClassifierGuidanceConfig(
        network=TINY, classifier=NoisyClassifierConfig(encoder=TINY), drawing=Drawing(steps=4), **changes
    )
    model = ClassifierGuidance(config, {"image": signed_pixels(size, "crop"), "label": LabelProcessor(names=names)})
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


class ExactNetwork(nn.Module):
    """Says v of pictures of one pixel that are drawn from the mixture."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule, self.weight = schedule, nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x_BCHW, t_B):
        level = self.schedule.level(t_B)
        said = MIXTURE(x_BCHW.flatten(1), level)
        return target("v", said.x0, said.eps, level).view_as(x_BCHW)


class ExactClassifier(nn.Module):
    """Logits whose softmax is the mixture's own p(class | x_t)."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def forward(self, x_BCHW, t_B):
        level, x_BD = self.schedule.level(t_B), x_BCHW.flatten(1)
        log = [MIXTURE.log_class(x_BD, level, torch.full((len(x_BD),), k)) for k in (0, 1)]
        return torch.stack(log, 1) + 7.0  # logits are known up to a constant


@pytest.fixture(scope="module")
def exact() -> ClassifierGuidance:
    model = small(("one", "two"), size=1, schedule=ScheduleConfig(name="cosine"))
    model.network, model.classifier = ExactNetwork(model.schedule), ExactClassifier(model.schedule)
    return model.double()


def conditional(x_BCHW, level, cond=None, /):
    """Return what the exact denoiser that is told the class says."""
    said = MIXTURE(x_BCHW.flatten(1), level, cond)
    return Prediction(said.x0.view_as(x_BCHW), said.eps.view_as(x_BCHW))


def drawn(model, classes, drawing, seed=0):
    grid = grid_of(model.schedule, drawing)
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(classes))]
    with torch.no_grad():
        return model.sampled(model.noise(generators, grid, drawing), classes, grid, drawing, noise=generators)


@pytest.mark.parametrize("sampler", [*DETERMINISTIC, *STOCHASTIC])
def test_scale_one_is_the_exact_conditional_model_in_every_sampler(exact, sampler):
    """Bayes' rule, through the whole method: what is drawn is what the denoiser that knows the classes draws."""
    drawing = Drawing(steps=20, sampler=sampler, guidance=1.0, clip=False)
    classes = ["one", "two", "two", "one", "two"]
    grid = grid_of(exact.schedule, drawing)
    noise = [torch.Generator().manual_seed(i) for i in range(5)]
    cond = torch.tensor([NUMBER[name] for name in classes])
    wanted = sample(conditional, exact.noise(noise, grid, drawing), grid, noise, drawing, cond=cond)
    assert torch.allclose(drawn(exact, classes, drawing), wanted, atol=1e-7)


NUMBER = {"one": 0, "two": 1}


@pytest.mark.parametrize("scale", [-1.0, 0.5, 3.0])
def test_the_scale_is_that_of_classifier_free_guidance(exact, scale):
    drawing = Drawing(steps=15, sampler="ddim", guidance=scale, clip=False)
    classes = ["one", "two", "two"]
    cond = torch.tensor([0, 1, 1])

    def extrapolated(x, level, cond, /):
        with_class, without = conditional(x, level, cond), conditional(x, level)
        return Prediction(*(w + scale * (c - w) for w, c in zip(without[:2], with_class[:2], strict=True)))

    grid = grid_of(exact.schedule, drawing)
    noise = [torch.Generator().manual_seed(i) for i in range(3)]
    wanted = sample(extrapolated, exact.noise(noise, grid, drawing), grid, noise, drawing, cond=cond)
    found = drawn(exact, classes, drawing)
    assert torch.allclose(found, wanted, atol=1e-7 * float(wanted.abs().max().clamp(min=1)))


def test_samples_have_the_mean_and_covariance_of_the_class(exact):
    count = 1500
    drawing = Drawing(steps=40, sampler="dpm", guidance=1.0, clip=False)
    found = drawn(exact, ["one"] * count, drawing).flatten(1)
    spread = (MIXTURE.basis[0] * MIXTURE.scale[0]) @ MIXTURE.basis[0].T
    error = (found.mean(0) - MIXTURE.mean[0]).abs() / (spread.diagonal() / count).sqrt()
    assert float(error.max()) < 4
    deviation = (spread**2 + torch.outer(spread.diagonal(), spread.diagonal())).div(count).sqrt()
    assert float(((found.T.cov() - spread).abs() / deviation).max()) < 4
    outside = drawn(exact, ["one"] * 200, drawing.replace(guidance=0.0)).flatten(1)
    assert float((outside.mean(0) - MIXTURE.mean[0]).abs().max()) > 0.1  # without guidance they have not


def test_the_class_is_the_surer_the_larger_the_scale(exact):
    sure = []
    for scale in (0.0, 1.0, 2.0, 4.0):
        found = drawn(exact, ["two"] * 64, Drawing(steps=20, guidance=scale, clip=False)).flatten(1)
        sure.append(float(MIXTURE.log_class(found, CLEAN, torch.ones(64).long()).exp().mean()))
    assert sure == sorted(sure) and sure[0] < 0.8 and sure[1] > 0.95


# The gradient and what is done with it.


@pytest.mark.parametrize("t", [10, 400, 990])
def test_gradient_is_that_of_finite_differences_in_sign_and_size(t):
    model, scale, step = small().double(), 3.0, 1e-5
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    told, level = model.condition(["heart", "animal"]), model.schedule.level(float(t))
    with torch.no_grad():
        guided = model.denoiser(Drawing(guidance=scale, clip=False))(x, level, told)
        plain = model.plain_denoiser()(x, level)
    along = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    t_B = torch.full((2,), float(t), dtype=torch.float64)

    def log_prob(x):
        return model.classifier(x, t_B).log_softmax(1)[[0, 1], [2, 0]]

    with torch.no_grad():
        slope_B = (log_prob(x + step * along) - log_prob(x - step * along)) / (2 * step)
    moved = lambda a, b: ((a - b) * along).flatten(1).sum(1)  # noqa: E731
    sigma, alpha = float(level.sigma), float(level.alpha)
    assert float(slope_B.abs().min()) > 1e-6
    assert torch.allclose(moved(guided.eps, plain.eps), -scale * sigma * slope_B, rtol=1e-5, atol=0)
    assert torch.allclose(moved(guided.x0, plain.x0), scale * sigma**2 / alpha * slope_B, rtol=1e-5, atol=0)
    rms = (guided.eps - plain.eps).flatten(1).square().mean(1).sqrt() / scale
    assert torch.allclose(model.pull(x, level, told), rms, rtol=1e-6)
    assert not guided.x0.requires_grad


def test_scale_zero_and_no_class_are_the_unconditional_model_bit_for_bit():
    model = small()
    plain = DDIM(DDIMConfig(network=TINY, drawing=Drawing(steps=4)), {"image": signed_pixels(SIDE, "crop")}).eval()
    plain.network.load_state_dict(model.network.state_dict())
    for sampler in (*DETERMINISTIC, *STOCHASTIC):
        drawing = Drawing(steps=4, sampler=sampler)
        wanted = drawn(plain, ["", ""], drawing)
        assert torch.equal(drawn(model, ["heart", "fruit"], drawing.replace(guidance=0.0)), wanted), sampler
        assert torch.equal(drawn(model, ["", ""], drawing.replace(guidance=5.0)), wanted), sampler
    guided = model.draw(["heart"], [0], model.drawing.replace(guidance=50.0))
    assert np.abs(np.asarray(guided[0], float) - np.asarray(model.draw([None], [0])[0], float)).max() > 0


def test_those_without_a_class_are_not_guided_beside_those_with_one():
    model, drawing = small().double(), Drawing(steps=4, guidance=30.0)
    both = drawn(model, ["", "heart"], drawing)
    assert torch.allclose(both[0], drawn(model, [""], drawing)[0], atol=1e-9)
    assert torch.allclose(both[1], drawn(model, ["heart"], drawing, seed=1)[0], atol=1e-9)


def test_drawing_is_within_the_range_of_pixels_and_leaves_no_gradient():
    model = small()
    found = drawn(model, ["heart"] * 2, Drawing(steps=4, guidance=1e6))
    assert bool(torch.isfinite(found).all()) and float(found.abs().max()) <= 1
    model.draw(["heart"], [0], model.drawing.replace(guidance=3.0, precision="bf16"))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_steps_can_be_watched():
    model, seen = small(), []
    model.draw(["fruit"], [0], model.drawing.replace(guidance=2.0), watch=lambda g: seen.append((g.done, g.pictures())))
    assert [done for done, _ in seen] == [0, 1, 2, 3]
    assert all(isinstance(pictures[0], Image.Image) for _, pictures in seen)


def test_interpolation_of_classes_and_of_pictures():
    model = small()
    drawing = model.drawing.replace(guidance=20.0)
    between = model.interpolate("heart", "animal", 3, seed=4, drawing=drawing)
    ends = model.draw(["heart", "animal"], [4, 4], drawing)
    for found, wanted in zip((between[0], between[2]), ends, strict=True):
        assert np.abs(np.asarray(found, float) - np.asarray(wanted, float)).max() <= 1
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)) for _ in range(2)]
    assert len(model.interpolate(*pictures, 4)) == 4
    image = model.picture(pictures)
    noise = model.invert(image, texts=["heart", "animal"])
    assert torch.equal(model.restore(noise, texts=["heart", "animal"]), model.restore(noise))


# Training: two phases.


def batch_of(model, count=6, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.rand(count, 3, SIDE, SIDE, generator=generator) * 2 - 1,
        "label": torch.arange(count) % len(model.names),
        "seed": torch.arange(count) + 10,
    }


def test_the_denoiser_never_sees_a_label_and_the_classifier_no_clean_picture():
    model = small()
    batch = batch_of(model)
    other = {**batch, "label": batch["label"].flip(0)}
    assert torch.equal(model.loss(batch).total, model.loss(other).total)
    assert not torch.equal(model.classifier_loss(batch).total, model.classifier_loss(other).total)
    shown = []
    hook = model.classifier.register_forward_pre_hook(lambda module, args: shown.append(args))
    model.loss(batch)
    assert not shown
    model.classifier_loss(batch)
    hook.remove()
    ((x, t_B),) = shown
    generator = generator_of(batch)
    drawn_t = model.schedule.draw(len(x), generator)
    level, eps = model.schedule.level(drawn_t), torch.randn(x.shape, generator=generator)
    alpha, sigma = (value.float().view(-1, 1, 1, 1) for value in (level.alpha, level.sigma))
    assert torch.equal(t_B.double(), drawn_t)
    assert torch.allclose(x, alpha * batch["image"] + sigma * eps, atol=1e-6)
    assert bool((x != batch["image"]).flatten(1).any(1).all())
    wanted = F.cross_entropy(model.classifier(x, t_B), batch["label"])
    assert torch.allclose(model.classifier_loss(batch).total, wanted)


def test_each_phase_trains_its_own_network_alone():
    model = small().train()
    batch, phases = batch_of(model), model.phases()
    for phase, inside in zip(phases, ("network.", "classifier."), strict=True):
        model.zero_grad()
        with alone(model, phase, among=phases):
            model(batch, phase.loss).total.backward()
        touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert touched and all(name.startswith(inside) for name in touched)


def test_the_classifier_learns_to_tell_noisy_pictures_apart():
    model = small(("dark", "light")).train()
    optimizer = torch.optim.AdamW(model.classifier.parameters(), lr=3e-3)
    right = []
    for step in range(60):
        label = torch.arange(32) % 2
        image = torch.full((32, 3, SIDE, SIDE), -0.8) + 1.6 * label.view(-1, 1, 1, 1)
        losses = model.classifier_loss({"image": image, "label": label, "seed": torch.arange(32) + 32 * step})
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        right.append(float(losses.parts["accuracy"]))
    assert sum(right[-10:]) / 10 > 0.85
    assert losses.total.item() < math.log(2)


# Prompts, settings, health.


def test_what_it_offers():
    model = small()
    assert {"generate", "draw", "interpolate"} <= set(capabilities_of(model))
    assert model.takes_prompt and model.guidable and model.names == NAMES
    assert len(model.generate(2, prompt="heart", steps=2)) == 2
    assert len(model.generate(2, prompt="", steps=2)) == len(model.generate(2, steps=2)) == 2


@pytest.mark.parametrize("prompt", ["hart", "a red heart", " ", "Heart"])
def test_unknown_classes_are_named(prompt):
    with pytest.raises(DataError, match=r"knows no class '.*(did you mean|known are: animal, fruit, heart)"):
        small().generate(1, prompt=prompt)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"negative": "fruit"}, "no negative prompt: .* guidance below 0"),
        ({"negative": "fruit", "guidance": 3.0}, "no negative prompt"),
        ({"rescale": 0.5}, "classifier-free guidance"),
        ({"interval": (0.1, 1.0)}, "classifier-free guidance"),
        ({"guidance": math.nan}, "finite number, found nan"),
        ({"guidance": math.inf}, "finite number"),
        ({"steps": 2000}, "1,?000"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, word):
    with pytest.raises(ConfigError, match=word):
        small().draw(["heart"], [0], Drawing().replace(**changes))


def test_what_does_not_fit_is_refused():
    tower = TextConfig(vocab_size=20, context_length=4, width=8, depth=1, heads=2, eos_id=1, pad_id=0)
    encoder = NoisyClassifierConfig(encoder=TINY)
    with pytest.raises(ConfigError, match="no text encoder"):
        ClassifierGuidanceConfig(
            network=TINY.replace(context_dim=8), text=TextEncoderConfig(tower=tower), classifier=encoder
        )
    with pytest.raises(ConfigError, match="must take 3 channels, found 4"):
        ClassifierGuidanceConfig(network=TINY, classifier=NoisyClassifierConfig(encoder=TINY.replace(in_channels=4)))
    with pytest.raises(ConfigError, match="their time and nothing else"):
        NoisyClassifierConfig(encoder=TINY.replace(context_dim=8))
    with pytest.raises(ConfigError, match="found 'max'"):
        NoisyClassifierConfig(encoder=TINY, pool="max")
    with pytest.raises(ConfigError, match="at least two classes"):
        small(("heart",))
    config = ClassifierGuidanceConfig(network=TINY, classifier=encoder)
    with pytest.raises(ConfigError, match="at least two classes"):
        ClassifierGuidance(config, {"image": signed_pixels(SIDE, "crop")})


def test_health_in_words():
    model = small()
    assert model.health() == []
    model._watched = {
        "right": torch.tensor([11.0, 9.0, 10.0, 10.0]),
        "seen": torch.full((4,), ENOUGH / 4),
        "class": torch.tensor([200.0, 100.0, 100.0]),
    }
    (warning,) = model.health()
    assert "knows no class at any noise level" in warning and "11%" in warning and "50%" in warning
    model._watched["right"][0] = 90.0
    assert model.health() == []
    for pull, word in (
        (1e-6, "vanished"),
        (math.nan, "vanished"),
        (3.0, "explodes: guidance of 1 moves the noise by 3.0"),
    ):
        model._pull = pull
        assert word in " ".join(model.health())
    model._pull = 0.05
    assert model.health() == []


def test_health_is_watched_while_training():
    model = small().train()
    model.begin_step(0, 10)
    model.classifier_loss(batch_of(model, count=12))
    assert float(model._watched["seen"].sum()) == float(model._watched["class"].sum()) == 12
    assert model._pull is not None and model._pull > 0
    model._pull = None
    model.begin_step(1, 10)
    model.classifier_loss(batch_of(model))
    assert model._pull is None
