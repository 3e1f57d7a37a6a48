"""wav2vec 2.0's parts against the paper's equations in plain loops, and what padding, masks and negatives must hold."""

import math

import pytest
import torch

from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.wav2vec2 import ConvLayer, Wav2Vec2Encoder, Wav2Vec2EncoderConfig
from intermodal.nn.wav2vec2_targets import (
    GumbelConfig,
    GumbelQuantizer,
    contrastive_logits,
    diversity_loss,
    draw_negatives,
    draw_spans,
    perplexity,
)

SMALL = Wav2Vec2EncoderConfig(
    conv_channels=(6, 8), conv_kernels=(10, 4), conv_strides=(5, 4), width=12, depth=2, heads=3, position_kernel=6,
    position_groups=4,
)  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"conv_norm": "layer", "pre_norm": True}, {"position_kernel": 5}])
def test_what_lies_behind_a_recording_changes_nothing(changes):
    torch.manual_seed(0)
    encoder = Wav2Vec2Encoder(SMALL.replace(**changes)).double().eval()
    wave, length = torch.randn(4, 400, dtype=torch.float64), torch.tensor([400, 133, 25, 3])
    together, frames = encoder(wave, length)
    assert frames.tolist() == [19, 6, 1, 1]
    for row, samples in enumerate(length.tolist()):
        alone, count = encoder(wave[row : row + 1, :samples])
        assert count.item() == frames[row]
        torch.testing.assert_close(together[row, : frames[row]], alone[0], rtol=0, atol=1e-12)


def test_the_first_layers_norm_is_torchs_also_where_neighbours_are_much_alike():
    torch.manual_seed(0)
    layer = ConvLayer(SMALL.replace(conv_bias=True), 0)
    with torch.no_grad():
        layer.conv.weight[0] = torch.tensor([1.0, -1.0, 0, 0, 0, 0, 0, 0, 0, 0])  # hears differences alone
        layer.norm.weight.normal_()
        layer.norm.bias.normal_()
    slow = 1 + torch.sin(torch.arange(4000) / 300 + torch.arange(2)[:, None]) + 0.01 * torch.randn(2, 4000)
    weights = [p.detach().double().requires_grad_() for p in layer.parameters()]
    heard = torch.nn.functional.conv1d(slow.double().unsqueeze(1), weights[0], weights[1], stride=5)
    normed = torch.nn.functional.group_norm(heard, 6, weights[2], weights[3], eps=1e-5)
    wanted = torch.nn.functional.gelu(normed).transpose(1, 2)
    found = layer(slow.unsqueeze(-1), None)
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
    push = torch.randn(wanted.shape)
    (found * push).sum().backward()
    (wanted * push).sum().backward()
    for own, other in zip(layer.parameters(), weights, strict=True):
        given = torch.zeros_like(own) if own.grad is None else own.grad
        assert (given - other.grad).abs().max() < 1e-4 * weights[0].grad.abs().max()


def test_frames_are_those_that_the_convolutions_give():
    encoder = Wav2Vec2Encoder(SMALL).eval()
    assert SMALL.window == 25 and SMALL.stride == 20
    for samples in (25, 44, 45, 46, 64, 65, 399):
        hidden, frames = encoder(torch.randn(1, samples))
        assert hidden.shape[1] == frames.item() == (samples - 25) // 20 + 1


def test_masked_frames_hear_nothing_of_themselves():
    encoder = Wav2Vec2Encoder(SMALL.replace(conv_norm="layer")).eval()
    wave = torch.randn(1, 400)
    other = wave.clone()
    other[:, 200:205] += 1  # samples that frame 10 alone hears, and frame 9 at its end
    mask = torch.zeros(1, 19, dtype=torch.bool)
    mask[:, 9:11] = True
    assert not torch.allclose(encoder(wave)[0], encoder(other)[0])
    assert torch.equal(encoder(wave, None, mask)[0], encoder(other, None, mask)[0])


