"""The autoencoder of latent diffusion in diffusers' published layout: AutoencoderKL's folder, and what VQModel's shares.

A folder holds ``config.json`` with ``_class_name`` and ``diffusion_pytorch_model.safetensors``. Old names of the attention's
layers (``query``, ``key``, ``value``, ``proj_attn``) are read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from intermodal.core.errors import CheckpointError, ConfigError
from intermodal.data.processors import ImageProcessor
from intermodal.hub.keymap import KeyMap, Rule, fuse, rename
from intermodal.methods.image_tokenizers.vae import VAE, VAEConfig
from intermodal.nn.autoencoder import AutoencoderConfig

CLASS = "AutoencoderKL"
SCALING = 0.18215
"""The ``scaling_factor`` that diffusers fills in."""

_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_ATTENDS = {
    "DownEncoderBlock2D": False,
    "AttnDownEncoderBlock2D": True,
    "UpDecoderBlock2D": False,
    "AttnUpDecoderBlock2D": True,
}


def read_config(data: Mapping[str, Any], where: Path | str) -> VAEConfig:
    """Return our configuration of an AutoencoderKL's ``config.json``.

    The likelihood is a normal of width one, so that the loss of further training is the squared error: published models are
    trained with perceptual and adversarial losses beside it, and state no width.

    Raises:
        CheckpointError: if it describes something that this model does not have.
    """
    mean, std = data.get("latents_mean"), data.get("latents_std")
    try:
        network = AutoencoderConfig(
            **read_network(data, where),
            latent_channels=data.get("latent_channels", 4),
            moments=True,
            quant_conv=data.get("use_quant_conv", True),
            post_quant_conv=data.get("use_post_quant_conv", True),
        )
        return VAEConfig(
            network=network,
            scale="fixed",
            sigma=1.0,
            scaling_factor=float(data.get("scaling_factor", SCALING)),
            shift_factor=float(data.get("shift_factor") or 0.0),
            latent_mean=None if mean is None else tuple(float(v) for v in mean),
            latent_std=None if std is None else tuple(float(v) for v in std),
        )
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error


def read_processor(data: Mapping[str, Any], network: AutoencoderConfig) -> ImageProcessor:
    """Return the processor of an AutoencoderKL's or VQModel's pictures: of ``sample_size``, values in -1..1.

    The network takes any size that its stride divides; the processor's is the largest such one in ``sample_size``.
    """
    stated, stride = data.get("sample_size", 32), network.stride
    height, width = stated if isinstance(stated, (list, tuple)) else (stated, stated)
    size = (max(height // stride, 1) * stride, max(width // stride, 1) * stride)
    half = (0.5, 0.5, 0.5)
    return ImageProcessor(size=size, mean=half, std=half, resize="crop", interpolation="lanczos")


def write_config(model: VAE) -> dict[str, Any]:
    """Return the data of a ``config.json`` from which diffusers builds the same autoencoder.

    Raises:
        CheckpointError: if AutoencoderKL cannot hold this model; it says why.
    """
    config, network = model.config, model.config.network
    lacking = {
        "a latent that is a map, not a vector": config.latent_dim is None,
        "one output for each pixel (scale='pixel' has two)": config.scale != "pixel"
        or config.likelihood == "bernoulli",
        "pixels as they come (the Bernoulli's are logits)": config.likelihood != "bernoulli",
        "no inner_channels of its own": network.inner == network.latent_channels,
    }
    if wanted := [name for name, holds in lacking.items() if not holds]:
        raise CheckpointError(f"diffusers' {CLASS} cannot hold this model: it needs {', '.join(wanted)}.")
    size = model.picture.size if model.processors else (32, 32)
    return {
        "_class_name": CLASS,
        **write_network(network),
        "latent_channels": network.latent_channels,
        "use_quant_conv": network.quant_conv,
        "use_post_quant_conv": network.post_quant_conv,
        "sample_size": size[0] if size[0] == size[1] else list(size),
        "scaling_factor": config.scaling_factor,
        "shift_factor": config.shift_factor or None,
        "latents_mean": None if config.latent_mean is None else list(config.latent_mean),
        "latents_std": None if config.latent_std is None else list(config.latent_std),
    }


def key_map() -> KeyMap:
    """Return the key map of diffusers' AutoencoderKL."""
    return KeyMap(*network_rules())


OWN = ("mean_square", "log_scale")
"""What our model has and AutoencoderKL does not: the width of the likelihood."""


