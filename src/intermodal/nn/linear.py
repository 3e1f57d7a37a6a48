"""Linear layers and 1 x 1 convolutions by the faster of the two libraries that torch has for them on a CPU.

Torch hands a float32 matrix product to MKL, and on one thread a 1 x 1 convolution too, but a convolution of 16 samples
or more to oneDNN. On a processor that MKL does not favour, oneDNN does twice as many products in the same time (one
core of an AMD EPYC of 2024: 230 against 105 billion operations a second). So here a matrix product goes to oneDNN:
where nothing is learnt by torch's own operator for it, which has no gradient, and else as such a convolution. Both give
the same numbers up to rounding, forward and backward. The one to four rows of a step of decoding, in half precision too,
go to a kernel of ours where numba is installed (:mod:`intermodal.nn.linear_kernels`).

    B batch   C channels in   O channels out   H, W height and width   N rows of a matrix
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.errors import MissingExtraError

__all__ = ["Linear", "linear", "plain", "pointwise", "quicken"]

SAMPLES = 16
"""From so many samples on torch gives a 1 x 1 convolution to oneDNN."""
LEAST = 256
"""Rows from which that is worth while; fewer, of a step with a KV cache or of a pooled vector, go the usual way."""
LEAST_READ = 32
"""The same where nothing is learnt."""
LARGE = 1 << 18
"""Weights from which fewer rows are worth it, where nothing is learnt."""
FEW = {torch.float32: 4, torch.bfloat16: 2}
"""Up to so many rows of a type memory is what a product waits for."""
SMALL = 1 << 12
"""Weights below which a call costs more than the product."""
_PLAIN = (Tensor, nn.Parameter)
_KERNEL: Callable[..., Tensor] | None = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class Linear(nn.Linear):
    """A linear layer, the same as torch's in everything but its speed."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., O)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight_OC: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return ``x weight^T + bias``, (..., C) to (..., O)."""
    rows = x.shape[:-1].numel()
    if rows and _is_read(x, weight_OC, bias_O):
        if rows <= FEW.get(x.dtype, 0) and _fits(x, weight_OC, bias_O) and (multiply := _compiled()):
            return multiply(x.contiguous(), weight_OC, bias_O)
        if _KERNEL is not None and _single(x) and (rows >= LEAST_READ or weight_OC.numel() >= LARGE):
            return _KERNEL(x, weight_OC, bias_O, "none", [], "")
    if not _pays(x, rows):
        return F.linear(x, weight_OC, bias_O)
    return _product(x.reshape(rows, x.shape[-1]), weight_OC, bias_O).view(*x.shape[:-1], len(weight_OC))


def pointwise(layer: nn.Conv2d, x_BCHW: Tensor) -> Tensor:
    """Return ``layer(x)`` of a 1 x 1 convolution, (B, O, H, W), channels-last."""
    size = x_BCHW.shape[0], *x_BCHW.shape[2:]
    if not _pays(x_BCHW, size[0] * size[1] * size[2]):
        return layer(x_BCHW)
    y_NO = _product(x_BCHW.permute(0, 2, 3, 1).flatten(0, 2), layer.weight.flatten(1), layer.bias)
    return y_NO.view(*size, layer.out_channels).permute(0, 3, 1, 2)


def quicken(network: nn.Module) -> None:
    """Make every plain linear layer within a network a :class:`Linear`; parameters, their names and values stay."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear  # the one thing that differs is the method forward


def _single(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _is_read(*tensors: Tensor | None) -> bool:
    """Say whether nothing is learnt: no gradient is asked for, and nothing watches the operations."""
    return not torch.is_grad_enabled() or not any(t is not None and t.requires_grad for t in tensors)


@functools.cache
def _compiled() -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """Return the kernel for few rows; None without numba."""
    try:
        from intermodal.nn.linear_kernels import multiply
    except MissingExtraError:
        return None
    return multiply


def _fits(x: Tensor, weight_OC: Tensor, bias_O: Tensor | None) -> bool:
    """Say whether addresses tell all about the tensors: plain ones, of one type and in memory, whose sizes fit."""
    if type(x) not in _PLAIN or not x.is_cpu or weight_OC.dim() != 2 or torch.is_autocast_enabled("cpu"):
        return False
    if not plain(weight_OC, x.dtype) or (bias_O is not None and not plain(bias_O, x.dtype)):
        return False
    outputs, inputs = weight_OC.shape
    same = inputs == x.shape[-1] and (bias_O is None or bias_O.shape == (outputs,))
    return same and inputs * outputs >= SMALL


def plain(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Say whether a tensor is of this type, in a CPU's memory, and without gaps."""
    return tensor.dtype == dtype and tensor.is_cpu and tensor.is_contiguous()


def _pays(x: Tensor, rows: int) -> bool:
    return _single(x) and rows >= LEAST and rows % SAMPLES == 0


def _product(x_NC: Tensor, weight_OC: Tensor, bias_O: Tensor | None) -> Tensor:
    """Return ``x weight^T + bias``, (N, O): each of 16 samples is a picture of one row."""
    samples = x_NC.view(SAMPLES, 1, -1, x_NC.shape[1]).permute(0, 3, 1, 2)
    y = F.conv2d(samples, weight_OC[:, :, None, None], bias_O)
    return y.permute(0, 2, 3, 1).reshape(x_NC.shape[0], -1)
