"""The one table over all generators of pictures, judged on the same held-out texts at the same size.

``python benchmarks/generators.py --cfg RUN --vae RUN --prior RUN --gan RUN --dalle RUN --judge RUN --chooser RUN``

Each row is drawn from a run; all diffusion rows from one run with different samplers. What is drawn is kept in ``--keep``,
few pictures at a time, so that a table that was killed goes on, ``--only ddpm-1000`` can run by itself in the background,
and ``--count`` can grow. A row whose model or settings have changed is drawn anew. Without runs the table is made of what is
kept.

All rows have the same prompts (held-out pictures in an order that seed 0 decides, those of a smaller count first) and the
same seeds; models that take no prompt are told none. Figures are those of :mod:`intermodal.evaluate.generation`. Beside the
Fréchet distance stands its spread: the standard deviation over random halves of the drawn pictures (the delete-half
jackknife, Shao & Wu 1989, which is that of the whole), with the same held-out pictures; and beside its ratio to DDPM's
that of the ratio, halves of the same prompts and seeds on both sides. Times are those of ``--threads`` threads.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import harness  # noqa: E402
import intermodal  # noqa: E402
from generators_pictures import grid_picture, in_words, memory_picture  # noqa: E402
from intermodal.core.capabilities import Draws, Embeds  # noqa: E402
from intermodal.core.drawing import Drawing  # noqa: E402
from intermodal.core.files import atomic_file, read_json, write_json  # noqa: E402
from intermodal.data.emoji import EmojiSource  # noqa: E402
from intermodal.data.processors import ImageProcessor, signed_pixels  # noqa: E402
from intermodal.data.source import SourceConfig  # noqa: E402
from intermodal.evaluate.generation import Draw, HeldOut, draw_all, drawer, hold_out, text_figures  # noqa: E402
from intermodal.evaluate.generation_panels import PROMPTS  # noqa: E402
from intermodal.evaluate.generation_sets import Training, features_of, set_figures, training_of  # noqa: E402
from intermodal.methods.image_generation.rerank import best  # noqa: E402
from intermodal.metrics.frechet import frechet_distance  # noqa: E402
from intermodal.nn.features import weights_sha256  # noqa: E402

NAME, FIRST = "generators", "ddpm-1000"
CHUNK, HALVES = 32, 200
"""Pictures drawn between two savings; random halves of which a spread is the standard deviation."""
KNOWN = 100_000
"""Training pictures looked at, at most: all there are."""
SHOWN = [(prompt, seed) for prompt in PROMPTS for seed in (0, 1)]
"""The columns of the grid."""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: for ``--only``, and of the folder of what is kept.
        title: as the table says it.
        role: which run it is drawn from.
        steps, sampler: of a diffusion row.
        guidance: of a row that is about it; None for that of the whole table.
        candidates: so many pictures are drawn for each, of which a CLIP that is not the judge (``--chooser``) takes one.
    """

    name: str
    title: str
    role: str
    steps: int | None = None
    sampler: str = ""
    guidance: float | None = None
    candidates: int = 1


ROWS = (
    Row("vae", "VAE, its prior", "vae"),
    Row("vq-prior", "VQGAN, a prior over its codes", "prior"),
    Row("gan", "GAN", "gan"),
    Row("dalle", "DALL-E", "dalle"),
    Row("dalle-best", "DALL-E, the best of 8 by a CLIP", "dalle", candidates=8),
    Row("ddpm-1000", "DDPM, 1,000 steps", "cfg", 1000, "ddpm"),
    *(Row(f"ddim-{steps}", f"DDIM, {steps} steps", "cfg", steps, "ddim") for steps in (10, 25, 50, 100)),
    *(Row(f"dpm-{steps}", f"DPM-Solver++, {steps} steps", "cfg", steps, "dpm") for steps in (10, 20)),
    *(Row(f"ddim-50-g{g}", f"DDIM, 50 steps, guidance {g}", "cfg", 50, "ddim", float(g)) for g in (1, 2, 4)),
)
REFERENCES = (
    ("chance_clip", "wrong texts"),
    ("chance_", "Gaussian of the pixels"),
    ("training_", "training pictures"),
    ("real_", "held-out pictures"),
)
"""How the figures of what the rows are compared with begin, and what that is."""
ROLES = tuple(dict.fromkeys(row.role for row in ROWS))


