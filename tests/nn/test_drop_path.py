"""Stochastic depth: whole samples, right in expectation, nothing in use, and rates that rise with depth."""

from __future__ import annotations

import math

import pytest
import torch

from intermodal.core.errors import ConfigError
from intermodal.nn.drop_path import DropPath, rates
from intermodal.nn.swin import SwinConfig, SwinTransformer
from intermodal.nn.transformer import MLP, Attention, Block, PostNormBlock, build_transformer
from intermodal.nn.vit import VisionTransformer, ViTConfig


def test_a_sample_keeps_its_branch_whole_or_not_at_all() -> None:
    torch.manual_seed(0)
    x = torch.randn(20_000, 2, 3, dtype=torch.float64)
    found = DropPath(0.3).train()(x)
    kept = (found != 0).flatten(1).all(1)
    assert torch.equal(found[~kept], torch.zeros_like(found[~kept]))
    assert torch.allclose(found[kept], x[kept] / 0.7, rtol=1e-14)
    share = kept.double().mean().item()
    assert abs(share - 0.7) < 5 * math.sqrt(0.3 * 0.7 / len(x))  # and so the expectation is x: 0.7 x / 0.7


def test_nothing_is_left_out_in_use() -> None:
    x = torch.randn(5, 4)
    assert DropPath(0.9).eval()(x) is x
    assert DropPath(0.0).train()(x) is x


@pytest.mark.parametrize("cls", [Block, PostNormBlock])
def test_a_block_whose_branches_are_left_out_adds_nothing(cls: type[Block]) -> None:
    torch.manual_seed(0)
    block = cls(8, Attention(8, 2), MLP(8, 16, "gelu"), drop_path=0.999_999).train()
    x = torch.randn(4, 3, 8)
    wanted = x if cls is Block else block.norm2(block.norm1(x))
    assert torch.allclose(block(x), wanted)
    assert not torch.allclose(block.eval()(x), wanted)


def test_rates_rise_from_nothing_to_the_last_block() -> None:
    assert rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert rates(0.3, 1) == [0.0] and rates(0.3, 0) == []
    found = [m.rate for m in build_transformer(8, 4, 2, 16, activation="gelu", drop_path=0.3).modules() if _is(m)]
    assert found == pytest.approx([0.1, 0.2, 0.3])
    swin = SwinTransformer(SwinConfig(image_size=16, patch_size=2, width=8, depths=(2, 1), heads=(1, 2), drop_path=0.2))
    assert [m.rate for m in swin.modules() if _is(m)] == pytest.approx([0.1, 0.2])


def _is(module: torch.nn.Module) -> bool:
    return isinstance(module, DropPath)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_towers_draw_in_training_alone_and_keep_their_parameters(kind: str) -> None:
    def build(rate: float) -> torch.nn.Module:
        torch.manual_seed(0)
        if kind == "vit":
            return VisionTransformer(ViTConfig(image_size=16, patch_size=4, width=8, depth=3, heads=2, drop_path=rate))
        return SwinTransformer(
            SwinConfig(image_size=16, patch_size=2, width=8, depths=(2, 2), heads=(1, 2), window=4, drop_path=rate)
        )

    plain, dropped, image = build(0.0), build(0.5), torch.randn(8, 3, 16, 16)
    assert [*plain.state_dict()] == [*dropped.state_dict()]
    with torch.no_grad():
        assert torch.equal(plain.eval()(image)[0], dropped.eval()(image)[0])
        dropped.train()
        first, second = dropped(image)[0], dropped(image)[0]
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_out_of_range_are_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="drop_path"):
        DropPath(rate)
    with pytest.raises(ConfigError, match="drop_path"):
        ViTConfig(image_size=16, patch_size=4, width=8, depth=1, heads=2, drop_path=rate)
    with pytest.raises(ConfigError, match="drop_path"):
        SwinConfig(drop_path=rate)
