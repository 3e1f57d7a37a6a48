"""DiT in diffusers' published layout: DiTTransformer2DModel, to ours and back.

Theirs keeps the layers that turn the time and the class into a vector once in every block; published folders hold copies of
the same numbers there, which we keep once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from intermodal.core.errors import CheckpointError, ConfigError
from intermodal.hub.keymap import KeyMap, fuse, rename
from intermodal.hub.weights import DIFFUSERS, build, read_published, read_weights
from intermodal.nn.dit import DiT, DiTConfig

CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")
_SHARED = re.compile(r"transformer_blocks\.(\d+)\.norm1\.emb\.(.+)")


def read_config(data: Mapping[str, Any], where: Path | str) -> DiTConfig:
    """Return our configuration of a ``config.json``.

    Raises:
        CheckpointError: if it describes something that this network does not have.
    """
    name = data.get("_class_name", CLASSES[0])
    if name not in CLASSES:
        raise CheckpointError(f"{where}: expected the configuration of {CLASSES[0]}, found {name!r}.")
    for key, wanted in (
        ("activation_fn", "gelu-approximate"),
        ("norm_type", "ada_norm_zero"),
        ("attention_bias", True),
        ("norm_elementwise_affine", False),
    ):
        if data.get(key, wanted) != wanted:
            raise CheckpointError(f"{where}: {key}={data[key]!r} is not supported, only {wanted!r}.")
    heads = data.get("num_attention_heads", 16)
    channels = data.get("in_channels", 4)
    try:
        return DiTConfig(
            in_channels=channels,
            out_channels=data.get("out_channels") or channels,
            size=data.get("sample_size", 32),
            patch=data.get("patch_size", 2),
            width=heads * data.get("attention_head_dim", 72),
            depth=data.get("num_layers", 28),
            heads=heads,
            classes=data.get("num_embeds_ada_norm", 1000),
            eps=data.get("norm_eps", 1e-5),
        )
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error


def key_map() -> KeyMap:
    """Return the key map, for tensors whose copies :func:`once` has made one."""
    block = "transformer_blocks.{i}"
    return KeyMap(
        rename("pos_embed.proj.{p}", "embed.{p}"),
        rename("emb.timestep_embedder.linear_1.{p}", "time.fc1.{p}"),
        rename("emb.timestep_embedder.linear_2.{p}", "time.fc2.{p}"),
        rename("emb.class_embedder.embedding_table.{p}", "classes.{p}"),
        rename(f"{block}.norm1.linear.{{p}}", "blocks.{i}.modulation.{p}"),
        fuse(f"{block}.attn1.to_{{q,k,v}}.{{p}}", "blocks.{i}.attention.qkv.{p}"),
        rename(f"{block}.attn1.to_out.0.{{p}}", "blocks.{i}.attention.out.{p}"),
        rename(f"{block}.ff.net.0.proj.{{p}}", "blocks.{i}.mlp.fc1.{p}"),
        rename(f"{block}.ff.net.2.{{p}}", "blocks.{i}.mlp.fc2.{p}"),
        rename("proj_out_1.{p}", "modulation.{p}"),
        rename("proj_out_2.{p}", "out.{p}"),
        ignored=("pos_embed.pos_embed",),
    )


def once(tensors: Mapping[str, Tensor], where: Path | str) -> dict[str, Tensor]:
    """Return published tensors with the copies in every block made one.

    Raises:
        CheckpointError: if the copies differ: such a model tells each block the time in another way.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        match = _SHARED.fullmatch(key)
        name = f"emb.{match[2]}" if match else key
        if name in found and not torch.equal(found[name], tensor):
            raise CheckpointError(f"{where}: {key} differs from the same layer of another block, which must be copies.")
        found[name] = tensor
    return found


def in_every_block(tensors: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Return the inverse of :func:`once`."""
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key.startswith("emb."):
            found |= {f"transformer_blocks.{i}.norm1.{key}": tensor.clone() for i in range(depth)}
        else:
            found[key] = tensor
    return found


def load_dit(folder: Path | str) -> DiT:
    """Return the DiT of a folder, in evaluation mode.

    Raises:
        CheckpointError: if files are missing, the configuration is another's, or a key is missing or left over.
    """
    folder = Path(folder)
    config = read_config(read_published(folder, "a published DiT"), folder)
    return build(lambda: DiT(config), once(read_weights(folder, DIFFUSERS), folder), key_map(), folder).eval()
