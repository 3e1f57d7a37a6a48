"""Encoding and decoding with the autoencoders of latent diffusion and VQGAN, beside diffusers: same weights, one run.

Stable Diffusion's AutoencoderKL and the VQModel of a VQGAN with attention at its coarsest level, at their published widths;
weights are random. The number beside each is the mean of what comes out: all compute the same.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch

import harness
from intermodal.hub.autoencoder_kl import network_rules, read_network
from intermodal.hub.keymap import KeyMap
from intermodal.nn.autoencoder import AutoencoderConfig, Decoder, Encoder

DIFFUSERS = "pip install diffusers==0.42.1"
Kind = Literal["AutoencoderKL", "VQModel"]
WIDTHS: dict[Kind, dict[str, Any]] = {
    "AutoencoderKL": {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
    },
    "VQModel": {
        "block_out_channels": (128, 256, 512),
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
        "layers_per_block": 2,
        "latent_channels": 3,
        "num_vq_embeddings": 1024,
    },
}


@cache
def reference(kind: Kind, quick: bool) -> Any:
    """Return diffusers' model in float32 with random weights."""
    import diffusers
    from diffusers.utils import logging

    logging.set_verbosity_error()  # it warns of every change of precision
    widths = WIDTHS[kind]
    if quick:
        widths = widths | {
            "block_out_channels": tuple(c // 4 for c in widths["block_out_channels"]),
            "layers_per_block": 1,
        }
    torch.manual_seed(0)
    return getattr(diffusers, kind)(**widths).eval()


def networks(kind: Kind, quick: bool) -> tuple[Encoder, Decoder]:
    """Return ours with the same weights."""
    theirs = reference(kind, quick)
    config = AutoencoderConfig(
        **read_network(theirs.config, kind),
        latent_channels=theirs.config.latent_channels,
        moments=kind == "AutoencoderKL",
    )
    ours = torch.nn.ModuleDict({"encoder": Encoder(config), "decoder": Decoder(config)}).eval()
    tensors = {k: v for k, v in theirs.state_dict().items() if not k.startswith("quantize.")}
    ours.load_state_dict(KeyMap(*network_rules()).to_ours(tensors))
    encoder, decoder = ours.values()
    assert isinstance(encoder, Encoder)
    assert isinstance(decoder, Decoder)
    return encoder, decoder


@dataclass(frozen=True)
class Work:
    """What is done: ``encode`` or ``decode`` a picture of ``size`` pixels."""

    kind: Kind
    task: Literal["encode", "decode"]
    size: int
    dtype: torch.dtype
    quick: bool

    def inputs(self) -> torch.Tensor:
        """Return a picture, or its latent."""
        config = reference(self.kind, self.quick).config
        small = self.size // 2 ** (len(config.block_out_channels) - 1)
        shape = (1, 3, self.size, self.size) if self.task == "encode" else (1, config.latent_channels, small, small)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.dtype)


def step_of(run: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> harness.Step:
    """Return the step that runs a network without gradients, once run."""

    def step() -> float:
        with torch.inference_mode():
            return float(run(values).double().mean())

    step()
    return step


def ours(work: Work) -> Callable[[], harness.Step]:
    """Return what makes a step of ours; the network itself makes maps channels-last."""

    def make() -> harness.Step:
        encoder, decoder = networks(work.kind, work.quick)
        network = encoder if work.task == "encode" else decoder
        network.to(work.dtype)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # fastest for convolutions
        return step_of(network, work.inputs())

    return make


def theirs(work: Work, *, last: bool) -> Callable[[], harness.Step]:
    """Return what makes a step of diffusers', as it comes or with weights and pictures channels-last."""

    def make() -> harness.Step:
        model, values = deepcopy(reference(work.kind, work.quick)).to(work.dtype), work.inputs()
        if last:
            model, values = model.to(memory_format=torch.channels_last), values.to(memory_format=torch.channels_last)
        if work.task == "encode":
            return step_of(lambda x: model.quant_conv(model.encoder(x)), values)
        return step_of(lambda z: model.decoder(model.post_quant_conv(z)), values)

    return make


def cases(quick: bool) -> list[harness.Case]:
    """Return encode and decode of both networks in float32 and bfloat16."""
    size = 32 if quick else 256
    kinds: tuple[Kind, ...] = ("AutoencoderKL", "VQModel")
    tasks: tuple[Literal["encode", "decode"], ...] = ("encode", "decode")
    works = [Work(k, t, size, d, quick) for k in kinds for t in tasks for d in (torch.float32, torch.bfloat16)]
    return [
        harness.Case(
            f"{w.kind}: {w.task} a picture of {size} x {size}, {str(w.dtype).removeprefix('torch.')}",
            [
                harness.Contender("intermodal", ours(w)),
                harness.Contender("diffusers", theirs(w, last=False), DIFFUSERS),
                harness.Contender("diffusers, channels-last", theirs(w, last=True), DIFFUSERS),
            ],
        )
        for w in works
    ]
