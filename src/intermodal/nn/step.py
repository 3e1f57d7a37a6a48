"""One new position of a few sequences through a transformer's blocks, in one piece of compiled code where that can be.

Which is where numba is installed, on a CPU, in single precision or bfloat16, where gradients are off, nothing watches the
parts (hooks), and the blocks are made of the library's own attention, MLPs and norms, as those of every
:class:`~intermodal.nn.causal.CausalTransformer` are. Elsewhere the blocks are called one by one, for the same numbers.

    N sequences   D width   H heads   G heads of keys and values   K width of one head   S positions that are kept
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from intermodal.core.errors import MissingExtraError
from intermodal.nn.cache import KVCache
from intermodal.nn.linear import Linear, plain
from intermodal.nn.transformer import ACTIVATIONS, MLP, Attention, Block, GatedMLP, Transformer, Turn

ROWS = 4
"""Up to so many sequences memory is what a step waits for."""
LEAST = 1 << 18
"""Weights of all blocks from which compiled code is worth its loading, and of a block from which a thread more is."""
_LINEAR = (Linear, nn.Linear)
_NORMS = {nn.LayerNorm: False, nn.RMSNorm: True}
_KINDS = {function: kind for kind, function in enumerate(ACTIVATIONS.values())}


class _Form(NamedTuple):
    """What all blocks share, in the order and as compiled code takes it: ``eps`` by its bits."""

    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    gated: bool
    activation: int
    rms: bool
    eps: int


_BY_BLOCKS = object()
"""A plan for blocks that compiled code does not take."""
_NOTHING = _Form(0, 0, 0, 0, False, 0, False, 0)


class _Plan(NamedTuple):
    """What compiled code needs to know of blocks and of the memory of what they read, from step to step.

    Attributes:
        form: of all blocks.
        rows: N.
        parts: addresses of the parameters and of the memory, as compiled code takes them.
        threads: how many are worth while.
        modules: every part, its name, and where it is kept under that name.
        tensors: every parameter's name, where it is kept, and its address.
        kept: address and size of each block's memory.
        hooks: what watches the parts; nothing may.
    """

    form: _Form
    rows: int
    parts: list[int]
    threads: int
    modules: list[tuple[nn.Module, str, Mapping[str, nn.Module | None]]]
    tensors: list[tuple[str, Mapping[str, Tensor | None], int]]
    kept: list[tuple[int, int]]
    hooks: list[Mapping[int, object]]

    def holds(self, rows: int, cache: KVCache) -> bool:
        """Say whether all is still where it was, and unwatched."""
        if rows != self.rows or self.kept != _memory(cache) or any(self.hooks):
            return False
        if any(where[name] is not part for part, name, where in self.modules):
            return False
        return all((t := where[name]) is not None and t.data_ptr() == at for name, where, at in self.tensors)


def step(transformer: Transformer, x_N1D: Tensor, cache: KVCache, turn: Turn | None) -> Tensor | None:
    """Return what the blocks make of a position behind those of the cache, (N, 1, D), and keep its keys and values.

    ``turn`` is of this position, the same for all sequences. None, with nothing done, where compiled code is not for it;
    blocks that it does not take are not looked at again before further positions are read at once.
    """
    kernels = _compiled() if _is_for(x_N1D, cache, turn) and not transformer.training else None
    if kernels is None:
        cache.plan = None
        return None
    plan = cache.plan
    if plan is None or (isinstance(plan, _Plan) and not plan.holds(len(x_N1D), cache)):
        cache.plan = plan = _planned(transformer, x_N1D, cache) or _BY_BLOCKS
    kept, room = cache.length, cache.layers[0].capacity
    if not isinstance(plan, _Plan) or kept >= room:
        return None
    (rows, _, width), form, blocks = x_N1D.shape, plan.form, len(cache.layers)
    x_ND = x_N1D.to(torch.float32, copy=True).reshape(rows, width).contiguous()
    threads = kernels.TEAM.threads(plan.threads)
    sizes = rows, width, *form[:4], kept
    shared = x_ND.new_empty(kernels.shared_ends(sizes)[-1])
    own = x_ND.new_empty(threads * kernels.own_size(rows, width, form.head_width))
    turns = [0, 0] if turn is None else [t.data_ptr() for t in turn]
    wait = kernels.TEAM.barrier if threads > 1 else 0
    at = [*turns, x_ND.data_ptr(), shared.data_ptr(), own.data_ptr(), wait]
    head = [*sizes, room, *form[4:], x_N1D.dtype != torch.float32, blocks, *at, 0]
    kernels.TEAM(kernels.task(head + plan.parts, blocks), threads)
    for layer in cache.layers:
        layer.length += 1
    return x_ND.to(x_N1D.dtype).unsqueeze(1)


def _is_for(x_N1D: Tensor, cache: KVCache, turn: Turn | None) -> bool:
    """Say whether a step is one that compiled code takes, as far as its numbers tell."""
    known = type(x_N1D) is Tensor and x_N1D.is_cpu and x_N1D.dtype in (torch.float32, torch.bfloat16)
    few = x_N1D.shape[1] == 1 and 0 < len(x_N1D) <= ROWS and cache.length > 0
    if not known or not few or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    return turn is None or all(t.shape[:-1].numel() == 1 and plain(t, x_N1D.dtype) for t in turn)


@functools.cache
def _compiled() -> ModuleType | None:
    """Return the compiled code; None without numba."""
    try:
        from intermodal.nn import step_kernels
    except MissingExtraError:
        return None
    return step_kernels


def _planned(transformer: Transformer, x_N1D: Tensor, cache: KVCache) -> _Plan | None:
    """Return the plan of steps through blocks; None for blocks or a memory that compiled code does not know."""
    if len(cache.layers) != len(transformer.blocks):
        return None
    plan, forms, weights = _Plan(_NOTHING, len(x_N1D), [], 0, [], [], _memory(cache), []), set(), 0
    for block, layer in zip(transformer.blocks, cache.layers, strict=True):
        form, own, memory = _form(block), _tensors(block), layer.memory
        forms.add(form)
        given = [t for t in own if t is not None]
        if form is None or memory is None or any(not plain(t, x_N1D.dtype) for t in (*given, memory)):
            return None
        if memory.shape != (2, len(x_N1D), form.kv_heads, cache.layers[0].capacity, form.head_width):
            return None
        start = memory.data_ptr()
        plan.parts.extend([0 if t is None else t.data_ptr() for t in own] + [start, start + memory.nbytes // 2])
        for part in block.modules():
            plan.modules.extend((m, name, part._modules) for name, m in part._modules.items() if m is not None)
            plan.tensors.extend(
                (n, part._parameters, t.data_ptr()) for n, t in part._parameters.items() if t is not None
            )
            plan.hooks.extend([part._forward_hooks, part._forward_pre_hooks])
        weights += sum(t.numel() for t in given)
    form = forms.pop() if len(forms) == 1 else None
    if form is None or weights < LEAST or any(plan.hooks):
        return None
    blocks = transformer.blocks._modules
    plan.modules.extend((m, name, blocks) for name, m in blocks.items() if m is not None)
    return plan._replace(form=form, threads=weights // len(blocks) // LEAST)


def _memory(cache: KVCache) -> list[tuple[int, int]]:
    """Return the address and the size of each block's memory."""
    memories = (layer.memory for layer in cache.layers)
    return [(0, 0) if memory is None else (memory.data_ptr(), memory.nbytes) for memory in memories]


