"""Schedules and samplers by their names: tables, the levels of a drawing, and what it begins with."""

import math

import pytest
import torch

from intermodal.core.drawing import Drawing
from intermodal.core.errors import ConfigError
from intermodal.diffusion.grids import make_grid
from intermodal.diffusion.schedules import DiscreteSchedule
from intermodal.diffusion.settings import NOISE_ALONE, RATIOS, ScheduleConfig, grid_of, start_scale

LINEAR = DiscreteSchedule.linear()


def times(grid):
    return [float(level.t) for level in grid]


def test_a_schedule_by_its_name():
    found = ScheduleConfig(name="linear", steps=50, start=0.001, end=0.3).build()
    assert torch.allclose(found.betas, torch.linspace(0.001, 0.3, 50, dtype=torch.float64), rtol=1e-9)
    table = ScheduleConfig(name="table", steps=50, betas=tuple(found.betas.tolist())).build()
    assert torch.allclose(table.alpha_bar, found.alpha_bar, rtol=1e-12)
    for name in ("linear", "scaled_linear", "cosine", "sigmoid"):
        assert torch.equal(ScheduleConfig(name=name).build().alpha_bar, getattr(DiscreteSchedule, name)().alpha_bar)
    assert float(ScheduleConfig(zero_terminal_snr=True).build().alpha_bar[-1]) == 0
    with torch.device("meta"):  # where models are built before their weights are read
        for name in ("linear", "cosine", "flow"):
            assert ScheduleConfig(name=name).build().level(0.0).alpha.device.type == "cpu"


def test_each_sampler_has_the_steps_of_its_published_code():
    even = Drawing(steps=10, spacing="linspace")
    assert times(grid_of(LINEAR, even)) == times(make_grid(LINEAR, 10, "linspace"))
    assert times(grid_of(LINEAR, even.replace(steps=7, sampler="euler")))[1] == pytest.approx(999 * 5 / 6)
    assert times(grid_of(LINEAR, even.replace(sampler="dpm")))[-2] == 100  # the cleanest is left out
    assert len(grid_of(LINEAR, even.replace(sampler="dpm", steps=1000))) == 1001
    assert times(grid_of(LINEAR, even.replace(spacing="leading", offset=1)))[-2:] == [1, -1]
    assert float(grid_of(LINEAR, even.replace(end="least"))[-1].sigma) == pytest.approx(0.01)
    told = times(grid_of(LINEAR, even.replace(spacing="karras", sampler="dpm")))
    assert all(t == round(t) for t in told) and told[0] == 999
    assert not all(t == round(t) for t in times(grid_of(LINEAR, even.replace(spacing="karras"))))


def test_ratios_begin_where_there_is_something_to_see():
    for name, first in (("linear", 157.4), ("vp_linear", 152.2), ("cosine", RATIOS[0]), ("flow", RATIOS[0])):
        schedule = ScheduleConfig(name=name).build()
        grid = grid_of(schedule, Drawing(steps=5, spacing="karras"))
        assert float(grid[0].ratio) == pytest.approx(first, rel=1e-3)
        smallest = float(schedule.level(0.0).ratio)
        assert float(grid[-2].ratio) == pytest.approx(smallest or RATIOS[1])
    assert float(ScheduleConfig().build().level(999.0).ratio) > NOISE_ALONE


def test_what_a_drawing_begins_with():
    leading = Drawing(steps=5, spacing="leading")
    grid = grid_of(LINEAR, leading)
    sigma = float(grid[0].sigma)
    assert sigma < 0.9999
    assert start_scale(grid, leading) == pytest.approx(1, abs=1e-12)
    assert start_scale(grid, leading.replace(sampler="euler")) == pytest.approx(1, abs=1e-12)
    assert start_scale(grid, leading.replace(sampler="heun", spacing="linspace")) == sigma
    flow = grid_of(ScheduleConfig(name="flow").build(), leading.replace(spacing="karras"))
    assert start_scale(flow, leading) == pytest.approx(math.hypot(1 / 81, 80 / 81))


def test_steps_that_a_schedule_has_not():
    with pytest.raises(ConfigError, match="allows no 1001"):
        grid_of(LINEAR, Drawing(steps=1001))
    with pytest.raises(ConfigError, match="spaced trailing, karras, exponential or beta"):
        grid_of(ScheduleConfig(name="flow").build(), Drawing(spacing="leading"))
