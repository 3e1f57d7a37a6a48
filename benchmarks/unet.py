"""The U-Net and a whole sampling run, forward and in training, beside diffusers with the same weights, steps and noise."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

import harness
from intermodal.diffusion.denoiser import NetworkDenoiser
from intermodal.diffusion.grids import make_grid
from intermodal.diffusion.guidance import ClassifierFree
from intermodal.diffusion.samplers import ddim
from intermodal.diffusion.schedules import DiscreteSchedule
from intermodal.hub.unet import load_unet
from intermodal.nn.unet import UNet

DIFFUSERS = "pip install diffusers==0.42.1"
MEDIUM = {
    "block_out_channels": (64, 128, 256, 256),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "attention_head_dim": 64,
    "num_class_embeds": 11,
}
"""27 million parameters, 32 x 32."""
QUICK = {
    **MEDIUM,
    "block_out_channels": (8, 8, 8, 8),
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
SIZE, NONE = 32, 10


@cache
def networks(quick: bool, dtype: torch.dtype) -> tuple[Any, UNet]:
    """Return diffusers' U-Net with random weights, and ours with the same."""
    import diffusers

    torch.manual_seed(0)
    theirs = diffusers.UNet2DModel(sample_size=SIZE, **(QUICK if quick else MEDIUM)).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load_unet(folder)
    return theirs.to(dtype), ours.to(dtype, memory_format=torch.channels_last)


def inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, SIZE, SIZE, generator=generator)
    return x, torch.randint(1000, (batch,), generator=generator), torch.arange(batch) % NONE


def call(who: str, quick: bool, dtype: torch.dtype) -> Callable[..., torch.Tensor]:
    """Return a network as a function of a map, times and classes."""
    theirs, ours = networks(quick, dtype)
    if who == "ours":
        return ours
    return lambda x, t, c: theirs(x, t, class_labels=c).sample


def forward(who: str, quick: bool, batch: int, dtype: torch.dtype) -> Callable[[], harness.Step]:
    def make() -> harness.Step:
        network, (x, t, c) = call(who, quick, dtype), inputs(batch)

        def step() -> float:
            with torch.no_grad():
                return float(network(x.to(dtype), t, c).double().abs().mean())

        return step

    return make


def training(who: str, quick: bool, batch: int) -> Callable[[], harness.Step]:
    def make() -> harness.Step:
        network, (x, t, c) = call(who, quick, torch.float32), inputs(batch)

        def step() -> float:
            for module in networks(quick, torch.float32):
                module.zero_grad(set_to_none=True)
            loss = network(x, t, c).square().mean()
            loss.backward()
            return float(loss.detach())

        return step

    return make


def sampling(who: str, quick: bool, batch: int, steps: int, dtype: torch.dtype) -> Callable[[], harness.Step]:
    """Return what makes a step: pictures by DDIM with classifier-free guidance."""

    def make() -> harness.Step:
        network, (x, _, c) = call(who, quick, dtype), inputs(batch)
        none, scale = torch.full((batch,), NONE), 3.0

        def of_ours() -> torch.Tensor:
            schedule = DiscreteSchedule.linear()
            denoiser = ClassifierFree(NetworkDenoiser(network, "eps", schedule, dtype=dtype), scale, none[:1])
            return ddim(denoiser, x, make_grid(schedule, steps, "leading"), cond=c)

        def of_theirs() -> torch.Tensor:
            import diffusers

            scheduler = diffusers.DDIMScheduler(clip_sample=False)
            scheduler.set_timesteps(steps)
            state = x
            for t in scheduler.timesteps:
                both = network(torch.cat((state, state)).to(dtype), t, torch.cat((c, none))).float()
                with_class, without = both.chunk(2)
                state = scheduler.step(without + scale * (with_class - without), t, state).prev_sample
            return state

        def step() -> float:
            with torch.no_grad():
                return float((of_ours if who == "ours" else of_theirs)().double().abs().mean())

        return step

    return make


def pair(
    title: str, make: Callable[[str], Callable[[], harness.Step]], repeats: int, half: Callable[..., Any] | None = None
) -> harness.Case:
    contenders = [
        harness.Contender("intermodal", make("ours")),
        harness.Contender("diffusers", make("theirs"), DIFFUSERS),
    ]
    if half is not None:
        contenders += [
            harness.Contender("intermodal, bfloat16", half("ours")),
            harness.Contender("diffusers, bfloat16", half("theirs"), DIFFUSERS),
        ]
    return harness.Case(title, contenders, repeats)


def cases(quick: bool) -> list[harness.Case]:
    """Return the network forward and in training, and a sampling run, in float32 and in bfloat16."""
    batch, steps, repeats = (2, 2, 1) if quick else (4, 10, 5)
    size = "a tiny U-Net" if quick else "U-Net of 27 M"
    full, half = torch.float32, torch.bfloat16
    return [
        pair(
            f"{size}, {batch} x {SIZE} x {SIZE}, forward",
            lambda who: forward(who, quick, batch, full),
            repeats,
            lambda who: forward(who, quick, batch, half),
        ),
        pair(f"{size}, {batch} x {SIZE} x {SIZE}, training step", lambda who: training(who, quick, batch), repeats),
        pair(
            f"{size}, {batch} pictures by DDIM, {steps} steps, guided",
            lambda who: sampling(who, quick, batch, steps, full),
            min(repeats, 3),
            lambda who: sampling(who, quick, batch, steps, half),
        ),
    ]
