"""Labelled pictures and their features: each picture is read once, every encoder sees it, and nothing learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from intermodal.core.errors import DataError, TrainingError
from intermodal.data.emoji import EmojiPictures, EmojiSource
from intermodal.data.folder import FolderSource
from intermodal.data.source import Source, SourceConfig, Unreadable, UnreadableCounter
from intermodal.data.transforms import ImageAugment
from intermodal.evaluate.encoding import Encoder, embed_pictures

SEED = 0
MILD = ImageAugment(flip=0.5, rotate=10, scale=(0.85, 1.15), translate=0.05, brightness=0.2, contrast=0.2)
"""How a view differs from its picture where no second picture of the same thing is known."""
VIEW_SIDE = 224


@dataclass
class LabelledPart:
    """The pictures of a split that were read.

    Attributes:
        source: where from.
        indices: which samples, in the order that they were read.
        labels: the class of each.
        things: what each shows, where the data says so (a concept in several artists' styles); else empty strings.
        unreadable: samples that were left out because they could not be read.
        unlabelled: samples that were left out because their label is empty.
    """

    source: Source
    indices: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    things: list[str] = field(default_factory=list)
    unreadable: int = 0
    unlabelled: int = 0

    def __len__(self) -> int:
        return len(self.indices)

    def picture(self, position: int) -> Image.Image:
        """Return one picture, read again."""
        return self.source.sample(self.indices[position])["image"]

    def name(self, position: int) -> str:
        """Return what a person would call a picture."""
        return self.source.sample_name(self.indices[position])

    def caption(self, position: int) -> str:
        """Return a few words for print: an emoji's name, else nothing."""
        return self.source.rows[self.indices[position]]["name"] if isinstance(self.source, EmojiPictures) else ""

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions of pictures that show the same thing: each picture and the next one of the thing.

        A thing with two pictures gives one pair, one with more a ring; a thing with a single picture gives none.
        """
        members: dict[str, list[int]] = {}
        for position, thing in enumerate(self.things):
            if thing:
                members.setdefault(thing, []).append(position)
        first = [p for found in members.values() if len(found) > 1 for p in (found if len(found) > 2 else found[:1])]
        after = {p: found[(i + 1) % len(found)] for found in members.values() for i, p in enumerate(found)}
        return np.array(first, np.int64), np.array([after[p] for p in first], np.int64)


def single_pictures(config: SourceConfig) -> SourceConfig:
    """Return the source of single pictures that a source of groups or pairs is made of."""
    while isinstance(inner := getattr(config, "source", None), SourceConfig):
        config = inner
    return config


def labelled_source(config: SourceConfig, split: str) -> Source:
    """Open a split picture by picture (not in groups) and check that its pictures have labels.

    Raises:
        DataError: if the split is not there, or its samples have no picture or no label.
    """
    config = single_pictures(config)
    if isinstance(config, EmojiSource):
        config = config.replace(unit="picture")
    elif isinstance(config, FolderSource):
        config = config.replace(streaming=False)
    source = config.open(split)
    for name, what in (("image", "pictures"), ("label", "classes")):
        if name not in source.fields:
            raise DataError(
                f"Features are judged by the classes of pictures, but {source.name} has no field {name!r} ({what}); "
                f"it offers {', '.join(source.fields)}. Sort the pictures into one folder a class, or add a column "
                "label."
            )
    return source


def read_part(
    config: SourceConfig, split: str, encoders: Sequence[Encoder], report: Callable[[float], None], most: int | None
) -> tuple[LabelledPart, list[np.ndarray]]:
    """Read a split's labelled pictures once and turn them into features.

    Args:
        config: of the data.
        split: which part.
        encoders: each returns one row a picture.
        report: told the share that is done.
        most: so many pictures at most, a seeded random choice where there are more; None for all.

    Returns:
        the part, and one float32 array ``(len(part), D)`` an encoder.

    Raises:
        DataError: if there is no labelled picture, or more are unreadable than the source allows.
        TrainingError: if a feature is not finite; the picture is named.
    """
    source = labelled_source(config, split)
    indices = list(range(len(source)))
    if most is not None and len(indices) > most:
        indices = sorted(np.random.default_rng(SEED).permutation(len(source))[:most].tolist())
    part = LabelledPart(source)
    named = [_named(part, encoder) for encoder in encoders]
    features = embed_pictures(named, _read(part, indices, config), len(indices), report)
    if not part.indices:
        raise DataError(f"{source.name} holds no readable picture with a label to judge on.")
    return part, [rows.astype(np.float32, copy=False) for rows in features]


def _read(part: LabelledPart, indices: list[int], config: SourceConfig) -> Iterator[Image.Image]:
    source = part.source
    rows = source.rows if isinstance(source, EmojiPictures) else None
    counter = UnreadableCounter(source.name, config.max_unreadable)
    for index in indices:
        try:
            sample = source.sample(index)
        except DataError as error:
            part.unreadable += 1
            counter.add([Unreadable(source.sample_name(index), str(error))], 0)
            continue
        counter.add([], 1)
        label = str(sample.get("label") or "").strip()
        if not label:
            part.unlabelled += 1
            continue
        part.indices.append(index)
        part.labels.append(label)
        part.things.append("" if rows is None else rows[index]["concept"])
        yield sample["image"]


def _named(part: LabelledPart, encoder: Encoder) -> Encoder:
    """Return the encoder with a check that names the first picture whose features are not finite."""
    done = 0

    def encode(pictures: list[Image.Image]) -> np.ndarray:
        nonlocal done
        rows = encoder(pictures)
        finite = np.isfinite(rows).all(1)
        if not finite.all():
            raise TrainingError(
                f"The features of {part.name(done + int(finite.argmin()))} are not finite: the model's weights are broken "
                "(did its training diverge?)."
            )
        done += len(pictures)
        return rows

    return encode


def mild_view(picture: Image.Image, seed: int) -> Image.Image:
    """Return a picture changed a little, as :data:`MILD` says; the same seed gives the same view."""
    picture = picture.convert("RGB")
    if max(picture.size) > VIEW_SIDE:
        picture = picture.copy()
        picture.thumbnail((VIEW_SIDE, VIEW_SIDE), Image.Resampling.BOX)
    array = np.asarray(picture, np.float32) / 255
    image_1CHW = torch.from_numpy(array).permute(2, 0, 1)[None]
    uniform = MILD.draw(1, torch.Generator().manual_seed(seed))
    view_CHW = (MILD.apply(image_1CHW, uniform)[0] * 255).round().to(torch.uint8)
    return Image.fromarray(view_CHW.permute(1, 2, 0).contiguous().numpy())
