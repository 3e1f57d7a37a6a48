"""The U-Nets of diffusers' published layout: UNet2DModel and UNet2DConditionModel, to ours and back.

A folder holds ``config.json`` with ``_class_name`` and ``diffusion_pytorch_model.safetensors``. Old names of the attention's
layers are read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from intermodal.core.errors import CheckpointError, ConfigError
from intermodal.hub.autoencoder_kl import current_names
from intermodal.hub.keymap import KeyMap, Rule, fuse, rename
from intermodal.hub.weights import DIFFUSERS, build, read_published, read_weights
from intermodal.nn.unet import UNet, UNetConfig
from intermodal.nn.unet_parts import Classes

CLASSES = ("UNet2DModel", "UNet2DConditionModel")

_DOWN = {
    "DownBlock2D": (False, "conv"),
    "ResnetDownsampleBlock2D": (False, "block"),
    "AttnDownBlock2D": (True, ""),
    "CrossAttnDownBlock2D": (True, "conv"),
}
_UP = {name.replace("Down", "Up"): value for name, value in _DOWN.items()}
"""Types of blocks: whether there is attention, and what leads to the next level (nothing: as ``downsample_type`` says)."""

_UNUSED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "time_embedding_type": ("positional",),
    "only_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "dual_cross_attention": (False,),
    "addition_embed_type": (None,),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1.0,),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "attention_type": ("default",),
    "class_embeddings_concat": (False,),
    "mid_block_only_cross_attention": (None, False),
    "cross_attention_norm": (None,),
    "num_attention_heads": (None,),
    "reverse_transformer_layers_per_block": (None,),
}
"""What this network has in one form only; anything else is refused by name."""


def read_config(data: Mapping[str, Any], where: Path | str) -> UNetConfig:
    """Return our configuration of a ``config.json``; what it leaves out is what diffusers fills in.

    Raises:
        CheckpointError: if it describes something that this network does not have.
    """
    name = data.get("_class_name", CLASSES[0])
    if name not in CLASSES:
        raise CheckpointError(f"{where}: expected the configuration of {' or '.join(CLASSES)}, found {name!r}.")
    conditional = name == CLASSES[1]
    for key, allowed in _UNUSED.items():
        if data.get(key, allowed[0]) not in allowed:
            raise CheckpointError(f"{where}: {key}={data[key]!r} is not supported, only {allowed[0]!r}.")
    channels = tuple(data.get("block_out_channels", (320, 640, 1280, 1280) if conditional else (224, 448, 672, 896)))
    attention, resample = _levels(data, conditional, where)
    up = tuple(sorted(len(channels) - 1 - i for i in attention[1]))
    middle = data.get("mid_block_type", "UNetMidBlock2DCrossAttn" if conditional else "UNetMidBlock2D")
    if middle not in (None, "UNetMidBlock2DCrossAttn" if conditional else "UNetMidBlock2D"):
        raise CheckpointError(f"{where}: a middle of the type {middle!r} is not supported.")
    head, groups = data.get("attention_head_dim", 8), data.get("norm_num_groups", 32)
    scale_shift = data.get("resnet_time_scale_shift", "default")
    if scale_shift not in ("default", "scale_shift"):
        raise CheckpointError(f"{where}: resnet_time_scale_shift={scale_shift!r} is not supported.")
    kinds: dict[str | None, Classes | None] = {None: None, "timestep": "time", "identity": "vector"}
    kind = data.get("class_embed_type")
    if kind not in kinds:
        raise CheckpointError(f"{where}: class_embed_type={kind!r} is not supported.")
    mid_groups = data.get("attn_norm_num_groups") or (groups if scale_shift == "default" else 0)
    try:
        return UNetConfig(
            in_channels=data.get("in_channels", 4 if conditional else 3),
            out_channels=data.get("out_channels", 4 if conditional else 3),
            channels=channels,
            blocks=_one(data, "layers_per_block", 2, where),
            attention=attention[0],
            up_attention=None if up == attention[0] else up,
            mid_attention=conditional or bool(data.get("add_attention", True)),
            middle=middle is not None,
            head_width=None if conditional else head,
            heads=(tuple(head) if isinstance(head, list | tuple) else head) if conditional else None,
            context_dim=_one(data, "cross_attention_dim", 1280, where) if conditional else None,
            depth=_one(data, "transformer_layers_per_block", 1, where) if conditional else 1,
            linear_projection=bool(data.get("use_linear_projection", False)),
            groups=groups,
            eps=data.get("norm_eps", 1e-5),
            scale_shift=scale_shift == "scale_shift",
            resample=resample,
            down_padding=data.get("downsample_padding", 1),
            dropout=data.get("dropout", 0.0),
            mid_scale=float(data.get("mid_block_scale_factor", 1)),
            mid_norm_groups=None if conditional or mid_groups == groups else mid_groups,
            time_width=data.get("time_embedding_dim"),
            time_shift=float(data.get("freq_shift", 0)),
            sine_first=not data.get("flip_sin_to_cos", True),
            classes=data.get("num_class_embeds") if kind is None else None,
            class_kind=kinds[kind],
            centre=bool(data.get("center_input_sample", False)),
        )
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error


def write_config(config: UNetConfig) -> dict[str, Any]:
    """Return the data of a ``config.json`` from which diffusers builds the same UNet2DModel, but for its ``sample_size``.

    Raises:
        CheckpointError: if UNet2DModel cannot hold this network; it says what it would hold otherwise.
    """
    levels = range(len(config.channels))
    resample = {"conv": "conv", "block": "resnet"}[config.resample]
    plain = {"conv": "{}Block2D", "block": "Resnet{}sampleBlock2D"}[config.resample]
    told = {"time": "timestep", "vector": "identity"}
    groups = config.groups if config.mid_norm_groups is None else config.mid_norm_groups
    data = {
        "_class_name": CLASSES[0],
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "center_input_sample": config.centre,
        "time_embedding_type": "positional",
        "time_embedding_dim": config.time_width,
        "freq_shift": int(config.time_shift) if config.time_shift == int(config.time_shift) else config.time_shift,
        "flip_sin_to_cos": not config.sine_first,
        "down_block_types": ["AttnDownBlock2D" if i in config.attention else plain.format("Down") for i in levels],
        "mid_block_type": "UNetMidBlock2D" if config.middle else None,
        "up_block_types": ["AttnUpBlock2D" if i in config.ups else plain.format("Up") for i in reversed(levels)],
        "block_out_channels": list(config.channels),
        "layers_per_block": config.blocks,
        "mid_block_scale_factor": config.mid_scale,
        "downsample_padding": config.down_padding,
        "downsample_type": resample,
        "upsample_type": resample,
        "dropout": config.dropout,
        "act_fn": "silu",
        "attention_head_dim": config.head_width,
        "norm_num_groups": config.groups,
        "attn_norm_num_groups": None if groups == config.groups and not config.scale_shift else groups or None,
        "norm_eps": config.eps,
        "resnet_time_scale_shift": "scale_shift" if config.scale_shift else "default",
        "add_attention": config.mid_attention,
        "class_embed_type": told.get(config.class_kind or ""),
        "num_class_embeds": config.classes,
    }
    found, wanted = read_config(data, CLASSES[0]).to_dict(), _plain(config).to_dict()
    if odd := [name for name in wanted if found[name] != wanted[name]]:
        raise CheckpointError(
            f"diffusers' {CLASSES[0]} cannot hold this network: it has no {', '.join(f'{k}={wanted[k]!r}' for k in odd)}."
        )
    return data


def key_map(config: UNetConfig) -> KeyMap:
    """Return the key map of diffusers' U-Nets, with a context or without."""
    rules: list[Rule] = [
        rename("conv_in.{p}", "conv_in.{p}"),
        rename("conv_norm_out.{p}", "norm_out.{p}"),
        rename("conv_out.{p}", "conv_out.{p}"),
    ]
    for i in (1, 2):
        rules.append(rename(f"time_embedding.linear_{i}.{{p}}", f"time.fc{i}.{{p}}"))
        rules.append(rename(f"class_embedding.linear_{i}.{{p}}", f"classes.fc{i}.{{p}}"))
    if config.classes is not None:
        rules.append(rename("class_embedding.weight", "classes.weight"))
    for way in ("down", "up"):
        theirs, ours = f"{way}_blocks.{{i}}", f"{way}.{{i}}"
        rules += _residual(f"{theirs}.resnets.{{j}}", f"{ours}.blocks.{{j}}")
        rules += _attention(f"{theirs}.attentions.{{j}}", f"{ours}.attentions.{{j}}", config)
        resample = f"{theirs}.{way}samplers.0"
        if config.resample == "conv":
            rules.append(rename(f"{resample}.conv.{{p}}", f"{ours}.resample.conv.{{p}}"))
        else:
            rules += _residual(resample, f"{ours}.resample")
    rules += _residual("mid_block.resnets.0", "middle.block1") + _residual("mid_block.resnets.1", "middle.block2")
    rules += _attention("mid_block.attentions.0", "middle.attention", config)
    return KeyMap(*rules)


