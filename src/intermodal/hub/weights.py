"""The configuration and the weights of a published folder, and the network that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from intermodal.core.checkpoint import PICKLES, WEIGHTS, read_tensors
from intermodal.core.errors import CheckpointError, IntermodalError
from intermodal.core.files import read_json
from intermodal.hub.keymap import KeyMap

CONFIG = "config.json"
DIFFUSERS = "diffusion_pytorch_model.safetensors"
"""The weights of a folder in diffusers' layout."""
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def read_published(folder: Path, what: str) -> dict[str, Any]:
    """Return the configuration of a published folder.

    Raises:
        CheckpointError: if there is none, or it is not valid JSON; ``what`` says what the folder should hold.
    """
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} holds no {CONFIG}: it is no folder of {what}.")
    try:
        data: dict[str, Any] = read_json(folder / CONFIG, "configuration")
    except IntermodalError as error:
        raise CheckpointError(str(error)) from error
    return data


def read_weights(folder: Path, name: str = WEIGHTS) -> dict[str, Tensor]:
    """Read a published folder's safetensors, in one file or in shards that ``NAME.index.json`` lists.

    Raises:
        CheckpointError: if there is none (a pickle beside is named and refused), or a shard is missing, cut
            short or lacks a tensor that the index says it holds.
    """
    index = folder / f"{name}.index.json"
    if (folder / name).exists():
        return read_tensors(folder / name)
    if not index.exists():
        pickles = [f.name for f in sorted(folder.iterdir()) if f.suffix.lower() in PICKLES]
        if pickles:
            raise CheckpointError(
                f"{folder} holds its weights only as {', '.join(pickles)}, a pickle, and reading a "
                "pickle runs whatever "
                f"code is in it: it is refused. Use a revision that has {name}, or convert it where you "
                "trust it."
            )
        raise CheckpointError(f"{folder} holds no weights: {name} is missing.")
    places = read_json(index, "index of the weights").get("weight_map")
    if not isinstance(places, dict):
        raise CheckpointError(f"{index} has no weight_map.")
    out: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(f"{index} names {shard!r}, which is no safetensors file of this folder.")
        tensors = read_tensors(folder / shard)
        listed = {k for k, v in places.items() if v == shard}
        if listed != set(tensors):
            odd = sorted(listed ^ set(tensors))
            raise CheckpointError(f"{folder / shard} and {index.name} do not agree on {', '.join(odd[:8])}.")
        out |= tensors
    return out


def build(
    make: Callable[[], ModuleT],
    tensors: Mapping[str, Tensor],
    keys: KeyMap,
    where: Path,
) -> ModuleT:
    """Build a model on the meta device and give it published tensors, strictly."""
    with torch.device("meta"):
        model = make()
    expected = {k: tuple(t.shape) for k, t in model.state_dict().items()}
    ours = keys.load(tensors, expected, where)
    model.load_state_dict({k: _widen(t) for k, t in ours.items()}, strict=True, assign=True)
    return model.requires_grad_(True)


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
