"""BERT's parts: the post-norm block, the two ways of attention, the start, and what wrong use says."""

import math

import pytest
import torch
from torch.nn import functional as F

from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.bert import BERTEncoder, EncoderConfig, MaskedLMHead, Pooler, start_from_statistics
from intermodal.nn.transformer import MLP, Attention, Block, PostNormBlock, attend

TINY = EncoderConfig(vocab_size=30, context_length=8, width=12, depth=2, heads=3)


def draw(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@torch.no_grad()
def test_the_post_norm_block_is_its_equations(randomise):
    """Vaswani et al. 2017, section 3.1: each sum of the stream and a branch is normalised."""
    block = randomise(PostNormBlock(8, Attention(8, 2), MLP(8, 20, "gelu"), norm_eps=1e-3).double())
    x = draw(2, 5, 8)
    y = F.layer_norm(x + block.attention(x), (8,), block.norm1.weight, block.norm1.bias, 1e-3)
    wanted = F.layer_norm(y + block.mlp(y), (8,), block.norm2.weight, block.norm2.bias, 1e-3)
    assert torch.allclose(block(x), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mask", [None, "keys", "causal"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_both_ways_of_attention_agree(mask, dtype):
    """In half precision with gradients the products are written out: the same output and gradients as in float32."""
    inputs = [draw(2, 3, 7, 4, seed=s, dtype=torch.float32) for s in (1, 2, 3)]
    allowed = None
    if mask == "keys":
        allowed = (torch.arange(7) < torch.tensor([[7], [4]]))[:, None, None]
    results = []
    for kind in (torch.float32, dtype):
        q, k, v = (x.to(kind).requires_grad_() for x in inputs)
        out = attend(q, k, v, mask=allowed, dropout=0.0, causal=mask == "causal")
        gradients = torch.autograd.grad(out.float().square().sum(), (q, k, v))
        results.append([out.detach(), *gradients])
    for exact, half in zip(*results, strict=True):
        assert half.dtype == dtype
        assert float((exact - half.float()).abs().max() / exact.abs().max()) < 2e-2
    with torch.no_grad():  # without gradients the fused kernel is used
        fused = attend(*(x.to(dtype) for x in inputs), mask=allowed, dropout=0.0, causal=mask == "causal")
    assert torch.allclose(fused.float(), results[1][0].float(), atol=2e-2)


def test_dropout_is_in_the_residual_branches_and_the_attention_alone():
    """Everything dropped leaves the stream as it was; in evaluation nothing is dropped; torch's seed decides."""
    torch.manual_seed(0)
    block = Block(8, Attention(8, 2, dropout=0.5), MLP(8, 16, "gelu"), dropout=1.0)
    x = draw(1, 4, 8, dtype=torch.float32)
    assert torch.equal(block(x), x)
    assert not torch.equal(block.eval()(x), x)
    attention = Attention(8, 2, dropout=0.5)
    seeded = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        seeded.append(attention(x))
    assert torch.equal(seeded[0], seeded[1])
    assert not torch.equal(seeded[0], seeded[2])
    assert torch.equal(attention.eval()(x), attention(x))


def test_dropout_of_attention_keeps_the_mean_in_half_precision():
    """The written-out form drops weights and scales the others: its mean over many draws is the undropped output."""
    torch.manual_seed(0)
    q, k, v = (draw(1, 1, 4, 8, seed=s, dtype=torch.float32).bfloat16().requires_grad_() for s in (1, 2, 3))
    drawn = torch.stack([attend(q, k, v, mask=None, dropout=0.3, causal=False).detach().float() for _ in range(3000)])
    wanted = attend(q, k, v, mask=None, dropout=0.0, causal=False).detach().float()
    assert float((drawn.mean(0) - wanted).abs().max()) < 0.08
    assert float(drawn.std(0).max()) > 0.1


@torch.no_grad()
def test_padding_changes_nothing(randomise):
    """More padding, and other ids where a given mask hides them, leave the real tokens as they are."""
    encoder = randomise(BERTEncoder(TINY).double()).eval()
    tokens = torch.tensor([[5, 6, 7]])
    wanted = encoder(tokens)
    padded = F.pad(tokens, (0, 4))
    assert torch.allclose(encoder(padded)[:, :3], wanted, rtol=0, atol=1e-12)
    other = padded.clone()
    other[:, 3:] = 9
    assert torch.allclose(encoder(other, mask_BL=padded != 0)[:, :3], wanted, rtol=0, atol=1e-12)


@torch.no_grad()
def test_segments_count(randomise):
    """No segments are all zeros; other segments give other vectors."""
    encoder = randomise(BERTEncoder(TINY).double()).eval()
    tokens = torch.tensor([[5, 6, 7]])
    assert torch.equal(encoder(tokens), encoder(tokens, torch.zeros_like(tokens)))
    assert not torch.allclose(encoder(tokens), encoder(tokens, torch.tensor([[0, 0, 1]])))


def test_initialisation():
    """Normal with standard deviation 0.02, zero biases, and a padding embedding of zero."""
    torch.manual_seed(0)
    encoder = BERTEncoder(EncoderConfig(vocab_size=500, context_length=64, width=64, depth=1, heads=2, pad_id=3))
    block = encoder.transformer.blocks[0]
    drawn = (encoder.token_embedding, block.attention.qkv, block.mlp.fc2)
    for weight in (*(layer.weight for layer in drawn), encoder.position_embedding):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.06)
    assert not block.attention.qkv.bias.any()
    assert not encoder.token_embedding.weight[3].any()


def test_gradients_reach_every_parameter(randomise):
    """Of encoder and heads."""
    encoder, head, pooler = BERTEncoder(TINY), MaskedLMHead(TINY), Pooler(12)
    module = randomise(torch.nn.ModuleList([encoder, head, pooler]).double())
    tokens = torch.arange(30)[:24].view(4, 6)
    x = encoder(tokens, torch.arange(6).expand(4, 6) // 3)
    loss = head(x, encoder.token_embedding.weight).square().mean() + pooler(x[:, 0]).square().mean()
    loss.backward()
    assert [n for n, p in module.named_parameters() if p.grad is None] == []


def test_the_start_from_statistics_is_what_it_says():
    """Embeddings follow the vectors, the bias the frequencies, queries equal keys, the output is the values' transpose."""
    encoder, head = BERTEncoder(TINY), MaskedLMHead(TINY)
    vectors = draw(30, 12, dtype=torch.float32)
    vectors[7] = 0
    counts = torch.arange(30.0)
    start_from_statistics(encoder, head, vectors, counts, torch.Generator().manual_seed(0))
    weight = encoder.token_embedding.weight.detach()
    assert torch.allclose(F.cosine_similarity(weight[8:], vectors[8:]), torch.ones(22))
    assert float(weight[8:].square().mean().sqrt()) == pytest.approx(0.05, rel=0.1)
    assert not weight[0].any()
    assert weight[7].any()
    difference = head.bias[29] - head.bias[9]
    assert difference.item() == pytest.approx(math.log(30 / 10), abs=1e-6)
    for block in encoder.transformer.blocks:
        query, key, value = block.attention.qkv.weight.detach().chunk(3)
        assert torch.equal(query, key)
        assert torch.equal(block.attention.out.weight.detach(), value.T)


def test_wrong_use_is_an_error():
    """Sizes that do not divide, an unknown activation, a padding id that is no token, texts that are too long."""
    for change in ({"heads": 5}, {"activation": "tanh"}, {"pad_id": 30}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            TINY.replace(**change)
    with pytest.raises(DataError, match="shorten"):
        BERTEncoder(TINY)(torch.zeros(1, 9, dtype=torch.int64))
    with pytest.raises(DataError, match=r"\(B, L\)"):
        BERTEncoder(TINY)(torch.zeros(9, dtype=torch.int64))