def _form(block: Any) -> _Form | None:
    """Return what a block is; None for one that compiled code does not know, or that is watched."""
    if type(block) is not Block:
        return None
    norm1: Any = block.norm1
    norm2: Any = block.norm2
    attention: Any = block.attention
    mlp: Any = block.mlp
    rms = _NORMS.get(type(norm1))
    if type(attention) is not Attention or type(mlp) not in (MLP, GatedMLP) or rms is None:
        return None
    if not hasattr(attention, "qkv") or not attention.causal or attention.positions is not None:
        return None
    linear, kind = (attention.qkv, attention.out, mlp.fc1, mlp.fc2), _KINDS.get(mlp.activation)
    if kind is None or any(type(part) not in _LINEAR for part in linear) or type(norm2) is not type(norm1):
        return None
    if norm1.eps is None or norm1.eps != norm2.eps or norm1.weight is None or norm2.weight is None:
        return None
    sizes = attention.heads, attention.kv_heads, attention.head_width, mlp.fc2.in_features
    return _Form(*sizes, type(mlp) is GatedMLP, kind, rms, *struct.unpack("q", struct.pack("d", norm1.eps)))


def _tensors(block: Any) -> list[Tensor | None]:
    """Return weights and biases of a block in the order of :data:`intermodal.nn.step_kernels.FIELDS`."""
    parts = block.norm1, block.attention.qkv, block.attention.out, block.norm2, block.mlp.fc1, block.mlp.fc2
    return [getattr(part, name, None) for part in parts for name in ("weight", "bias")]