def test_the_loss_is_equation_three():
    generator = torch.Generator().manual_seed(0)
    counts, negatives = [5, 0, 4], 6
    context, target = torch.randn(2, 9, 7, generator=generator, dtype=torch.float64)
    codes = torch.randint(0, 2, (9, 2), generator=generator)
    target = target[codes[:, 0] * 2 + codes[:, 1]]
    chosen = draw_negatives(counts, negatives, generator)
    logits = contrastive_logits(context, target, codes, chosen, counts, 0.1)
    total = 0.0
    for t in range(9):
        exps = []
        for q in [t, *chosen[t].tolist()]:
            if q != t and torch.equal(codes[q], codes[t]):
                continue
            cosine = sum(a * b for a, b in zip(context[t].tolist(), target[q].tolist(), strict=True))
            cosine /= math.sqrt(sum(a * a for a in context[t].tolist()) * sum(b * b for b in target[q].tolist()))
            exps.append(math.exp(cosine / 0.1))
        total -= math.log(exps[0] / sum(exps))
    found = torch.nn.functional.cross_entropy(logits, torch.zeros(9, dtype=torch.int64), reduction="sum")
    assert found.item() == pytest.approx(total, rel=1e-12)


def test_the_diversity_is_equation_four():
    mean = torch.tensor([[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
    entropy = [math.log(2), math.log(3)]
    assert diversity_loss(mean, "entropy").item() == pytest.approx(-sum(entropy) / 6, rel=1e-12)
    torch.testing.assert_close(perplexity(mean), torch.tensor([2.0, 3.0], dtype=torch.float64))
    assert diversity_loss(mean).item() == pytest.approx(1 - 5 / 6, rel=1e-12)


def test_negatives_are_other_masked_frames_of_the_same_utterance_equally_often():
    counts = [4, 0, 3, 2]
    drawn = draw_negatives(counts, 3000, torch.Generator().manual_seed(0))
    begin = [0, 4, 4, 7]
    for first, count in zip(begin, counts, strict=True):
        for row in range(first, first + count):
            share = torch.bincount(drawn[row], minlength=9) / 3000
            wanted = torch.zeros(9)
            wanted[first : first + count] = 1 / (count - 1)
            wanted[row] = 0
            assert (share - wanted).abs().max() < 0.04


def test_spans_cover_about_the_papers_half_and_stay_inside():
    generator = torch.Generator().manual_seed(0)
    mask = draw_spans([750] * 40, 0.65, 10, generator)
    assert 0.45 < mask.float().mean() < 0.53  # 49 % (Baevski et al. 2020, section 4.2)
    mask = draw_spans([50, 7, 2, 1], 0.65, 10, generator)
    assert mask.shape == (4, 50)
    for row, frames in enumerate([50, 7, 2, 1]):
        assert not mask[row, frames:].any() and mask[row].sum() >= min(2, frames)


def test_in_training_codes_are_drawn_by_their_probabilities_and_gradients_reach_all():
    torch.manual_seed(0)
    quantizer = GumbelQuantizer(GumbelConfig(groups=2, codes=3, dim=4), 5)
    one = torch.randn(1, 5)
    chosen = quantizer(one.expand(20_000, 5), 1.0, torch.Generator().manual_seed(0))
    share = torch.stack([torch.bincount(chosen.codes[:, g], minlength=3) for g in range(2)]) / 20_000
    assert (share - quantizer.logits(one).view(2, 3).softmax(-1)).abs().max() < 0.015
    chosen.vectors.square().mean().backward()
    assert quantizer.logits.weight.grad.any() and quantizer.codebook.grad.any()
    quantizer.eval()
    assert torch.equal(quantizer(one, 1.0).codes[0], quantizer.logits(one).view(2, 3).argmax(-1))


def test_sizes_that_do_not_fit_are_refused_in_words():
    with pytest.raises(ConfigError, match="equally many"):
        Wav2Vec2EncoderConfig(conv_kernels=(3,))
    with pytest.raises(ConfigError, match="multiple of heads"):
        Wav2Vec2EncoderConfig(width=770)
    with pytest.raises(ConfigError, match="multiple of groups"):
        GumbelConfig(groups=3)
    with pytest.raises(DataError, match=r"\(B, T\)"):
        Wav2Vec2Encoder(SMALL)(torch.zeros(2, 0))
