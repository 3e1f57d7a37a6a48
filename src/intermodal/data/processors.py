"""Processors: raw data <-> tensors. They travel inside the checkpoint, so a model never sees the wrong input.

A processor turns one raw value (a PIL image, a string) into a compact tensor of fixed shape (``encode``), and
a batch of those into what the network takes (``prepare``: on the network's device, after any augmentation).
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from intermodal.core.config import Config, suggestion
from intermodal.core.errors import CheckpointError, ConfigError, DataError
from intermodal.core.fields import Field
from intermodal.data.images import MAX_PIXELS, open_image

Resize = Literal["squash", "crop", "pad"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
_RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Processor:
    """Base of all processors."""

    raw: Field
    """What :meth:`encode` takes."""
    varying: bool = False
    """Whether :meth:`encode`'s tensors differ in their first size; the loader then pads them with zeros at the end and
    adds their lengths as ``<name>_length``, int64 ``(B,)``."""

    def encode(self, value: Any) -> Tensor:
        """Turn one raw value into a compact tensor of fixed dtype and, unless :attr:`varying`, fixed shape."""
        raise NotImplementedError

    def prepare(self, batch: Tensor) -> Tensor:
        """Turn a batch of encoded values into what the network takes."""
        return batch

    def __call__(self, values: Sequence[Any]) -> Tensor:
        """Encode several raw values and prepare them as one batch."""
        if self.varying:
            raise TypeError("Tensors of varying length need their lengths: use data.batches.stack.")
        return self.prepare(torch.stack([self.encode(v) for v in values]))

    def to_folder(self, folder: Path) -> dict[str, Any]:
        """Write assets into a checkpoint folder; return JSON that, with them, restores the processor."""
        raise NotImplementedError

    @staticmethod
    def from_folder(data: dict[str, Any], folder: Path) -> Processor:
        """Restore the processor that :meth:`to_folder` described."""
        if data.get("kind") == "text":
            return TextProcessor.restore(data, folder)
        if data.get("kind") == "text-pair":
            from intermodal.data.text_processors import TextPairProcessor

            return TextPairProcessor.restore(data, folder)
        if data.get("kind") == "sentence":
            from intermodal.data.sentences import SentenceProcessor

            return SentenceProcessor.restore(data, folder)
        if data.get("kind") == "chat":
            from intermodal.data.chat import ChatProcessor

            return ChatProcessor.restore(data, folder)
        if data.get("kind") == "pieces":
            from intermodal.data.transcripts import PieceProcessor

            return PieceProcessor.restore(data, folder)
        if data.get("kind") == "tokens":
            from intermodal.data.token_processor import TokenProcessor

            return TokenProcessor.restore(data, folder)
        if data.get("kind") == "vocabulary":
            from intermodal.data.words import Vocabulary

            return Vocabulary.restore(data, folder)
        config = Config.from_dict(data)
        if not isinstance(config, Processor):
            raise CheckpointError(f"{folder}: {data.get('type')!r} is no processor.")
        return config


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageProcessor(Config, Processor):
    """Pictures <-> ``(3, H, W)``: uint8 when encoded, normalised float32 when prepared.

    Attributes:
        size: height and width in pixels.
        mean: per-channel mean, of values in 0..1.
        std: per-channel standard deviation.
        resize: ``squash`` ignores the aspect ratio, ``crop`` fits the short side and cuts the centre, ``pad``
            fits the long side and fills with white.
        interpolation: the resampling filter (Pillow's, antialiased).
        squash_to: with ``squash``: the height and width to which a picture is resized before its centre of ``size`` is cut;
            None for ``size``.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    resize: Resize = "crop"
    interpolation: Interpolation = "bicubic"
    squash_to: tuple[int, int] | None = None

    raw = Field((), "image", "a picture")

    def encode(self, value: Any) -> Tensor:
        """Return a picture (PIL image, encoded bytes or path) as uint8 ``(3, H, W)``."""
        array = np.array(self.fitted(value), dtype=np.uint8)
        return torch.from_numpy(array).permute(2, 0, 1).contiguous()

    def fitted(self, value: Any) -> Image.Image:
        """Return a picture (PIL image, encoded bytes or path) at the processor's size; one that has it stays as it is."""
        return self._fit(open_image(value))

    def _fit(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        target, method = (width, height), _RESAMPLE[self.interpolation]
        if image.size == target and self.squash_to is None:
            return image
        if self.resize == "squash":
            tall, wide = self.squash_to or self.size
            left, top = (wide - width) // 2, (tall - height) // 2
            image = image.resize((wide, tall), method)
            return image.crop((left, top, left + width, top + height)) if self.squash_to else image
        if self.resize == "crop":
            return self._fit_and_crop(image, method)
        return self._fit_and_pad(image, method)

    def _fit_and_crop(self, image: Image.Image, method: Image.Resampling) -> Image.Image:
        """Scale the short side to the size, cut the centre; rounded as the published preprocessors do."""
        height, width = self.size
        scale = max(width / image.width, height / image.height)
        scaled = (max(width, int(image.width * scale)), max(height, int(image.height * scale)))
        left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
        if scaled[0] * scaled[1] > MAX_PIXELS:  # a very long strip: only the part that is kept is scaled
            across, down = image.width / scaled[0], image.height / scaled[1]
            part = (left * across, top * down, (left + width) * across, (top + height) * down)
            return image.resize((width, height), method, box=part)
        image = image.resize(scaled, method) if scaled != image.size else image
        return image.crop((left, top, left + width, top + height))

    def _fit_and_pad(self, image: Image.Image, method: Image.Resampling) -> Image.Image:
        """Scale the long side to the size and centre the picture on white."""
        height, width = self.size
        scale = min(width / image.width, height / image.height)
        scaled = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        canvas = Image.new("RGB", (width, height), (255, 255, 255))
        canvas.paste(image.resize(scaled, method), ((width - scaled[0]) // 2, (height - scaled[1]) // 2))
        return canvas

    def prepare(self, batch: Tensor) -> Tensor:
        """Return float ``(B, 3, H, W)``, normalised; takes uint8 in 0..255 or float in 0..1."""
        scale = 255.0 if batch.dtype == torch.uint8 else 1.0
        mean = torch.tensor(self.mean, device=batch.device).view(1, 3, 1, 1) * scale
        std = torch.tensor(self.std, device=batch.device).view(1, 3, 1, 1) * scale
        values = batch if batch.is_floating_point() else batch.float()
        return (values - mean) / std

    def decode(self, batch: Tensor) -> list[Image.Image]:
        """Return prepared pictures ``(B, 3, H, W)`` as PIL images."""
        mean = torch.tensor(self.mean, device=batch.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=batch.device).view(1, 3, 1, 1)
        pixels = ((batch.float() * std + mean) * 255).round().clamp(0, 255).byte()
        return [Image.fromarray(p.permute(1, 2, 0).cpu().numpy()) for p in pixels]

    def to_folder(self, folder: Path) -> dict[str, Any]:
        """Return the configuration; a picture's processor has no assets."""
        del folder
        return self.to_dict()


def signed_pixels(size: int, resize: Resize) -> ImageProcessor:
    """Return the processor of square pictures with values in -1..1."""
    half = (0.5, 0.5, 0.5)
    return ImageProcessor(size=(size, size), mean=half, std=half, resize=resize)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelProcessor(Config, Processor):
    """Names of classes <-> int64 numbers, in the order of ``names``.

    Attributes:
        names: every class once, sorted.
    """

    names: tuple[str, ...]

    raw = Field((), "str", "the name of a class")

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names) or list(self.names) != sorted(self.names):
            raise ConfigError("The names of classes must be sorted, each once.")

    @staticmethod
    def of(labels: Iterable[str]) -> LabelProcessor:
        """Return the processor of all classes that occur.

        Raises:
            DataError: if there is no label at all.
        """
        names = tuple(sorted(set(labels)))
        if not names:
            raise DataError("There are no labels: a class for each picture is needed.")
        return LabelProcessor(names=names)

    def encode(self, value: Any) -> Tensor:
        """Return the number of a class, an int64 scalar.

        Raises:
            DataError: if the class is unknown.
        """
        place = bisect.bisect_left(self.names, value)
        if place == len(self.names) or self.names[place] != value:
            raise DataError(f"The class {value!r} is not one of the {len(self.names)} that this model knows.")
        return torch.tensor(place)

    def places(self, labels: Sequence[str]) -> list[int]:
        """Return the numbers of classes by name; the nearest name is suggested for one that is unknown.

        Raises:
            DataError: if there is no label, or one is unknown.
        """
        if not labels:
            raise DataError("Classification needs at least one label.")
        for label in labels:
            if label not in self.names:
                raise DataError(
                    f"This model knows {len(self.names)} classes, {label!r} is not one{suggestion(label, self.names)}"
                )
        return [self.names.index(label) for label in labels]

    def decode(self, numbers: Tensor) -> list[str]:
        """Return the names of class numbers ``(B,)``."""
        return [self.names[i] for i in numbers.tolist()]

    def to_folder(self, folder: Path) -> dict[str, Any]:
        """Return the configuration; there are no assets."""
        del folder
        return self.to_dict()


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer out of a checkpoint.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    if not path.exists():
        raise CheckpointError(f"The tokenizer {path} is missing from the checkpoint.")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers package raises nothing narrower
        raise CheckpointError(f"The tokenizer {path} cannot be read ({error}).") from error


class TextProcessor(Processor):
    """Strings <-> ``(L,)`` int64 token ids: special tokens added, cut to the context and padded.

    Args:
        tokenizer: with a post-processor that adds the special tokens.
        context_length: L.
        eos_id: the id that ends a text; kept when a long text is cut.
        pad_id: the id that fills up.
        lower: lower-case and strip the text first, as CLIP does.
    """

    raw = Field((), "str", "a text")

    def __init__(
        self, tokenizer: Tokenizer, *, context_length: int, eos_id: int, pad_id: int, lower: bool = True
    ) -> None:
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.eos_id = eos_id
        self.pad_id = pad_id
        self.lower = lower
        tokenizer.no_padding()
        tokenizer.no_truncation()

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return self.tokenizer.get_vocab_size()

    def encode(self, value: Any) -> Tensor:
        """Return the ids of one text, int64 ``(L,)``; a long text is cut and still ends with ``eos_id``."""
        text = str(value)
        if self.lower:
            text = " ".join(text.lower().split())
        ids = self.tokenizer.encode(text).ids
        if len(ids) > self.context_length:
            ids = [*ids[: self.context_length - 1], self.eos_id]
        out = torch.full((self.context_length,), self.pad_id, dtype=torch.int64)
        out[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return out

    def decode(self, tokens: Tensor) -> list[str]:
        """Return the texts of token ids ``(B, L)``, special tokens left out."""
        return [self.tokenizer.decode(row.tolist()) for row in tokens]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextProcessor) and self._settings() == other._settings()

    __hash__ = None  # type: ignore[assignment]

    def _settings(self) -> tuple[Any, ...]:
        return (self.tokenizer.to_str(), self.context_length, self.eos_id, self.pad_id, self.lower)

    def to_folder(self, folder: Path) -> dict[str, Any]:
        """Write ``tokenizer.json``, or ``tokenizer-2.json`` beside another one, and return the other settings."""
        name, number, text = "tokenizer.json", 1, self.tokenizer.to_str(pretty=True)
        while (folder / name).exists() and (folder / name).read_text(encoding="utf-8") != text:
            name = f"tokenizer-{(number := number + 1)}.json"
        (folder / name).write_text(text, encoding="utf-8")
        return {
            "kind": "text",
            "tokenizer": name,
            "context_length": self.context_length,
            "eos_id": self.eos_id,
            "pad_id": self.pad_id,
            "lower": self.lower,
        }

    @classmethod
    def restore(cls, data: dict[str, Any], folder: Path) -> Self:
        """Read ``tokenizer.json`` and the settings back.

        Raises:
            CheckpointError: if the file is missing or damaged.
        """
        return cls(
            read_tokenizer(folder / Path(data["tokenizer"]).name),
            context_length=data["context_length"],
            eos_id=data["eos_id"],
            pad_id=data["pad_id"],
            lower=data["lower"],
        )
