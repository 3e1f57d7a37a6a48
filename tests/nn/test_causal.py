"""The parts of Llama: norms, turned positions, shared heads, gated MLPs; and vectors and padding in the place of tokens."""

import math

import pytest
import torch

from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.causal import CausalConfig, CausalTransformer, llama
from intermodal.nn.rotary import Rotary, RotaryConfig, speeds
from intermodal.nn.transformer import Attention, norm_layer, turned

SIZES = {"vocab_size": 17, "context_length": 24, "width": 12, "depth": 2, "heads": 6, "mlp_width": 20}
CONFIGS = {
    "gpt2": CausalConfig(**SIZES),
    "llama": llama(**SIZES, kv_heads=2, outputs=17),
    "wide heads": llama(**SIZES, kv_heads=3, head_width=4, bias=True),
}


@pytest.fixture(params=CONFIGS)
def network(request):
    torch.manual_seed(0)
    made = CausalTransformer(CONFIGS[request.param]).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return made


def tokens(*shape, seed=3):
    return torch.randint(17, shape, generator=torch.Generator().manual_seed(seed))


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_turning_is_the_equation_and_depends_on_distance_alone():
    """Su et al. 2021, equation 34, pair by pair."""
    config, x = RotaryConfig(theta=50.0), draw(1, 9, 1, 6)
    y = turned(x, Rotary(config, 6).at(slice(0, 9), 9, x))
    for position in range(9):
        for pair in range(3):
            angle = position * 50.0 ** (-2 * pair / 6)
            a, b = x[0, position, 0, pair], x[0, position, 0, pair + 3]
            assert float(y[0, position, 0, pair]) == pytest.approx(float(a * math.cos(angle) - b * math.sin(angle)))
            assert float(y[0, position, 0, pair + 3]) == pytest.approx(float(b * math.cos(angle) + a * math.sin(angle)))
    q, k = draw(2, 1, 1, 1, 6).unbind(0)
    scores = []
    for shift in (0, 5, 40):
        place = torch.tensor([[shift, shift + 3]])
        both = turned(torch.cat([q, k], 1), Rotary(config, 6).at(place, shift + 4, q))
        scores.append(float((both[0, 0] * both[0, 1]).sum()))
    assert scores == pytest.approx([scores[0]] * 3)


def test_slow_pairs_are_slowed_down_and_quick_ones_stay():
    plain = speeds(RotaryConfig(theta=1e5), 64)
    longer = speeds(RotaryConfig(theta=1e5, factor=8.0, low=1.0, high=4.0, original_context=1024), 64)
    turns = 1024 * plain / (2 * math.pi)
    assert torch.equal(longer[turns > 4], plain[turns > 4]) and (turns > 4).any()
    assert torch.allclose(longer[turns < 1], plain[turns < 1] / 8, rtol=1e-15, atol=0) and (turns < 1).any()
    between = (turns > 1) & (turns < 4)
    assert between.any() and bool(((longer < plain) & (longer > plain / 8))[between].all())
    assert torch.allclose(speeds(RotaryConfig(theta=1e5, factor=4.0), 64), plain / 4, rtol=1e-15, atol=0)


