"""CLIP in open_clip's published layout: ``open_clip_config.json`` and ``open_clip_model.safetensors``.

Its own ViT and ModifiedResNet towers and its own text tower are read; a tower out of timm or transformers,
the experimental blocks are refused with a sentence that names what is unknown; CoCa is :mod:`intermodal.hub.coca`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from intermodal.core.errors import CheckpointError
from intermodal.hub.keymap import KeyMap, Rule, fuse, rename, reshape, transpose
from intermodal.methods.contrastive.clip import CLIPConfig
from intermodal.nn.resnet import ResNetConfig
from intermodal.nn.text import TextConfig
from intermodal.nn.transformer import Activation
from intermodal.nn.vit import ViTConfig

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"

# Settings that have no part in the result of a trained model, or whose values are all supported.
_FREE = {
    "model_cfg": ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale"),
    "vision_cfg": ("layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "act_kwargs"),
    "text_cfg": ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "act_kwargs"),
}
_FREE["model_cfg"] += ("init_logit_bias", "nonscalar_logit_scale")
_FREE["vision_cfg"] += ("norm_kwargs", "no_ln_pre", "patch_dropout", "pos_embed_type", "final_ln_after_pool")
_FREE["vision_cfg"] += ("output_tokens", "attn_pooler_queries", "attn_pooler_heads")
_FREE["text_cfg"] += ("norm_kwargs", "pad_id", "eos_id", "no_causal_mask", "pool_type", "proj_bias")
_FREE["text_cfg"] += ("output_tokens", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs")
# Towers of other libraries, and settings that count only with them.
_TOWERS = ("timm_model_name", "hf_model_name")
_OTHERS = ("timm_", "hf_")
# Settings that are supported at one value only; any other value that counts as false is the same.
_FIXED = {"pool_type": "tok", "proj_type": "linear", "block_type": "default"}


def read_config(data: Mapping[str, Any]) -> tuple[CLIPConfig, KeyMap]:
    """Return our configuration and the key map of an ``open_clip_config.json``'s data.

    Raises:
        CheckpointError: if the file lacks a part, or names a tower or a setting that is not supported.
    """
    try:
        model = data["model_cfg"]
        vision, text = model["vision_cfg"], model["text_cfg"]
        dim = model["embed_dim"]
    except KeyError as error:
        raise CheckpointError(f"{CONFIG} lacks {error}.") from error
    for name, section in (("model_cfg", model), ("vision_cfg", vision), ("text_cfg", text)):
        refuse_unknown(name, section)
    quick = bool(model.get("quick_gelu"))
    bias = model.get("init_logit_bias")
    resnet = isinstance(vision.get("layers", 12), list)
    config = CLIPConfig(
        image=_resnet(vision, dim) if resnet else vit_config(vision, quick),
        text=text_config(text, quick),
        embed_dim=dim,
        loss="softmax" if bias is None else "sigmoid",
        init_logit_scale=math.exp(model.get("init_logit_scale", math.log(1 / 0.07))),
        init_logit_bias=-10.0 if bias is None else float(bias),
        project_image=not resnet,
        text_projection_bias=bool(text.get("proj_bias")),
    )
    return config, key_map(config, bool(model.get("custom_text")), bool(model.get("nonscalar_logit_scale")))


def key_map(config: CLIPConfig, custom_text: bool = False, nonscalar: bool = False) -> KeyMap:
    """Return the key map of open_clip's CLIP.

    Args:
        config: our configuration.
        custom_text: the text tower is a submodule ``text`` there (CustomTextCLIP).
        nonscalar: the logit scale (and bias) has shape (1,) there.
    """
    prefix = "text." if custom_text else ""
    rules = [
        *blocks(f"{prefix}transformer", "text"),
        rename(f"{prefix}positional_embedding", "text.position_embedding"),
        rename(f"{prefix}token_embedding.weight", "text.token_embedding.weight"),
        rename(prefix + "ln_final.{p}", "text.final_norm.{p}"),
    ]
    if config.text_projection_bias:
        rules.append(rename(prefix + "text_projection.{p}", "text_projection.{p}"))
    else:
        rules.append(transpose(f"{prefix}text_projection", "text_projection.weight"))
    for name in ("logit_scale", "logit_bias")[: 1 + (config.loss == "sigmoid")]:
        rules.append(reshape(name, name, (1,), ()) if nonscalar else rename(name, name))
    towers = _vit_rules() if isinstance(config.image, ViTConfig) else _resnet_rules()
    return KeyMap(*rules, *towers, ignored=("attn_mask", "text.attn_mask"))


def _vit_rules() -> tuple[Rule, ...]:
    return (
        *blocks("visual.transformer", "image"),
        rename("visual.class_embedding", "image.class_token"),
        rename("visual.positional_embedding", "image.position_embedding"),
        rename("visual.conv1.weight", "image.patch_embedding.weight"),
        rename("visual.ln_pre.{p}", "image.pre_norm.{p}"),
        rename("visual.ln_post.{p}", "image.post_norm.{p}"),
        transpose("visual.proj", "image_projection.weight"),
    )


def _resnet_rules() -> tuple[Rule, ...]:
    stages = []
    for n in range(4):
        theirs, ours = f"visual.layer{n + 1}.{{i}}.", f"image.stages.{n}.{{i}}."
        stages += [
            rename(theirs + "conv{k}.weight", ours + "conv{k}.weight"),
            rename(theirs + "bn{k}.{p}", ours + "bn{k}.{p}"),
            rename(theirs + "downsample.{k}.{p}", ours + "skip.{k}.{p}"),
        ]
    return (
        *stages,
        rename("visual.conv{k}.weight", "image.conv{k}.weight"),
        rename("visual.bn{k}.{p}", "image.bn{k}.{p}"),
        rename("visual.attnpool.positional_embedding", "image.position_embedding"),
        rename("visual.attnpool.q_proj.{p}", "image.pool.q.{p}"),
        fuse("visual.attnpool.{k,v}_proj.{p}", "image.pool.kv.{p}"),
        rename("visual.attnpool.c_proj.{p}", "image.pool.out.{p}"),
    )


def blocks(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Return the rules of a transformer's blocks: ``theirs.resblocks`` and ``ours.transformer.blocks``."""
    theirs, ours = theirs + ".resblocks.{i}.", ours + ".transformer.blocks.{i}."
    return (
        rename(theirs + "ln_{n}.{p}", ours + "norm{n}.{p}"),
        rename(theirs + "attn.in_proj_weight", ours + "attention.qkv.weight"),
        rename(theirs + "attn.in_proj_bias", ours + "attention.qkv.bias"),
        rename(theirs + "attn.out_proj.{p}", ours + "attention.out.{p}"),
        rename(theirs + "mlp.c_fc.{p}", ours + "mlp.fc1.{p}"),
        rename(theirs + "mlp.c_proj.{p}", ours + "mlp.fc2.{p}"),
    )


