"""What is particular to classifier guidance, beside what every generator of pictures is judged by.

- ``noisy_accuracy``: how often the classifier names the class of a noisy held-out picture, over all noise levels alike;
  ``chance_noisy_accuracy`` is what always naming the same class, the most frequent of the held-out ones, reaches.
- ``class_accuracy``: how often a judge says that a drawn picture is of the class that was asked for, at the model's own
  guidance. The judge is not the classifier that guides: it takes the vote of the nearest training pictures on features-v1.
  ``chance_class_accuracy`` is what it says of pictures drawn without guidance, ``real_class_accuracy`` of held-out pictures.
  These show concepts that were never trained on, which the judge often misses; drawn ones may be easier.
- Panels: accuracy over the noise level; how strongly the classifier pulls; fidelity, diversity and accuracy over the scale;
  one seed at several scales; what pictures are said to become while they are drawn.

N drawn or held-out pictures   K classes   D features
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from intermodal.core.progress import Progress
from intermodal.data.processors import LabelProcessor
from intermodal.data.source import Source, SourceConfig
from intermodal.diffusion.process import diffuse
from intermodal.evaluate.diffusion import over_scales, trajectory
from intermodal.evaluate.encoding import Steps
from intermodal.evaluate.energy import spread_out
from intermodal.evaluate.generation import KNOWN, HeldOut, hold_out
from intermodal.evaluate.generation_sets import features_of, training_of
from intermodal.evaluate.result import Gallery, Item, Line, Lines, Panel
from intermodal.methods.image_generation.classifier_guidance import ClassifierGuidance
from intermodal.methods.image_tokenizers.tokenizer import evaluating
from intermodal.metrics.classification import top_k_accuracy
from intermodal.metrics.knn import knn_scores

STUDIED, PULLED = 256, 64
"""Pictures that the classifier is asked about, and those of which its gradient is taken."""
GUIDED = 96
"""Pictures drawn for each scale."""
LEVELS = 12
"""Noise levels, evenly spread over the times."""
SCALES = (0.0, 1.0, 2.0, 4.0, 8.0)
NEIGHBOURS, TEMPERATURE = 10, 0.02
"""Of the judge's vote."""
SHOWN = 6
"""Classes that are drawn at every scale."""


def known(method: ClassifierGuidance, prompts: Sequence[str | None]) -> list[str | None]:
    """Return names of classes, None for those that the model was not trained with."""
    return [name if name in method.names else None for name in prompts]


def study(
    method: ClassifierGuidance, source: SourceConfig, split: str, progress: Progress, *, count: int = STUDIED
) -> tuple[dict[str, float], list[Panel]]:
    """Return figures and panels of the module's text; none where no held-out picture is of a class of the model.

    Args:
        method: the model.
        source: pictures with labels.
        split: what is held out.
        progress: told what is done.
        count: pictures of any one figure, at most.
    """
    steps = Steps(progress, {"Asking the classifier": 2, "Guiding": 8, "Looking on": 2})
    steps("Asking the classifier")
    opened, train = source.open(split), source.open("train")
    held_out = labelled(method, opened, min(count, STUDIED))
    if not held_out.images:
        return {}, []
    with evaluating(method):
        metrics, panels = over_noise(method, held_out, labelled(method, train, len(held_out.images)))
        places = spread_out(len(held_out.images), min(count, GUIDED))
        drawn = HeldOut([held_out.images[i] for i in places], [held_out.prompts[i] for i in places])
        judge = Judge.of(method, source, train, len(spread_out(len(opened), count)))
        scales = sorted({*SCALES, method.drawing.guidance})
        curves = over_scales(
            method,
            drawn,
            features_of(drawn.images),
            steps,
            scales=scales,
            accuracy=lambda found_ND: judge.accuracy(found_ND, drawn.texts),
        )
        told = curves.series[-1]
        metrics["class_accuracy"] = told.y[told.x.index(method.drawing.guidance)]
        metrics["chance_class_accuracy"] = told.y[told.x.index(0.0)]
        metrics["real_class_accuracy"] = judge.accuracy(features_of(held_out.images), held_out.texts)
        steps("Looking on")
        return metrics, [*panels, curves, by_scale(method, held_out.texts), trajectory(method, drawn)]


def labelled(method: ClassifierGuidance, opened: Source, count: int) -> HeldOut:
    """Return some pictures of a source and their classes, those that the model knows."""
    found = hold_out(opened, spread_out(len(opened), count), method.picture, "label")
    kept = [i for i, name in enumerate(known(method, found.prompts)) if name is not None]
    return HeldOut([found.images[i] for i in kept], [found.prompts[i] for i in kept])


