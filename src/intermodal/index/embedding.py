"""From raw data to unit vectors, in batches of bounded memory; and which model made them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from intermodal.core.capabilities import Classifies, Embeds, Generates, Reconstructs, capabilities_of
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.registry import cards
from intermodal.data.audio import SUFFIXES as SOUNDS
from intermodal.data.audio import Waveform, read_audio
from intermodal.data.images import SUFFIXES, open_image
from intermodal.data.source import Unreadable
from intermodal.methods.base import Method

BATCH = 64
PIXELS = 32_000_000
"""A batch ends when its decoded pictures hold this many pixels, or its recordings this many samples: large photographs and
long recordings do not fill the memory."""
FILES = {"image": ("picture", SUFFIXES), "audio": ("recording", SOUNDS)}
"""What is embedded of files: what a person calls one, and how their names end."""

Item = TypeVar("Item")
Raw = TypeVar("Raw", bound=Image.Image | Waveform)


def offering(model: object, capability: str, need: str) -> Any:
    """Return ``model`` if it has a capability.

    Args:
        model: any method.
        capability: a name in :data:`intermodal.core.capabilities.CAPABILITIES`.
        need: what needs it, to begin the error with ("A search").

    Raises:
        ConfigError: if the model lacks it; the methods that have it are named.
    """
    has = capabilities_of(model)
    if capability in has:
        return model
    able = ", ".join(card.id for card in cards().values() if capability in card.capabilities) or "none yet"
    name = getattr(model, "id", type(model).__name__)
    raise ConfigError(
        f"{need} needs a model with the capability {capability!r}; {name!r} has {', '.join(has) or 'none'}. "
        f"Methods that have it: {able}."
    )


def classifies(model: object, need: str) -> Classifies:
    """Return ``model`` as one that classifies pictures, or raise a ConfigError that says what lacks."""
    return offering(model, "classify", need)


def generates(model: object, need: str) -> Generates:
    """Return ``model`` as one that generates, or raise a ConfigError that says what lacks."""
    return offering(model, "generate", need)


def reconstructs(model: object, need: str) -> Reconstructs:
    """Return ``model`` as an image tokenizer, or raise a ConfigError that says what lacks."""
    return offering(model, "reconstruct", need)


def embeds(model: object, modality: str, need: str) -> Embeds:
    """Return ``model`` as one that embeds a modality, or raise a ConfigError that says what lacks."""
    found: Embeds = offering(model, "embed", need)
    if modality not in found.modalities:
        known = ", ".join(found.modalities)
        raise ConfigError(f"{need} needs a model that embeds {modality}; this one embeds {known}.")
    return found


def embed_one(model: Embeds, modality: str, value: str | Image.Image | Waveform) -> np.ndarray:
    """Return the unit vector ``(D,)`` of one text, picture or recording."""
    return model.embed(modality, [value])[0]


@dataclass(frozen=True)
class ModelStamp:
    """Which model made some vectors.

    Attributes:
        method: the method's id.
        dim: D.
        sha256: of the configuration, the processors and every weight.
    """

    method: str
    dim: int
    sha256: str

    def to_json(self) -> str:
        """Return JSON that :meth:`from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ModelStamp:
        """Read :meth:`to_json`'s text back."""
        return cls(**json.loads(text))

    def __str__(self) -> str:
        return f"{self.method}, {self.dim} dimensions, {self.sha256[:8]}"


def stamp(model: Method) -> ModelStamp:
    """Return the stamp of a model: the same for the same weights, wherever they were loaded from."""
    embedder: Embeds = offering(model, "embed", "An index")
    dim = embedder.embed(embedder.modalities[0], []).shape[1]
    return ModelStamp(model.id, dim, fingerprint(model))


def fingerprint(model: Method) -> str:
    """Return the SHA-256 of a model's configuration, its processors and every weight, in hexadecimal."""
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saved = {key: p.to_folder(folder) for key, p in sorted(model.processors.items())}
        digest.update(json.dumps(saved, sort_keys=True).encode())
        for asset in sorted(folder.iterdir()):
            digest.update(asset.read_bytes())
    for key, tensor in sorted(model.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        # As bytes, because NumPy has no bfloat16; a scalar has no last axis to view otherwise.
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def find_pictures(folder: Path) -> list[Path]:
    """Return the picture files under ``folder``, sorted; hidden files and folders are left out.

    Raises:
        DataError: if there is no such folder or no picture in it.
    """
    return find_files(folder, "image")


def find_files(folder: Path, modality: str) -> list[Path]:
    """Return the files of a modality of :data:`FILES` under ``folder``, sorted; hidden files and folders are left out.

    Raises:
        DataError: if there is no such folder or no such file in it.
    """
    what, suffixes = FILES[modality]
    if not folder.is_dir():
        wrong = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"The folder of {what}s {folder} {wrong}.")
    found = sorted(_files(folder, suffixes))
    if not found:
        raise DataError(f"There is no {what} in {folder} ({', '.join(sorted(suffixes))}).")
    return found


def _files(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Yield the files of a folder, in any depth, whose names end in one of these ways; none that is hidden."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in suffixes and not hidden and path.is_file():
            yield path


def modality_of(folder: Path, modalities: Sequence[str]) -> str:
    """Return what a folder holds for a model that embeds ``modalities``: pictures, or recordings where it has none.

    A model that embeds neither is told so later, when it is asked to embed pictures.
    """
    able = [modality for modality in FILES if modality in modalities] or ["image"]
    if len(able) == 1:
        return able[0]
    return next((modality for modality in able if any(_files(folder, FILES[modality][1]))), able[0])


def open_file(path: Path, modality: str) -> Image.Image | Waveform:
    """Read a picture or a recording.

    Raises:
        DataError: if the file is none, or is damaged.
        MissingExtraError: for a recording, without soundfile.
    """
    return open_image(path) if modality == "image" else read_audio(path)


def in_batches(
    items: Iterable[Item], read: Callable[[Item], Raw], name: Callable[[Item], str]
) -> Iterator[tuple[list[Item], list[Raw], list[tuple[Item, Unreadable]]]]:
    """Read pictures or recordings in batches of bounded memory.

    Args:
        items: whatever stands for one.
        read: opens that of an item; a DataError of it makes the item unreadable.
        name: what a person calls an item.

    Yields:
        The readable items of a batch, their pictures or recordings, and the unreadable ones.
    """
    readable: list[Item] = []
    pictures: list[Raw] = []
    unreadable: list[tuple[Item, Unreadable]] = []
    pixels = 0
    for item in items:
        try:
            picture = read(item)
        except DataError as error:
            unreadable.append((item, Unreadable(name(item), str(error))))
        else:
            readable.append(item)
            pictures.append(picture)
            pixels += len(picture.samples) if isinstance(picture, Waveform) else picture.width * picture.height
        if len(readable) + len(unreadable) >= BATCH or pixels >= PIXELS:
            yield readable, pictures, unreadable
            readable, pictures, unreadable, pixels = [], [], [], 0
    if readable or unreadable:
        yield readable, pictures, unreadable


def embed_files(
    model: Embeds,
    items: Iterable[Item],
    read: Callable[[Item], Image.Image | Waveform],
    name: Callable[[Item], str],
    modality: str = "image",
) -> Iterator[tuple[list[Item], np.ndarray, list[tuple[Item, Unreadable]]]]:
    """Read and embed pictures or recordings: as :func:`in_batches`, with unit vectors ``(n, D)`` in their place."""
    for readable, raw, unreadable in in_batches(items, read, name):
        yield readable, model.embed(modality, raw), unreadable
