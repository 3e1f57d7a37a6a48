import math

import pytest
import torch
from torch import nn

from intermodal.recipes import get_recipe
from intermodal.recipes.base import OptimConfig
from intermodal.train.optim import build_optimizer, learning_rate, moving_average


def test_cosine_schedule_at_its_known_points():
    at = learning_rate(OptimConfig(lr=2.0, warmup=10, final_lr=0.1), steps=110)
    assert at(0) == pytest.approx(0.2)
    assert at(9) == pytest.approx(2.0)
    assert at(10) == pytest.approx(2.0)
    assert at(60) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert at(110) == pytest.approx(0.2)
    assert at(10**6) == pytest.approx(0.2)


def test_constant_schedule_stays():
    at = learning_rate(OptimConfig(lr=1.0, warmup=2, schedule="constant"), steps=50)
    assert [at(i) for i in (0, 1, 2, 49)] == [0.5, 1.0, 1.0, 1.0]


def test_warmup_is_cut_for_short_runs():
    at = learning_rate(OptimConfig(lr=1.0, warmup=100), steps=4)
    assert max(at(i) for i in range(4)) == 1.0


def test_decay_falls_on_matrices_alone():
    module = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    module.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    optimizer = build_optimizer(module, OptimConfig(weight_decay=0.3))
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert {n: decays[id(p)] for n, p in module.named_parameters()} == {
        "scale": 0.0,
        "0.weight": 0.3,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
    }


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_layers_learn_at_rates_that_fall_with_depth(name):
    """The head at the full rate, the last block at one factor below it, what reads pixels at one more than the first."""
    method = get_recipe(name).smoke().build()
    optimizer = build_optimizer(method, OptimConfig(layer_decay=0.5))
    scale = {id(p): g["scale"] for g in optimizer.param_groups for p in g["params"]}
    found = {n: scale[id(p)] for n, p in method.named_parameters()}
    assert len(found) == len([*method.parameters()])
    if name == "vit":
        wanted = {"image.transformer.blocks.0.": 0.25, "image.transformer.blocks.1.": 0.5, "image.post_norm.": 1.0}
    else:
        wanted = {"image.stages.0.0.": 0.125, "image.stages.0.1.": 0.25, "image.mergings.0.": 0.25}
        wanted |= {"image.stages.1.0.": 0.5, "image.norm.": 1.0}
    wanted |= {"head.": 1.0, "image.patch_embedding.": 0.125 if name == "vit" else 0.0625}
    for start, value in wanted.items():
        assert {v for n, v in found.items() if n.startswith(start)} == {value}, start
    assert all("scale" not in g for g in build_optimizer(method, OptimConfig()).param_groups)


def test_moving_average_is_the_stated_recursion():
    module = nn.Linear(1, 1, bias=False)
    average = moving_average(module, decay=0.5)
    expected, decay = None, 0.5
    for n, value in enumerate([1.0, 3.0, -2.0, 7.0]):
        with torch.no_grad():
            module.weight.fill_(value)
        average.update_parameters(module)
        # The first update copies; update n after it has the decay min(decay, (1 + n) / (10 + n)).
        keep = min(decay, (1 + n) / (10 + n))
        expected = value if expected is None else keep * expected + (1 - keep) * value
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-6)
    assert math.isfinite(expected)
