"""CLIP and SigLIP in transformers' published layout: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from intermodal.core.errors import CheckpointError
from intermodal.hub.keymap import KeyMap, Rule, fuse, rename, reshape, split
from intermodal.methods.contrastive.clip import CLIPConfig
from intermodal.nn.text import TextConfig
from intermodal.nn.transformer import Activation
from intermodal.nn.vit import ViTConfig

ModelType = Literal["clip", "siglip"]

ACTIVATION_NAMES: dict[str, Activation] = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
}

# What transformers fills in where a published config.json says nothing.
_SHARED = {"num_hidden_layers": 12, "attention_dropout": 0.0, "pad_token_id": 1, "eos_token_id": 49407}
_CLIP = {**_SHARED, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_SIGLIP = {**_SHARED, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
_PICTURE = {**_BASE, "num_channels": 3, "image_size": 224}
_DEFAULTS: dict[ModelType, dict[str, dict[str, Any]]] = {
    "clip": {
        "vision_config": {**_CLIP, **_PICTURE, "patch_size": 32},
        "text_config": {
            **_CLIP,
            **{"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8},
            **{"vocab_size": 49408, "max_position_embeddings": 77},
        },
    },
    "siglip": {
        "vision_config": {**_SIGLIP, **_PICTURE, "patch_size": 16, "vision_use_head": True},
        "text_config": {**_SIGLIP, **_BASE, "vocab_size": 32000, "max_position_embeddings": 64},
    },
}

LEGACY_EOS = 2
"""An ``eos_token_id`` that old files state wrongly; such texts are read at their largest id instead."""


def read_config(data: Mapping[str, Any]) -> CLIPConfig:
    """Return our configuration of a published ``config.json``'s data (``model_type`` clip or siglip).

    Raises:
        CheckpointError: if it describes something that these two models here do not have.
    """
    kind = data["model_type"]
    vision, text = _section(data, kind, "vision_config"), _section(data, kind, "text_config")
    clip = kind == "clip"
    if not clip and not vision["vision_use_head"]:
        raise CheckpointError("This SigLIP has no pooling head (vision_use_head is false).")
    eos = text["eos_token_id"]
    if not isinstance(eos, int):
        raise CheckpointError(f"The text_config's eos_token_id must be one number, found {eos!r}.")
    image = _picture_tower(vision, clip=clip)
    texts = TextConfig(
        vocab_size=text["vocab_size"],
        context_length=text["max_position_embeddings"],
        eos_id=text["vocab_size"] - 1 if clip and eos == LEGACY_EOS else eos,
        pad_id=text["pad_token_id"] or 0,
        causal=clip,
        pool="eos" if clip else "last",
        **_tower(text),
    )
    if clip:
        return CLIPConfig(
            image=image,
            text=texts,
            embed_dim=data.get("projection_dim") or 512,
            init_logit_scale=math.exp(data.get("logit_scale_init_value", 2.6592)),
        )
    return CLIPConfig(
        image=image,
        text=texts,
        embed_dim=image.width,
        loss="sigmoid",
        init_logit_scale=10.0,
        project_image=False,
        text_projection_bias=True,
    )


def read_tower(vision: Mapping[str, Any]) -> ViTConfig:
    """Return the configuration of a CLIP's picture tower by itself, of a published ``vision_config``."""
    return _picture_tower({**_DEFAULTS["clip"]["vision_config"], **vision}, clip=True)


def _picture_tower(vision: Mapping[str, Any], *, clip: bool) -> ViTConfig:
    size = vision["image_size"]
    return ViTConfig(
        image_size=size if isinstance(size, int) else (int(size[0]), int(size[1])),
        patch_size=_square(vision["patch_size"]),
        channels=vision["num_channels"],
        pre_norm=clip,
        patch_bias=not clip,
        pool="cls" if clip else "attention",
        **_tower(vision),
    )


