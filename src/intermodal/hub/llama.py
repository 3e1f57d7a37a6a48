"""Llama in transformers' published layout: ``config.json`` and ``model.safetensors``, in one file or in shards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from intermodal.core.errors import CheckpointError
from intermodal.hub.keymap import KeyMap, fuse, rename
from intermodal.nn.causal import CausalConfig, llama
from intermodal.nn.rotary import RotaryConfig
from intermodal.nn.transformer import Activation

KIND = "llama"
_ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
HEAD = "lm_head.weight"


def read_config(data: Mapping[str, Any]) -> CausalConfig:
    """Return our configuration of a published ``config.json``'s data (``model_type`` llama).

    Raises:
        CheckpointError: if it describes something that this network does not have.
    """
    name = data.get("hidden_act", "silu")
    if name not in _ACTIVATIONS:
        raise CheckpointError(f"The activation {name!r} is not supported; {', '.join(_ACTIVATIONS)} are.")
    bias = bool(data.get("attention_bias", False))
    if bias != bool(data.get("mlp_bias", False)):
        raise CheckpointError("A Llama with biases in its attention alone, or its MLPs alone, is not supported.")
    heads, width = data.get("num_attention_heads", 32), data.get("hidden_size", 4096)
    words, head_width = data.get("vocab_size", 32000), data.get("head_dim")
    kv_heads = data.get("num_key_value_heads") or heads
    return llama(
        vocab_size=words,
        context_length=data.get("max_position_embeddings", 2048),
        width=width,
        depth=data.get("num_hidden_layers", 32),
        heads=heads,
        kv_heads=None if kv_heads == heads else kv_heads,
        head_width=None if head_width is None or head_width * heads == width else head_width,
        mlp_width=data.get("intermediate_size", 11008),
        outputs=None if data.get("tie_word_embeddings", False) else words,
        activation=_ACTIVATIONS[name],
        bias=bias,
        rotary=_read_rotary(data),
        norm_eps=float(data.get("rms_norm_eps", 1e-6)),
        attention_dropout=data.get("attention_dropout", 0.0),
    )


def _read_rotary(data: Mapping[str, Any]) -> RotaryConfig:
    """Return the rotation of ``rope_parameters``, or of ``rope_theta`` and ``rope_scaling`` as they once were."""
    said = dict(data.get("rope_parameters") or data.get("rope_scaling") or {})
    kind = said.get("rope_type", said.get("type", "default"))
    theta = float(said.get("rope_theta", data.get("rope_theta", 10000.0)))
    if kind == "default":
        return RotaryConfig(theta=theta)
    if kind == "linear":
        return RotaryConfig(theta=theta, factor=float(said["factor"]))
    if kind != "llama3":
        raise CheckpointError(f"Rotary positions of the type {kind!r} are not supported; default, linear, llama3 are.")
    return RotaryConfig(
        theta=theta,
        factor=float(said["factor"]),
        low=float(said["low_freq_factor"]),
        high=float(said["high_freq_factor"]),
        original_context=int(said["original_max_position_embeddings"]),
    )


def write_config(config: CausalConfig) -> dict[str, Any]:
    """Return the data of a ``config.json`` from which transformers builds the same network (without ids of tokens).

    Raises:
        CheckpointError: if Llama has no such parts.
    """
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    odd = [name for name, value in {"gated": True, "norm": "rms"}.items() if getattr(config, name) != value]
    odd += [name for name in ("dropout",) if getattr(config, name)]
    if config.activation not in names:
        odd.append("activation")
    if config.outputs not in (None, config.vocab_size):
        odd.append("outputs")
    if odd or config.rotary is None:
        odd += ["positions"] * (config.rotary is None)
        raise CheckpointError(f"Llama's published layout has no place for {', '.join(odd)} as they are here.")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": KIND,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.shared_heads,
        "head_dim": config.inner // config.heads,
        "intermediate_size": config.hidden,
        "hidden_act": names[config.activation],
        "rms_norm_eps": config.norm_eps,
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
        "attention_dropout": config.attention_dropout,
        "tie_word_embeddings": config.outputs is None,
        "rope_theta": config.rotary.theta,
        "rope_scaling": _write_rotary(config.rotary),
    }


def _write_rotary(rotary: RotaryConfig) -> dict[str, Any] | None:
    if rotary.factor == 1:
        return None
    if rotary.low is None:
        return {"rope_type": "linear", "factor": rotary.factor}
    return {
        "rope_type": "llama3",
        "factor": rotary.factor,
        "low_freq_factor": rotary.low,
        "high_freq_factor": rotary.high,
        "original_max_position_embeddings": rotary.original_context,
    }


def key_map(config: CausalConfig, ours: str = "", theirs: str = "model.", head: str = HEAD) -> KeyMap:
    """Return the key map of transformers' LlamaForCausalLM.

    Args:
        config: of the network.
        ours: what the names of our network's tensors begin with (``network.``).
        theirs: what the names of the published decoder's begin with (LLaVA's Llama stands within another model).
        head: the name of the last matrix.
    """
    layer, block = theirs + "layers.{i}.", ours + "transformer.blocks.{i}."
    sizes = (config.heads, config.shared_heads, config.shared_heads)
    untied = config.outputs is not None
    return KeyMap(
        rename(theirs + "embed_tokens.weight", ours + "token_embedding.weight"),
        rename(theirs + "norm.weight", ours + "final_norm.weight"),
        rename(layer + "input_layernorm.weight", block + "norm1.weight"),
        rename(layer + "post_attention_layernorm.weight", block + "norm2.weight"),
        fuse(layer + "self_attn.{q,k,v}_proj.{p}", block + "attention.qkv.{p}", sizes=sizes),
        rename(layer + "self_attn.o_proj.{p}", block + "attention.out.{p}"),
        fuse(layer + "mlp.{up,gate}_proj.{p}", block + "mlp.fc1.{p}"),
        rename(layer + "mlp.down_proj.{p}", block + "mlp.fc2.{p}"),
        *([rename(head, ours + "head.weight")] if untied else []),
        ignored=(layer + "self_attn.rotary_emb.inv_freq", *(() if untied else (head,))),
    )
