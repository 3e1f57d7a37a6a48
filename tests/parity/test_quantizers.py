"""Quantizers: equal to vector-quantize-pytorch's and diffusers', outputs, losses, codes, gradients and codebooks."""

from __future__ import annotations

import pytest
import torch

from intermodal.nn.quantizers import (
    FiniteScalarQuantizer,
    FiniteScalarQuantizerConfig,
    ResidualQuantizer,
    ResidualQuantizerConfig,
    VectorQuantizer,
    VectorQuantizerConfig,
)

SIZES = [(3, 5, 7, (3, 4)), (2, 33, 17, (5, 1)), (1, 8, 129, (7, 3)), (5, 16, 64, (2, 9))]
"""Batch, D, K and the places."""


def reference():
    return pytest.importorskip("vector_quantize_pytorch", reason="vector-quantize-pytorch is not installed")


def maps(batch, dim, places, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, dim, *places, generator=generator).to(dtype).requires_grad_()


def near(ours, theirs, what, tolerance=1e-5):
    assert ours.shape == theirs.shape, what
    scale = max(float(theirs.detach().abs().max()), 1e-3)
    assert float((ours - theirs).detach().abs().max()) < tolerance * scale, what


def pair(config, **changes):
    """Return our quantizer and theirs, with the same codebook."""
    theirs = reference().VectorQuantize(
        dim=config.dim,
        codebook_size=config.codes,
        decay=config.decay,
        eps=config.smoothing,
        commitment_weight=config.commitment,
        use_cosine_sim=config.cosine,
        rotation_trick=False,
        accept_image_fmap=True,
        **changes,
    )
    ours = VectorQuantizer(config)
    generator = torch.Generator().manual_seed(5)
    codes = torch.randn(config.codes, config.dim, generator=generator)
    codes = torch.nn.functional.normalize(codes, dim=1) if config.cosine else codes
    with torch.no_grad():
        for buffer in (ours.codebook, theirs._codebook.embed[0], theirs._codebook.embed_avg[0]):
            buffer.copy_(codes)
        if config.update == "ema":
            ours.sums.copy_(codes)
    return ours, theirs


@pytest.mark.parametrize(("batch", "dim", "codes", "places"), SIZES)
@pytest.mark.parametrize("cosine", [False, True])
def test_moving_average_over_steps(batch, dim, codes, places, cosine):
    config = VectorQuantizerConfig(codes=codes, dim=dim, decay=0.8, commitment=0.25, cosine=cosine, initial="random")
    ours, theirs = pair(config)
    for step in range(4):
        x, y = (maps(batch, dim, places, seed=step) for _ in range(2))
        found, (z, indices, loss) = ours(x), theirs(y)
        assert torch.equal(found.codes, indices)
        near(found.z, z, "z")
        near(found.loss, loss.squeeze(), "loss")
        weight = torch.randn(z.shape, generator=torch.Generator().manual_seed(9))
        (found.loss + (found.z * weight).sum()).backward()
        (loss + (z * weight).sum()).backward()
        near(x.grad, y.grad, "gradient")
        near(ours.counts, theirs._codebook.cluster_size[0], "counts")
        near(ours.sums, theirs._codebook.embed_avg[0], "sums")
        near(ours.codebook, theirs.codebook, "codebook")
    ours.eval()
    theirs.eval()
    with torch.no_grad():
        x = maps(batch, dim, places, seed=99)
        z, indices, _ = theirs(x)
        assert torch.equal(ours(x).codes, indices)
        near(ours(x).z, z, "z, evaluated")
        near(ours.look_up(indices), theirs.get_codes_from_indices(indices), "looked up")


@pytest.mark.parametrize(("batch", "dim", "codes", "places"), SIZES)
def test_codebook_that_descends_the_loss(batch, dim, codes, places):
    """Theirs is one distance with two gradients; with equal weights ours is twice that number and the same gradients."""
    config = VectorQuantizerConfig(codes=codes, dim=dim, commitment=1.0, update="loss", initial="random")
    ours, theirs = pair(config, learnable_codebook=True, ema_update=False)
    x, y = (maps(batch, dim, places) for _ in range(2))
    found, (z, indices, loss) = ours(x), theirs(y)
    assert torch.equal(found.codes, indices)
    near(found.z, z, "z")
    near(found.loss / 2, loss.squeeze(), "loss")
    found.loss.backward()
    loss.backward()
    near(x.grad, y.grad, "gradient")
    near(ours.codebook.grad, theirs._codebook.embed.grad[0], "the codebook's gradient")