def write_config(config: CLIPConfig) -> dict[str, Any]:
    """Return the data of a ``config.json`` from which transformers builds the same model.

    Raises:
        CheckpointError: if transformers' CLIPModel and SiglipModel have no such architecture; it says why.
    """
    kind, image = model_type(config)
    text = config.text
    vision_section = _picture_section(image)
    text_section = {
        **_tower_section(text),
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context_length,
        "eos_token_id": text.eos_id,
        "pad_token_id": text.pad_id,
        "bos_token_id": None,
    }
    if kind == "clip":
        if text.eos_id == LEGACY_EOS:
            raise CheckpointError(
                f"transformers reads a CLIP whose end token has the id {LEGACY_EOS} in another way: "
                "train it with "
                "a tokenizer whose end token has another id."
            )
        dim = {"projection_dim": config.embed_dim}
        return {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            **dim,
            "logit_scale_init_value": math.log(config.init_logit_scale),
            "vision_config": {"model_type": "clip_vision_model", **dim, **vision_section},
            "text_config": {"model_type": "clip_text_model", **dim, **text_section},
        }
    head = {"projection_size": config.embed_dim}
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": True, **vision_section},
        "text_config": {"model_type": "siglip_text_model", **head, **text_section},
    }


def model_type(config: CLIPConfig) -> tuple[ModelType, ViTConfig]:
    """Say which of transformers' classes has this architecture, and return its picture tower.

    Raises:
        CheckpointError: if neither has; it names what differs.
    """
    image, text = config.image, config.text
    if not isinstance(image, ViTConfig):
        raise CheckpointError("transformers has no CLIP with a ResNet: a model with a ViT can be exported.")
    clip = config.loss == "softmax"
    wanted = {
        "a square picture": image.size[0] == image.size[1],
        f"image.pool={'cls' if clip else 'attention'!r}": image.pool == ("cls" if clip else "attention"),
        f"image.pre_norm={clip}": image.pre_norm == clip,
        f"image.patch_bias={not clip}": image.patch_bias != clip,
        f"text.causal={clip}": text.causal == clip,
        f"text.pool={'eos' if clip else 'last'!r}": text.pool == ("eos" if clip else "last"),
        f"project_image={clip}": config.project_image == clip,
        f"text_projection_bias={not clip}": config.text_projection_bias != clip,
    }
    lacking = [name for name, holds in wanted.items() if not holds]
    if lacking:
        name = "CLIPModel (loss='softmax')" if clip else "SiglipModel (loss='sigmoid')"
        raise CheckpointError(f"transformers' {name} cannot hold this model: it needs {', '.join(lacking)}.")
    return ("clip" if clip else "siglip"), image


def key_map(kind: ModelType) -> KeyMap:
    """Return the key map of transformers' CLIPModel or SiglipModel."""
    shared = (
        *_places_rules("vision_model", "image"),
        *_tower_rules("text_model", "text"),
        rename("text_model.embeddings.token_embedding.weight", "text.token_embedding.weight"),
        rename("text_model.embeddings.position_embedding.weight", "text.position_embedding"),
        rename("text_model.final_layer_norm.{p}", "text.final_norm.{p}"),
    )
    clip = (
        *_class_rules("vision_model", "image"),
        rename("visual_projection.weight", "image_projection.weight"),
        rename("text_projection.weight", "text_projection.weight"),
        rename("logit_scale", "logit_scale"),
    )
    head, pool = "vision_model.head", "image.pool"
    siglip = (
        rename(f"{head}.probe", f"{pool}.probe"),
        split(f"{head}.attention.in_proj_weight", pool + ".attention.{q,kv}.weight", (1, 2)),
        split(f"{head}.attention.in_proj_bias", pool + ".attention.{q,kv}.bias", (1, 2)),
        rename(head + ".attention.out_proj.{p}", pool + ".attention.out.{p}"),
        rename(head + ".layernorm.{p}", pool + ".norm.{p}"),
        rename(head + ".mlp.fc{n}.{p}", pool + ".mlp.fc{n}.{p}"),
        rename("text_model.head.{p}", "text_projection.{p}"),
        reshape("logit_scale", "logit_scale", (1,), ()),
        reshape("logit_bias", "logit_bias", (1,), ()),
    )
    return KeyMap(
        *shared,
        *(clip if kind == "clip" else siglip),
        ignored=("{tower}.embeddings.position_ids",),
    )


