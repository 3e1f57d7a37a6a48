"""CoCa in open_clip's published layout: an ``open_clip_config.json`` with a ``multimodal_cfg``, and the weights beside it.

open_clip's poolers differ from the paper's: one pooler, whose first query is compared and whose others are read. Its
``attentional_pool`` of the names ``parallel`` and ``cascade`` is unfinished there, and refused here, as are towers out of
timm or transformers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from intermodal.core.errors import CheckpointError
from intermodal.hub.keymap import KeyMap, Rule, fuse, rename, reshape, split, transpose
from intermodal.hub.open_clip import CONFIG, blocks, refuse_unknown, text_config, vit_config
from intermodal.methods.captioning.coca import CoCaConfig
from intermodal.nn.vit import ViTConfig


def is_coca(data: Mapping[str, Any]) -> bool:
    """Say whether the data of an ``open_clip_config.json`` describes a CoCa."""
    model = data.get("model_cfg")
    return isinstance(model, Mapping) and "multimodal_cfg" in model


def read_config(data: Mapping[str, Any]) -> tuple[CoCaConfig, KeyMap]:
    """Return our configuration and the key map of an ``open_clip_config.json``'s data.

    Raises:
        CheckpointError: if the file lacks a part, names a tower or a setting that is not supported, or parts do not fit.
    """
    try:
        model = data["model_cfg"]
        vision, text, second, dim = (model[k] for k in ("vision_cfg", "text_cfg", "multimodal_cfg", "embed_dim"))
    except KeyError as error:
        raise CheckpointError(f"{CONFIG} lacks {error}.") from error
    refuse_unknown("model_cfg", {k: v for k, v in model.items() if k != "multimodal_cfg"})
    refuse_unknown("vision_cfg", {k: v for k, v in vision.items() if k != "attentional_pool"})
    refuse_unknown("text_cfg", {k: v for k, v in text.items() if k != "embed_cls"})
    refuse_unknown(
        "text_cfg", {k: v for k, v in second.items() if k not in ("dim_head", "n_queries", "attn_pooler_heads")}
    )
    if vision.get("attentional_pool") is not True or not text.get("embed_cls") or text.get("no_causal_mask"):
        raise CheckpointError(
            "open_clip's CoCa is supported with attentional_pool=true, and a causal text with embed_cls=true, found "
            f"{vision.get('attentional_pool')!r}, no_causal_mask={bool(text.get('no_causal_mask'))} and "
            f"{text.get('embed_cls')!r}."
        )
    if model.get("init_logit_bias") is not None or second.get("mlp_ratio", 4) != 4:
        raise CheckpointError(
            "open_clip's CoCa with a logit bias, or a decoder of another mlp_ratio than 4, is not supported."
        )
    quick = bool(model.get("quick_gelu"))
    tower = text_config(text, quick)
    widths = {dim, tower.width, second.get("width", 512)}
    if len(widths) > 1 or tower.hidden != 4 * tower.width:
        raise CheckpointError(
            f"CoCa's joint space and both halves of its decoder have one width, found {sorted(widths)}."
        )
    config = CoCaConfig(
        image=vit_config(vision, quick),
        text=tower,
        multimodal_depth=second.get("layers", 12),
        multimodal_heads=second.get("heads", 8),
        queries=vision.get("attn_pooler_queries", 256),
        pooler_heads=vision.get("attn_pooler_heads", 8),
        pooling="shared",
        init_logit_scale=math.exp(model.get("init_logit_scale", math.log(1 / 0.07))),
        shifted_class_mask=True,
    )
    return config, key_map(config, bool(model.get("nonscalar_logit_scale")))


def key_map(config: CoCaConfig, nonscalar: bool = False) -> KeyMap:
    """Return the key map of open_clip's CoCa.

    Args:
        config: our configuration, with ``pooling="shared"``.
        nonscalar: the logit scale has shape (1,) there.
    """
    assert isinstance(config.image, ViTConfig)
    scale = reshape("logit_scale", "logit_scale", (1,), ()) if nonscalar else rename("logit_scale", "logit_scale")
    return KeyMap(
        scale,
        *blocks("visual.transformer", "image"),
        rename("visual.class_embedding", "image.class_token"),
        rename("visual.positional_embedding", "image.position_embedding"),
        rename("visual.conv1.weight", "image.patch_embedding.weight"),
        rename("visual.ln_pre.{p}", "image.pre_norm.{p}"),
        rename("visual.attn_pool.query", "pooler.query"),
        rename("visual.attn_pool.ln_q.{p}", "pooler.query_norm.{p}"),
        rename("visual.attn_pool.ln_k.{p}", "pooler.context_norm.{p}"),
        *_reads("visual.attn_pool.attn.", "pooler.attention.", same=config.image.width == config.text.width),
        rename("visual.ln_post.{p}", "pooled_norm.{p}"),
        transpose("visual.proj", "image_projection.weight"),
        *blocks("text.transformer", "text"),
        rename("text.cls_emb", "text.class_token"),
        rename("text.positional_embedding", "text.position_embedding"),
        rename("text.token_embedding.weight", "text.token_embedding.weight"),
        rename("text.ln_final.{p}", "text.final_norm.{p}"),
        transpose("text.text_projection", "text_projection.weight"),
        *blocks("text_decoder", "decoder"),
        *_cross("text_decoder.cross_attn.{i}.", "decoder.cross.{i}."),
        rename("text_decoder.ln_final.{p}", "decoder.final_norm.{p}"),
        transpose("text_decoder.text_projection", "decoder.head.weight"),
        ignored=("text.attn_mask", "text_decoder.attn_mask"),
    )


def _reads(theirs: str, ours: str, *, same: bool) -> tuple[Rule, ...]:
    """Return the rules of attention to a context; torch keeps its matrices as one where all widths are the ``same``."""
    if same:
        matrices: tuple[Rule, ...] = (split(theirs + "in_proj_weight", ours + "{q,kv}.weight", (1, 2)),)
    else:
        matrices = (
            rename(theirs + "q_proj_weight", ours + "q.weight"),
            fuse(theirs + "{k,v}_proj_weight", ours + "kv.weight"),
        )
    biases = split(theirs + "in_proj_bias", ours + "{q,kv}.bias", (1, 2))
    return (*matrices, biases, rename(theirs + "out_proj.{p}", ours + "out.{p}"))


def _cross(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        rename(theirs + "ln_1.{p}", ours + "norm1.{p}"),
        rename(theirs + "ln_1_kv.{p}", ours + "context_norm.{p}"),
        rename(theirs + "ln_2.{p}", ours + "norm2.{p}"),
        *_reads(theirs + "attn.", ours + "attention.", same=True),
        rename(theirs + "mlp.c_fc.{p}", ours + "mlp.fc1.{p}"),
        rename(theirs + "mlp.c_proj.{p}", ours + "mlp.fc2.{p}"),
    )
