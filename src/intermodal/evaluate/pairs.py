"""Judges anything that embeds pictures and texts on pairs of them.

Retrieval both ways, and naming where there are classes.

Up to :data:`MOST` pairs of the split are judged (a seeded random choice where there are more). A picture with
several captions is right for each of them: ``t2i`` counts every caption as a query, ``i2t`` counts a picture
as found when any of its captions is. Captions that are the same words are one text, right for every picture
that has it. Beside each figure, under its name with a prefix, stand ``chance_``, ``pixels_`` (nearest
training pictures in raw pixels) and ``colours_`` (ridge regression from colours and an 8 x 8 thumbnail to
words), both fitted on up to :data:`MOST` training pairs.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from PIL import Image

from intermodal.core.capabilities import Embeds
from intermodal.core.errors import DataError
from intermodal.core.progress import Progress
from intermodal.data.source import Source, SourceConfig, Unreadable, UnreadableCounter
from intermodal.evaluate.baselines import ColourWords, PixelNeighbours, Words, colour_features, raw_pixels
from intermodal.evaluate.encoding import (
    Encoder,
    Steps,
    embed_pictures,
    embed_texts,
    image_encoder,
    label_vectors,
)
from intermodal.evaluate.result import Evaluation
from intermodal.metrics.retrieval import chance, retrieval

MOST = 5000
QUICK = 1000
SEED = 0
KS = (1, 5, 10)
CLASSES = range(2, 1001)
"""How many distinct labels make a classification."""
TEMPLATES = ("{}", "a photo of {}", "a picture of {}")
BASELINE_WORDS = 2048


@dataclass
class Pairs:
    """The pairs that were read; pictures are read again when they are shown.

    Attributes:
        source: where from.
        indices: which samples, in the order that they were read.
        captions: each one's texts, at least one.
        labels: each one's class; empty strings where the source has none.
        unreadable: samples that were left out.
    """

    source: Source
    indices: list[int] = field(default_factory=list)
    captions: list[list[str]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    unreadable: int = 0

    def picture(self, position: int) -> Image.Image:
        """Return one picture."""
        return self.source.sample(self.indices[position])["image"]

    @cached_property
    def texts(self) -> list[str]:
        """The distinct captions: where two pictures share one, it is right for both."""
        return list(dict.fromkeys(text for captions in self.captions for text in captions))

    @cached_property
    def members(self) -> list[list[int]]:
        """The places in :attr:`texts` of each picture's captions."""
        place = {text: i for i, text in enumerate(self.texts)}
        return [sorted({place[text] for text in captions}) for captions in self.captions]

    @cached_property
    def owners(self) -> list[list[int]]:
        """The positions of the pictures that each of :attr:`texts` belongs to."""
        found: list[list[int]] = [[] for _ in self.texts]
        for picture, places in enumerate(self.members):
            for place in places:
                found[place].append(picture)
        return found

    @cached_property
    def classes(self) -> list[str]:
        """The distinct labels, where they make a classification; else none."""
        found = sorted(set(self.labels) - {""})
        return found if len(found) in CLASSES else []


@dataclass
class PairsJudgement:
    """What the panels are drawn from.

    Attributes:
        name: of the method.
        metrics: all figures by name.
        pairs: what was judged.
        image, text: the method's vectors of the pictures and of all captions.
        about: what was judged, in a sentence.
    """

    name: str
    metrics: dict[str, float]
    pairs: Pairs
    image: np.ndarray
    text: np.ndarray
    about: str


def evaluate_on_pairs(
    method: Embeds,
    source_config: SourceConfig,
    split: str,
    progress: Progress,
    *,
    full: bool | None = None,
) -> Evaluation:
    """Judge a method on any source of pictures with texts.

    Args:
        method: embeds ``"image"`` and ``"text"``.
        source_config: yields ``image`` and ``text``, and may yield ``captions`` (all texts of a picture) and
            ``label``.
        split: which pairs to judge on.
        progress: told what is done.
        full: up to 5,000 pairs, with baselines and panels; else up to 1,000, the figures alone. By default
            ``test`` is judged in full; say so where another split takes its place.

    Raises:
        DataError: if the split is not there or empty, or more of its pictures are unreadable than the source
            allows.
    """
    from intermodal.evaluate.pairs_panels import headline, panels

    start = time.monotonic()
    full = split == "test" if full is None else full
    weights = {"Embedding pictures": 6.0, "Embedding texts": 2.0}
    if full:
        weights |= {"Fitting baselines": 6.0, "Judging baselines": 5.0, "Drawing galleries": 1.0}
    steps = Steps(progress, weights)
    source = source_config.open(split)
    pairs, (image,) = embed_pairs(
        source,
        [image_encoder(method)],
        MOST if full else QUICK,
        source_config,
        steps.of("Embedding pictures"),
    )
    text = embed_texts(method, pairs.texts, steps.of("Embedding texts"))
    metrics = pair_figures(image, text, pairs)
    metrics |= _chance(pairs)
    if pairs.classes:
        label = label_vectors(method, [[t.format(c) for t in TEMPLATES] for c in pairs.classes])
        metrics |= class_figures(image, label, pairs)
    name = str(getattr(method, "id", type(method).__name__))
    judged = PairsJudgement(name, metrics, pairs, image, text, _about(pairs, split, len(source)))
    if not full:
        return Evaluation(split, metrics, [], time.monotonic() - start)
    _compare(judged, source_config, steps)
    steps("Drawing galleries")
    shown = panels(judged)
    return Evaluation(split, judged.metrics, shown, time.monotonic() - start, headline(judged))


