"""Large contrastive batches in little memory: encode in chunks, exactly.

A contrastive loss needs the embeddings of the whole batch at once, but not the activations that led to them.
Here the batch is encoded chunk by chunk, each chunk's activations are dropped after forward, and made again,
one chunk at a time, in backward (gradient caching, Gao et al. 2021, arXiv:2101.06983, section 3; activation
checkpointing, Chen et al. 2016, arXiv:1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def encode_in_chunks(
    encode: Callable[..., Tensor],
    inputs: Tensor | tuple[Tensor, ...],
    chunk_size: int,
    *,
    module: nn.Module | None = None,
) -> Tensor:
    """Return ``encode(*inputs)`` of a whole batch, with the activations of one chunk of it in memory.

    Values and every parameter's gradient equal those of ``encode(*inputs)`` to rounding, because ``encode``
    treats each row by itself; the price is one more forward pass. Dropout: a chunk's random numbers are the
    same in forward and in backward (the generator's state is kept), so gradients are exact for the masks that
    were drawn; those masks are others than one call on the whole batch would have drawn.

    Args:
        encode: maps tensors with a leading batch axis to one tensor with the same leading batch axis.
        inputs: a tensor of shape ``(B, ...)``, or several with the same B, which ``encode`` takes as
            arguments.
        chunk_size: rows at a time, at least 1; the last chunk may be smaller.
        module: the module that ``encode`` runs, to check it for batch norm; may be left out if ``encode`` is
            that module or one of its methods.

    Returns:
        Shape ``(B, ...)``.

    Raises:
        ValueError: if ``module`` holds a batch norm that would use statistics of the chunk (its result would
            then depend on ``chunk_size``), if the inputs' batch axes differ, if ``chunk_size`` is not
            positive, or if ``encode`` returns another number of rows than it was given.
    """
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    _check(encode, inputs, chunk_size, module)
    rows = inputs[0].shape[0]
    if rows <= chunk_size:
        return _encode(encode, inputs)
    outputs = []
    for chunk in zip(*(x.split(chunk_size) for x in inputs), strict=True):
        if torch.is_grad_enabled():
            outputs.append(checkpoint(_encode, encode, chunk, use_reentrant=False, preserve_rng_state=True))
        else:
            outputs.append(_encode(encode, chunk))
    return torch.cat(outputs)


def _encode(encode: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
    output = encode(*inputs)
    if output.ndim == 0 or output.shape[0] != inputs[0].shape[0]:
        raise ValueError(
            "encode must return one row for each row of its input: "
            f"given {inputs[0].shape[0]} rows, it returned shape {list(output.shape)}."
        )
    return output


def _check(
    encode: Callable[..., Tensor], inputs: tuple[Tensor, ...], chunk_size: int, module: nn.Module | None
) -> None:
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, found {chunk_size}.")
    if not inputs:
        raise ValueError("encode_in_chunks needs at least one input tensor, found none.")
    shapes = [list(x.shape) for x in inputs]
    if any(x.ndim == 0 or x.shape[0] != inputs[0].shape[0] for x in inputs):
        raise ValueError(f"All inputs must have the same leading batch axis, found shapes {shapes}.")
    owner = module if module is not None else _owner(encode)
    for name, part in owner.named_modules() if owner is not None else ():
        if isinstance(part, _BatchNorm) and (part.training or part.running_mean is None):
            raise ValueError(
                f"{type(owner).__name__} has a batch norm ({name or 'itself'}) that normalises by the "
                "statistics of its batch, so encoding in chunks would change the result: call eval() on it, "
                "replace it, or encode the batch whole."
            )


def _owner(encode: Callable[..., Tensor]) -> nn.Module | None:
    found = encode if isinstance(encode, nn.Module) else getattr(encode, "__self__", None)
    return found if isinstance(found, nn.Module) else None
