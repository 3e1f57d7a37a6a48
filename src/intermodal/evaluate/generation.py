"""Judges whatever draws pictures: how near its pictures are, as a set, to pictures that it has never seen.

The pictures of a held-out split are what they are compared with: as many pictures are drawn as are taken of it, each for
the text of one (or for nothing, by a model that takes no prompt), with the seeds 0, 1, 2... Both sides have the size of the
model. Distances between sets are in the features of the library's own network, *features-v1*: they compare with one another
at equal numbers of pictures, and with no published FID or KID. Pictures under its 16 pixels are enlarged first.

- ``frechet``: Fréchet distance, the headline; **less is better**, and no set of this size is at 0: see
  ``training_frechet``.
- ``kid``: the kernel distance, without bias, about 0 for pictures of the same kind.
- ``precision``, ``recall``: the share of drawn pictures that lie among the held-out ones, and of held-out ones that lie
  among the drawn ones, by balls that reach to the 3rd neighbour (Kynkäänniemi et al. 2019).
- ``novelty``: the share of drawn pictures that are no nearer to their nearest training picture than held-out pictures are to
  theirs. Too near is what is nearer than 95 % of the held-out pictures are, and any exact copy. A model that remembers
  nothing has about 0.95, one that repeats its training pictures 0; rubbish is novel too.
- ``seconds_per_picture``, ``cpu_seconds_per_picture``: of drawing, by the wall clock and by the processor's, all threads.
- With a judge, a model of pictures and texts that nothing was trained with: ``clip_score``, the mean cosine of each drawn
  picture and its text; ``clip_r1``, ``clip_r10``, how often a drawn picture's own text is the most similar of all texts that
  pictures were drawn for, or among the ten most similar. Only of models that take prompts.

Beside them, for comparison: ``chance_`` is a Gaussian with the mean and covariance of the training pictures' pixels, which
knows every correlation of two pixels and nothing else; of the judge's figures, wrong texts. ``training_`` is as many
training pictures in the place of drawn ones: what a model that had learnt their distribution to perfection would reach.
``real_`` is the held-out pictures themselves, as the judge sees them.

    N drawn or held-out pictures   M training pictures   P numbers of a picture   D features   T distinct texts
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from intermodal.core.capabilities import Draws, Embeds, Generates
from intermodal.core.drawing import Drawing
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.progress import Progress
from intermodal.data.processors import ImageProcessor
from intermodal.data.source import Source, SourceConfig
from intermodal.evaluate.encoding import Steps, embed_pictures, embed_texts, image_encoder
from intermodal.evaluate.energy import spread_out
from intermodal.evaluate.generation_sets import features_of, nearest_known, set_figures, training_of
from intermodal.evaluate.result import Evaluation, Headline, Panel
from intermodal.hub.load import load
from intermodal.methods.base import Method
from intermodal.methods.image_tokenizers.tokenizer import evaluating
from intermodal.metrics.retrieval import chance, retrieval

COUNT, QUICK, CHUNK = 256, 64, 64
KNOWN, QUICK_KNOWN = 10_000, 2_000
"""Training pictures that are looked at, at most."""

Draw = Callable[[list[str | None], list[int]], list[Image.Image]]
"""Draws one picture for each prompt and seed."""
Told = Literal["text", "label"]
"""Which field of a sample is told to the model as its prompt."""


@dataclass(frozen=True)
class HeldOut:
    """Pictures to compare with.

    Attributes:
        images: at the size that is judged.
        prompts: what each picture is drawn for; None where the data or the model has none.
    """

    images: list[Image.Image]
    prompts: list[str | None]

    @property
    def texts(self) -> list[str]:
        """The prompts; empty if there are none."""
        return [text for text in self.prompts if text is not None]


@dataclass(frozen=True)
class Drawn:
    """Drawn pictures and what they took.

    Attributes:
        images: one for each prompt.
        seconds: of the wall clock, a picture.
        cpu_seconds: of the processor's clock, a picture, over all threads.
    """

    images: list[Image.Image]
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Judged:
    """What the panels are drawn from.

    Attributes:
        metrics: the figures.
        held_out: what was compared with, and the prompts.
        drawn: a picture for each.
        draw: how more are drawn.
        nearest: the nearest training picture of one of the drawn ones, and its distance in features.
        told: what prompts are.
    """

    metrics: dict[str, float]
    held_out: HeldOut
    drawn: list[Image.Image]
    draw: Draw
    nearest: Callable[[int], tuple[Image.Image, float]]
    told: Told


def evaluate_generation(
    model: Any,
    source: SourceConfig,
    split: str,
    progress: Progress,
    *,
    full: bool = True,
    count: int = COUNT,
    drawing: Drawing | None = None,
    judge: Embeds | str | None = None,
    told: Told = "text",
) -> Evaluation:
    """Judge a model as :func:`judge_generation` does, and return it with its headline in words.

    Args:
        model: as there.
        source: pictures, and texts or labels.
        split: what to compare with.
        progress: told what is done.
        full: as there.
        count: how many pictures, at most.
        drawing: how a model that :class:`Draws` is to draw; its own settings by default.
        judge: a model of pictures and texts, or where one lies.
        told: which field of a sample is its prompt.

    Raises:
        DataError: as there.
        ConfigError: if the judge takes no pictures or no texts.
    """
    start = time.monotonic()
    judge = load(judge) if isinstance(judge, str) else judge  # type: ignore[assignment]
    if judge is not None and not (isinstance(judge, Embeds) and {"image", "text"} <= set(judge.modalities)):
        raise ConfigError("A judge of pictures and texts embeds both: name a clip.")
    draw = None if drawing is None else lambda prompts, seeds: model.draw(prompts, seeds, drawing)
    metrics, panels = judge_generation(
        model, source, split, progress, full=full, count=count, draw=draw, judge=judge, told=told
    )
    return Evaluation(split, metrics, panels, time.monotonic() - start, headline(metrics) if full else None)


def judge_generation(
    model: Any,
    source_config: SourceConfig,
    split: str,
    progress: Progress,
    *,
    full: bool,
    count: int = COUNT,
    draw: Draw | None = None,
    judge: Embeds | None = None,
    told: Told = "text",
) -> tuple[dict[str, float], list[Panel]]:
    """Return the figures of the module's text, ``frechet`` first, and panels.

    Args:
        model: a method that :class:`Draws` or :class:`Generates` pictures; its processor ``image`` says at which size. It is
            told prompts if its attribute ``takes_prompt`` is true.
        source_config: pictures, and texts or labels where the model takes prompts.
        split: what to compare with.
        progress: told what is done.
        full: ``count`` pictures and panels; else at most 64 pictures, no panels, and fewer training pictures looked at.
        count: how many pictures, at most; as many as the split has where it has fewer.
        draw: draws in the model's place, as it stands or with settings other than its own.
        judge: a model of pictures and texts other than the one that conditions.
        told: which field of a sample is its prompt.

    Raises:
        DataError: if the model draws no pictures, draws another number of them, or the split is empty.
    """
    from intermodal.evaluate.generation_panels import panels

    steps = Steps(progress, {"Looking at training pictures": 2, "Drawing": 20, "Judging": 2, "Drawing to show": 6})
    draw = drawer(model) if draw is None else draw
    picture = model.processors["image"]
    with evaluating(model) if isinstance(model, Method) else contextlib.nullcontext():
        steps("Looking at training pictures")
        field = told if getattr(model, "takes_prompt", False) else None
        opened = source_config.open(split)
        places = spread_out(len(opened), count if full else min(count, QUICK))
        held_out = hold_out(opened, places, picture, field)
        training = training_of(source_config, picture, KNOWN if full else QUICK_KNOWN, len(held_out.images))
        found = draw_all(draw, held_out.prompts, steps.of("Drawing"))
        steps("Judging")
        drawn = [picture.fitted(image) for image in found.images]
        drawn_ND, real_ND = features_of(drawn), features_of(held_out.images)
        metrics = set_figures(real_ND, drawn_ND, training)
        metrics |= {"seconds_per_picture": found.seconds, "cpu_seconds_per_picture": found.cpu_seconds}
        if judge is not None and held_out.texts:
            metrics |= text_figures(judge, drawn, held_out.images, held_out.texts)
        metrics["pictures"] = float(len(drawn))
        if not full:
            return metrics, []
        steps("Drawing to show")
        train = source_config.open("train")
        distance_N, place_N = nearest_known(drawn_ND, training.features_MD)

        def nearest(i: int) -> tuple[Image.Image, float]:
            sample = train.sample(training.places[int(place_N[i])])
            return picture.fitted(sample["image"]), float(distance_N[i])

        return metrics, panels(Judged(metrics, held_out, drawn, draw, nearest, told))


def headline(metrics: dict[str, float]) -> Headline | None:
    """Return the result in words; None if there were too few pictures for a distance."""
    if "frechet" not in metrics:
        return None
    words = (
        f"is the Fréchet distance of {metrics['pictures']:.0f} drawn pictures to as many that were never seen; less is "
        f"better. Training pictures in their place are at {metrics['training_frechet']:.2f}, samples of a Gaussian of the "
        f"pixels at {metrics['chance_frechet']:.2f}."
    )
    return Headline(f"{metrics['frechet']:.2f}", words)


# Drawing


@runtime_checkable
class DrawsMany(Protocol):
    """Draws pictures of many prompts in one call, without settings."""

    def drawn(self, prompts: list[str | None], seeds: list[int]) -> list[Image.Image]:
        """Return one picture for each prompt and seed."""
        ...


def drawer(model: Any) -> Draw:
    """Return how a model draws: many prompts at once if it can, prompt by prompt if it :class:`Generates`.

    A model that generates and takes no prompt makes all that is asked for at once, from the first of the seeds.

    Raises:
        DataError: if it does neither.
    """
    if isinstance(model, Draws):
        return model.draw
    if isinstance(model, DrawsMany):
        return model.drawn
    if not isinstance(model, Generates) or model.generates != "image":
        raise DataError(f"{type(model).__name__} draws no pictures, so it cannot be judged by them.")

    def generate(prompts: list[str | None], seeds: list[int]) -> list[Image.Image]:
        if not any(prompts):
            return model.generate(len(prompts), seed=seeds[0])
        made = [model.generate(1, prompt=prompt, seed=seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        return [image for images in made for image in images]

    return generate


def draw_all(draw: Draw, prompts: Sequence[str | None], report: Callable[[float], None], first: int = 0) -> Drawn:
    """Draw a picture for each prompt, with the seeds ``first``, ``first + 1``..., few at a time, and take the time.

    Raises:
        DataError: if another number of pictures comes out.
    """
    images: list[Image.Image] = []
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(prompts), CHUNK):
        part = list(prompts[start : start + CHUNK])
        made = draw(part, list(range(first + start, first + start + len(part))))
        if len(made) != len(part):
            raise DataError(f"The model was asked for {len(part)} pictures and drew {len(made)}.")
        images += made
        report(len(images) / len(prompts))
    each = max(len(prompts), 1)
    return Drawn(images, (time.perf_counter() - wall) / each, (time.process_time() - cpu) / each)


# What is compared


def hold_out(opened: Source, places: Sequence[int], picture: ImageProcessor, told: Told | None) -> HeldOut:
    """Return some pictures of a source, with the field ``told`` of each as its prompt.

    Raises:
        DataError: if there are none.
    """
    if not places:
        raise DataError(f"{opened.name} has no pictures to compare with.")
    images, prompts = [], []
    for i in places:
        sample = opened.sample(i)
        images.append(picture.fitted(sample["image"]))
        prompts.append(str(sample[told]) if told is not None and told in sample else None)
    return HeldOut(images, prompts)


# Figures


def text_figures(
    judge: Embeds, drawn: Sequence[Image.Image], real: Sequence[Image.Image], texts: Sequence[str]
) -> dict[str, float]:
    """Return what a judge of pictures and texts says of drawn and of real pictures; nothing of a single text."""
    distinct = list(dict.fromkeys(texts))
    if len(distinct) < 2:
        return {}
    place = {text: i for i, text in enumerate(distinct)}
    own = [place[text] for text in texts]
    text_TD, found = embed_texts(judge, distinct), {}
    for who, images in (("", drawn), ("real_", real)):
        image_ND = embed_pictures([image_encoder(judge)], images, len(images), lambda share: None)[0]
        score_NT = image_ND.astype(np.float64) @ text_TD.T
        right_N = score_NT[np.arange(len(own)), own]
        found[f"{who}clip_score"] = float(right_N.mean())
        if not who:
            found["chance_clip_score"] = float((score_NT.sum() - right_N.sum()) / (score_NT.size - right_N.size))
        ranks = retrieval(torch.from_numpy(image_ND), torch.from_numpy(text_TD), own, ks=(1, 10))
        found |= {f"{who}clip_r{k}": ranks[f"R@{k}"] for k in (1, 10)}
    guess = chance(own, len(own), len(distinct), ks=(1, 10))
    return found | {f"chance_clip_r{k}": guess[f"R@{k}"] for k in (1, 10)}