def _about(pairs: Pairs, split: str, size: int) -> str:
    said = f"{len(pairs.indices):,} pictures and {len(pairs.texts):,} texts of the {split} split"
    if size > len(pairs.indices) + pairs.unreadable:
        said += f", drawn at random (seed {SEED}) from its {size:,}"
    return said + (f"; {pairs.unreadable} unreadable pictures were left out." if pairs.unreadable else ".")


def embed_pairs(
    source: Source,
    encoders: list[Encoder],
    most: int,
    config: SourceConfig,
    report: Callable[[float], None],
) -> tuple[Pairs, list[np.ndarray]]:
    """Read up to ``most`` samples once and encode their pictures."""
    indices = list(range(len(source)))
    if len(indices) > most:
        indices = sorted(np.random.default_rng(SEED).permutation(len(source))[:most].tolist())
    pairs = Pairs(source)
    vectors = embed_pictures(encoders, _read(pairs, indices, config), len(indices), report)
    if not pairs.indices:
        raise DataError(f"{source.name} holds no readable picture to judge on.")
    return pairs, vectors


def _read(pairs: Pairs, indices: list[int], config: SourceConfig) -> Iterator[Image.Image]:
    """Yield the pictures of some samples and note the rest of each in ``pairs``."""
    counter = UnreadableCounter(pairs.source.name, config.max_unreadable)
    for index in indices:
        try:
            sample = pairs.source.sample(index)
        except DataError as error:
            pairs.unreadable += 1
            counter.add([Unreadable(pairs.source.sample_name(index), str(error))], 0)
            continue
        counter.add([], 1)
        pairs.indices.append(index)
        pairs.captions.append(list(sample.get("captions") or [sample["text"]]))
        pairs.labels.append(str(sample.get("label", "")))
        yield sample["image"]


def pair_figures(image: np.ndarray, text: np.ndarray, pairs: Pairs) -> dict[str, float]:
    """Return ``r10``, ``r5``, ``r1`` (means of both directions), ``t2i_*``, ``i2t_*`` and median ranks."""
    image_ND, text_MD = torch.from_numpy(image), torch.from_numpy(text)
    t2i = retrieval(text_MD, image_ND, pairs.owners, ks=KS)
    i2t = retrieval(image_ND, text_MD, pairs.members, ks=KS)
    return _both_ways(t2i, i2t)


def _chance(pairs: Pairs) -> dict[str, float]:
    pictures, texts = len(pairs.captions), len(pairs.owners)
    t2i = chance(pairs.owners, texts, pictures, ks=KS)
    i2t = chance(pairs.members, pictures, texts, ks=KS)
    return {f"chance_{k}": v for k, v in _both_ways(t2i, i2t).items()}


def _both_ways(t2i: dict[str, float], i2t: dict[str, float]) -> dict[str, float]:
    both = {f"r{k}": (t2i[f"R@{k}"] + i2t[f"R@{k}"]) / 2 for k in reversed(KS)}
    ways = (("t2i", t2i), ("i2t", i2t))
    return both | {f"{way}_{name.replace('R@', 'r')}": value for way, found in ways for name, value in found.items()}


def class_figures(image: np.ndarray, label: np.ndarray, pairs: Pairs) -> dict[str, float]:
    """Return ``top1`` and ``top5`` of naming each labelled picture's class, and chance."""
    classes = {name: i for i, name in enumerate(pairs.classes)}
    labelled = [i for i, name in enumerate(pairs.labels) if name]
    right = [classes[pairs.labels[i]] for i in labelled]
    top = retrieval(torch.from_numpy(image[labelled]), torch.from_numpy(label), right, ks=(1, 5))
    figures = {f"top{k}": top[f"R@{k}"] for k in (1, 5)}
    return figures | {f"chance_top{k}": min(k / len(classes), 1.0) for k in (1, 5)}


def _compare(judged: PairsJudgement, config: SourceConfig, steps: Steps) -> None:
    """Fit the baselines on training pairs and add their figures."""
    features: list[Encoder] = [raw_pixels, colour_features]
    train, (pixels, colours) = embed_pairs(config.open("train"), features, MOST, config, steps.of("Fitting baselines"))
    report = steps.of("Judging baselines")
    words = Words([text for captions in train.captions for text in captions], BASELINE_WORDS)
    together = [" ".join(captions) for captions in train.captions]
    vectors = words(together)
    neighbours = PixelNeighbours(words, pixels, vectors)
    regression = ColourWords(words, colours, vectors)
    pairs = judged.pairs
    again = (pairs.picture(i) for i in range(len(pairs.indices)))
    encoders: list[Encoder] = [neighbours.similarities, image_encoder(regression)]
    similar, coloured = embed_pictures(encoders, again, len(pairs.indices), lambda share: report(0.7 * share))
    text = words(pairs.texts)
    for who, image in (("pixels_", neighbours.vectors_of(similar)), ("colours_", coloured)):
        judged.metrics |= {who + k: v for k, v in pair_figures(image, text, pairs).items()}
        report(0.8 if who == "pixels_" else 0.9)
    if pairs.classes:
        judged.metrics |= _class_baselines(similar, coloured, train, pairs, words)
    report(1.0)


def _class_baselines(
    similar: np.ndarray, colours: np.ndarray, train: Pairs, pairs: Pairs, words: Words
) -> dict[str, float]:
    label = words(pairs.classes)
    figures = {f"colours_{k}": v for k, v in class_figures(colours, label, pairs).items() if k.startswith("top")}
    labelled = np.array([bool(name) for name in pairs.labels])
    truth = np.array(pairs.labels)[labelled]
    nearest = np.array(train.labels)[similar.argmax(1)][labelled]
    figures["pixels_top1"] = float((nearest == truth).mean())
    known = Counter(name for name in train.labels if name)
    if known:
        figures["majority_top1"] = float((truth == known.most_common(1)[0][0]).mean())
    return figures
