"""Judges what a trained encoder's frozen features hold: by their neighbours, by a linear probe, by their geometry.

Nothing of the encoder learns. Features of the training split answer for the judged split:

- ``knn``: the share of judged pictures whose class the 20 most similar training pictures vote for, weighted as DINO does
  (:mod:`intermodal.metrics.knn`); ``knn_plain`` with equal votes.
- ``probe``: the same by multinomial logistic regression on the standardised features, its penalty chosen on held-out
  training features (:mod:`intermodal.metrics.probe`). Pictures of one thing are held out together.
- ``*_top5``; ``*_class``: the accuracy averaged over the classes that occur in the judged split.
- ``alignment`` (mean squared distance of two pictures of the same thing, or of two mild random views of one picture where
  nothing is known of things), ``uniformity`` and ``effective_rank`` of the judged features
  (:mod:`intermodal.metrics.alignment`).

The classes are those of the training split. A judged picture whose class is not among them counts as wrong; how many there
are is ``unseen_classes``. A training class that is not judged remains a possible wrong answer.

On the emoji set the classes are the sub-groups; ``test`` holds unseen concepts in training styles, and in full ``style_*``
are the same figures for training concepts in two unseen artists' styles.

In full the same figures stand beside, under their name with a prefix: ``pixels_`` (raw pixels, 16 x 16, each standardised
for the probe), ``random_`` (the same network as it was before training, seed 0), ``majority_top1`` and ``chance_top1``; and
how invariant each encoder is (:mod:`intermodal.evaluate.invariance`; not of fewer than 16 pictures).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intermodal.core.capabilities import Embeds
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.progress import Progress
from intermodal.data.emoji import EmojiSource
from intermodal.data.source import SourceConfig
from intermodal.evaluate.baselines import raw_pixels
from intermodal.evaluate.encoding import Encoder, Steps, embed_pictures, image_encoder, unit
from intermodal.evaluate.frozen_data import LabelledPart, labelled_source, mild_view, read_part, single_pictures
from intermodal.evaluate.invariance import LEAST, Invariance, PictureSet, measure_invariance, take_pictures
from intermodal.evaluate.result import Evaluation
from intermodal.methods.base import Method
from intermodal.metrics.alignment import alignment, effective_rank, uniformity
from intermodal.metrics.classification import mean_class_accuracy, top_k_accuracy
from intermodal.metrics.knn import knn_scores
from intermodal.metrics.probe import fit_probe

MOST_TRAIN, MOST_JUDGED = 20_000, 10_000
QUICK_TRAIN, QUICK_JUDGED = 1500, 400
MOST_VIEWS = 500
"""So many judged pictures are looked at in two views."""
PIXELS_SIDE = 16
PIXELS, RANDOM = "raw pixels", "random weights"
SEED = 0
KS = (1, 5)


@dataclass
class Row:
    """One encoder, judged.

    Attributes:
        name: what the tables call it.
        kind: ``model``, ``random`` or ``pixels``.
        train: its features of the training part.
        judged: its features of each judged part, by prefix (``""``, ``"style_"``).
        figures: by name.
        knn, probe: the scores of the headline's part, ``(M, C)``.
        invariance: how invariant and equivariant it is; None where that was not measured.
    """

    name: str
    kind: str
    train: np.ndarray
    judged: dict[str, np.ndarray]
    figures: dict[str, float] = field(default_factory=dict)
    knn: Tensor | None = None
    probe: Tensor | None = None
    invariance: Invariance | None = None


@dataclass
class FrozenJudgement:
    """What the panels are drawn from.

    Attributes:
        split: that the headline is about.
        train: the training pictures.
        judged: the judged pictures by prefix.
        classes: of the training pictures, sorted.
        rows: the encoders: models first, then random weights, then raw pixels.
        guesses: ``majority_top1``, ``chance_top1`` and how many classes are unseen.
        pictures: what the invariance was measured on; None where it was not.
    """

    split: str
    train: LabelledPart
    judged: dict[str, LabelledPart]
    classes: list[str]
    rows: list[Row] = field(default_factory=list)
    guesses: dict[str, float] = field(default_factory=dict)
    pictures: PictureSet | None = None

    def labels(self, part: LabelledPart) -> Tensor:
        """Return the class of each picture, int64; -1 for one that no training picture has."""
        place = {name: i for i, name in enumerate(self.classes)}
        return torch.tensor([place.get(label, -1) for label in part.labels])

    def unseen(self, part: LabelledPart) -> set[str]:
        """Return the classes of a part that no training picture has."""
        return set(part.labels) - set(self.classes)


def evaluate_frozen(
    method: Method, source: SourceConfig, split: str, progress: Progress, *, full: bool = True
) -> Evaluation:
    """Judge an encoder's frozen features by k-NN, linear probe and geometry; see the module's text.

    Args:
        method: embeds ``"image"``.
        source: labelled pictures, with a training split; groups of pictures are judged picture by picture.
        split: the judged split.
        progress: told what is done.
        full: everything there is (up to 20,000 training and 10,000 judged pictures), with baselines, invariance and
            panels; else a seeded choice of 1,500 and 400 pictures, the method's figures alone.

    Returns:
        Figures of which ``knn`` is the first.

    Raises:
        ConfigError: if the method does not embed pictures.
        DataError: if the split is not there, the pictures have no labels or all training pictures have the same one.
        TrainingError: if a feature is not finite; the first picture is named.
    """
    from intermodal.evaluate.frozen_panels import headline, panels

    start = time.monotonic()
    judgement = judge_frozen({method.id: method}, source, split, progress, full=full)
    own = judgement.rows[0]
    metrics = {name: own.figures[name] for name in _order(own.figures)} | judgement.guesses
    if not full:
        return Evaluation(split, metrics, [], time.monotonic() - start)
    for row in judgement.rows[1:]:
        metrics |= {f"{row.kind}_{name}": row.figures[name] for name in _order(row.figures)}
    return Evaluation(split, metrics, panels(judgement), time.monotonic() - start, headline(judgement))


def compare_frozen(models: Mapping[str, Method], source: SourceConfig, split: str, progress: Progress) -> Evaluation:
    """Judge several encoders on the same pictures, in full, in one table.

    Args:
        models: by the name that the table gives them.
        source: as for :func:`evaluate_frozen`.
        split: the judged split.
        progress: told what is done.

    Returns:
        Figures named ``NAME/knn``, ``NAME/probe`` and so on, baselines included; panels for all together.

    Raises:
        ConfigError, DataError, TrainingError: as :func:`evaluate_frozen`.
    """
    from intermodal.evaluate.frozen_panels import comparison_headline, panels

    start = time.monotonic()
    judgement = judge_frozen(models, source, split, progress)
    metrics = {f"{row.name}/{name}": row.figures[name] for row in judgement.rows for name in _order(row.figures)}
    metrics |= judgement.guesses
    return Evaluation(split, metrics, panels(judgement), time.monotonic() - start, comparison_headline(judgement))


def judge_frozen(
    models: Mapping[str, Method], source: SourceConfig, split: str, progress: Progress, *, full: bool = True
) -> FrozenJudgement:
    """Return every figure of :func:`evaluate_frozen` or :func:`compare_frozen`, and what the panels need."""
    for name, model in models.items():
        _embeds(name, model)
    splits = {"": split}
    if full and isinstance(single_pictures(source), EmojiSource) and split != "style":
        splits["style_"] = "style"
    labelled_source(source, "train")  # an error about the data before any picture is read
    steps = Steps(progress, _weights(len(models), splits, full))
    judged_by = _encoders(models, full)
    run = [encoder for _, _, encoder in judged_by]
    train, features = read_part(source, "train", run, steps.of("Embedding training pictures"), _most(full, True))
    classes = sorted(set(train.labels))
    if len(classes) < 2:
        raise DataError(
            f"All {len(train)} labelled pictures of {train.source.name} are of the class {classes[0]!r}: judging features "
            "takes at least two classes."
        )
    judgement = FrozenJudgement(split, train, {}, classes)
    judgement.rows = [Row(name, kind, f, {}) for (name, kind, _), f in zip(judged_by, features, strict=True)]
    for prefix, name in splits.items():
        part, features = read_part(source, name, run, steps.of(f"Embedding the {name} split"), _most(full, False))
        judgement.judged[prefix] = part
        for row, rows in zip(judgement.rows, features, strict=True):
            row.judged[prefix] = rows
    judgement.guesses = _guesses(judgement)
    first, second = _positives(judgement, run, steps.of("Embedding pairs"))
    for number, row in enumerate(judgement.rows):
        steps("Judging features", number / len(judgement.rows))
        judge_row(row, judgement)
        row.figures |= _geometry(row.judged[""], first[number], second[number])
    if full and len(judgement.judged[""]) >= LEAST:
        report = steps.of("Measuring invariance")
        judgement.pictures = take_pictures(judgement.judged[""])
        for row, found in zip(judgement.rows, measure_invariance(run, judgement.pictures, report), strict=True):
            row.invariance = found
            row.figures |= found.figures()
    if full:
        steps("Drawing panels")
    return judgement


def judge_row(row: Row, judgement: FrozenJudgement) -> None:
    """Add k-NN and probe figures of every judged part to a row."""
    train_ND = torch.from_numpy(row.train)
    labels_N, classes = judgement.labels(judgement.train), len(judgement.classes)
    probe = fit_probe(train_ND, labels_N, classes=classes, groups_N=_groups(judgement.train), seed=SEED)
    row.figures["probe_l2"] = probe.l2
    for prefix, part in judgement.judged.items():
        query_MD, labels_M = torch.from_numpy(row.judged[prefix]), judgement.labels(part)
        knn_MC = knn_scores(train_ND, labels_N, query_MD, classes=classes)
        probe_MC = probe(query_MD)
        unseen = len(judgement.unseen(part))
        row.figures |= _accuracy(f"{prefix}knn", knn_MC, labels_M, unseen)
        row.figures |= _accuracy(f"{prefix}probe", probe_MC, labels_M, unseen)
        if not prefix:
            plain_MC = knn_scores(train_ND, labels_N, query_MD, classes=classes, temperature=None)
            row.figures["knn_plain"] = _accuracy("", plain_MC, labels_M, unseen)[""]
            row.knn, row.probe = knn_MC, probe_MC


def _accuracy(name: str, scores_MC: Tensor, labels_M: Tensor, unseen: int) -> dict[str, float]:
    """Return top-1, top-5 and mean class accuracy; a picture of one of the unseen classes (-1) is wrong in each."""
    known_M = labels_M >= 0
    if not known_M.any():
        return dict.fromkeys((name, f"{name}_top5", f"{name}_class"), 0.0)
    scores, labels = scores_MC[known_M], labels_M[known_M]
    share, known = float(known_M.double().mean()), len(labels.unique())
    top = top_k_accuracy(scores, labels, ks=KS)
    return {
        name: top["top1"] * share,
        f"{name}_top5": top["top5"] * share,
        f"{name}_class": mean_class_accuracy(scores, labels) * known / (known + unseen),
    }


def _groups(part: LabelledPart) -> Tensor | None:
    """Return the number of the thing that each picture shows; None where that is not known of all."""
    if not all(part.things):
        return None
    place = {name: i for i, name in enumerate(sorted(set(part.things)))}
    return torch.tensor([place[thing] for thing in part.things])


def _guesses(judgement: FrozenJudgement) -> dict[str, float]:
    most = Counter(judgement.train.labels).most_common()
    common = min(name for name, count in most if count == most[0][1])
    found: dict[str, float] = {}
    for prefix, part in judgement.judged.items():
        labels = np.array(part.labels)
        found[f"majority_{prefix}top1"] = float((labels == common).mean())
        found[f"chance_{prefix}top1"] = float(np.isin(labels, judgement.classes).mean()) / len(judgement.classes)
    unseen = len(judgement.unseen(judgement.judged[""]))
    return found | {"classes": float(len(judgement.classes)), "unseen_classes": float(unseen)}


def _positives(
    judgement: FrozenJudgement, encoders: Sequence[Encoder], report: Callable[[float], None]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return for each encoder the features of positive pairs, both sides."""
    part = judgement.judged[""]
    one, two = part.pairs()
    if len(one):
        return [row.judged[""][one] for row in judgement.rows], [row.judged[""][two] for row in judgement.rows]
    shown = np.linspace(0, len(part) - 1, min(len(part), MOST_VIEWS)).round().astype(int).tolist()
    views = []
    for side in (0, 1):
        pictures = (mild_view(part.picture(i), 2 * i + side) for i in shown)
        views.append(embed_pictures(encoders, pictures, len(shown), _part_of(report, side / 2, 0.5)))
    return views[0], views[1]


