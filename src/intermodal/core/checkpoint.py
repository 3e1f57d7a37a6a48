"""Checkpoint folders: safetensors and JSON, nothing else.

A folder holds ``intermodal.json`` (format version, method, configuration, processors), ``model.safetensors``, and
the assets of the processors. Reading is strict, writing is atomic, pickles are refused.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from intermodal.core.config import Config
from intermodal.core.errors import CheckpointError, IntermodalError
from intermodal.core.files import atomic_folder, read_json

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
MANIFEST = "intermodal.json"
WEIGHTS = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class SavesItself(Protocol):
    """A processor as far as a checkpoint needs to know it."""

    def to_folder(self, folder: Path) -> dict[str, Any]:
        """Write assets into ``folder`` and return JSON that, with them, restores the processor."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's manifest, read; its tensors are read on demand.

    Attributes:
        folder: where it is.
        method: the id of the method.
        config: the configuration as JSON data (:meth:`Config.from_dict` takes it).
        processors: each processor's JSON data.
    """

    folder: Path
    method: str
    config: dict[str, Any]
    processors: dict[str, dict[str, Any]]

    def tensors(self, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Read the weights and check their names and shapes against ``expected``."""
        tensors = read_tensors(self.folder / WEIGHTS)
        check_tensors(tensors, expected, self.folder)
        return tensors


def save_checkpoint(
    path: str | Path,
    *,
    method: str,
    config: Config,
    tensors: Mapping[str, Tensor],
    processors: Mapping[str, SavesItself],
) -> None:
    """Write a checkpoint folder in one step: it is there in full, or what was there before still is.

    Raises:
        IntermodalError: if the disk is full or writing is not permitted.
    """
    from intermodal.core.version import __version__

    with atomic_folder(path) as folder:
        write_tensors(folder / WEIGHTS, tensors)
        manifest = {
            "format": FORMAT,
            "library": __version__,
            "method": method,
            "config": config.to_dict(),
            "processors": {name: p.to_folder(folder) for name, p in processors.items()},
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint folder's manifest.

    Raises:
        CheckpointError: if the folder is no checkpoint, holds a pickle, or is of a newer format.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"There is no checkpoint folder at {folder}.")
    refuse_pickles(folder)
    if not (folder / MANIFEST).exists():
        raise CheckpointError(
            f"{folder} is no checkpoint of this library: it has no {MANIFEST}. A published folder is loaded with "
            "`intermodal convert`."
        )
    try:
        data = read_json(folder / MANIFEST, "checkpoint manifest")
        version = data["format"]
        if version > FORMAT:
            raise CheckpointError(
                f"{folder} is of checkpoint format {version}; this version of the library reads up to {FORMAT}: "
                "upgrade intermodal."
            )
        return Checkpoint(folder, data["method"], data["config"], data["processors"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"The manifest {folder / MANIFEST} lacks {error}: it was altered or cut short."
        ) from error
    except CheckpointError:
        raise
    except IntermodalError as error:
        raise CheckpointError(str(error)) from error


def refuse_pickles(folder: Path) -> None:
    """Raise a CheckpointError if the folder holds a pickle: reading one runs whatever code it contains."""
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in PICKLES:
            raise CheckpointError(
                f"{file} is a pickle, and reading a pickle runs whatever code is in it: it is refused. Use a "
                "safetensors file, or convert it where you trust it, and remove the pickle from the folder."
            )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors; tensors that share memory are written apart.

    Raises:
        OSError: with its number, also where the serializer reports a full disk in words of its own.
    """
    import errno

    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(
            {k: v.detach().to("cpu").contiguous().clone() for k, v in tensors.items()},
            str(path),
            metadata=dict(metadata or {}) or None,
        )
    except SafetensorError as error:
        if "No space left" in str(error) or "os error 28" in str(error):
            raise OSError(errno.ENOSPC, "No space left on device", str(path)) from error
        raise OSError(errno.EIO, str(error), str(path)) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file whole.

    Raises:
        CheckpointError: if it is missing, cut short or no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.exists():
        raise CheckpointError(f"The weights {path} are missing.")
    try:
        return {name: _aligned(tensor) for name, tensor in load_file(str(path)).items()}
    except (SafetensorError, OSError, struct.error) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors ({error}): was it cut short?") from error


def _aligned(tensor: Tensor) -> Tensor:
    """Return a tensor at an address like those that torch allocates.

    In the file it lies anywhere, and some processors' matrix products add up in another order there: what was saved and
    loaded would then differ in the last bit from what was saved.
    """
    return tensor if tensor.data_ptr() % 64 == 0 else tensor.clone()


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], where: Path | str) -> None:
    """Raise a CheckpointError that lists missing and left-over keys and wrong shapes."""
    missing = [k for k in expected if k not in found]
    extra = [k for k in found if k not in expected]
    shapes = [
        f"{k} should be {list(expected[k])}, found {list(found[k].shape)}"
        for k in expected
        if k in found and tuple(found[k].shape) != tuple(expected[k])
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing: {_first(missing)}")
    if extra:
        problems.append(f"{len(extra)} left over: {_first(extra)}")
    if shapes:
        problems.append(f"{len(shapes)} of another shape: {_first(shapes)}")
    if problems:
        raise CheckpointError(f"The weights in {where} do not fit the model: {'; '.join(problems)}.")


def _first(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
