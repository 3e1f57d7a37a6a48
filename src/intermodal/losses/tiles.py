"""A matrix of logits, walked tile by tile: what the losses that compare all pairs of a batch share.

Shapes: this rank's b rows of B columns in all, D features, r x c one tile, n rows of either.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

CPU_TILE = 1024
"""Rows and columns of a tile on a CPU: 4 MB in float32, which caches hold."""
ACCELERATOR_TILE = 4096
"""Rows and columns of a tile elsewhere: 64 MB in float32, enough to keep an accelerator busy."""

SAFE_EXPONENT = 60.0
"""Exponentials of logits within this bound, and sums of them, neither overflow nor vanish in float32."""


@dataclass(frozen=True)
class Block:
    """This rank's rows of the matrix, and how to walk them.

    Attributes:
        first: the row of the whole matrix at which they begin.
        size: rows and columns of a tile.
        gather: whether there may be rows on other ranks.
        group: the ranks that share the matrix.
        graph: whether gradients will be asked for.
    """

    first: int
    size: int
    gather: bool
    group: dist.ProcessGroup | None
    graph: bool


@dataclass(frozen=True)
class Tile:
    """One tile.

    Attributes:
        i: its rows, counted within this rank's block.
        j: its columns.
        logits: ``scale * image @ text.T``, shape ``(r, c)``, in a buffer that the next tile overwrites.
        image: its rows' pictures, shape ``(r, D)``, not multiplied by the scale.
        text: its columns' texts, shape ``(c, D)``.
    """

    i: slice
    j: slice
    logits: Tensor
    image: Tensor
    text: Tensor


def walk(image_bD: Tensor, text_BD: Tensor, scale: Tensor, size: int) -> Iterator[Tile]:
    """Yield every tile, computed in the dtype of ``scale``."""
    memory = buffer(image_bD, text_BD, scale, size)
    for i in slices(image_bD.shape[0], size):
        image_rD = image_bD[i].to(scale.dtype)
        scaled_rD = image_rD * scale
        for j in slices(text_BD.shape[0], size):
            text_cD = text_BD[j].to(scale.dtype)
            logits = view(memory, torch.Size((len(image_rD), len(text_cD))))
            yield Tile(i, j, torch.mm(scaled_rD, text_cD.t(), out=logits), image_rD, text_cD)


def buffer(image_bD: Tensor, text_BD: Tensor, scale: Tensor, size: int) -> Tensor:
    """Return memory for one tile."""
    return scale.new_empty(min(size, image_bD.shape[0]) * min(size, text_BD.shape[0]))


def view(memory: Tensor, shape: torch.Size) -> Tensor:
    """Return the beginning of ``memory`` as a tensor of ``shape``."""
    return memory[: shape.numel()].view(shape)


def diagonal(tile_rc: Tensor, k: int) -> Tensor | None:
    """Return the entries whose column is their row plus ``k``, as a view, or None if the tile has none."""
    return tile_rc.diagonal(k) if -tile_rc.shape[0] < k < tile_rc.shape[1] else None


class Gradients:
    """Gradients of ``scale * image @ text.T``, accumulated over tiles of the gradient of the logits."""

    def __init__(self, needs: tuple[bool, ...], image_bD: Tensor, text_BD: Tensor, scale: Tensor) -> None:
        self.needs, self.inputs, self.scale = needs, (image_bD, text_BD), scale
        # The gradient of the scale, the sum of grad * logits / scale, follows from that of either side.
        use_image = needs[0] or (needs[2] and not needs[1])
        self.image_bD = scale.new_zeros(image_bD.shape) if use_image else None
        self.text_BD = scale.new_zeros(text_BD.shape) if needs[1] else None

    def add(self, grad_rc: Tensor, tile: Tile) -> None:
        """Add one tile's part (the scale is multiplied in at the end)."""
        if self.image_bD is not None:
            self.image_bD[tile.i].addmm_(grad_rc, tile.text)
        if self.text_BD is not None:
            self.text_BD[tile.j].addmm_(grad_rc.t(), tile.image)

    def finish(self, factor: Tensor | float) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of image, text and scale times ``factor``, each None where it is not needed.

        They are in the dtype of the computation; autograd casts them to that of the input.
        """
        found: list[Tensor | None] = []
        by_scale = None
        for features, grad, needed in zip(self.inputs, (self.image_bD, self.text_BD), self.needs, strict=False):
            if grad is not None and self.needs[2] and by_scale is None:
                by_scale = torch.dot(grad.view(-1), features.to(grad.dtype).reshape(-1)) * factor
            found.append(grad.mul_(factor * self.scale) if grad is not None and needed else None)
        return found[0], found[1], by_scale


def add_exponentials(logits_rc: Tensor, dim: int, maximum: Tensor, total: Tensor, scratch: Tensor) -> None:
    """Extend, in place, ``total`` = sum of exp(logit - maximum) and the running ``maximum`` by a tile."""
    larger = torch.maximum(maximum, logits_rc.amax(dim))
    total *= (maximum - larger).exp_()
    total += torch.sub(logits_rc, larger.unsqueeze(dim), out=scratch).exp_().sum(dim)
    maximum.copy_(larger)


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off: logits rounded to bfloat16 would be wrong by up to a quarter at a scale of 100."""
    return torch.autocast(tensor.device.type, enabled=False)


def default_size(tensor: Tensor) -> int:
    """Return the rows and columns of a tile on the tensor's device."""
    return CPU_TILE if tensor.device.type == "cpu" else ACCELERATOR_TILE


def differentiable_once(backward: Callable[..., tuple[Tensor | None, ...]]) -> Callable[..., Any]:
    """Make second derivatives raise.

    For the backward of an autograd function that saves all of its differentiable inputs. (With torch's
    ``once_differentiable`` they would silently be zero, because a loss's incoming gradient is a constant.)
    """

    @functools.wraps(backward)
    def wrapped(ctx: Any, grad_loss: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            grads = backward(ctx, grad_loss, *others)
        if not torch.is_grad_enabled():  # It is with create_graph=True.
            return grads
        inputs = [x for x in (grad_loss, *ctx.saved_tensors) if x is not None and x.requires_grad]
        return tuple(None if g is None else _Refusal.apply(g, *inputs) for g in grads)

    return wrapped


class _Refusal(torch.autograd.Function):
    """Hands a gradient on, and raises where somebody differentiates it."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, *inputs: Tensor) -> Tensor:
        return grad.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError("This loss can be differentiated once: it has no second derivative.")


def slices(length: int, step: int) -> Iterator[slice]:
    """Yield the slices of ``step`` that make up ``length``; the last may be shorter."""
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