def vit_config(section: Mapping[str, Any], quick: bool) -> ViTConfig:
    """Return the configuration of a ``vision_cfg``'s ViT; ``quick`` chooses QuickGELU."""
    width, size = section.get("width", 768), section.get("image_size", 224)
    return ViTConfig(
        image_size=size if isinstance(size, int) else (int(size[0]), int(size[1])),
        patch_size=section.get("patch_size", 16),
        width=width,
        depth=section.get("layers", 12),
        heads=width // section.get("head_width", 64),
        mlp_width=int(width * section.get("mlp_ratio", 4.0)),
        pre_norm=not section.get("no_ln_pre"),
        **_norm_and_activation(section, quick),
    )


def _resnet(section: Mapping[str, Any], dim: int) -> ResNetConfig:
    width, size = section.get("width", 64), section.get("image_size", 224)
    a, b, c, d = section["layers"]
    return ResNetConfig(
        image_size=size if isinstance(size, int) else (int(size[0]), int(size[1])),
        layers=(a, b, c, d),
        width=width,
        heads=width * 32 // section.get("head_width", 64),
        output_dim=dim,
    )


def text_config(section: Mapping[str, Any], quick: bool) -> TextConfig:
    """Return the configuration of a ``text_cfg``'s tower; ``quick`` chooses QuickGELU.

    Raises:
        CheckpointError: if it pools in a way that is not supported.
    """
    width, vocab = section.get("width", 512), section.get("vocab_size", 49408)
    pool, causal = section.get("pool_type", "argmax"), not section.get("no_causal_mask")
    if pool not in ("argmax", "eos", "last") or (pool != "last" and not causal):
        raise CheckpointError(
            f"open_clip's text tower with pool_type={pool!r} and no_causal_mask={not causal} is not "
            "supported: "
            "a causal one is with 'argmax', 'eos' or 'last', any other with 'last'."
        )
    return TextConfig(
        vocab_size=vocab,
        context_length=section.get("context_length", 77),
        width=width,
        depth=section.get("layers", 12),
        heads=section.get("heads", 8),
        eos_id=section.get("eos_id", 2) if pool == "eos" else vocab - 1,  # argmax reads the largest id
        pad_id=section.get("pad_id", 0),
        mlp_width=int(width * section.get("mlp_ratio", 4.0)),
        causal=causal,
        pool="last" if pool == "last" else "eos",
        **_norm_and_activation(section, quick),
    )


def _norm_and_activation(section: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    norm, act = section.get("norm_kwargs") or {}, section.get("act_kwargs") or {}
    if set(norm) - {"eps"} or (act and (quick or act != {"approximate": "tanh"})):
        raise CheckpointError(f"These norm_kwargs and act_kwargs are not supported: {norm} and {act}.")
    activation: Activation = "quick_gelu" if quick else "gelu_tanh" if act else "gelu"
    return {"norm_eps": float(norm.get("eps", 1e-5)), "activation": activation}


def refuse_unknown(name: str, section: Mapping[str, Any]) -> None:
    """Refuse a setting that would change the result and that is not read."""
    unknown = {
        k: v
        for k, v in section.items()
        if v and k not in _FREE[name] and v != _FIXED.get(k) and (k in _TOWERS or not k.startswith(_OTHERS))
    }
    if unknown:
        raise CheckpointError(
            f"{CONFIG} asks in {name} for {', '.join(f'{k}={v!r}' for k, v in unknown.items())}, which "
            "is not "
            "supported: open_clip's own ViT and ModifiedResNet with its own text tower are. For "
            "SigLIP, load the folder "
            "in transformers' layout."
        )
