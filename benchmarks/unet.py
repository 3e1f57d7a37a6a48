"""The U-Net of diffusion beside diffusers, forward and in training: same weights, one run.

Three sizes with random weights: that of google/ddpm-cifar10-32, one that reads a text, and the small one of our recipes that
does. The number beside each is the mean magnitude of what comes out, or the loss: all compute the same. torch.compile is not
among them: on a CPU it took one to three minutes and gained nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch

import harness
from intermodal.hub.unet import load_unet
from intermodal.nn.unet import UNet

DIFFUSERS = "pip install diffusers==0.42.1"
SIZE, TOKENS, WIDTH = 32, 16, 256
Kind = Literal["cifar10", "text", "small text"]
Who = Literal["ours", "theirs", "theirs, channels-last"]
BATCH: dict[Kind, int] = {"cifar10": 4, "text": 8, "small text": 16}
CONFIGS: dict[Kind, dict[str, Any]] = {
    "cifar10": {
        "block_out_channels": (128, 256, 256, 256),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": None,
        "norm_eps": 1e-6,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    },
    "text": {
        "block_out_channels": (64, 128, 256),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
        "cross_attention_dim": WIDTH,
    },
    "small text": {
        "block_out_channels": (32, 64, 128),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
        "cross_attention_dim": WIDTH,
    },
}


@dataclass(frozen=True)
class Work:
    """A network of ``kind`` on ``batch`` maps, in one type of number."""

    kind: Kind
    batch: int
    dtype: torch.dtype
    quick: bool

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return noise (B, 3, 32, 32), times (B,) and, where it is read, a context (B, 16, 256), in float32."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.batch, 3, SIZE, SIZE, generator=generator)
        t = torch.randint(1000, (self.batch,), generator=generator)
        return x, t, None if self.kind == "cifar10" else torch.randn(self.batch, TOKENS, WIDTH, generator=generator)


@cache
def networks(kind: Kind, quick: bool) -> tuple[Any, UNet]:
    """Return diffusers' U-Net with random weights, and ours with the same."""
    import diffusers
    from diffusers.utils import logging

    logging.set_verbosity_error()  # it warns of every change of precision
    config = {"sample_size": SIZE, "in_channels": 3, "out_channels": 3, "layers_per_block": 2} | CONFIGS[kind]
    if quick:
        config |= {"block_out_channels": tuple(c // 4 for c in config["block_out_channels"]), "norm_num_groups": 4}
    torch.manual_seed(0)
    make = diffusers.UNet2DModel if kind == "cifar10" else diffusers.UNet2DConditionModel
    theirs = make(**config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return theirs, load_unet(folder)


def module(who: Who, work: Work) -> torch.nn.Module:
    """Return a network of its own."""
    network: torch.nn.Module = deepcopy(networks(work.kind, work.quick)[who == "ours"])
    network = network.to(work.dtype)
    return network if who == "theirs" else network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def caller(who: Who, network: torch.nn.Module) -> Callable[..., torch.Tensor]:
    """Return a network as a function of a map, times and perhaps a context."""
    if who != "ours":
        return lambda x, t, *c: network(x, t, *c).sample
    return lambda x, t, *c: network(x, t, context_BSE=c[0]) if c else network(x, t)


def arguments(who: Who, work: Work) -> tuple[torch.Tensor, ...]:
    """Return what a network is called with."""
    x, t, c = work.inputs()
    if who == "theirs, channels-last":
        x = x.to(memory_format=torch.channels_last)
    return (x.to(work.dtype), t) if c is None else (x.to(work.dtype), t, c.to(work.dtype))


def forward(who: Who, work: Work) -> Callable[[], harness.Step]:
    """Return what makes a step: a network without gradients, once run."""

    def make() -> harness.Step:
        network, inputs = caller(who, module(who, work)), arguments(who, work)

        def step() -> float:
            with torch.inference_mode():
                return float(network(*inputs).double().abs().mean())

        step()
        return step

    return make


def training(who: Who, work: Work) -> Callable[[], harness.Step]:
    """Return what makes a step: forward, backward and AdamW, with float32 weights; bfloat16 is autocast."""
    single = Work(work.kind, work.batch, torch.float32, work.quick)

    def make() -> harness.Step:
        network = module(who, single).train()
        optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
        call, inputs = caller(who, network), arguments(who, single)
        wanted = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))

        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=work.dtype == torch.bfloat16):
                said = call(*inputs)
            loss = (said.float() - wanted).square().mean()
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        step()
        return step

    return make


def contenders(make: Callable[[Who, Work], Callable[[], harness.Step]], work: Work) -> list[harness.Contender]:
    """Return ours and diffusers', as it comes and channels-last, in float32 and in bfloat16."""
    found = []
    whos: tuple[Who, ...] = ("ours", "theirs", "theirs, channels-last")
    for dtype in (torch.float32, torch.bfloat16):
        for who in whos:
            name = who.replace("ours", "intermodal").replace("theirs", "diffusers")
            name += ", bfloat16" if dtype == torch.bfloat16 else ""
            one = Work(work.kind, work.batch, dtype, work.quick)
            found.append(harness.Contender(name, make(who, one), "" if who == "ours" else DIFFUSERS))
    return found


def cases(quick: bool) -> list[harness.Case]:
    """Return forward and training step of each network."""
    found = []
    for kind, batch in BATCH.items():
        work = Work(kind, 1 if quick else batch, torch.float32, quick)
        size = "tiny" if quick else f"{sum(p.numel() for p in networks(kind, quick)[1].parameters()) / 1e6:.1f} M"
        title = f"U-Net '{kind}', {size}, {work.batch} x {SIZE} x {SIZE}"
        found.append(harness.Case(f"{title}: forward", contenders(forward, work), 1 if quick else 4))
        found.append(harness.Case(f"{title}: training step", contenders(training, work), 1 if quick else 2))
    return found
