"""CTC loss, forward and backward from the logits: ours (compiled) beside torch's.

Both start from float32 logits and end with the gradient of the logits; torch's includes its log-softmax, ours has it inside.
The values are the sums of the losses.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from harness import Case, Contender, Step

SHAPES = (
    (16, 100, 30, 20),
    (32, 300, 30, 60),
    (64, 1000, 30, 150),
    (16, 300, 1000, 40),
    (64, 300, 1000, 60),
)
"""Utterances, frames, symbols, most symbols of a text."""


def cases(quick: bool) -> list[Case]:
    return [_case(*shape, quick) for shape in (SHAPES[:2] if quick else SHAPES)]


def _case(batch: int, frames: int, symbols: int, length: int, quick: bool) -> Case:
    return Case(
        f"{batch} utterances, {frames * 3 // 4} to {frames} frames, {symbols} symbols, texts of {length // 2} to {length}",
        (
            Contender("intermodal", _make(_ours, batch, frames, symbols, length)),
            Contender("torch", _make(_theirs, batch, frames, symbols, length)),
        ),
        repeats=3 if quick else 7,
    )


def _make(loss: Callable[..., float], batch: int, frames: int, symbols: int, length: int) -> Callable[[], Step]:
    def make() -> Step:
        import torch

        importlib.import_module("intermodal.losses.ctc")
        generator = torch.Generator().manual_seed(0)
        logits = 2 * torch.randn(batch, frames, symbols, generator=generator)
        frames_B = torch.randint(frames * 3 // 4, frames + 1, (batch,), generator=generator)
        lengths_B = torch.randint(length // 2, length + 1, (batch,), generator=generator)
        targets = torch.randint(1, symbols, (batch, length), generator=generator)
        loss(logits[:1, :50], frames_B[:1].clamp(max=50), targets[:1, :5], lengths_B[:1].clamp(max=5))  # compiles
        return lambda: loss(logits, frames_B, targets, lengths_B)

    return make


def _ours(logits, frames_B, targets, lengths_B) -> float:  # type: ignore[no-untyped-def]
    from intermodal.losses.ctc import ctc_loss

    logits = logits.detach().requires_grad_()
    loss = ctc_loss(logits, frames_B, targets, lengths_B).loss_B.sum()
    loss.backward()
    return loss.item()


def _theirs(logits, frames_B, targets, lengths_B) -> float:  # type: ignore[no-untyped-def]
    from torch.nn import functional

    logits = logits.detach().transpose(0, 1).requires_grad_()
    loss = functional.ctc_loss(logits.log_softmax(-1), targets, frames_B, lengths_B, reduction="sum")
    loss.backward()
    return loss.item()