@dataclass(frozen=True)
class Task:
    """What all rows are judged on.

    Attributes:
        source: the data.
        split: held out.
        picture: the size.
        count: how many pictures of each row.
    """

    source: SourceConfig
    split: str
    picture: ImageProcessor
    count: int

    def held_out(self) -> HeldOut:
        """Return the held-out pictures and their texts: the first ``count`` of an order that does not depend on it."""
        opened = self.source.open(self.split)
        order = np.random.default_rng(0).permutation(len(opened))[: self.count]
        return hold_out(opened, order.tolist(), self.picture, "text")


# Drawing


def drawing_of(row: Row, model: Any, guidance: float) -> Drawing | None:
    """Return the settings of a diffusion row: the model's own, but for steps, sampler and guidance; None for other rows."""
    if row.steps is None:
        return None
    if not isinstance(model, Draws):
        raise SystemExit(f"{row.title}: the run for --{row.role} does not draw in steps.")
    scale = guidance if row.guidance is None else row.guidance
    return model.drawing.replace(steps=row.steps, sampler=row.sampler, eta=0.0, guidance=scale)


def beyond_default(drawing: Drawing) -> dict[str, Any]:
    """Return what settings say that is not the default: the same whatever else may be set one day."""
    default = Drawing().to_dict()
    return {name: value for name, value in drawing.to_dict().items() if value != default.get(name)}


def evaluations(row: Row, model: Any, drawing: Drawing | None) -> int:
    """Return how many passes of its network a picture takes: steps (twice with guidance), or codes and one decoding."""
    if drawing is not None:
        return drawing.steps * (2 if drawing.guidance != 1 else 1)
    if hasattr(model, "network") and getattr(model, "codebook_size", None):
        twice = 2 if getattr(model.config, "guidance", 1) != 1 else 1
        return row.candidates * (math.prod(model.latent_shape()) * twice + 1)
    return 1


def choosing(draw: Draw, candidates: int, chooser: Any) -> Draw:
    """Return a way to draw that keeps the best of so many pictures for each prompt."""

    def chosen(prompts: list[str | None], seeds: list[int]) -> list[Image.Image]:
        many = [prompt for prompt in prompts for _ in range(candidates)]
        images = draw(many, [candidates * seed + i for seed in seeds for i in range(candidates)])
        parts = [images[first : first + candidates] for first in range(0, len(images), candidates)]
        return [part[best(part, prompt or "", 1, chooser)[0][0]] for part, prompt in zip(parts, prompts, strict=True)]

    return chosen


def draw_row(row: Row, model: Any, held_out: HeldOut, folder: Path, *, guidance: float, chooser: Any) -> None:
    """Draw what a row lacks of the held-out texts' pictures and of the grid, and keep it."""
    drawing, prompted = drawing_of(row, model, guidance), bool(getattr(model, "takes_prompt", False))
    draw = drawer(model) if drawing is None else lambda prompts, seeds: model.draw(prompts, seeds, drawing)
    if row.candidates > 1:
        draw = choosing(draw, row.candidates, chooser)
    settings = {
        "method": model.id,
        "weights": weights_sha256(model.state_dict()),
        "chooser": weights_sha256(chooser.state_dict()) if row.candidates > 1 else None,
        "drawing": None if drawing is None else beyond_default(drawing),
        "takes_prompt": prompted,
        "evaluations": evaluations(row, model, drawing),
    }
    if (folder / "settings.json").exists() and read_json(folder / "settings.json") != settings:
        print(f"{row.title}: the model or its settings have changed, so it is drawn anew.")
        shutil.rmtree(folder)
    write_json(folder / "settings.json", settings)
    prompts: list[str | None] = list(held_out.prompts) if prompted else [None] * len(held_out.prompts)
    for first in range(0, len(prompts), CHUNK):
        part, file = prompts[first : first + CHUNK], folder / f"{first:05d}.npz"
        if file.exists() and len(contents(file)["pictures"]) >= len(part):
            continue
        keep(file, draw, part, first)
        print(f"{row.title}: {first + len(part):,} of {len(prompts):,}", flush=True)
    if not (folder / "grid.npz").exists():
        asked = [(prompt, seed) if prompted else (None, i) for i, (prompt, seed) in enumerate(SHOWN)]
        images = draw([prompt for prompt, _ in asked], [seed for _, seed in asked])
        with atomic_file(folder / "grid.npz") as path, path.open("wb") as opened:
            np.savez(opened, pictures=np.stack([np.asarray(image) for image in images]))


