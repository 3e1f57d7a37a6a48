"""The state of a training run as safetensors and JSON, so that it resumes with the same bits.

A tree of dictionaries, lists, tuples, plain values, arrays and tensors is written as one JSON file in which each tensor is
a reference into one safetensors file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intermodal.core.checkpoint import read_tensors, write_tensors
from intermodal.core.errors import CheckpointError
from intermodal.core.files import atomic_folder, read_json

FORMAT = 1


def save_tree(folder: Path, tree: dict[str, Any]) -> None:
    """Write ``tree`` into ``folder`` (new or replaced), in one step.

    Raises:
        CheckpointError: if the tree holds something that is neither data nor a tensor.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _pack(tree, "state", tensors)
    with atomic_folder(folder) as temporary:
        write_tensors(temporary / "state.safetensors", tensors)
        text = json.dumps({"format": FORMAT, "state": skeleton})
        (temporary / "state.json").write_text(text, encoding="utf-8")


def load_tree(folder: Path) -> dict[str, Any]:
    """Read what :func:`save_tree` wrote.

    Raises:
        CheckpointError: if a file is missing, damaged, or of a newer format.
    """
    data = read_json(folder / "state.json", "training state")
    if data.get("format") != FORMAT:
        raise CheckpointError(f"{folder} is of training-state format {data.get('format')}, expected {FORMAT}.")
    return _unpack(data["state"], read_tensors(folder / "state.safetensors"))


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"$tensor": path}
    if isinstance(value, np.ndarray):
        tensors[path] = torch.from_numpy(value)
        return {"$array": path}
    if isinstance(value, dict):
        return {"$dict": [[k, _pack(v, f"{path}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_pack(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CheckpointError(f"A training state cannot hold a {type(value).__name__} (at {path}).")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(v, tensors) for v in value]
    if isinstance(value, dict):
        if "$tensor" in value:
            return tensors[value["$tensor"]]
        if "$array" in value:
            return tensors[value["$array"]].numpy()
        if "$tuple" in value:
            return tuple(_unpack(v, tensors) for v in value["$tuple"])
        return {k: _unpack(v, tensors) for k, v in value["$dict"]}
    return value


def random_state() -> dict[str, Any]:
    """Return the state of torch's global generators, which dropout draws from."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
