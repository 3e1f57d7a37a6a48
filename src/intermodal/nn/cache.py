"""The memory of a causal transformer that reads on: keys and values of what it has read, allocated once.

Without it, each further token would cost a pass over all tokens before it. With it, a step computes one position and
attends to what is kept. Shapes:

    B sequences   H heads   L new positions   S positions that are kept   K width of one head   N sequences after a
    choice
"""

from __future__ import annotations

import torch
from torch import Tensor


class LayerCache:
    """Keys and values of one attention layer.

    The memory is allocated when the first are appended, in their type and on their device, for ``capacity`` positions.

    Args:
        capacity: the most positions that will be kept.

    Attributes:
        length: S, how many positions are kept.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._kept_2BHSK: Tensor | None = None

    @property
    def memory(self) -> Tensor | None:
        """Where keys and values are kept, (2, B, H, capacity, K); None before the first."""
        return self._kept_2BHSK

    def append(self, k_BHLK: Tensor, v_BHLK: Tensor) -> tuple[Tensor, Tensor]:
        """Keep further keys and values, and return all that are kept, each ``(B, H, S, K)`` (a view of the memory).

        Raises:
            ValueError: if there is no room, the number of sequences has changed, or a gradient is wanted: what is
                overwritten cannot be differentiated.
        """
        if torch.is_grad_enabled() and (k_BHLK.requires_grad or v_BHLK.requires_grad):
            raise ValueError("A cache keeps no gradients: decode within torch.no_grad(), or train without a cache.")
        batch, heads, new, size = k_BHLK.shape
        end = self.length + new
        if end > self.capacity:
            raise ValueError(
                f"The cache has room for {self.capacity} positions, {self.length} are taken and {new} more came."
            )
        if self._kept_2BHSK is None:
            self._kept_2BHSK = k_BHLK.new_empty((2, batch, heads, self.capacity, size))
        if self._kept_2BHSK.shape[1] != batch:
            raise ValueError(f"The cache holds {self._kept_2BHSK.shape[1]} sequences, {batch} came: reorder it first.")
        k_BHSK, v_BHSK = self._kept_2BHSK.narrow(3, 0, end).unbind()
        k_BHSK.narrow(2, self.length, new).copy_(k_BHLK)
        v_BHSK.narrow(2, self.length, new).copy_(v_BHLK)
        self.length = end
        return k_BHSK, v_BHSK

    def grow(self, capacity: int) -> None:
        """Make room for so many positions; what is kept stays, and there is never less room than before."""
        old, self.capacity = self._kept_2BHSK, max(capacity, self.capacity)
        if old is not None and old.shape[3] < self.capacity:
            self._kept_2BHSK = old.new_empty((*old.shape[:3], self.capacity, old.shape[4]))
            self._kept_2BHSK[:, :, :, : self.length] = old[:, :, :, : self.length]

    def reorder(self, rows_N: Tensor) -> None:
        """Replace the sequences by those of these numbers: some may be left out, others repeated."""
        kept = self._kept_2BHSK
        if kept is None or rows_N.tolist() == list(range(kept.shape[1])):
            return
        chosen = kept[:, :, :, : self.length].index_select(1, rows_N)
        if len(rows_N) != kept.shape[1]:
            self._kept_2BHSK = kept = kept.new_empty((2, len(rows_N), *kept.shape[2:]))
        kept[:, :, :, : self.length] = chosen


class KVCache:
    """Keys and values of every layer of a causal transformer.

    Args:
        layers: how many layers attend.
        capacity: the most positions that will be kept.
        padding_B: int64, how many of each sequence's first positions stand before its beginning; None for none.
    """

    def __init__(self, layers: int, capacity: int, padding_B: Tensor | None = None) -> None:
        self.plan: object = None
        """What was found out about the steps that go on from here (:mod:`intermodal.nn.step`)."""
        self.layers = [LayerCache(capacity) for _ in range(layers)]
        self.capacity = capacity
        self.pad(padding_B)

    def pad(self, padding_B: Tensor | None) -> None:
        """Say how many of each sequence's first positions are nothing."""
        self.padding_B = padding_B
        self.real_BS: Tensor | None = None
        if padding_B is not None:
            self.real_BS = torch.arange(self.capacity, device=padding_B.device) >= padding_B.unsqueeze(1)

    @property
    def length(self) -> int:
        """How many positions are kept: the place of the next one."""
        return self.layers[0].length if self.layers else 0

    def grow(self, capacity: int) -> None:
        """Make room for so many positions; what is kept stays, and there is never less room than before."""
        for layer in self.layers:
            layer.grow(capacity)
        self.capacity = max(capacity, self.capacity)
        self.pad(self.padding_B)

    def forget(self, length: int) -> None:
        """Keep the first ``length`` positions alone: what comes next stands behind those.

        Raises:
            ValueError: if fewer are kept.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"The cache keeps {self.length} positions, not {length}.")
        for layer in self.layers:
            layer.length = length

    def reorder(self, rows_N: Tensor) -> None:
        """Replace the sequences by those of these numbers, int64 ``(N,)``: beam search keeps some and splits others."""
        for layer in self.layers:
            layer.reorder(rows_N)
        if self.padding_B is not None:
            self.pad(self.padding_B[rows_N])
