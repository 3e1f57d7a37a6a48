"""The nearest of K codes to 16,384 vectors of 64 numbers and a codebook's moving averages, beside vector-quantize-pytorch.

What the work needs, counted before it was written. N = 16,384 vectors, D = 64, float32, K = 1,024 (in brackets 8,192):

- Search: one product, 2 N K D = 2.15 (17.2) billion operations, what the yardstick (2 * 1024^3) does, or eight times that.
  The N x K scores would be 67 (537) MB written and read once more for their smallest; in parts of 4 MB they never leave the
  cache. The smallest of each is N K = 17 (134) million comparisons. |z|^2, and the root of a distance, decide nothing.
- Averages: N D additions into K sums, and N counts: 4.2 MB read, a thousandth of the product. By a matrix of ones and zeros
  it would be a second product of the size of the first, after writing N K numbers of eight bytes.
- The vectors of the codes: N rows copied, 4.2 MB.

So one product and a search for the smallest is all that may be seen; a step of training costs one of evaluation and a little
more. Peers compute the distances in several passes over the whole matrix, and count with a matrix of ones and zeros.

The value shown is the mean squared distance from vector to code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import harness
from intermodal.nn.nearest import nearest
from intermodal.nn.quantizers import VectorQuantizer, VectorQuantizerConfig

COUNT, DIM = 16_384, 64
INSTALL = "pip install vector-quantize-pytorch"


def inputs(codes: int, count: int) -> tuple[Tensor, Tensor]:
    """Return vectors ``(1, N, D)`` and codes ``(K, D)``."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, count, DIM, generator=generator), torch.randn(codes, DIM, generator=generator)


def ours(codes: int, count: int, training: bool) -> Callable[[], harness.Step]:
    """Return what makes our step."""

    def make() -> harness.Step:
        z, book = inputs(codes, count)
        quantizer = VectorQuantizer(VectorQuantizerConfig(codes=codes, dim=DIM, decay=0.99, initial="random"))
        quantizer.codebook.copy_(book)
        quantizer.sums.copy_(book)
        quantizer.train(training)
        rows = z[0]

        @torch.no_grad()
        def step() -> float:
            return float(quantizer(rows).parts["commitment"])

        return step

    return make


def theirs(codes: int, count: int, training: bool) -> Callable[[], harness.Step]:
    """Return what makes vector-quantize-pytorch's step."""

    def make() -> harness.Step:
        from vector_quantize_pytorch import VectorQuantize

        z, book = inputs(codes, count)
        quantizer = VectorQuantize(dim=DIM, codebook_size=codes, decay=0.99, rotation_trick=False)
        quantizer._codebook.embed.copy_(book[None])
        quantizer._codebook.embed_avg.copy_(book[None])
        quantizer.train(training)

        @torch.no_grad()
        def step() -> float:
            found, _, _ = quantizer(z)
            return float((found - z).square().mean())

        return step

    return make


def bare(codes: int, count: int, search: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], harness.Step]:
    """Return what makes the search alone."""

    def make() -> harness.Step:
        z, book = inputs(codes, count)
        rows = z[0]

        def step() -> float:
            return float((book[search(rows, book)] - rows).square().mean())

        return step

    return make


def whole(z_ND: Tensor, codes_KD: Tensor) -> Tensor:
    """Return the nearest codes by one product that is written out and one search."""
    return torch.addmm(codes_KD.square().sum(1) / 2, z_ND, codes_KD.t(), alpha=-1).argmin(1)


def cases(quick: bool) -> list[harness.Case]:
    """1,024 and 8,192 codes: evaluation, training, the search alone."""
    count, found = COUNT // 8 if quick else COUNT, []
    for codes in (1024,) if quick else (1024, 8192):
        for training in (False, True):
            contenders = [
                harness.Contender("intermodal", ours(codes, count, training)),
                harness.Contender("vector-quantize-pytorch", theirs(codes, count, training), INSTALL),
            ]
            doing = "training, moving average" if training else "evaluation"
            found.append(harness.Case(f"{count:,} x {DIM}, {codes:,} codes, {doing}", contenders, repeats=7))
        searches = [
            harness.Contender("nearest", bare(codes, count, nearest)),
            harness.Contender("addmm and argmin of the whole", bare(codes, count, whole)),
            harness.Contender("cdist and argmin", bare(codes, count, lambda z, book: torch.cdist(z, book).argmin(1))),
        ]
        found.append(harness.Case(f"{count:,} x {DIM}, {codes:,} codes, the search alone", searches, repeats=7))
    return found