@pytest.mark.parametrize(("batch", "dim", "codes", "places"), SIZES)
@pytest.mark.parametrize("levels", [1, 3])
def test_residual(batch, dim, codes, places, levels):
    """Their gradient reaches the input once for each level (they add Q straight-through estimates); ours once.

    (Vectors in a row, since theirs of 1.32.0 does not take maps, whatever it says.)
    """
    level = VectorQuantizerConfig(codes=codes, dim=dim, decay=0.8, commitment=0.5, initial="random")
    ours = ResidualQuantizer(ResidualQuantizerConfig(level=level, levels=levels))
    theirs = reference().ResidualVQ(
        dim=dim,
        num_quantizers=levels,
        codebook_size=codes,
        decay=0.8,
        commitment_weight=0.5,
        rotation_trick=False,
    )
    generator = torch.Generator().manual_seed(3)
    for i, (mine, other) in enumerate(zip(ours.levels, theirs.layers, strict=True)):
        book = torch.randn(codes, dim, generator=generator) * 0.5**i
        for buffer in (mine.codebook, mine.sums, other._codebook.embed[0], other._codebook.embed_avg[0]):
            buffer.copy_(book)
    for step in range(2):
        x, y = (maps(batch, dim, places, seed=step).detach().flatten(2).requires_grad_() for _ in range(2))
        found, (z, indices, losses) = ours(x), theirs(y.movedim(1, -1))
        z = z.movedim(-1, 1)
        assert torch.equal(found.codes, indices)
        near(found.z, z, "z")
        near(found.loss, losses.sum(), "loss")
        ours_z, theirs_z = (
            torch.autograd.grad(found.z.sum(), x)[0],
            torch.autograd.grad(z.sum(), y, retain_graph=True)[0],
        )
        near(ours_z, theirs_z / levels, "gradient of z")
        near(torch.autograd.grad(found.loss, x)[0], torch.autograd.grad(losses.sum(), y)[0], "gradient of the loss")
        for mine, other in zip(ours.levels, theirs.layers, strict=True):
            near(mine.codebook, other.codebook, "codebook")
    ours.eval()
    theirs.eval()
    with torch.no_grad():
        near(ours.look_up(indices), theirs.get_output_from_indices(indices).movedim(-1, 1), "looked up")


@pytest.mark.parametrize("levels", [(3,), (8, 5, 5), (7, 5, 4, 3), (4, 4), (16, 3, 8, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_scalar(levels, dtype):
    theirs = reference().FSQ(levels=list(levels))
    ours = FiniteScalarQuantizer(FiniteScalarQuantizerConfig(levels=levels))
    x = (maps(3, len(levels), (5, 7), dtype=dtype) * 3).detach().requires_grad_()
    y = x.detach().clone().requires_grad_()
    found, (z, indices) = ours(x), theirs(y)
    assert found.z.dtype == dtype
    assert torch.equal(found.codes, indices.long())
    assert theirs.codebook_size == ours.codebook_size == int(torch.tensor(levels).prod())
    near(found.z, z, "z", 1e-6)
    weight = torch.randn(z.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    (found.z * weight).sum().backward()
    (z * weight).sum().backward()
    near(x.grad, y.grad, "gradient", 1e-5)
    every = torch.arange(ours.codebook_size).view(1, 1, -1)
    near(ours.look_up(every), theirs.indices_to_codes(every), "every code", 1e-6)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize(("batch", "dim", "codes", "places"), SIZES)
def test_diffusers(batch, dim, codes, places, legacy):
    """With ``legacy`` beta weighs the term that the codebook descends, without it the one that the encoder descends."""
    vae = pytest.importorskip("diffusers.models.autoencoders.vae", reason="diffusers is not installed")
    theirs = vae.VectorQuantizer(codes, dim, beta=0.25, legacy=legacy, sane_index_shape=True).double()
    weights = {"commitment": 1.0, "codebook": 0.25} if legacy else {"commitment": 0.25, "codebook": 1.0}
    ours = VectorQuantizer(
        VectorQuantizerConfig(codes=codes, dim=dim, update="loss", initial="random", **weights)
    ).double()
    with torch.no_grad():
        theirs.embedding.weight.normal_(generator=torch.Generator().manual_seed(1))
        ours.codebook.copy_(theirs.embedding.weight)
    x, y = (maps(batch, dim, places, dtype=torch.float64) for _ in range(2))
    found, (z, loss, (_, _, indices)) = ours(x), theirs(y)
    assert torch.equal(found.codes, indices)
    near(found.z, z, "z", 1e-12)
    near(found.loss, loss, "loss", 1e-12)
    (found.loss + found.z.square().sum()).backward()
    (loss + z.square().sum()).backward()
    near(x.grad, y.grad, "gradient", 1e-12)
    near(ours.codebook.grad, theirs.embedding.weight.grad, "the codebook's gradient", 1e-12)
    near(ours.look_up(indices), theirs.get_codebook_entry(indices.flatten(), (batch, *places, dim)), "looked up", 1e-12)
