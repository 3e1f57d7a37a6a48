"""Swin's attention put back to the map: it is what the blocks weigh with, and rollout is the product of whole matrices."""

from __future__ import annotations

import pytest
import torch

from intermodal.nn.swin import SwinConfig, SwinTransformer
from intermodal.nn.swin_attention import WindowWeights, attention_maps, rollout

SIZES = [(16, 16), (12, 22)]


def build(version, randomise):
    config = SwinConfig(
        image_size=16, patch_size=2, width=8, depths=(2, 2), heads=(2, 4), window=4, version=version
    )  # on 12 x 22 both maps are filled up
    tower = SwinTransformer(config).double().eval()
    randomise(tower)
    return tower


def whole(weights: WindowWeights, picture: int) -> torch.Tensor:
    """Return the mean of the heads as a matrix over all places of the map, ``(L, L)``, one row after the other."""
    cut = weights.cut
    rows = [
        weights.of_place(row, column)[picture].mean(0).flatten()
        for row in range(cut.rows)
        for column in range(cut.columns)
    ]
    return torch.stack(rows)


@torch.no_grad()
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_weights_times_values_are_what_the_block_computes(version, size, randomise):
    tower = build(version, randomise)
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    read = []
    tower.maps(image, lambda stage, block, x: read.append((block, x)))
    found = attention_maps(tower, image)
    assert [w.stage for w in found] == [0, 0, 1, 1] and [w.cut.shift for w in found][:2] == [0, 2]
    for (block, x), weights in zip(read, found, strict=True):
        x = x if version == 2 else block.norm1(x)
        cut, attention = weights.cut, block.attention.attention
        padded = torch.nn.functional.pad(x, (0, 0, 0, cut.right, 0, cut.below)).flatten(1, 2)
        value = attention.qkv(padded).chunk(3, -1)[2][:, cut.place_NS].unflatten(-1, (attention.heads, -1))
        mixed = torch.einsum("bnast,bntak->bnsak", weights.weight_BNASS, value).flatten(3)
        out = torch.zeros_like(padded)
        out[:, cut.place_NS] = attention.out(mixed)
        out = out.unflatten(1, (cut.rows + cut.below, -1))[:, : cut.rows, : cut.columns]
        assert torch.allclose(out, block.attention(x), rtol=0, atol=1e-12)
        assert torch.allclose(weights.weight_BNASS.sum(-1), torch.ones((), dtype=torch.float64))


@torch.no_grad()
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_rollout_is_the_product_of_the_blocks_matrices(version, size, randomise):
    tower = build(version, randomise)
    found = attention_maps(tower, torch.randn(2, 3, *size, dtype=torch.float64))
    for picture in range(2):
        total = None
        for number, weights in enumerate(found):
            mixed = whole(weights, picture)
            mixed = 0.5 * mixed + 0.5 * torch.eye(len(mixed), dtype=torch.float64)
            if number and found[number - 1].stage != weights.stage:  # four places are merged: a quarter of each
                before, cut = found[number - 1].cut, weights.cut
                merge = torch.zeros(cut.rows, cut.columns, before.rows, before.columns, dtype=torch.float64)
                for row in range(before.rows):
                    for column in range(before.columns):
                        merge[row // 2, column // 2, row, column] = 0.25
                total = merge.flatten(2).flatten(0, 1) @ total
            total = mixed if total is None else mixed @ total
        wanted = total.mean(0).unflatten(0, (found[0].cut.rows, found[0].cut.columns))
        assert torch.allclose(rollout(found)[picture], wanted, rtol=0, atol=1e-14)
    assert (rollout(found).sum((1, 2)) <= 1 + 1e-12).all()
    if size == (16, 16):  # nothing is filled up, nothing is lost
        assert torch.allclose(rollout(found).sum((1, 2)), torch.ones(2, dtype=torch.float64))


@torch.no_grad()
def test_a_place_looks_at_its_window_alone(randomise):
    first, shifted, *_ = attention_maps(build(1, randomise), torch.randn(1, 3, 16, 16, dtype=torch.float64))
    assert first.of_place(1, 6)[0, 0].nonzero().amin(0).tolist() == [0, 4]
    assert first.of_place(1, 6)[0, 0].nonzero().amax(0).tolist() == [3, 7]
    assert shifted.of_place(3, 3)[0, 0].nonzero().amin(0).tolist() == [2, 2]
    assert shifted.of_place(3, 3)[0, 0].nonzero().amax(0).tolist() == [5, 5]
    assert shifted.of_place(0, 7)[0, 0].nonzero().tolist() == [[0, 6], [0, 7], [1, 6], [1, 7]]
    with pytest.raises(IndexError, match="no place 8, 0"):
        first.of_place(8, 0)
