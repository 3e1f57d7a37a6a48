"""diffusers' schedulers: a published ``scheduler_config.json`` to a schedule and the settings of a drawing, and back.

A scheduler of diffusers is three things at once: the noise schedule of training, what the network predicts, and a sampler
with the steps that it visits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from intermodal.core.drawing import Drawing, Sampler, Spacing
from intermodal.core.errors import CheckpointError, ConfigError, IntermodalError
from intermodal.core.files import read_json
from intermodal.diffusion.predictions import Kind
from intermodal.diffusion.schedules import DiscreteSchedule
from intermodal.diffusion.settings import ScheduleConfig, ScheduleName

FILE = "scheduler_config.json"
T = TypeVar("T")
STEPS = 50
"""Of a drawing by other samplers than DDPM's, which takes all: as diffusers' pipelines."""

_SAMPLERS: dict[str, Sampler] = {
    "DDPMScheduler": "ddpm",
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler-a",
    "HeunDiscreteScheduler": "heun",
    "DPMSolverMultistepScheduler": "dpm",
}
CLASSES = tuple(_SAMPLERS)
_SCHEDULES: dict[str, ScheduleName] = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
    "sigmoid": "sigmoid",
}
_KINDS: dict[str, Kind] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_VARIANCES: dict[str, Literal["small", "large", "learned_range"]] = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "learned_range": "learned_range",
}
_SPACINGS: dict[str, Spacing] = {"leading": "leading", "trailing": "trailing", "linspace": "linspace"}

_SHARED: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "timestep_spacing": "linspace",
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
    "predict_epsilon": True,
}
_CLIPS = {"clip_sample": True, "clip_sample_range": 1.0}
_RATIOS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_KNOWN: dict[str, dict[str, Any]] = {
    "DDPMScheduler": {
        **_SHARED,
        **_CLIPS,
        "timestep_spacing": "leading",
        "variance_type": "fixed_small",
        "thresholding": False,
    },
    "DDIMScheduler": {
        **_SHARED,
        **_CLIPS,
        "timestep_spacing": "leading",
        "set_alpha_to_one": True,
        "thresholding": False,
    },
    "EulerDiscreteScheduler": {
        **_SHARED,
        **_RATIOS,
        "interpolation_type": "linear",
        "timestep_type": "discrete",
        "sigma_min": None,
        "sigma_max": None,
        "final_sigmas_type": "zero",
    },
    "EulerAncestralDiscreteScheduler": _SHARED,
    "HeunDiscreteScheduler": {
        **{k: v for k, v in _SHARED.items() if k != "rescale_betas_zero_snr"},
        **_CLIPS,
        **_RATIOS,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "clip_sample": False,
    },
    "DPMSolverMultistepScheduler": {
        **_SHARED,
        **_RATIOS,
        "solver_order": 2,
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "lower_order_final": True,
        "euler_at_final": False,
        "use_lu_lambdas": False,
        "use_flow_sigmas": False,
        "final_sigmas_type": "zero",
        "lambda_min_clipped": -math.inf,
        "variance_type": None,
        "thresholding": False,
        "use_dynamic_shifting": False,
    },
}
"""What each scheduler knows, and what it fills in."""
_ONLY: dict[str, tuple[Any, ...]] = {
    "predict_epsilon": (True,),
    "thresholding": (False,),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "sigma_min": (None,),
    "sigma_max": (None,),
    "solver_type": ("midpoint",),
    "lower_order_final": (True,),
    "euler_at_final": (False,),
    "use_flow_sigmas": (False,),
    "use_lu_lambdas": (False,),
    "use_dynamic_shifting": (False,),
    "lambda_min_clipped": (-math.inf, None),
}
"""What a drawing has in one form only; anything else is refused by name."""
_NOTHING = {
    *("skip_prk_steps", "tensor_format", "timestep_values", "timesteps", "time_shift_type", "flow_shift"),
    *("dynamic_thresholding_ratio", "sample_max_value", "clip_sample_range", "clip_sample", "set_alpha_to_one"),
}
"""What published files state and diffusers does not read, or only where something is on that is refused here."""


@dataclass(frozen=True)
class Scheduler:
    """What a ``scheduler_config.json`` says.

    Attributes:
        schedule: of the noise.
        predicts: what the network says.
        variance: of a step back of ancestral sampling.
        drawing: the sampler and its steps.
    """

    schedule: ScheduleConfig
    predicts: Kind
    variance: Literal["small", "large", "learned_range"]
    drawing: Drawing


def read_scheduler(folder: Path | str, like: str | None = None) -> Scheduler:
    """Return what the ``scheduler_config.json`` of a folder says; see :func:`read_config`.

    Raises:
        CheckpointError: if there is none, or it is not valid JSON.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {FILE}: it says on what noise the network was trained.")
    try:
        data = read_json(path, "configuration of the scheduler")
    except IntermodalError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected the configuration of a scheduler, found {type(data).__name__}.")
    return read_config(data, path, like)


