"""A model that another recipe goes on from: read from where a person says, or trained first, without a run."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.data.loader import train_loader
from intermodal.hub.load import load
from intermodal.methods.base import Method
from intermodal.recipes.base import Recipe


def loaded(path: str, recipe: str, option: str, train: str) -> Method:
    """Read a model that a recipe needs.

    Args:
        path: a run, checkpoint, published folder or hub id.
        recipe: who asks, for errors.
        option: which names another.
        train: the recipe that trains one.

    Raises:
        ConfigError: if it is a run that is not there.
    """
    if path.startswith("runs/") and not Path(path).exists():
        raise ConfigError(
            f"The recipe {recipe!r} goes on from a trained {train}, and there is none at {path}: run `intermodal train "
            f"{train} --run {path}` first, name another with {option}, or have a small one trained ({option} None)."
        )
    return load(path)


def part(path: str | None, first: Recipe, recipe: str, option: str, train: str) -> Method:
    """Return a model that a recipe goes on from: of a path, or trained first where there is none.

    Args:
        path: a run, checkpoint, published folder or hub id; None to train.
        first: how it is trained then.
        recipe: who asks, for errors.
        option: which names another.
        train: the recipe that trains one.

    Raises:
        ConfigError: if it is a run that is not there.
    """
    return trained_first(first) if path is None else loaded(path, recipe, option, train)


@functools.lru_cache(maxsize=4)
def trained_first(recipe: Recipe) -> Method:
    """Train a method as its recipe says, without a run, an average of the weights or an evaluation; the last are kept.

    The same recipe gives the same bits, so that what is built on it can be resumed.
    """
    method, budget, optim = recipe.build().train(), recipe.train, recipe.optim
    trained = [p for p in method.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps)
    peak = max(min(optim.warmup, budget.steps // 2), 1)
    rise = lambda step: min((step + 1) / peak, (budget.steps - step) / max(budget.steps - peak, 1))  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rise)
    device = method.device.type
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(budget.seed)  # of dropout
        for step, tensors in zip(range(budget.steps), _batches(recipe, method), strict=False):
            method.begin_step(step, budget.steps)
            with torch.autocast(device, torch.bfloat16, enabled=budget.precision == "bf16"):
                total = method.loss(method.prepare(tensors)).total
            optimizer.zero_grad()
            total.backward()
            if optim.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(trained, optim.clip_norm)
            optimizer.step()
            schedule.step()
    return method.eval()


def _batches(recipe: Recipe, method: Method) -> Iterator[dict[str, Tensor]]:
    loader, epochs = train_loader(
        recipe.source.open("train"),
        method.inputs,
        batch_size=recipe.train.batch_size,
        seed=recipe.train.seed,
        augment=recipe.augment,
        seeds=method.needs_seed,
    )
    for epoch in itertools.count():
        epochs.set_epoch(epoch)
        for batch in loader:
            yield {name: tensor.to(method.device) for name, tensor in batch.tensors.items()}