def contents(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file."""
    with np.load(file) as opened:
        return dict(opened)


def keep(file: Path, draw: Draw, prompts: Sequence[str | None], first: int) -> None:
    """Draw pictures with the seeds from ``first`` on and write them with what they took."""
    yard = yardstick()
    found = draw_all(draw, prompts, lambda share: None, first)
    numbers: dict[str, Any] = {
        "seconds": found.seconds,
        "cpu_seconds": found.cpu_seconds,
        "yard": min(yard, yardstick()),
    }
    pictures = np.stack([np.asarray(image) for image in found.images])
    with atomic_file(file) as path, path.open("wb") as opened:
        np.savez(opened, pictures=pictures, threads=torch.get_num_threads(), **numbers)


def yardstick() -> float:
    """Return the CPU seconds of a 1024^3 float32 matrix product, the least of three."""
    a, found = torch.rand(1024, 1024), []
    for _ in range(4):
        start = time.process_time()
        torch.mm(a, a)
        found.append(time.process_time() - start)
    return min(found[1:])


# Judging


@dataclass(frozen=True)
class Kept:
    """What is kept of a row: its settings, pictures of the task's size, those of the grid, and what drawing took."""

    row: Row
    settings: dict[str, Any]
    images: list[Image.Image]
    grid: list[Image.Image]
    timing: dict[str, Any]


def read_row(row: Row, folder: Path, task: Task, guidance: float) -> Kept | None:
    """Return what is kept of a row, or None if it is not all there or of another guidance than the table's."""
    if not (folder / "settings.json").exists() or not (folder / "grid.npz").exists():
        return None
    settings = read_json(folder / "settings.json")
    own = guidance if settings["drawing"] is None else settings["drawing"].get("guidance", 1.0)
    if own != (guidance if row.guidance is None else row.guidance) or row.guidance == guidance:
        return None
    parts, images = [], list[Image.Image]()
    for first in range(0, task.count, CHUNK):
        if not (folder / f"{first:05d}.npz").exists():
            return None
        part = contents(folder / f"{first:05d}.npz")
        parts.append(part)
        images += [task.picture.fitted(Image.fromarray(array)) for array in part["pictures"]]
    if len(images) < task.count:
        return None
    grid = [task.picture.fitted(Image.fromarray(array)) for array in contents(folder / "grid.npz")["pictures"]]
    weight = [len(part["pictures"]) for part in parts]
    timing: dict[str, Any] = {
        name: float(np.average([part[name] for part in parts], weights=weight)) for name in ("seconds", "cpu_seconds")
    }
    timing["yardstick_cpu_s"] = float(min(part["yard"] for part in parts))
    timing["threads"] = sorted({int(part["threads"]) for part in parts})
    return Kept(row, settings, images[: task.count], grid, timing)


def half_distances(real_ND: Tensor, drawn_ND: Tensor, repeats: int = HALVES) -> np.ndarray:
    """Return the Fréchet distances of random halves of the drawn pictures, the same halves at every call."""
    random, half = np.random.default_rng(0), len(drawn_ND) // 2
    chosen = [random.permutation(len(drawn_ND))[:half] for _ in range(repeats)]
    return np.array([frechet_distance(real_ND, drawn_ND[torch.from_numpy(rows)]) for rows in chosen])


def figures(kept: Kept, held_out: HeldOut, real_ND: Tensor, training: Training, judge: Embeds | None) -> dict[str, Any]:
    """Return a row's figures, those of the references under their prefixes."""
    found: dict[str, Any] = dict(set_figures(real_ND, features_of(kept.images), training))
    if judge is not None and kept.settings["takes_prompt"]:
        found |= text_figures(judge, kept.images, held_out.images, held_out.texts)
    return found


def table(rows: Sequence[Kept], task: Task, judge: Embeds | None) -> dict[str, Any]:
    """Return all figures of all rows, and of training pictures and the Gaussian in their place."""
    held_out = task.held_out()
    real_ND, training = features_of(held_out.images), training_of(task.source, task.picture, KNOWN, task.count)
    out: list[dict[str, Any]] = []
    references: dict[str, dict[str, float]] = {name: {} for _, name in REFERENCES}
    halves: dict[str, np.ndarray] = {}
    for kept in rows:
        found = figures(kept, held_out, real_ND, training, judge)
        for prefix, name in REFERENCES:
            others = [k for k in found if k.startswith(prefix)]
            references[name] |= {k.partition("_")[2]: found.pop(k) for k in others}
        halves[kept.row.name] = half_distances(real_ND, features_of(kept.images))
        found["frechet_spread"] = float(halves[kept.row.name].std(ddof=1))
        row, drawing = kept.row, kept.settings["drawing"]
        about = {"name": row.name, "title": row.title, "sampler": row.sampler, "steps": row.steps}
        about |= {name: kept.settings[name] for name in ("method", "takes_prompt", "evaluations")}
        about["guidance"] = None if drawing is None else drawing.get("guidance", 1.0)
        about["about_guidance"] = row.guidance is not None
        out.append(about | found | kept.timing)
    for first in [entry for entry in out if entry["name"] == FIRST]:
        for entry in out:
            entry["frechet_ratio"] = entry["frechet"] / first["frechet"]
            entry["frechet_ratio_spread"] = float((halves[entry["name"]] / halves[FIRST]).std(ddof=1))
            entry["times_as_fast"] = first["cpu_seconds"] / entry["cpu_seconds"]
    return {
        "what": "generators of pictures on the same held-out texts",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": harness.hardware(),
        "versions": harness._versions(),
        "pictures": task.count,
        "held_out": f"emoji, {task.split}",
        "training_pictures": len(training.places),
        "size": list(task.picture.size),
        "judge": None if judge is None else str(getattr(judge, "id", type(judge).__name__)),
        "halves": HALVES,
        "references": references,
        "rows": out,
    }


def main(arguments: Sequence[str] | None = None, source: SourceConfig | None = None) -> int:
    """Draw what is lacking, and write the table and its pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for role in ROLES:
        parser.add_argument(f"--{role}", metavar="RUN")
    parser.add_argument("--judge", metavar="RUN", help="a CLIP that conditions none of them")
    parser.add_argument("--chooser", metavar="RUN", help="a CLIP other than the judge, for the rows of chosen pictures")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--only", nargs="+", choices=[row.name for row in ROWS], metavar="ROW")
    parser.add_argument("--guidance", type=float, default=1.0, help="of the diffusion rows (default: 1, none)")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--split", default="test")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=HERE / "out" / NAME)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "curves")
    parser.add_argument("--images", type=Path, default=HERE.parent / "docs" / "images")
    parser.add_argument("--draw-only", action="store_true", help="judge later")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    task = Task(source or EmojiSource(), options.split, signed_pixels(options.size, "crop"), options.count)
    wanted = [row for row in ROWS if not options.only or row.name in options.only]
    held_out, models = task.held_out(), dict[str, Any]()
    chooser = None if options.chooser is None else intermodal.load(options.chooser)
    for row in wanted:
        if (run := getattr(options, row.role)) is not None:
            if row.role not in models:
                models[row.role] = intermodal.load(run)
            guidable = row.guidance is None or getattr(models[row.role], "guidable", False)
            if guidable and row.guidance != options.guidance and (row.candidates == 1 or chooser is not None):
                folder, how = options.keep / row.name, {"guidance": options.guidance, "chooser": chooser}
                draw_row(row, models[row.role], held_out, folder, **how)
    if options.draw_only:
        return 0
    task = Task(task.source, task.split, task.picture, len(held_out.images))
    found = [read_row(row, options.keep / row.name, task, options.guidance) for row in ROWS]
    rows = [kept for kept in found if kept is not None]
    if lacking := [row.name for row, kept in zip(ROWS, found, strict=True) if kept is None]:
        print(
            f"Not in the table, for want of {task.count:,} pictures of guidance {options.guidance:g}: {', '.join(lacking)}."
        )
    if not rows:
        return 1
    judge: Any = None if options.judge is None else intermodal.load(options.judge)
    data = table(rows, task, judge)
    print(in_words(data))
    write_json(options.out / f"{NAME}.json", json.loads(json.dumps(data)))
    once = {kept.row.role: kept for kept in rows} | {kept.row.role: kept for kept in rows if kept.row.name == "ddim-50"}
    grid_picture(options.images / f"{NAME}.png", [(kept.row.title, kept.grid) for kept in rows], [p for p, _ in SHOWN])
    memory_picture(
        options.images / f"{NAME}-memory.png",
        [("held-out pictures", held_out.images), *((kept.row.title, kept.images) for kept in once.values())],
        task.source,
        task.picture,
        training_of(task.source, task.picture, KNOWN, task.count),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
