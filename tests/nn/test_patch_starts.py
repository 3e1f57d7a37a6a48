"""Whitened patches and waves as positions, against what they are meant to be."""

import pytest
import torch

from intermodal.core.errors import ConfigError
from intermodal.nn.patch_starts import begin, grid_waves, whiten
from intermodal.nn.patches import PatchConfig, PatchEmbedding
from intermodal.nn.swin import SwinConfig, SwinTransformer
from intermodal.nn.vit import VisionTransformer, ViTConfig


def pictures(count=400, size=16):
    """Smooth pictures on white, whose pixels are much alike."""
    noise = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)
    return 1 + smooth * torch.tensor([1.0, 0.5, 0.2]).view(3, 1, 1)


@torch.no_grad()
def test_tokens_are_what_a_turn_makes_of_uncorrelated_numbers():
    """As wide as a patch has numbers: the tokens' covariance is that of the turn alone, and their mean is 0."""
    embedding = PatchEmbedding(3, 12, PatchConfig(size=2)).double()
    image = pictures().double()
    whiten(embedding, image, torch.Generator().manual_seed(1))
    token_ND = embedding(image).flatten(0, 1)
    assert token_ND.mean(0).abs().max() < 1e-10
    turn_DP = torch.randn(12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 12**-0.5
    assert torch.allclose(token_ND.T @ token_ND / len(token_ND), turn_DP @ turn_DP.T, atol=1e-10)


@torch.no_grad()
def test_grey_pictures_are_whitened_where_they_differ():
    """Two of three colours say nothing new: no weight grows beyond what the floor allows."""
    embedding = PatchEmbedding(3, 64, PatchConfig(size=2)).double()
    grey = pictures()[:, :1].double().expand(-1, 3, -1, -1)
    whiten(embedding, grey, torch.Generator().manual_seed(1))
    token_ND = embedding(grey).flatten(0, 1)
    assert abs(float(token_ND.var()) - 4 / 12) < 0.1  # 4 of 12 directions are there
    before = embedding.weight.clone()
    whiten(embedding, torch.ones(2, 3, 4, 4, dtype=torch.float64), torch.Generator().manual_seed(1))
    assert torch.equal(embedding.weight, before)


def test_what_cannot_be_whitened_is_refused():
    with pytest.raises(ConfigError, match="patch_bias"):
        whiten(PatchEmbedding(3, 8, PatchConfig(size=2), bias=False), pictures(2), torch.Generator())


def test_waves_of_neighbours_are_alike():
    """A place's likeness to others falls with their distance, along rows and columns, and all places differ."""
    wave_LD = grid_waves(3, 5, 16).double()
    assert wave_LD.shape == (15, 16)
    assert torch.allclose((wave_LD**2).sum(1), torch.full((15,), 8.0, dtype=torch.float64), atol=1e-5)
    alike = (wave_LD @ wave_LD.T).unflatten(1, (3, 5))
    assert alike[0, 0, 0] > alike[0, 0, 1] > alike[0, 0, 2] and alike[0, 0, 0] > alike[0, 1, 0] > alike[0, 2, 0]
    assert torch.allclose(alike[0, 0, 1], alike[0, 1, 0])  # one step right is as far as one step down
    with pytest.raises(ConfigError, match="multiple of 4"):
        grid_waves(2, 2, 6)


@torch.no_grad()
def test_towers_begin_so():
    vit = VisionTransformer(
        ViTConfig(image_size=16, patch_size=4, width=8, depth=1, heads=2, patch_bias=True, distillation=True)
    )
    begin(vit, pictures(), torch.Generator().manual_seed(0))
    assert torch.equal(vit.position_embedding[2:], grid_waves(4, 4, 8))
    assert not vit.position_embedding[:2].any() and 0 < vit.class_token.abs().max() < 0.1
    swin = SwinTransformer(SwinConfig(image_size=16, patch_size=2, width=8, depths=(1, 1), heads=(2, 2), window=4))
    begin(swin, pictures(), torch.Generator().manual_seed(0))
    block, wide = swin.stages[1][0], 16
    assert float(block.attention.attention.qkv.weight.std()) == pytest.approx(wide**-0.5, rel=0.1)
    assert float(block.mlp.fc2.weight.std()) == pytest.approx((wide * 2 * 2) ** -0.5, rel=0.1)
    four = torch.randn(64, 8, 8, 8)
    assert float(swin.mergings[0](four).var()) == pytest.approx(1, rel=0.2)
    for tower in (vit, swin):
        begin(tower, pictures(), torch.Generator().manual_seed(0))
        assert tower.patch_embedding(pictures()).mean((0, 1)).abs().max() < 1e-4