def tower_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Return the rules of a CLIP's picture tower by itself, whose names begin so."""
    return (*_places_rules(theirs, ours), *_class_rules(theirs, ours))


def _places_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        *_tower_rules(theirs, ours),
        rename(theirs + ".embeddings.patch_embedding.{p}", ours + ".patch_embedding.{p}"),
        rename(theirs + ".embeddings.position_embedding.weight", ours + ".position_embedding"),
        rename(theirs + ".post_layernorm.{p}", ours + ".post_norm.{p}"),
    )


def _class_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        rename(theirs + ".embeddings.class_embedding", ours + ".class_token"),
        rename(theirs + ".pre_layrnorm.{p}", ours + ".pre_norm.{p}"),
    )


def _tower_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    theirs, ours = theirs + ".encoder.layers.{i}", ours + ".transformer.blocks.{i}"
    return (
        rename(theirs + ".layer_norm{n}.{p}", ours + ".norm{n}.{p}"),
        fuse(theirs + ".self_attn.{q,k,v}_proj.{p}", ours + ".attention.qkv.{p}"),
        rename(theirs + ".self_attn.out_proj.{p}", ours + ".attention.out.{p}"),
        rename(theirs + ".mlp.fc{n}.{p}", ours + ".mlp.fc{n}.{p}"),
    )


def _section(data: Mapping[str, Any], kind: ModelType, name: str) -> dict[str, Any]:
    """Return a tower's settings, completed as by transformers: an old ``*_dict`` has the last word."""
    defaults = _DEFAULTS[kind][name]
    section = {**defaults, **(data.get(name) or {})}
    if kind == "clip" and data.get(f"{name}_dict") is not None:
        section |= {**defaults, **data[f"{name}_dict"]}
    return section


def _tower(section: Mapping[str, Any]) -> dict[str, Any]:
    name = section["hidden_act"]
    if name not in ACTIVATION_NAMES:
        raise CheckpointError(f"The activation {name!r} is not supported; {', '.join(ACTIVATION_NAMES)} are.")
    return {
        "width": section["hidden_size"],
        "depth": section["num_hidden_layers"],
        "heads": section["num_attention_heads"],
        "mlp_width": section["intermediate_size"],
        "activation": ACTIVATION_NAMES[name],
        "norm_eps": float(section["layer_norm_eps"]),
    }


def write_tower(image: ViTConfig) -> dict[str, Any]:
    """Return the data of a ``vision_config`` from which transformers builds a CLIP's picture tower by itself.

    Raises:
        CheckpointError: if its CLIPVisionModel has no such architecture.
    """
    wanted = {
        "a square picture": image.size[0] == image.size[1],
        "pool='cls'": image.pool == "cls",
        "pre_norm=True": image.pre_norm,
        "patch_bias=False": not image.patch_bias,
    }
    missing = [name for name, met in wanted.items() if not met]
    if missing:
        raise CheckpointError(f"transformers' CLIPVisionModel has no such tower; it would need {', '.join(missing)}.")
    return {"model_type": "clip_vision_model", **_picture_section(image)}


def _picture_section(image: ViTConfig) -> dict[str, Any]:
    return {
        **_tower_section(image),
        "image_size": image.size[0],
        "patch_size": image.patch_size,
        "num_channels": image.channels,
    }


def _tower_section(tower: ViTConfig | TextConfig) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in ACTIVATION_NAMES.items()}
    return {
        "hidden_size": tower.width,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.heads,
        "intermediate_size": tower.hidden,
        "hidden_act": names[tower.activation],
        "layer_norm_eps": tower.norm_eps,
    }


def _square(patch: int | list[int]) -> int:
    if isinstance(patch, int):
        return patch
    if patch[0] != patch[1]:
        raise CheckpointError(f"Patches must be square, found {patch}.")
    return int(patch[0])
