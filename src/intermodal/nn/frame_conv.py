"""Convolutions over frames in rows, channels last, each product in the layout in which oneDNN is fastest.

Shapes: B batch, T frames in, I channels in, U frames out, O channels out, K frames of the kernel.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_weight, conv2d_input


def convolve(
    x_BTC: Tensor, weight_OIK: Tensor, bias_O: Tensor | None, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    """Return a convolution over time, (B, T, C) to (B, U, O): the frames are a picture of one row with channels last.

    That is the layout in which oneDNN is fastest, and nothing is copied to other layouts before or behind it.
    """
    learnt = torch.is_grad_enabled() and weight_OIK.requires_grad
    if learnt and stride > 1 and groups == 1 and x_BTC.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        y_BUO: Tensor = _Strided.apply(x_BTC, weight_OIK, stride, padding)
        return y_BUO if bias_O is None else y_BUO + bias_O
    y_BO1U = F.conv2d(
        _row(x_BTC), weight_OIK.unsqueeze(2), bias_O, stride=(1, stride), padding=(0, padding), groups=groups
    )
    return y_BO1U.squeeze(2).transpose(1, 2)


def _row(x_BTC: Tensor) -> Tensor:
    return x_BTC.transpose(1, 2).unsqueeze(2)


class _Strided(torch.autograd.Function):
    """:func:`convolve` whose gradients are each taken in the layout that is faster for it.

    With channels last oneDNN gives the gradient of what is read in half the time, that of the weights in five times
    the time.
    """

    @staticmethod
    def forward(ctx: Any, x_BTC: Tensor, weight_OIK: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x_BTC, weight_OIK)
        ctx.stride, ctx.padding = stride, padding
        y_BO1U = F.conv2d(_row(x_BTC), weight_OIK.unsqueeze(2), None, stride=(1, stride), padding=(0, padding))
        return y_BO1U.squeeze(2).transpose(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, given_BUO: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x_BTC, weight_OIK = ctx.saved_tensors
        read = weight = None
        if ctx.needs_input_grad[0]:
            size = (len(x_BTC), x_BTC.shape[2], 1, x_BTC.shape[1])
            stride, padding = (1, ctx.stride), (0, ctx.padding)
            read = conv2d_input(size, weight_OIK.unsqueeze(2), _row(given_BUO), stride, padding)
            read = read.squeeze(2).transpose(1, 2)
        if ctx.needs_input_grad[1]:
            x_BCT, given_BOU = x_BTC.transpose(1, 2).contiguous(), given_BUO.transpose(1, 2).contiguous()
            weight = conv1d_weight(x_BCT, weight_OIK.shape, given_BOU, ctx.stride, ctx.padding)
        return read, weight, None, None