def _geometry(judged: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    unit_MD = torch.from_numpy(unit(judged))
    return {
        "alignment": alignment(torch.from_numpy(unit(first)), torch.from_numpy(unit(second))),
        "uniformity": uniformity(unit_MD) if len(unit_MD) > 1 else float("nan"),
        "effective_rank": effective_rank(unit_MD),
    }


def random_twin(method: Method) -> Method:
    """Return the same network with fresh random weights (seed 0): its configuration, its processors, nothing learnt."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        twin = type(method)(method.config, method.processors)
    dtype = next(method.parameters()).dtype
    return twin.to(method.device, dtype).eval()


def small_pixels(pictures: Sequence[Image.Image]) -> np.ndarray:
    """Return the baseline's features, 16 x 16 pixels, centred and of length one, ``(N, 768)``."""
    return raw_pixels(pictures, PIXELS_SIDE)


def _encoders(models: Mapping[str, Method], full: bool) -> list[tuple[str, str, Encoder]]:
    """Return what is judged: name, kind and the function from pictures to features."""
    found = [(name, "model", image_encoder(_embeds(name, model))) for name, model in models.items()]
    if not full:
        return found
    noise = np.random.default_rng(SEED).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    twins: dict[str, Embeds] = {}
    seen: list[np.ndarray] = []
    for name, model in models.items():
        twin = _embeds(name, random_twin(model))
        vectors = twin.embed("image", [Image.fromarray(n) for n in noise])
        if not any(v.shape == vectors.shape and np.allclose(v, vectors, atol=1e-5) for v in seen):
            seen.append(vectors)  # else another model is the same network
            twins[name] = twin
    for name, twin in twins.items():
        found.append((RANDOM if len(twins) == 1 else f"{RANDOM} ({name})", "random", image_encoder(twin)))
    return [*found, (PIXELS, "pixels", small_pixels)]


def _embeds(name: str, model: Method) -> Embeds:
    """Return a model as one that embeds pictures, or raise a ConfigError that says what it embeds."""
    if isinstance(model, Embeds) and "image" in model.modalities:
        return model
    known = ", ".join(getattr(model, "modalities", ())) or "nothing"
    raise ConfigError(f"Features are judged of a model that embeds pictures; {name} ({model.id}) embeds {known}.")


def _part_of(report: Callable[[float], None], start: float, length: float) -> Callable[[float], None]:
    """Return a report of a part of the work."""
    return lambda share: report(start + length * share)


def _most(full: bool, train: bool) -> int:
    if full:
        return MOST_TRAIN if train else MOST_JUDGED
    return QUICK_TRAIN if train else QUICK_JUDGED


def _weights(models: int, splits: Mapping[str, str], full: bool) -> dict[str, float]:
    weights = {"Embedding training pictures": 8.0}
    weights |= {f"Embedding the {name} split": 2.0 for name in splits.values()}
    weights |= {"Embedding pairs": 0.5, "Judging features": 4.0}
    if full:
        weights |= {"Measuring invariance": 8.0 + models, "Drawing panels": 1.0}
    return weights


def _order(figures: Mapping[str, float]) -> list[str]:
    """Return the names of figures, those that matter most first."""
    first = [n for n in ("knn", "probe", "style_knn", "style_probe") if n in figures]
    return first + [n for n in figures if n not in first]
