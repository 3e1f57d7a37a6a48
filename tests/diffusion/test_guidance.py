"""Guidance on a mixture, where every score is known."""

import math

import pytest
import torch

from intermodal.core.errors import ConfigError
from intermodal.diffusion.continuous import VPCosine
from intermodal.diffusion.denoiser import Prediction
from intermodal.diffusion.guidance import ClassifierFree, ClassifierGuided, join
from intermodal.diffusion.predictions import KINDS, score, target

SCHEDULE = VPCosine()
NONE = torch.tensor([-1])


class Counting:
    def __init__(self, denoiser):
        self.denoiser, self.sizes = denoiser, []

    def __call__(self, x, level, cond=None, /):
        self.sizes.append(len(x))
        return self.denoiser(x, level, cond)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("t", [0.02, 0.5, 0.98])
def test_classifier_free_is_the_extrapolated_score(mixture, draw, scale, t):
    x, level, cond = draw(6, 2).requires_grad_(), SCHEDULE.level(t), torch.tensor([0, 1, 1, 0, 0, 1])
    log = scale * mixture.log_prob(x, level, cond) + (1 - scale) * mixture.log_prob(x, level)
    (wanted,) = torch.autograd.grad(log.sum(), x)
    x = x.detach()
    counting = Counting(mixture)
    said = ClassifierFree(counting, scale, NONE)(x, level, cond)
    assert torch.allclose(score(said.eps, level), wanted, atol=1e-9)
    assert counting.sizes == [6 if scale == 1 else 12]
    rebuilt = level.alpha * said.x0 + level.sigma * said.eps
    assert torch.allclose(rebuilt, x, atol=1e-9)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("t", [0.02, 0.5, 0.98])
def test_classifier_guidance_is_the_score_plus_the_gradient(mixture, draw, scale, t):
    x, level, cond = draw(6, 2), SCHEDULE.level(t), torch.tensor([0, 1, 1, 0, 0, 1])

    def log_prob(x, t_B, cond):
        return mixture.log_class(x, SCHEDULE.level(t_B), cond)

    said = ClassifierGuided(mixture, log_prob, scale)(x, level, cond)
    both = mixture.score(x, level, cond) * scale + mixture.score(x, level) * (1 - scale)
    assert torch.allclose(score(said.eps, level), both, atol=1e-8)
    assert torch.allclose(level.alpha * said.x0 + level.sigma * said.eps, x, atol=1e-9)
    if scale == 1:  # Bayes' rule: the conditional model itself
        assert torch.allclose(said.x0, mixture(x, level, cond).x0, atol=1e-8)
    assert not said.x0.requires_grad


def test_both_guidances_agree_where_both_are_exact(mixture, draw):
    x, level, cond = draw(4, 2), SCHEDULE.level(0.4), torch.tensor([1, 0, 1, 1])
    free = ClassifierFree(mixture, 2.5, NONE)(x, level, cond)
    with_classifier = ClassifierGuided(mixture, lambda x, t, c: mixture.log_class(x, level, c), 2.5)(x, level, cond)
    assert torch.allclose(free.x0, with_classifier.x0, atol=1e-9)


def test_noise_alone_says_nothing_of_a_class(mixture, draw):
    x, level = draw(4, 2), SCHEDULE.level(1.0)
    guided = ClassifierGuided(mixture, lambda x, t, c: x.sum(1), 2.0)(x, level, torch.zeros(4))
    assert torch.equal(guided.x0, mixture(x, level).x0)


def test_a_conditional_denoiser_with_a_classifier(mixture, draw):
    x, level, cond = draw(4, 2), SCHEDULE.level(0.4), torch.tensor([1, 0, 1, 1])
    flat = ClassifierGuided(mixture, lambda x, t, c: 0 * x.sum(1), 2.0, unconditional=False)(x, level, cond)
    assert torch.allclose(flat.x0, mixture(x, level, cond).x0)


