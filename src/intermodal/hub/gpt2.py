"""GPT-2 in transformers' published layout: ``config.json``, ``model.safetensors``, a byte-level BPE.

Names with and without their first part (``transformer.``) are read, and the stored copies of the tied last matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from intermodal.core.errors import CheckpointError
from intermodal.hub.keymap import KeyMap, rename, transpose
from intermodal.nn.causal import CausalConfig
from intermodal.nn.transformer import Activation

KIND = "gpt2"
ACTIVATION_NAMES: dict[str, Activation] = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "silu": "silu",
}
_PLAIN = {"add_cross_attention": False, "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True}
_TIED, _EMBEDDING = "lm_head.weight", "transformer.wte.weight"


def read_config(data: Mapping[str, Any]) -> CausalConfig:
    """Return our configuration of a published ``config.json``'s data (``model_type`` gpt2).

    Raises:
        CheckpointError: if it describes something that this network does not have.
    """
    odd = [name for name, value in _PLAIN.items() if data.get(name, value) != value]
    if odd:
        raise CheckpointError(f"This GPT-2 is built otherwise than the published ones ({', '.join(odd)}).")
    name = data.get("activation_function", "gelu_new")
    if name not in ACTIVATION_NAMES:
        raise CheckpointError(f"The activation {name!r} is not supported; {', '.join(ACTIVATION_NAMES)} are.")
    dropouts = {data.get("resid_pdrop", 0.1), data.get("embd_pdrop", 0.1)}
    words = data.get("vocab_size", 50257)
    return CausalConfig(
        vocab_size=words,
        context_length=data.get("n_positions", 1024),
        width=data.get("n_embd", 768),
        depth=data.get("n_layer", 12),
        heads=data.get("n_head", 12),
        mlp_width=data.get("n_inner"),
        outputs=None if data.get("tie_word_embeddings", True) else words,
        activation=ACTIVATION_NAMES[name],
        norm_eps=float(data.get("layer_norm_epsilon", 1e-5)),
        dropout=max(dropouts),
        attention_dropout=data.get("attn_pdrop", 0.1),
    )


def write_config(config: CausalConfig) -> dict[str, Any]:
    """Return the data of a ``config.json`` from which transformers builds the same network (without ids of tokens).

    Raises:
        CheckpointError: if GPT-2 has no such parts.
    """
    parts = {"gated": False, "bias": True, "rotary": None, "norm": "layer"}
    odd = [name for name, value in parts.items() if getattr(config, name) != value]
    names = {ours: theirs for theirs, ours in reversed(ACTIVATION_NAMES.items())}
    if config.shared_heads != config.heads or config.inner != config.width:
        odd.append("kv_heads or head_width")
    if config.activation not in names:
        odd.append("activation")
    if config.outputs not in (None, config.vocab_size):
        odd.append("outputs")
    if odd:
        raise CheckpointError(f"GPT-2's published layout has no place for {', '.join(odd)} as they are here.")
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": KIND,
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.width,
        "n_layer": config.depth,
        "n_head": config.heads,
        "n_inner": config.mlp_width,
        "activation_function": names[config.activation],
        "layer_norm_epsilon": config.norm_eps,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.attention_dropout,
        "tie_word_embeddings": config.outputs is None,
    }


def current_names(published: Mapping[str, Tensor], where: Path, tied: bool = True) -> dict[str, Tensor]:
    """Return a folder's tensors under the names of GPT2LMHeadModel, without the copy of a tied last matrix.

    Raises:
        CheckpointError: if that is no copy.
    """
    out = {k if k.startswith(("transformer.", "lm_head.")) else f"transformer.{k}": t for k, t in published.items()}
    if tied and (stored := out.pop(_TIED, None)) is not None and not torch.equal(stored, out.get(_EMBEDDING, stored)):
        raise CheckpointError(f"{where} stores {_TIED} with other values than {_EMBEDDING}, which its {KIND} ties.")
    return out


def key_map(ours: str = "", *, tied: bool = True) -> KeyMap:
    """Return the key map of transformers' GPT2LMHeadModel, whose matrices are stored as (inputs, outputs).

    Args:
        ours: what the names of the network's tensors begin with (``network.``).
        tied: the last matrix is that of the token embeddings.
    """
    theirs, block = "transformer.h.{i}.", ours + "transformer.blocks.{i}."
    linear = {
        "attn.c_attn": "attention.qkv",
        "attn.c_proj": "attention.out",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    copied = (_TIED,) if tied else ()
    return KeyMap(
        rename(_EMBEDDING, ours + "token_embedding.weight"),
        rename("transformer.wpe.weight", ours + "position_embedding"),
        rename("transformer.ln_f.{p}", ours + "final_norm.{p}"),
        rename(theirs + "ln_1.{p}", block + "norm1.{p}"),
        rename(theirs + "ln_2.{p}", block + "norm2.{p}"),
        *(transpose(f"{theirs}{a}.weight", f"{block}{b}.weight") for a, b in linear.items()),
        *(rename(f"{theirs}{a}.bias", f"{block}{b}.bias") for a, b in linear.items()),
        *([] if tied else [rename(_TIED, ours + "head.weight")]),
        ignored=(*copied, theirs + "attn.bias", theirs + "attn.masked_bias"),
    )