def test_the_norm_divides_by_the_root_mean_square():
    norm, x = norm_layer("rms", 7, 1e-3).double(), draw(3, 7)
    torch.nn.init.uniform_(norm.weight)
    assert torch.allclose(norm(x), x / (x.pow(2).mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight, atol=1e-14)


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_heads_that_share_keys_are_heads_with_equal_keys(masked):
    """Ainslie et al. 2023: grouped-query attention is multi-head attention whose keys and values are repeated."""
    torch.manual_seed(0)
    shared = Attention(12, 6, kv_heads=2, causal=True).double()
    whole = Attention(12, 6, causal=True).double()
    rows = [shared.qkv.weight[:12], *shared.qkv.weight[12:].split(4)]
    bias = [shared.qkv.bias[:12], *shared.qkv.bias[12:].split(4)]
    for target, parts in ((whole.qkv.weight, rows), (whole.qkv.bias, bias)):
        repeated = [p.unflatten(0, (2, 2)).repeat_interleave(3, 0).flatten(0, 1) for p in parts[1:]]
        target.copy_(torch.cat([parts[0], *repeated]))
    whole.out.load_state_dict(shared.out.state_dict())
    x = draw(2, 5, 12)
    mask = (torch.arange(5) != 0).expand(2, -1)[:, None] | torch.eye(5, dtype=torch.bool) if masked else None
    assert torch.allclose(shared(x, mask=mask), whole(x, mask=mask), atol=1e-13)
    assert torch.allclose(shared.weights(x), whole.weights(x), atol=1e-13)
    last = x[:, :1], None if mask is None else mask[:, :1, :1]
    assert torch.allclose(shared(last[0], mask=last[1]), whole(last[0], mask=last[1]), atol=1e-13)


@torch.no_grad()
def test_reading_in_parts_is_reading_at_once(network):
    read = tokens(2, 9)
    cache = network.new_cache(9)
    parts = [network(part, cache) for part in read.split([4, 1, 3, 1], 1)]
    assert torch.allclose(torch.cat(parts, 1), network(read), rtol=0, atol=1e-12)


@torch.no_grad()
def test_vectors_stand_in_the_place_of_tokens(network):
    read = tokens(2, 6)
    vectors = network.embed(read)
    assert torch.equal(network(vectors), network(read))
    cache = network.new_cache(6)
    parts = [network(vectors[:, :4], cache), network(read[:, 4:], cache)]
    assert torch.allclose(torch.cat(parts, 1), network(read), rtol=0, atol=1e-12)
    vectors[:, 2] = 5.0
    assert not torch.allclose(network(vectors)[:, 2:], network(read)[:, 2:])


@torch.no_grad()
def test_what_stands_before_a_shorter_sequence_does_not_matter(network):
    """With and without a cache, its rows reordered in between; lengths 7, 4 and 1 side by side."""
    whole, padding = tokens(3, 12), torch.tensor([0, 3, 6])
    cache = network.new_cache(12, padding)
    parts = [network(part, cache) for part in whole.split([7, 1, 2, 2], 1)]
    together = network(whole, padding_B=padding)
    for row, nothing in enumerate(padding.tolist()):
        alone = network(whole[row : row + 1, nothing:])[0]
        assert torch.allclose(torch.cat(parts, 1)[row, nothing:], alone, rtol=0, atol=1e-12)
        assert torch.allclose(together[row, nothing:], alone, rtol=0, atol=1e-12)
    cache, chosen = network.new_cache(9, padding), torch.tensor([2, 0, 2])
    network(whole[:, :7], cache)
    cache.reorder(chosen)
    found = network(whole[chosen, 7:9], cache)
    assert torch.allclose(found, together[chosen, 7:9], rtol=0, atol=1e-12)


@torch.no_grad()
def test_what_is_looked_at_sums_to_one_and_is_what_is_read(network):
    read = tokens(2, 6)
    found = network.attention(read)
    assert len(found) == 2 and all(w.shape == (2, 6, 6, 6) for w in found)
    assert all(torch.allclose(w.sum(-1), torch.ones(2, 6, 6, dtype=torch.float64)) for w in found)
    assert all(not w.triu(1).any() for w in found)
    block = network.transformer.blocks[0]
    x = network.embed(read) + (0 if network.rotary else network.positions(0, 6))
    turn = network.rotary.at(slice(0, 6), 6, x) if network.rotary else None
    attention, seen = block.attention, block.norm1(x)
    value = attention._project(seen, None, turn)[2].repeat_interleave(6 // attention.kv_heads, 1)
    wanted = attention.out((found[0] @ value).transpose(1, 2).flatten(-2))
    assert torch.allclose(attention(seen, turn=turn), wanted, atol=1e-12)


def test_gradients_reach_everything(network, gradients_reach):
    read = torch.arange(24).remainder(17).repeat(2, 1)
    gradients_reach(network, network(read, padding_B=torch.tensor([0, 3]))[:, 3:])


@torch.no_grad()
def test_half_precision_is_near(network):
    network.float()
    exact = network(tokens(2, 9))
    with torch.autocast("cpu", torch.bfloat16):
        cache = network.new_cache()
        near = torch.cat([network(part, cache) for part in tokens(2, 9).split([6, 1, 2], 1)], 1)
    assert float((near.float() - exact).abs().max() / exact.abs().max()) < 0.1


def test_what_cannot_be_read_is_said(network):
    for wrong in (torch.zeros(1, 2, 11), torch.zeros(2, 12), tokens(1, 25), torch.zeros(1, 0, 12)):
        with pytest.raises(DataError, match="at most 24"):
            network(wrong)


@pytest.mark.parametrize("changes", [{"kv_heads": 4}, {"kv_heads": 12}, {"head_width": 3}, {"head_width": 0}])
def test_bad_heads_are_refused(changes):
    with pytest.raises(ConfigError, match="Causal transformer"):
        llama(**SIZES).replace(**changes)
    with pytest.raises(ConfigError, match="kv_heads"):
        Attention(12, 6, kv_heads=4)


@pytest.mark.parametrize("changes", [{"theta": 0.0}, {"factor": 0.5}, {"low": 1.0}, {"low": 4.0, "high": 1.0}])
def test_bad_rotations_are_refused(changes):
    with pytest.raises(ConfigError, match="Rotary"):
        RotaryConfig(**changes)
    with pytest.raises(ConfigError, match="even"):
        Rotary(RotaryConfig(), 5)


@torch.no_grad()
def test_flops_are_those_of_the_products(network):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(tokens(1, 24))
    assert counter.get_total_flops() == network.config.flops()
