"""What is particular to a diffusion model, beside what every generator of pictures is judged by.

- ``bits_per_dim``: the variational bound on held-out pictures, in bits for each of a picture's numbers, of chains. The first
  and the last term are exact but for one draw of noise each; those between are interpolated from about :data:`TERMS` of
  them. ``png_bits_per_dim`` and ``webp_bits_per_dim`` are lossless files of the same pictures, of all together.
- ``inversion_psnr``: of held-out pictures turned into noise and drawn again, in dB, by models that can.
- Panels: the bound term by term; the Fréchet distance over the number of steps, for three samplers; what a few pictures are
  said to become while they are drawn; what lies between held-out pictures; for guided models fidelity against diversity over
  the scale.

N pictures   T steps of the chain   K of them
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from intermodal.core.drawing import Drawing, Glimpse
from intermodal.core.progress import Progress
from intermodal.data.source import Source, SourceConfig
from intermodal.diffusion.schedules import DiscreteSchedule
from intermodal.evaluate.encoding import Steps
from intermodal.evaluate.energy import read_pictures, spread_out
from intermodal.evaluate.generation import HeldOut, draw_all, hold_out
from intermodal.evaluate.generation_sets import features_of
from intermodal.evaluate.result import Gallery, Item, Line, Lines, Panel
from intermodal.evaluate.vae import files
from intermodal.methods.image_generation.ddim import DDIM
from intermodal.methods.image_generation.ddpm import DDPM
from intermodal.metrics.frechet import coverage, frechet_distance
from intermodal.metrics.pictures import psnr

BOUND, TERMS = 64, 48
"""Pictures whose bound is taken, and its terms between the first and the last."""
STUDIED = 128
"""Pictures drawn for each point of a curve."""
STEPS = {"ddim": (4, 8, 16, 32), "dpm": (4, 8, 16, 32), "ddpm": (4, 8, 16, 32)}
NAMES = {"ddim": "DDIM", "dpm": "DPM-Solver++", "ddpm": "DDPM, ancestral"}
SCALES = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
MOMENTS, SHOWN, BETWEEN = 8, 4, 7


def study(
    method: DDPM, source: SourceConfig, split: str, progress: Progress, *, count: int = STUDIED
) -> tuple[dict[str, float], list[Panel]]:
    """Return figures and panels of the module's text.

    Args:
        method: the model.
        source: the data.
        split: what is held out.
        progress: told what is done.
        count: pictures drawn for each point of a curve, at most :data:`STUDIED`.
    """
    steps = Steps(progress, {"Bounding the likelihood": 2, "Drawing in fewer steps": 8, "Guiding": 8, "Looking on": 2})
    opened, metrics, panels = source.open(split), dict[str, float](), list[Panel]()
    if isinstance(method.schedule, DiscreteSchedule):
        steps("Bounding the likelihood")
        found, panel = bound(method, opened, min(BOUND, count))
        metrics |= found
        panels.append(panel)
    count = min(count, STUDIED)
    held_out = hold_out(opened, spread_out(len(opened), count), method.picture, "text" if method.takes_prompt else None)
    real_ND = features_of(held_out.images)
    panels.append(over_steps(method, held_out, real_ND, steps))
    if method.guidable:
        panels.append(over_scales(method, held_out, real_ND, steps))
    steps("Looking on")
    panels.append(trajectory(method, held_out))
    image_NCHW = read_pictures(opened, method.picture, 2 * SHOWN).to(method.device)
    panels.append(between(method, image_NCHW))
    if isinstance(method, DDIM):
        texts = _texts(method, opened, 2 * SHOWN)
        back = method.restore(method.invert(image_NCHW, texts=texts), texts=texts)
        metrics["inversion_psnr"] = float(psnr(image_NCHW / 2 + 0.5, (back / 2 + 0.5).clamp(0, 1)).mean())
    return metrics, panels


def bound(method: DDPM, opened: Source, count: int) -> tuple[dict[str, float], Lines]:
    """Return the bound on held-out pictures, and its terms as a curve."""
    image_NCHW = read_pictures(opened, method.picture, count).to(method.device)
    steps_T = len(cast(DiscreteSchedule, method.schedule))
    between_K = chosen_terms(steps_T)
    texts = _texts(method, opened, count)
    found = method.bound(image_NCHW, torch.Generator().manual_seed(0), steps=[0, *between_K], texts=texts)
    term_K = found.steps_BK.double().mean(0)
    prior, total = float(found.prior_B.mean()), float(found.prior_B.mean() + term_K[0])
    if between_K:
        total += float(np.interp(np.arange(1, steps_T), between_K, term_K[1:].numpy()).sum())
    line = Line("one step", [float(t) for t in between_K], [max(float(x), 1e-12) for x in term_K[1:]])
    about = (
        f"Bits per dimension of each step back between the first and the last, over {count} held-out pictures. The decoder "
        f"of the last step takes {float(term_K[0]):.3f}, the prior {prior:.1e}; all together {total:.2f}."
    )
    metrics = {"bits_per_dim": total, **files(method.picture.decode(image_NCHW))}
    return metrics, Lines("The bound, term by term", about, "step", "bits per dimension", [line], log_y=True)


def chosen_terms(steps_T: int) -> list[int]:
    """Return which terms between the first and the last are evaluated: dense near the data, where they change fast."""
    count = min(TERMS, steps_T - 1)
    even, growing = np.linspace(1, steps_T - 1, count), np.geomspace(1, max(steps_T - 1, 1), count)
    return sorted({int(t) for t in np.concatenate([even[::2], growing[::2], even[-1:]]).round()}) if count > 0 else []


def over_steps(method: DDPM, held_out: HeldOut, real_ND: Tensor, steps: Steps) -> Lines:
    """Return the Fréchet distance over the number of steps, for three samplers."""
    most = len(method.schedule) if isinstance(method.schedule, DiscreteSchedule) else math.inf
    runs = [(name, n) for name, numbers in STEPS.items() for n in numbers if n <= most]
    work, done, curves = sum(n for _, n in runs), 0, {name: Line(NAMES[name], [], []) for name in STEPS}
    for name, n in runs:
        steps("Drawing in fewer steps", done / work)
        chosen = method.drawing.replace(sampler=name, steps=n, eta=0.0, guidance=1.0, negative="", spacing="trailing")
        value = frechet_distance(real_ND, _drawn(method, chosen, held_out))
        curves[name].x.append(float(n))
        curves[name].y.append(value)
        done += n
    about = (
        f"Fréchet distance on features-v1 between {len(held_out.images)} held-out pictures and as many drawn ones, without "
        "guidance; less is better."
    )
    lines = [line for line in curves.values() if line.x]
    return Lines("Quality against steps", about, "evaluations of the network", "Fréchet distance", lines, log_x=True)


def over_scales(
    method: DDPM,
    held_out: HeldOut,
    real_ND: Tensor,
    steps: Steps,
    *,
    scales: Sequence[float] = SCALES,
    accuracy: Callable[[Tensor], float] | None = None,
) -> Lines:
    """Return fidelity and diversity over the scale of guidance.

    Args:
        method: the model.
        held_out: whose prompts are drawn.
        real_ND: features of the held-out pictures.
        steps: told what is done.
        scales: of guidance.
        accuracy: how often features of drawn pictures are told to be of their class, by a judge; a fourth curve.
    """
    fidelity, diversity, distance, told = (
        Line(name, [], []) for name in ("precision", "recall", "Fréchet distance / 10", "class told by the judge")
    )
    for i, scale in enumerate(scales):
        steps("Guiding", i / len(scales))
        chosen = method.drawing.replace(guidance=scale, steps=min(method.drawing.steps, 16), sampler="ddim", eta=0.0)
        drawn_ND = _drawn(method, chosen, held_out)
        if len(drawn_ND) > 3:
            share = coverage(real_ND, drawn_ND, 3)
            for line, value in ((fidelity, share.precision), (diversity, share.recall)):
                line.x.append(scale)
                line.y.append(value)
        distance.x.append(scale)
        distance.y.append(frechet_distance(real_ND, drawn_ND) / 10)
        if accuracy is not None:
            told.x.append(scale)
            told.y.append(accuracy(drawn_ND))
    about = (
        f"Over the scale of guidance, {len(held_out.images)} pictures each, 16 steps: the share of drawn pictures that lie "
        "among held-out ones (precision, fidelity), and of held-out ones that lie among drawn ones (recall, diversity)."
    )
    lines = [line for line in (fidelity, diversity, distance, told) if line.x]
    return Lines("Fidelity against diversity", about, "guidance scale", "share", lines)


def trajectory(method: DDPM, held_out: HeldOut) -> Gallery:
    """Return what the first pictures are said to become while they are drawn."""
    prompts = held_out.prompts[:SHOWN]
    seen: list[tuple[int, list]] = []
    chosen = method.drawing.replace(steps=min(method.drawing.steps, 50))
    wanted = set(spread_out(chosen.steps, MOMENTS))

    def watch(glimpse: Glimpse) -> None:
        if glimpse.done in wanted:
            seen.append((glimpse.done, glimpse.pictures()))

    method.draw(prompts, list(range(len(prompts))), chosen, watch=watch)
    rows = []
    for i, prompt in enumerate(prompts):
        items = [Item(image=images[i], note=f"step {done}") for done, images in seen]
        rows.append((Item(text=prompt or f"seed {i}"), items))
    about = f"What each picture is said to become, of {chosen.steps} steps; the first is a guess from noise alone."
    return Gallery("While it draws", about, rows)


def between(method: DDPM, image_NCHW: Tensor) -> Gallery:
    """Return what lies between pairs of held-out pictures."""
    pictures, rows = method.picture.decode(image_NCHW), []
    chosen: Drawing = method.drawing.replace(steps=min(method.drawing.steps, 50), guidance=1.0, negative="")
    for i in range(0, len(pictures) - 1, 2):
        made = method.interpolate(pictures[i], pictures[i + 1], BETWEEN, drawing=chosen)
        rows.append(
            (
                Item(image=pictures[i], note="from"),
                [*(Item(image=p) for p in made), Item(image=pictures[i + 1], note="to")],
            )
        )
    how = "their noise interpolated on a circle" if isinstance(method, DDIM) else "mixed half-way into the noise"
    return Gallery("Between two pictures", f"Held-out pictures, {how} and drawn.", rows)


def _drawn(method: DDPM, drawing: Drawing, held_out: HeldOut) -> Tensor:
    """Return the features of a picture drawn for each prompt."""
    found = draw_all(lambda prompts, seeds: method.draw(prompts, seeds, drawing), held_out.prompts, lambda share: None)
    return features_of(found.images)


def _texts(method: DDPM, opened: Source, count: int) -> list[str]:
    if not method.takes_prompt:
        return []
    return [str(opened.sample(i)["text"]) for i in spread_out(len(opened), count)]
