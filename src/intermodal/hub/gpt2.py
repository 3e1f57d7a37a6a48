"""GPT-2 in transformers' published layout: the network alone, for the methods that go on from a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from intermodal.core.errors import CheckpointError
from intermodal.hub.keymap import KeyMap, rename, transpose
from intermodal.nn.causal import CausalConfig
from intermodal.nn.transformer import Activation

ACTIVATION_NAMES: dict[str, Activation] = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
_PLAIN = {"add_cross_attention": False, "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True}


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
    return CausalConfig(
        vocab_size=data.get("vocab_size", 50257),
        context_length=data.get("n_positions", 1024),
        width=data.get("n_embd", 768),
        depth=data.get("n_layer", 12),
        heads=data.get("n_head", 12),
        mlp_width=data.get("n_inner"),
        activation=ACTIVATION_NAMES[name],
        norm_eps=float(data.get("layer_norm_epsilon", 1e-5)),
        dropout=max(dropouts),
        attention_dropout=data.get("attn_pdrop", 0.1),
    )


def key_map() -> KeyMap:
    """Return the key map of transformers' GPT2LMHeadModel, whose matrices are stored as (inputs, outputs)."""
    theirs, ours = "transformer.h.{i}.", "transformer.blocks.{i}."
    linear = {
        "attn.c_attn": "attention.qkv",
        "attn.c_proj": "attention.out",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    return KeyMap(
        rename("transformer.wte.weight", "token_embedding.weight"),
        rename("transformer.wpe.weight", "position_embedding"),
        rename("transformer.ln_f.{p}", "final_norm.{p}"),
        rename(theirs + "ln_1.{p}", ours + "norm1.{p}"),
        rename(theirs + "ln_2.{p}", ours + "norm2.{p}"),
        *(transpose(f"{theirs}{a}.weight", f"{ours}{b}.weight") for a, b in linear.items()),
        *(rename(f"{theirs}{a}.bias", f"{ours}{b}.bias") for a, b in linear.items()),
        ignored=("lm_head.weight", theirs + "attn.bias", theirs + "attn.masked_bias"),
    )