def read_config(data: Mapping[str, Any], where: Path | str, like: str | None = None) -> Scheduler:
    """Return what the data of a ``scheduler_config.json`` says; what it leaves out is what diffusers fills in.

    The number of steps is that of diffusers' pipelines: all for DDPM, 50 otherwise. Tables are in double precision, where
    diffusers multiplies in single. A picture differs from that of diffusers where DDIM there goes back by T // n, which for
    ``linspace`` (and ``trailing``, where n does not divide T) is not where its next step begins; where DDPM there adds noise
    after a last step that does not begin at time 0; for DPM-Solver++ of order 3, which there is of the second order in fact
    (:func:`~intermodal.diffusion.samplers.dpm_solver`) and which, the ratio spaced exponential or beta, tells the network
    998 for the time 999; and for Euler and DPM-Solver++ with zero terminal SNR, which to them is a signal of 2^-12.

    Args:
        data: of the file.
        where: the file, for errors.
        like: read it as this class, whatever class it names, as ``from_config`` of diffusers does.

    Raises:
        CheckpointError: if the scheduler is of another class, or asks for what a drawing has not.
    """
    name = like or data.get("_class_name")
    if name not in _SAMPLERS:
        raise CheckpointError(f"{where}: the scheduler {name!r} is not supported; {', '.join(CLASSES)} are.")
    known = _KNOWN[name]
    everywhere = _NOTHING.union(*_KNOWN.values())
    odd = sorted(k for k, v in data.items() if not k.startswith("_") and k not in everywhere and v not in (None, False))
    if odd:
        raise CheckpointError(f"{where}: the option {odd[0]}={data[odd[0]]!r} is not supported.")
    options = {key: data.get(key, filled) for key, filled in known.items()}
    for key, allowed in _ONLY.items():
        if key in options and _number(options[key]) not in allowed:
            raise CheckpointError(f"{where}: {key}={options[key]!r} is not supported, only {allowed[0]!r}.")
    if options.get("clip_sample") and options["clip_sample_range"] != 1:
        raise CheckpointError(
            f"{where}: pictures are kept to -1..1, not to a clip_sample_range of {options['clip_sample_range']}."
        )
    try:
        schedule = _schedule(options, where)
        return Scheduler(
            schedule,
            _one_of(_KINDS, options, "prediction_type", where),
            _variance(options, where),
            _drawing(name, options, schedule.steps, where),
        )
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: {error}") from error


def write_config(schedule: ScheduleConfig, predicts: Kind, variance: str, drawing: Drawing) -> dict[str, Any]:
    """Return the data of a ``scheduler_config.json`` of diffusers' DDPM or DDIM that is the same process.

    The number of steps, eta and ``use_clipped_model_output`` (ours is the opposite, ``keep_noise``) are told to diffusers'
    pipelines in the call.

    Raises:
        CheckpointError: if diffusers has no such scheduler; it says why.
    """
    names: dict[str, str] = {sampler: cls for cls, sampler in _SAMPLERS.items() if sampler in ("ddpm", "ddim")}
    lacking = {
        "a schedule that is a chain of steps": isinstance(schedule.build(), DiscreteSchedule),
        "eps, x0 or v as what the network predicts": predicts in _KINDS.values(),
        "a drawing by the sampler ddpm or ddim": drawing.sampler in names,
        "steps that are spaced leading, trailing or linspace": drawing.spacing in _SPACINGS,
        "a drawing by ddpm that ends clean": drawing.end == "clean" or drawing.sampler != "ddpm",
    }
    if wanted := [name for name, holds in lacking.items() if not holds]:
        raise CheckpointError(
            f"diffusers' pipelines of pictures cannot hold this model: they need {', and '.join(wanted)}."
        )
    cls, published = names[drawing.sampler], {ours: theirs for theirs, ours in _SCHEDULES.items()}
    table = schedule.name == "table" or (schedule.name == "sigmoid" and drawing.sampler == "ddim")
    plain = schedule.replace(zero_terminal_snr=False).build()
    assert isinstance(plain, DiscreteSchedule)
    betas, known = plain.betas.tolist(), _KNOWN[cls]
    filled = {"scaled_linear": (0.00085, 0.012)}.get(schedule.name, (known["beta_start"], known["beta_end"]))
    return {
        "_class_name": cls,
        **{key: value for key, value in known.items() if key != "predict_epsilon"},
        "num_train_timesteps": schedule.steps,
        "beta_schedule": "linear" if table else published[schedule.name],
        "beta_start": filled[0] if schedule.start is None else schedule.start,
        "beta_end": filled[1] if schedule.end is None else schedule.end,
        "trained_betas": betas if table else None,
        "prediction_type": {ours: theirs for theirs, ours in _KINDS.items()}[predicts],
        "timestep_spacing": drawing.spacing,
        "steps_offset": drawing.offset,
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
        "clip_sample": drawing.clip,
        **(
            {"set_alpha_to_one": drawing.end == "clean"}
            if cls == names["ddim"]
            else {"variance_type": _published(variance)}
        ),
    }


