"""Contrastive losses, forward and backward: ours, open_clip's, and the whole matrix in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import harness
from intermodal.losses.contrastive import info_nce, sigmoid_loss

OPEN_CLIP = "pip install open_clip_torch (the vision group: make test-vision)"
Loss = Callable[..., Tensor]


def step(load: Callable[[], Loss], batch: int, *scalars: float) -> Callable[[], harness.Step]:
    """Return what makes the step: the loss of ``batch`` pairs of 512 features and its gradients."""

    def make() -> harness.Step:
        loss = load()
        generator = torch.Generator().manual_seed(0)
        arguments = [F.normalize(torch.randn(batch, 512, generator=generator), dim=1) for _ in range(2)]
        arguments += [torch.tensor(x) for x in scalars]
        for tensor in arguments:
            tensor.requires_grad_()

        def forward_backward() -> float:
            for tensor in arguments:
                tensor.grad = None
            value = loss(*arguments)
            value.backward()
            return value.item()

        return forward_backward

    return make


def open_clip_clip() -> Loss:
    loss: Any = harness.import_beside_torchvision("open_clip.loss")
    return loss.ClipLoss()


def open_clip_siglip() -> Loss:
    loss: Any = harness.import_beside_torchvision("open_clip.loss")
    return loss.SigLipLoss()


def plain_clip(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    logits = scale * image @ text.T
    truth = torch.arange(len(logits))
    return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2


def cases(quick: bool) -> list[harness.Case]:
    """CLIP's loss at its first and its last temperature, and SigLIP's."""
    found = []
    for scale in (1 / 0.07, 100.0):
        batch = 1024 if quick else 16_384
        found.append(
            harness.Case(
                f"InfoNCE {batch} x 512, logit_scale {scale:.1f}",
                [
                    harness.Contender("intermodal info_nce", step(lambda: info_nce, batch, scale)),
                    harness.Contender("open_clip ClipLoss", step(open_clip_clip, batch, scale), OPEN_CLIP),
                    harness.Contender("torch, whole matrix", step(lambda: plain_clip, batch, scale)),
                ],
            )
        )
    for batch in (1024,) if quick else (4096, 16_384):
        found.append(
            harness.Case(
                f"sigmoid {batch} x 512",
                [
                    harness.Contender("intermodal sigmoid_loss", step(lambda: sigmoid_loss, batch, 10.0, -10.0)),
                    harness.Contender("open_clip SigLipLoss", step(open_clip_siglip, batch, 10.0, -10.0), OPEN_CLIP),
                ],
            )
        )
    return found
