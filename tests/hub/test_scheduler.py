"""Published schedulers: from the same noise, what is read draws what diffusers draws, for every class and spacing."""

import json

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="diffusers, of the core group, is not installed")
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword"
)  # inside theirs

from intermodal.core.drawing import Drawing  # noqa: E402
from intermodal.core.errors import CheckpointError  # noqa: E402
from intermodal.diffusion.denoiser import Constrained, NetworkDenoiser, clip  # noqa: E402
from intermodal.diffusion.samplers import start  # noqa: E402
from intermodal.diffusion.settings import ScheduleConfig, grid_of, sample, start_scale  # noqa: E402
from intermodal.hub.scheduler import CLASSES, FILE, read_config, read_scheduler, write_config  # noqa: E402

STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TIMES = {
    "default": {},
    "linspace": {"timestep_spacing": "linspace"},
    "leading": {"timestep_spacing": "leading", "steps_offset": 1},
    "trailing": {"timestep_spacing": "trailing"},
}
RATIOS = {name: {f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta")}
CASES = [
    *(("DDPMScheduler", {**STABLE, **TIMES[name]}) for name in ("default", "linspace", "leading")),
    ("DDPMScheduler", {"variance_type": "fixed_large", "prediction_type": "sample"}),
    *(("DDIMScheduler", {**STABLE, **TIMES[name]}) for name in ("default", "leading", "trailing")),
    ("DDIMScheduler", {**STABLE, "set_alpha_to_one": False, "clip_sample": False, "prediction_type": "v_prediction"}),
    *(
        (f"{name}Scheduler", {**STABLE, **spacing})
        for name in ("EulerDiscrete", "HeunDiscrete", "DPMSolverMultistep")
        for spacing in (TIMES | RATIOS).values()
    ),
    *(("EulerAncestralDiscreteScheduler", {**STABLE, **spacing}) for spacing in TIMES.values()),
    ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min", "prediction_type": "v_prediction"}),
    ("HeunDiscreteScheduler", {"clip_sample": True}),
    ("HeunDiscreteScheduler", {"prediction_type": "sample"}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True, **STABLE}),
    ("DPMSolverMultistepScheduler", {"solver_order": 1, "final_sigmas_type": "sigma_min"}),
]


def network(x, t):
    """Something smooth of the sample and its time."""
    time = t.to(x).view(-1, 1, 1, 1) / 1000
    return torch.sin(1.7 * x + time) + 0.2 * x.flip(2) - 0.1 * time


def theirs_draws(scheduler, steps, x, generator):
    scheduler.set_timesteps(steps)
    if scheduler.timesteps[0] == 998:  # 998.99994, whose fraction is cut off
        scheduler.timesteps[0] = 999
        scheduler.set_begin_index(0)
    x = x * scheduler.init_noise_sigma
    named = "generator" in scheduler.step.__code__.co_varnames
    for t in scheduler.timesteps:
        said = network(scheduler.scale_model_input(x, t), t.expand(len(x)))
        x = scheduler.step(said, t, x, **({"generator": generator} if named else {})).prev_sample
    return x


@pytest.mark.parametrize(
    ("name", "options"), CASES, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
@pytest.mark.parametrize("steps", [8, 20])
def test_it_draws_as_diffusers_does(name, options, steps, tmp_path):
    theirs = getattr(diffusers, name)(**options)
    theirs.save_pretrained(tmp_path)
    read = read_scheduler(tmp_path)
    drawing = read.drawing.replace(steps=steps)
    shape = (2, 3, 5, 4)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    wanted = theirs_draws(theirs, steps, noise, torch.Generator().manual_seed(1))

    schedule = read.schedule.build()
    denoiser = NetworkDenoiser(network, read.predicts, schedule)
    if drawing.clip:
        denoiser = Constrained(denoiser, clip(), keep_eps=drawing.keep_noise)
    grid = grid_of(schedule, drawing)
    x = start(shape, grid, torch.Generator().manual_seed(0), scale=start_scale(grid, drawing))
    found = sample(denoiser, x, grid, torch.Generator().manual_seed(1), drawing, variance=read.variance)
    if name == "EulerDiscreteScheduler" and drawing.end == "least":  # theirs keeps the samples of its scale
        found = found / float(grid[-1].alpha)
    assert float((found - wanted).abs().max()) < 2e-4 * float(wanted.abs().max())


def test_the_steps_of_a_drawing():
    assert {read_config({"_class_name": name}, "-").drawing.steps for name in CLASSES} == {50, 1000}
    read = read_config({"_class_name": "DDIMScheduler", "num_train_timesteps": 20}, "-")
    assert read.drawing == Drawing(steps=20, spacing="leading", keep_noise=True)
    assert read.schedule == ScheduleConfig(name="linear", steps=20, start=1e-4, end=0.02)
    order = read_config({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}, "-").drawing.order
    assert order == 3


def test_another_class_reads_what_it_knows():
    """As ``DDIMScheduler.from_config``: what the file leaves out is DDIM's own, what DDIM does not know is nothing."""
    data = {
        "_class_name": "PNDMScheduler",
        "skip_prk_steps": True,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        **STABLE,
    }
    read = read_config({**data, "clip_sample": False}, "-", "DDIMScheduler")
    assert (read.drawing.sampler, read.drawing.end, read.drawing.offset) == ("ddim", "least", 1)
    theirs = diffusers.DDIMScheduler.from_config(data)
    assert theirs.config.timestep_spacing == read.drawing.spacing


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"_class_name": "UniPCMultistepScheduler"}, "the scheduler 'UniPCMultistepScheduler' is not supported"),
        ({}, "the scheduler None is not supported"),
        (
            {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "log_linear"},
            "interpolation_type='log_linear'",
        ),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "only 'discrete'"),
        ({"_class_name": "EulerDiscreteScheduler", "sigma_min": 0.1}, "sigma_min=0.1"),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_type": "heun"}, "solver_type='heun'"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}, "algorithm_type='dpmsolver'"),
        ({"_class_name": "DPMSolverMultistepScheduler", "euler_at_final": True}, "euler_at_final=True"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas=True"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_lu_lambdas": True}, "use_lu_lambdas=True"),
        ({"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -5.1}, "lambda_min_clipped=-5.1"),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 4}, "An order is 1, 2 or 3"),
        ({"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"}, "flow_prediction"),
        ({"_class_name": "HeunDiscreteScheduler", "beta_schedule": "exp"}, "beta_schedule='exp'"),
        ({"_class_name": "HeunDiscreteScheduler", "use_beta_sigmas": True, "use_karras_sigmas": True}, "in one way"),
        ({"_class_name": "DDIMScheduler", "steps_offset": -1}, "an offset at least 0"),
        ({"_class_name": "DDPMScheduler", "trained_betas": "many"}, "-: "),
    ],
)
def test_what_a_drawing_has_not_is_refused_in_words(data, words):
    with pytest.raises(CheckpointError, match=words):
        read_config(data, "-")


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "cosine", "sigmoid", "table"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_what_is_written_is_read_again(name, sampler, tmp_path):
    schedule = ScheduleConfig(
        name=name, steps=30, betas=(0.1,) * 30 if name == "table" else None, zero_terminal_snr=True
    )
    drawing = Drawing(sampler=sampler, spacing="trailing", clip=False, end="least" if sampler == "ddim" else "clean")
    data = write_config(schedule, "v", "small", drawing)
    (tmp_path / FILE).write_text(json.dumps(data))
    read = read_scheduler(tmp_path)
    assert read.predicts == "v" and read.variance == "small"
    assert torch.allclose(read.schedule.build().alpha_bar, schedule.build().alpha_bar, rtol=1e-12)
    assert read.drawing.replace(steps=drawing.steps, keep_noise=False) == drawing
    theirs = getattr(diffusers, data["_class_name"]).from_pretrained(tmp_path)
    assert torch.allclose(theirs.alphas_cumprod, schedule.build().alpha_bar.float(), rtol=2e-4, atol=1e-6)