def _published(variance: str) -> str:
    """Return the first name that diffusers has for a variance."""
    return next(theirs for theirs, ours in _VARIANCES.items() if ours == variance)


def _schedule(options: Mapping[str, Any], where: Path | str) -> ScheduleConfig:
    zero, betas = bool(options.get("rescale_betas_zero_snr", False)), options["trained_betas"]
    if betas is not None:
        table = tuple(float(beta) for beta in betas)
        config = ScheduleConfig(name="table", steps=len(table), betas=table, zero_terminal_snr=zero)
        if len(table) != options["num_train_timesteps"]:
            raise CheckpointError(
                f"{where}: there are {len(table)} trained_betas for {options['num_train_timesteps']} steps."
            )
        config.build()
        return config
    name = _one_of(_SCHEDULES, options, "beta_schedule", where)
    config = ScheduleConfig(name=name, steps=options["num_train_timesteps"], zero_terminal_snr=zero)
    if name != "cosine":
        config = config.replace(start=float(options["beta_start"]), end=float(options["beta_end"]))
    config.build()
    return config


def _variance(options: Mapping[str, Any], where: Path | str) -> Literal["small", "large", "learned_range"]:
    if options.get("variance_type") is None:
        return "small"
    return _one_of(_VARIANCES, options, "variance_type", where)


def _drawing(name: str, options: Mapping[str, Any], total: int, where: Path | str) -> Drawing:
    sampler, order = _SAMPLERS[name], 2
    if sampler == "dpm":
        algorithms: dict[str, Sampler] = {"dpmsolver++": "dpm", "sde-dpmsolver++": "dpm-sde"}
        sampler, order = _one_of(algorithms, options, "algorithm_type", where), options["solver_order"]
    spacings: dict[Spacing, Any] = {
        "karras": options.get("use_karras_sigmas"),
        "exponential": options.get("use_exponential_sigmas"),
        "beta": options.get("use_beta_sigmas"),
    }
    by_ratio = [spacing for spacing, used in spacings.items() if used]
    if len(by_ratio) > 1:
        raise CheckpointError(f"{where}: the steps are spaced in one way, not by {' and by '.join(by_ratio)}.")
    ends = {"zero": True, "sigma_min": False}
    clean = _one_of(ends, options, "final_sigmas_type", where) if "final_sigmas_type" in options else True
    return Drawing(
        steps=total if sampler == "ddpm" else min(STEPS, total),
        sampler=sampler,
        order=order,
        spacing=by_ratio[0] if by_ratio else _one_of(_SPACINGS, options, "timestep_spacing", where),
        offset=options["steps_offset"],
        end="clean" if clean and options.get("set_alpha_to_one", True) else "least",
        clip=bool(options.get("clip_sample", False)),
        keep_noise=sampler == "ddim",
    )


def _one_of(table: Mapping[str, T], options: Mapping[str, Any], key: str, where: Path | str) -> T:
    value = options[key]
    if not isinstance(value, str) or value not in table:
        raise CheckpointError(f"{where}: {key}={value!r} is not supported; {', '.join(table)} are.")
    return table[value]


def _number(value: Any) -> Any:
    """Return a value as it is but for an infinity that is written as a word."""
    return float(value) if value in ("-inf", "-Infinity") else value