def load_unet(folder: Path | str) -> UNet:
    """Return the U-Net of a folder, in evaluation mode.

    Raises:
        CheckpointError: if files are missing, the configuration is another's, or a key is missing or left over.
    """
    folder = Path(folder)
    config = read_config(read_published(folder, "a published U-Net"), folder)
    tensors = current_names(read_weights(folder, DIFFUSERS), folder)
    return build(lambda: UNet(config), tensors, key_map(config), folder).eval()


def _levels(
    data: Mapping[str, Any], conditional: bool, where: Path | str
) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], Any]:
    """Return which blocks attend on the way down and up (in their own order), and what leads between levels."""
    plain = (["DownBlock2D"] + ["AttnDownBlock2D"] * 3, ["AttnUpBlock2D"] * 3 + ["UpBlock2D"])
    cross = (["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3)
    kinds, found = set(), []
    for way, table, filled in (
        ("down", _DOWN, (cross if conditional else plain)[0]),
        ("up", _UP, (cross if conditional else plain)[1]),
    ):
        names = list(data.get(f"{way}_block_types", filled))
        if unknown := sorted(set(names) - set(table)):
            raise CheckpointError(
                f"{where}: blocks of the type {', '.join(unknown)} are not supported; {', '.join(table)} are."
            )
        stated = {"conv": "conv", "resnet": "block"}.get(data.get(f"{way}sample_type", "conv"))
        kinds |= {table[name][1] or stated for name in names[:-1]}
        found.append(tuple(i for i, name in enumerate(names) if table[name][0]))
        if any(("Cross" in name) != conditional for name in names if table[name][0]):
            raise CheckpointError(f"{where}: attention must read a context at all levels or at none.")
    if len(kinds) > 1 or None in kinds:
        raise CheckpointError(f"{where}: all levels must be led between in one way, by a convolution or by a block.")
    return (found[0], found[1]), next(iter(kinds), "conv")


def _plain(config: UNetConfig) -> UNetConfig:
    """Return the one way to write a configuration among those that mean the same."""
    one = config.replace(
        attention=tuple(sorted(config.attention)),
        up_attention=None if set(config.ups) == set(config.attention) else tuple(sorted(config.ups)),
        class_kind=None if config.class_kind == "label" else config.class_kind,
        resample=config.resample if len(config.channels) > 1 else "conv",
    )
    silent = config.mid_norm_groups == config.groups or not (config.middle and config.mid_attention)
    return one.replace(mid_norm_groups=None) if silent else one


def _one(data: Mapping[str, Any], key: str, filled: int, where: Path | str) -> int:
    """Return a number that a configuration may give for each level, if they are all one."""
    value = data.get(key, filled)
    values = set(value) if isinstance(value, list | tuple) else {value}
    if len(values) != 1:
        raise CheckpointError(f"{where}: {key} must be one number for all levels, found {value}.")
    return int(next(iter(values)))


def _residual(theirs: str, ours: str) -> list[Rule]:
    pairs = (
        ("norm1", "norm1"),
        ("conv1", "conv1"),
        ("time_emb_proj", "time"),
        ("norm2", "norm2"),
        ("conv2", "conv2"),
        ("conv_shortcut", "skip"),
    )
    return [rename(f"{theirs}.{name}.{{p}}", f"{ours}.{own}.{{p}}") for name, own in pairs]


def _attention(theirs: str, ours: str, config: UNetConfig) -> list[Rule]:
    if config.context_dim is None:
        return [
            rename(f"{theirs}.group_norm.{{p}}", f"{ours}.norm.{{p}}"),
            fuse(f"{theirs}.to_{{q,k,v}}.{{p}}", f"{ours}.attention.qkv.{{p}}"),
            rename(f"{theirs}.to_out.0.{{p}}", f"{ours}.attention.out.{{p}}"),
        ]
    block, own = f"{theirs}.transformer_blocks.{{k}}", f"{ours}.blocks.{{k}}"
    rules = [
        rename(f"{theirs}.{name}.{{p}}", f"{ours}.{ours_name}.{{p}}")
        for name, ours_name in (("norm", "norm"), ("proj_in", "enter"), ("proj_out", "leave"))
    ]
    rules += [rename(f"{block}.norm{i}.{{p}}", f"{own}.norm{i}.{{p}}") for i in (1, 2, 3)]
    return [
        *rules,
        fuse(f"{block}.attn1.to_{{q,k,v}}.{{p}}", f"{own}.attention.qkv.{{p}}"),
        rename(f"{block}.attn1.to_out.0.{{p}}", f"{own}.attention.out.{{p}}"),
        rename(f"{block}.attn2.to_q.{{p}}", f"{own}.cross.q.{{p}}"),
        fuse(f"{block}.attn2.to_{{k,v}}.{{p}}", f"{own}.cross.kv.{{p}}"),
        rename(f"{block}.attn2.to_out.0.{{p}}", f"{own}.cross.out.{{p}}"),
        rename(f"{block}.ff.net.0.proj.{{p}}", f"{own}.mlp.fc1.{{p}}"),
        rename(f"{block}.ff.net.2.{{p}}", f"{own}.mlp.fc2.{{p}}"),
    ]
