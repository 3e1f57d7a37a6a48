"""What the quantizers share: shapes, the straight-through gradient, and how often codes occur.

Shapes: B batch, D dimensions of a vector, N vectors (all places of a batch), K codes of a codebook, Q codes at
each place, ``...`` the axes of the places (``h, w`` of a picture's map).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from intermodal.core.errors import DataError


@dataclass(frozen=True)
class Quantized:
    """What a quantizer returns.

    Attributes:
        z: the vectors of the codes, of the shape and type of what went in, which receives their gradient.
        codes: int64; the shape of the places, with Q at the end where a place has several.
        loss: a scalar with its graph, float32: what the quantizer adds to the loss of the model.
        parts: detached scalars worth a curve. ``perplexity``: how many codes of equal frequency the batch's are worth;
            ``used``: the share of all codes that occurs in it (means over Q, where a place has several codes);
            ``commitment``: the mean squared distance from vector to code.
    """

    z: Tensor
    codes: Tensor
    loss: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Quantizer(nn.Module):
    """Base of the quantizers; a subclass has :meth:`rows` and :meth:`vectors`.

    Attributes:
        dim: D.
        codebook_size: K.
        code_shape: ``()``, or ``(Q,)`` where a place has several codes.
    """

    dim: int
    codebook_size: int
    code_shape: tuple[int, ...] = ()

    def forward(self, z: Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Quantize the vectors of a map.

        In training a codebook may change by it; a batch with a number that is not finite leaves the codebook as it is.

        Args:
            z: any float type, shape (B, D, ...): ``(B, D, h, w)``, ``(B, D, L)`` or ``(B, D)``; computed in float32
                at least.
            generator: decides what a codebook begins with and what replaces its dead codes; None for torch's own.

        Raises:
            DataError: if the shape is another one, or outside of training a number is not finite.
        """
        if z.ndim < 2 or z.shape[1] != self.dim or not z.numel():
            raise DataError(f"The quantizer takes vectors of shape (B, {self.dim}, ...), found {tuple(z.shape)}.")
        if not (self.training or z.isfinite().all()):
            raise DataError("There is a number that is not finite in the vectors: no code is near them.")
        last = z.movedim(1, -1)
        with torch.autocast(z.device.type, enabled=False):
            kind = torch.promote_types(z.dtype, torch.float32)
            found = self.rows(last.reshape(-1, self.dim).to(kind), generator)
        codes = found.codes.view(*last.shape[:-1], *self.code_shape)
        return replace(found, z=found.z.to(z.dtype).view(last.shape).movedim(-1, 1), codes=codes)

    def look_up(self, codes: Tensor) -> Tensor:
        """Return the vectors ``(B, D, ...)`` of codes ``(B, ...)``, which end with Q where a place has several.

        Raises:
            DataError: if the codes end with another number of codes for each place.
        """
        places = self._places(codes)
        return self.vectors(codes.reshape(-1, *codes.shape[len(places) :])).view(*places, self.dim).movedim(-1, 1)

    def _places(self, codes: Tensor) -> torch.Size:
        return codes.shape

    def rows(self, z_ND: Tensor, generator: torch.Generator | None) -> Quantized:
        """Quantize vectors ``(N, D)``, float32 or float64; the codes have the shape ``(N, *code_shape)``."""
        raise NotImplementedError

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the vectors ``(N, D)`` of codes ``(N, *code_shape)``."""
        raise NotImplementedError


# --8<-- [start:straight_through]
def straight_through(z: Tensor, quantized: Tensor) -> Tensor:
    """Return ``quantized``, exactly, with the gradient of ``z``: what comes back goes straight through to the encoder."""
    return quantized.detach() + (z - z.detach()) if z.requires_grad else quantized.detach()


# --8<-- [end:straight_through]


def occurrence(counts_K: Tensor) -> dict[str, Tensor]:
    """Return perplexity (the exponential of the entropy) and used share of a codebook from how often its codes occur."""
    share_K = counts_K.double() / counts_K.sum().clamp(min=1)
    return {
        "perplexity": torch.exp(-torch.xlogy(share_K, share_K).sum()).float(),
        "used": (counts_K > 0).float().mean(),
    }
