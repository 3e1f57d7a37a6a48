from __future__ import annotations

import pytest
import torch

from intermodal.nn.cross import CrossBlock
from intermodal.nn.transformer import Attention


def test_a_block_is_the_written_out_equation():
    torch.manual_seed(0)
    block = CrossBlock(12, 3, 8).double()
    x, c = torch.randn(2, 5, 12, dtype=torch.float64), torch.randn(2, 7, 8, dtype=torch.float64)
    attention = block.attention
    q, (k, v) = attention.q(block.norm1(x)), attention.kv(block.context_norm(c)).chunk(2, -1)
    heads, rows = [], []
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        weights = ((q[..., part] @ k[..., part].transpose(1, 2)) / 2).softmax(-1)
        rows.append(weights)
        heads.append(weights @ v[..., part])
    y = x + attention.out(torch.cat(heads, -1))
    torch.testing.assert_close(block(x, c), y + block.mlp(block.norm2(y)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(block.weights(x, c), torch.stack(rows, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_the_weights_are_those_that_forward_uses(causal):
    torch.manual_seed(0)
    attention = Attention(8, 2, causal=causal).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    weights = attention.weights(x)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 6, dtype=torch.float64))
    values = attention.qkv(x).unflatten(-1, (3, 2, 4))[:, :, 2].transpose(1, 2)
    torch.testing.assert_close(attention.out((weights @ values).transpose(1, 2).flatten(-2)), attention(x))
    assert bool((weights[0, 0].triu(1) == 0).all()) == causal
