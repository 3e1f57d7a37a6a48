"""What a source is: an ordered collection of raw samples with declared fields.

A configuration (:class:`SourceConfig`, part of a recipe) opens into a :class:`Source`, once for each split. A
sample is a dictionary of raw values; randomness (which caption of several) comes from the generator that the
loader hands in, so that a sample depends on the seed, the epoch and its position alone, never on which worker
process reads it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from intermodal.core.config import Config
from intermodal.core.errors import DataError
from intermodal.core.fields import Field

if TYPE_CHECKING:
    from PIL import Image

Sample = dict[str, Any]
MOST_IN_A_ROW = 100
"""So many unreadable samples one after the other are an error, whatever their share."""

logger = logging.getLogger(__name__)


class Source:
    """A collection of samples that can be read in any order.

    Attributes:
        name: how progress and errors call it.
        fields: what each sample holds.
    """

    name: str
    fields: Mapping[str, Field]

    def __len__(self) -> int:
        raise NotImplementedError

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return one sample; without ``rng`` the canonical one (the first caption), for evaluation.

        Raises:
            DataError: if the sample cannot be read; the message names its file.
        """
        raise NotImplementedError

    def sample_name(self, index: int) -> str:
        """Return what a person would call the sample: its file, or its row."""
        return f"{self.name}, row {index}"

    def lengths(self) -> Sequence[float] | None:
        """Return how long each sample is, for batches of samples of like length; None where all are alike."""
        return None

    def texts(self) -> list[str]:
        """Return every text, for training a tokenizer; where it can be, without decoding a picture."""
        return [str(self.sample(i)["text"]) for i in range(len(self))]

    def labels(self) -> list[str]:
        """Return every sample's class; where it can be, without decoding a picture.

        Raises:
            DataError: if the source has no classes.
        """
        if "label" not in self.fields:
            raise DataError(
                f"{self.name} has no classes: it needs one folder of pictures per class, without texts beside the "
                "pictures, or a label column."
            )
        return [self._label_of(i) for i in range(len(self))]

    def _label_of(self, index: int) -> str:
        return str(self.sample(index)["label"])


def caption_fields(labelled: bool) -> dict[str, Field]:
    """Return the fields of captioned pictures, with or without a class."""
    fields = {
        "image": Field((), "image", "a picture"),
        "text": Field((), "str", "a caption of it"),
        "captions": Field((), "list[str]", "all of its captions"),
    }
    return {**fields, "label": Field((), "str", "its class")} if labelled else fields


class CaptionedSource(Source):
    """Pictures that have one or more captions each; a subclass says where the parts of a sample are.

    A sample holds ``image``, ``text`` (one of the captions), ``captions`` (all of them) and, where the data
    has it, ``label``.
    """

    def __init__(self, name: str, labelled: bool) -> None:
        self.name = name
        self.fields = caption_fields(labelled)

    def picture(self, index: int) -> Image.Image:
        """Return one picture, decoded.

        Raises:
            DataError: if it cannot be read.
        """
        raise NotImplementedError

    def captions(self, index: int) -> Sequence[str]:
        """Return all captions of one picture, at least one."""
        raise NotImplementedError

    def label(self, index: int) -> str:
        """Return the class of one picture, where :attr:`fields` has ``label``."""
        raise NotImplementedError

    def _label_of(self, index: int) -> str:
        return self.label(index)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return one picture with a caption: the first, or with ``rng`` a random one."""
        captions = self.captions(index)
        sample: Sample = {
            "image": self.picture(index),
            "text": choose_text(captions, rng),
            "captions": list(captions),
        }
        if "label" in self.fields:
            sample["label"] = self.label(index)
        return sample

    def texts(self) -> list[str]:
        """Return all captions of all pictures; no picture is decoded."""
        return [caption for i in range(len(self)) for caption in self.captions(i)]


@dataclass(frozen=True, kw_only=True)
class SourceConfig(Config):
    """Base of the configurations of sources.

    Attributes:
        max_unreadable: training stops when more than this share of the pictures cannot be read.
    """

    max_unreadable: float = 0.05

    def open(self, split: str) -> Source:
        """Open one split: ``train``, ``validation`` or ``test``.

        Raises:
            DataError: if the data is not there, the split is unknown or empty.
        """
        raise NotImplementedError

    def training_texts(self) -> list[str]:
        """Return the texts of the training split, for training a tokenizer."""
        return self.open("train").texts()


@dataclass(frozen=True)
class Unreadable:
    """A sample that was skipped, and why; it travels with the batch to the training loop, which counts."""

    name: str
    reason: str


class UnreadableCounter:
    """Keeps account of unreadable samples while training: each is logged once, too many are an error.

    Args:
        name: of the source, for the error.
        max_share: of the samples asked for, how many may be unreadable.
        handful: so many are always let pass, whatever their share.
    """

    def __init__(self, name: str, max_share: float, handful: int = 5) -> None:
        self.name, self.max_share, self.handful = name, max_share, handful
        self.seen = 0
        self.count = 0
        self.reasons: dict[str, str] = {}

    def add(self, skipped: Sequence[Unreadable], seen: int) -> None:
        """Count ``skipped`` of ``seen`` more samples (``Batch.skipped``, and the size of the batch).

        Raises:
            DataError: that names the first files, when more than the share is unreadable: by more than three
                standard deviations, so that an unlucky first batch does not stop the training.
        """
        self.seen += seen + len(skipped)
        self.count += len(skipped)
        for item in skipped:
            if item.name not in self.reasons:
                self.reasons[item.name] = item.reason
                logger.warning("Skipped %s: %s", item.name, item.reason)
        allowed = self.max_share * self.seen
        if self.count > self.handful and self.count > allowed + 3 * math.sqrt(allowed):
            first = "; ".join(list(self.reasons.values())[:3])
            raise DataError(
                f"{self.name}: {self.count} of {self.seen} samples could not be read, more than the allowed "
                f"{self.max_share:.0%}. The first: {first} Repair or remove them, or raise max_unreadable."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the account in plain data."""
        return {"seen": self.seen, "count": self.count, "reasons": dict(self.reasons)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a saved account."""
        self.seen, self.count, self.reasons = state["seen"], state["count"], dict(state["reasons"])


def read_or_next(source: Source, index: int, rng: np.random.Generator | None) -> tuple[Sample, list[Unreadable]]:
    """Read a sample; where it is unreadable take the next readable one, and say what was skipped.

    Raises:
        DataError: if a hundred samples in a row are unreadable, or all there are.
    """
    skipped: list[Unreadable] = []
    for step in range(min(len(source), MOST_IN_A_ROW)):
        at = (index + step) % len(source)
        try:
            return source.sample(at, rng), skipped
        except DataError as error:
            skipped.append(Unreadable(source.sample_name(at), str(error)))
    raise unreadable_in_a_row(source, skipped)


def unreadable_in_a_row(source: Source, skipped: Sequence[Unreadable]) -> DataError:
    """Return the error that ends the reading of a source."""
    first = skipped[0].reason
    return DataError(f"{source.name}: {len(skipped)} samples in a row are unreadable; the first: {first}")


def choose_text(captions: Sequence[str], rng: np.random.Generator | None) -> str:
    """Return the first caption, or a random one where a generator is given."""
    if len(captions) == 1 or rng is None:
        return captions[0]
    return captions[int(rng.integers(len(captions)))]