def test_negative_condition(mixture, draw):
    """Away from class 0 is, for two classes, the extrapolation of their scores."""
    x, level, cond = draw(4, 2), SCHEDULE.level(0.5), torch.ones(4).long()
    said = ClassifierFree(mixture, 3.0, torch.zeros(4).long())(x, level, cond)
    wanted = 3 * mixture.score(x, level, cond) - 2 * mixture.score(x, level, torch.zeros(4).long())
    assert torch.allclose(score(said.eps, level), wanted, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_rescale_is_lins(mixture, draw, kind):
    x, level, cond = draw(4, 2), SCHEDULE.level(0.5), torch.tensor([1, 0, 1, 1])
    outputs = {}
    for name, c in (("with", cond), ("without", NONE.expand(4))):
        said = mixture(x, level, c)
        outputs[name] = target(kind, said.x0, said.eps, level)
    cfg = outputs["without"] + 4.0 * (outputs["with"] - outputs["without"])
    rescaled = cfg * (outputs["with"].std(1, keepdim=True) / cfg.std(1, keepdim=True))
    wanted = 0.7 * rescaled + 0.3 * cfg
    said = ClassifierFree(mixture, 4.0, NONE, rescale=0.7, rescale_kind=kind)(x, level, cond)
    assert torch.allclose(target(kind, said.x0, said.eps, level), wanted, atol=1e-9)


def test_interval(mixture, draw):
    x, cond = draw(4, 2), torch.tensor([1, 0, 1, 1])
    counting = Counting(mixture)
    guided = ClassifierFree(counting, 4.0, NONE, interval=(0.5, 2.0))
    for ratio, size in ((0.1, 4), (0.5, 4), (1.0, 8), (2.0, 8), (2.1, 4), (math.inf, 4)):
        level = SCHEDULE.at_ratio(ratio)
        counting.sizes.clear()
        said = guided(x, level, cond)
        assert counting.sizes == [size], ratio
        if size == 4:
            assert torch.equal(said.x0, mixture(x, level, cond).x0)
    with pytest.raises(ConfigError, match="one side"):
        guided(x, SCHEDULE.at_ratio(torch.tensor([0.1, 1.0, 1.0, 1.0])), cond)


def test_a_level_for_each_sample(mixture, draw):
    x, cond = draw(3, 2), torch.tensor([1, 0, 1])
    level = SCHEDULE.level(torch.tensor([0.2, 0.5, 0.8]))
    said = ClassifierFree(mixture, 3.0, NONE)(x, level, cond)
    for row in range(3):
        one = ClassifierFree(mixture, 3.0, NONE)(
            x[row : row + 1], SCHEDULE.level(float(level.t[row])), cond[row : row + 1]
        )
        assert torch.allclose(said.x0[row], one.x0[0], atol=1e-12)


def test_conditions_of_any_structure_are_joined():
    tokens, mask = torch.randn(2, 5, 3), torch.ones(2, 5, dtype=torch.bool)
    both = join(
        {"text": (tokens, mask), "size": torch.ones(2)}, {"text": (tokens[:1], mask[:1]), "size": torch.zeros(1)}, 2
    )
    assert both["text"][0].shape == (4, 5, 3)
    assert both["text"][1].dtype == torch.bool
    assert both["size"].tolist() == [1, 1, 0, 0]
    assert join((None, tokens), (None, tokens), 2)[0] is None
    for first, second in (
        (tokens, tokens[:, :4]),
        ((tokens,), tokens),
        ({"a": tokens}, {"b": tokens}),
        (tokens[:1], tokens),
    ):
        with pytest.raises(ConfigError, match="negative must have"):
            join(first, second, 2)


def test_learnt_variance_is_the_conditional_ones(draw):
    def denoiser(x, level, cond=None, /):
        return Prediction(x, x, cond[:, None].expand(x.shape))

    said = ClassifierFree(denoiser, 2.0, torch.zeros(1))(draw(3, 2), SCHEDULE.level(0.5), torch.ones(3))
    assert torch.equal(said.variance, torch.ones(3, 2))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"scale": math.nan}, "finite number, found nan"),
        ({"scale": math.inf}, "finite number"),
        ({"rescale": 1.5}, "share from 0 to 1"),
        ({"interval": (2.0, 1.0)}, "smaller and a larger"),
        ({"negative": None}, "stands for none"),
        ({"rescale_kind": "noise"}, "found 'noise'"),
    ],
)
def test_wrong_input_is_named(mixture, options, word):
    with pytest.raises(ConfigError, match=word):
        ClassifierFree(mixture, **{"scale": 2.0, "negative": NONE, **options})


def test_guidance_needs_something_to_follow(mixture, draw):
    with pytest.raises(ConfigError, match="condition to follow"):
        ClassifierFree(mixture, 2.0, NONE)(draw(2, 2), SCHEDULE.level(0.5))
    with pytest.raises(ConfigError, match="condition to follow"):
        ClassifierGuided(mixture, lambda x, t, c: x.sum(1), 1.0)(draw(2, 2), SCHEDULE.level(0.5))
    with pytest.raises(ConfigError, match="finite"):
        ClassifierGuided(mixture, lambda x, t, c: x.sum(1), math.nan)
