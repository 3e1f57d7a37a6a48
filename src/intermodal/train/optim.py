"""Optimiser, schedule and moving average, as a recipe's :class:`OptimConfig` states them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from intermodal.methods.base import Method, Phase
from intermodal.recipes.base import OptimConfig

Tensors = tuple[Tensor, ...] | list[Tensor]


def build_optimizer(module: nn.Module, config: OptimConfig, phase: Phase | None = None) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov & Hutter 2019); weight decay falls on matrices alone, not on biases, norms or scalars.

    With ``config.layer_decay`` a group's entry ``scale`` is what the learning rate is multiplied by for it.

    Args:
        module: whose parameters it descends, those that are not frozen.
        config: how.
        phase: only those that this phase trains; None for all.
    """
    phase = phase or Phase()
    trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad and n.startswith(phase.trains)]
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in trained:
        below = module.layers_above(name) if config.layer_decay != 1 and isinstance(module, Method) else 0
        groups.setdefault((below, parameter.ndim < 2), []).append(parameter)
    found = [
        {"params": params, "weight_decay": 0.0 if small else config.weight_decay}
        | ({"scale": config.layer_decay**below} if config.layer_decay != 1 else {})
        for (below, small), params in sorted(groups.items(), key=lambda item: item[0])
    ]
    return torch.optim.AdamW(found, lr=config.lr, betas=config.betas, eps=config.eps, foreach=True)


@contextmanager
def alone(module: nn.Module, phase: Phase, among: Sequence[Phase]) -> Iterator[None]:
    """Freeze the parameters that the other phases of a step train, while this one is descended."""
    frozen = [
        p
        for name, p in module.named_parameters()
        if p.requires_grad
        and not name.startswith(phase.trains)
        and any(name.startswith(other.trains) for other in among if other is not phase)
    ]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def learning_rate(config: OptimConfig, steps: int) -> Callable[[int], float]:
    """Return the learning rate of a step, from 0: linear warm-up, then a cosine to ``final_lr`` x lr, or constant."""
    warmup = min(config.warmup, max(steps // 2, 1))

    def at(step: int) -> float:
        if step < warmup:
            return config.lr * (step + 1) / warmup
        if config.schedule == "constant":
            return config.lr
        share = (step - warmup) / max(steps - warmup, 1)
        cosine = 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
        return config.lr * (config.final_lr + (1 - config.final_lr) * cosine)

    return at


def moving_average(module: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of a module's weights; it starts short, so that the first weights fade soon.

    The decay of update n is ``min(decay, (1 + n) / (10 + n))``.
    """

    def update(averages: Tensors, current: Tensors, count: Tensor | int) -> None:
        n = float(count)
        torch._foreach_lerp_(list(averages), list(current), 1 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(module, multi_avg_fn=update, use_buffers=False)