def read_network(data: Mapping[str, Any], where: Path | str) -> dict[str, Any]:
    """Return the part of our :class:`AutoencoderConfig` that a ``config.json`` of AutoencoderKL or VQModel states alike.

    What it leaves out is what diffusers fills in. ``latent_channels`` and the 1 x 1 convolutions are the caller's to add.

    Raises:
        CheckpointError: if it describes something that this network does not have.
    """
    channels = tuple(data.get("block_out_channels", (64,)))
    down = tuple(data.get("down_block_types", ("DownEncoderBlock2D",)))
    up = tuple(data.get("up_block_types", ("UpDecoderBlock2D",)))
    unknown = sorted({*down, *up} - set(_ATTENDS))
    if unknown:
        raise CheckpointError(
            f"{where}: blocks of the type {', '.join(unknown)} are not supported; {', '.join(_ATTENDS)} are."
        )
    if not len(channels) == len(down) == len(up):
        raise CheckpointError(
            f"{where}: block_out_channels, down_block_types and up_block_types must be of one length, found "
            f"{len(channels)}, {len(down)} and {len(up)}."
        )
    for name, wanted in (("act_fn", ("silu", "swish")), ("norm_type", ("group",))):
        if data.get(name, wanted[0]) not in wanted:
            raise CheckpointError(f"{where}: {name}={data[name]!r} is not supported; {' or '.join(wanted)} is.")
    last = len(channels) - 1
    return {
        "channels": channels,
        "blocks": data.get("layers_per_block", 1),
        "encoder_attention": tuple(i for i, name in enumerate(down) if _ATTENDS[name]),
        "decoder_attention": tuple(sorted(last - i for i, name in enumerate(up) if _ATTENDS[name])),
        "mid_attention": bool(data.get("mid_block_add_attention", True)),
        "groups": data.get("norm_num_groups", 32),
        "in_channels": data.get("in_channels", 3),
        "out_channels": data.get("out_channels", 3),
    }


def write_network(config: AutoencoderConfig) -> dict[str, Any]:
    """Return the part of a ``config.json`` that :func:`read_network` reads."""
    levels = range(len(config.channels))
    return {
        "act_fn": "silu",
        "block_out_channels": list(config.channels),
        "down_block_types": [f"{'Attn' * (i in config.encoder_attention)}DownEncoderBlock2D" for i in levels],
        "up_block_types": [f"{'Attn' * (i in config.decoder_attention)}UpDecoderBlock2D" for i in reversed(levels)],
        "layers_per_block": config.blocks,
        "mid_block_add_attention": config.mid_attention,
        "norm_num_groups": config.groups,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
    }


def network_rules() -> tuple[Rule, ...]:
    """Return the rules of the encoder, the decoder and their 1 x 1 convolutions, which AutoencoderKL and VQModel share."""
    rules = [rename(f"{name}.{{p}}", f"{half}.{name}.{{p}}") for half, name in _POINTWISE]
    for half, levels, resample in (("encoder", "down", "downsamplers"), ("decoder", "up", "upsamplers")):
        theirs, ours = f"{half}.{levels}_blocks.{{i}}", f"{half}.levels.{{i}}"
        rules += _residual(f"{theirs}.resnets.{{j}}", f"{ours}.blocks.{{j}}")
        rules += _attention(f"{theirs}.attentions.{{j}}", f"{ours}.attentions.{{j}}")
        rules += [rename(f"{theirs}.{resample}.0.conv.{{p}}", f"{ours}.resample.conv.{{p}}")]
        rules += _residual(f"{half}.mid_block.resnets.0", f"{half}.middle.block1")
        rules += _residual(f"{half}.mid_block.resnets.1", f"{half}.middle.block2")
        rules += _attention(f"{half}.mid_block.attentions.0", f"{half}.middle.attention")
        for name, own in (("conv_in", "conv_in"), ("conv_norm_out", "norm_out"), ("conv_out", "conv_out")):
            rules += [rename(f"{half}.{name}.{{p}}", f"{half}.{own}.{{p}}")]
    return tuple(rules)


def current_names(tensors: Mapping[str, Tensor], where: Path | str) -> dict[str, Tensor]:
    """Return tensors with the attention's old names replaced by those of today.

    Raises:
        CheckpointError: if a layer is there under both.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        *path, layer, kind = key.split(".") if key.count(".") > 1 else ("", key, "")
        name = ".".join((*path, _OLD_NAMES[layer], kind)) if "attentions" in path and layer in _OLD_NAMES else key
        if name in found or (name != key and name in tensors):
            raise CheckpointError(f"{where} holds the layer {name} twice, under an old name and the one of today.")
        found[name] = tensor
    return found


_POINTWISE = (("encoder", "quant_conv"), ("decoder", "post_quant_conv"))


def _residual(theirs: str, ours: str) -> list[Rule]:
    pairs = (("norm1", "norm1"), ("conv1", "conv1"), ("norm2", "norm2"), ("conv2", "conv2"), ("conv_shortcut", "skip"))
    return [rename(f"{theirs}.{name}.{{p}}", f"{ours}.{own}.{{p}}") for name, own in pairs]


def _attention(theirs: str, ours: str) -> list[Rule]:
    return [
        rename(f"{theirs}.group_norm.{{p}}", f"{ours}.norm.{{p}}"),
        fuse(f"{theirs}.to_{{q,k,v}}.{{p}}", f"{ours}.attention.qkv.{{p}}"),
        rename(f"{theirs}.to_out.0.{{p}}", f"{ours}.attention.out.{{p}}"),
    ]
