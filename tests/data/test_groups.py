from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.groups import GroupSource
from intermodal.data.loader import train_loader
from intermodal.data.processors import ImageProcessor, LabelProcessor
from intermodal.data.source import CaptionedSource, SourceConfig
from intermodal.data.transforms import ImageAugment


class Coloured(CaptionedSource):
    """Picture i is of the grey level i; its class is given."""

    def __init__(self, classes: str) -> None:
        super().__init__("greys", labelled=True)
        self.classes = classes

    def __len__(self) -> int:
        return len(self.classes)

    def picture(self, index: int) -> Image.Image:
        return Image.new("RGB", (8, 8), (index, index, index))

    def captions(self, index: int) -> list[str]:
        return ["a picture"]

    def label(self, index: int) -> str:
        return self.classes[index]


@dataclass(frozen=True, kw_only=True)
class Greys(SourceConfig):
    classes: str

    def open(self, split: str) -> Coloured:
        return Coloured(self.classes)


def levels(sample: dict) -> list[int]:
    return [picture.getpixel((0, 0))[0] for picture in sample["image"]]


def test_a_group_is_pictures_of_one_class_and_of_that_class_alone():
    classes = "aababbbcab"
    groups = GroupSource(source=Greys(classes=classes), pictures=3).open("train")
    for i in range(len(groups)):
        for rng in (None, np.random.default_rng(i)):
            sample = groups.sample(i, rng)
            assert {classes[level] for level in levels(sample)} == {sample["label"]}
            assert len(sample["image"]) == 3
            count = classes.count(sample["label"])
            assert len(set(levels(sample))) == min(3, count)  # no picture twice where there are enough


def test_classes_are_balanced_or_as_large_as_they_are():
    classes = "a" * 12 + "b" * 4
    for balanced, expected in ((True, {"a": 2, "b": 2}), (False, {"a": 3, "b": 1})):
        groups = GroupSource(source=Greys(classes=classes), pictures=4, balanced=balanced).open("train")
        assert Counter(groups.sample(i)["label"] for i in range(len(groups))) == expected


def test_without_randomness_the_groups_of_a_class_cover_it():
    groups = GroupSource(source=Greys(classes="aaaaaabb"), pictures=2, balanced=False).open("train")
    seen = [level for i in range(len(groups)) for level in levels(groups.sample(i))]
    assert sorted(seen) == list(range(8))


def test_a_batch_of_groups_has_a_picture_axis_and_the_same_bits_in_parts():
    source = GroupSource(source=Greys(classes="aaabbbccc" * 4), pictures=3).open("train")
    processors = {"image": ImageProcessor(size=(8, 8)), "label": LabelProcessor.of(source.labels())}
    augment = ImageAugment(flip=0.5, brightness=0.4, views=3)

    def batches(rank: int, world: int) -> list[dict]:
        loader, _ = train_loader(source, processors, batch_size=4, seed=1, augment=augment, rank=rank, world=world)
        return [batch.tensors for batch in loader]

    whole = batches(0, 1)
    assert whole[0]["image"].shape == (4, 3, 3, 8, 8)
    assert whole[0]["label"].shape == (4,)
    for one, first, second in zip(whole, batches(0, 2), batches(1, 2), strict=True):
        assert torch.equal(one["image"], torch.cat([first["image"], second["image"]]))
        assert torch.equal(one["label"], torch.cat([first["label"], second["label"]]))


def test_one_class_and_no_class_are_refused_in_a_sentence():
    with pytest.raises(DataError, match="of the class 'a': pictures of at least two classes"):
        GroupSource(source=Greys(classes="aaaa")).open("train")
    with pytest.raises(ConfigError, match="at least one picture"):
        GroupSource(source=Greys(classes="ab"), pictures=0)