def over_noise(method: ClassifierGuidance, held_out: HeldOut, seen: HeldOut) -> tuple[dict[str, float], list[Panel]]:
    """Return the classifier's accuracy and the strength of its pull over the noise level, as figures and curves.

    Args:
        method: the model.
        held_out: pictures and their classes.
        seen: the same of training pictures.
    """
    times = torch.linspace(0, method.schedule.t_max, LEVELS, dtype=torch.float64)
    times = times.floor() if method.schedule.discrete else times
    shares = [float(t) / method.schedule.t_max for t in times]
    sets = {"held-out pictures": held_out, "training pictures": seen}
    curves = [Line(name, shares, [accuracy_at(method, s, float(t)) for t in times]) for name, s in sets.items()]
    guess = Counter(held_out.texts).most_common(1)[0][1] / len(held_out.texts)
    accuracy = sum(curves[0].y) / len(times)
    about = (
        f"How often the classifier names the class of {len(held_out.images)} pictures that it has never seen, and of as "
        f"many that it was trained on, each with noise; over all levels {accuracy:.1%}. Always naming the same of the "
        f"{len(method.names)} classes would be right on {guess:.1%} of the held-out ones at best."
    )
    panels: list[Panel] = [
        Lines(
            "The classifier against noise",
            about,
            "time, from data (0) to noise (1)",
            "accuracy",
            [*curves, Line("chance", shares, [guess] * len(shares))],
        )
    ]
    image_NCHW, told_NK = asked(method, HeldOut(held_out.images[:PULLED], held_out.prompts[:PULLED]))
    pulls = []
    for t in times:
        level = method.schedule.level(float(t))
        x_NCHW = diffuse(image_NCHW, noise_like(image_NCHW), level)
        pulls.append(float(method.pull(x_NCHW, level, told_NK).median()))
    about = (
        "How far guidance of 1 moves what the denoiser says of the noise, as a share of the noise's own size: the median "
        f"over {len(image_NCHW)} held-out pictures."
    )
    line = Line("scale 1", shares, [max(pull, 1e-12) for pull in pulls])
    panels.append(
        Lines(
            "How strongly the classifier pulls", about, "time, from data (0) to noise (1)", "pull", [line], log_y=True
        )
    )
    return {"noisy_accuracy": accuracy, "chance_noisy_accuracy": guess}, panels


@torch.no_grad()
def accuracy_at(method: ClassifierGuidance, pictures: HeldOut, time: float) -> float:
    """Return how often the classifier names the class of pictures at one noise level."""
    image_NCHW, told_NK = asked(method, pictures)
    level = method.schedule.level(time)
    x_NCHW = diffuse(image_NCHW, noise_like(image_NCHW), level)
    t_N = torch.full((len(x_NCHW),), time * method.time_scale, device=x_NCHW.device)
    logits = [method.classifier(x, t) for x, t in zip(x_NCHW.split(method.chunk), t_N.split(method.chunk), strict=True)]
    return float((torch.cat(logits).argmax(1) == told_NK.argmax(1)).double().mean())


def asked(method: ClassifierGuidance, pictures: HeldOut) -> tuple[Tensor, Tensor]:
    """Return prepared pictures ``(N, C, H, W)`` and what is told of their classes, ``(N, K)``."""
    image_NCHW = method.picture(pictures.images).to(method.device)
    return image_NCHW, method.condition(pictures.texts)


def noise_like(image_NCHW: Tensor) -> Tensor:
    """Return the same noise for the same shape, every time."""
    return torch.randn(image_NCHW.shape, generator=torch.Generator().manual_seed(0)).to(image_NCHW)


@dataclass(frozen=True)
class Judge:
    """Tells the class of a picture by the vote of the nearest training pictures on features-v1.

    Attributes:
        features_MD: of training pictures.
        labels_M: their classes.
        names: of the classes.
    """

    features_MD: Tensor
    labels_M: Tensor
    names: LabelProcessor

    @classmethod
    def of(cls, method: ClassifierGuidance, source: SourceConfig, train: Source, count: int) -> Judge:
        """Return the judge of a source's training pictures, those that ``count`` drawn pictures are judged beside."""
        training = training_of(source, method.picture, KNOWN, count)
        names, labels = LabelProcessor(names=method.names), train.labels()
        keep = [i for i, place in enumerate(training.places) if labels[place] in method.names]
        numbers = [int(names.encode(labels[training.places[i]])) for i in keep]
        return cls(training.features_MD[keep], torch.tensor(numbers), names)

    def accuracy(self, features_ND: Tensor, classes: Sequence[str]) -> float:
        """Return how often pictures are told to be of their classes; ties count in expectation."""
        scores_NK = knn_scores(
            self.features_MD,
            self.labels_M,
            features_ND,
            classes=len(self.names.names),
            k=NEIGHBOURS,
            temperature=TEMPERATURE,
        )
        return top_k_accuracy(scores_NK, torch.stack([self.names.encode(name) for name in classes]), ks=(1,))["top1"]


def by_scale(method: ClassifierGuidance, classes: Sequence[str]) -> Gallery:
    """Return pictures of some classes at every scale, from the same noise."""
    distinct = sorted(set(classes))
    shown = [distinct[i] for i in spread_out(len(distinct), SHOWN)]
    rows = []
    for name in shown:
        items = []
        for scale in SCALES:
            (image,) = method.draw([name], [0], method.drawing.replace(guidance=scale))
            items.append(Item(image=image, note=f"guidance {scale:g}"))
        rows.append((Item(text=name), items))
    about = f"{len(shown)} classes, evenly spread, all from the noise of seed 0. At 0 nothing is asked for."
    return Gallery("One seed at several scales", about, rows)
