"""The cache of keys and values: equal to reading everything anew, and to transformers' GPT-2."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.core.errors import CheckpointError, ConfigError, DataError
from intermodal.decode.generate import generate
from intermodal.decode.stepper import TransformerStepper
from intermodal.hub.gpt2 import key_map, read_config
from intermodal.nn.cache import KVCache, LayerCache
from intermodal.nn.causal import CausalConfig, CausalTransformer
from intermodal.nn.transformer import Attention, PostNormBlock, Transformer, build_transformer

SMALL = CausalConfig(vocab_size=13, context_length=12, width=12, depth=3, heads=3)


def model(config=SMALL, dtype=torch.float64):
    torch.manual_seed(0)
    network = CausalTransformer(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return network


def tokens(*shape, seed=0, most=13):
    return torch.randint(most, shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=25)
@given(cuts=st.lists(st.integers(1, 5), min_size=1, max_size=5), batch=st.integers(1, 3))
@torch.no_grad()
def test_reading_in_parts_is_reading_at_once(cuts, batch):
    """Whatever the parts, a prompt and single steps among them; exact but for the order of sums."""
    network = model(SMALL.replace(context_length=30))
    read = tokens(batch, sum(cuts))
    cache = network.new_cache()
    parts = [network(part, cache) for part in read.split(cuts, 1)]
    assert cache.length == sum(cuts)
    assert torch.allclose(torch.cat(parts, 1), network(read), rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_single_precision_loses_no_more_than_rounding(dtype, bound):
    network, read = model(dtype=dtype), tokens(4, 12)
    cache = network.new_cache()
    parts = torch.cat([network(part, cache) for part in read.split([5, *[1] * 7], 1)], 1)
    whole = network(read)
    assert parts.dtype == dtype
    assert float((parts - whole).abs().max() / whole.abs().max()) < bound


@torch.no_grad()
def test_under_autocast_the_cache_is_of_the_keys_type():
    network = model(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        cache = network.new_cache()
        parts = torch.cat([network(part, cache) for part in tokens(2, 6).split([3, 1, 2], 1)], 1)
        whole = network(tokens(2, 6))
    assert cache.layers[0]._kept_2BHSK.dtype == torch.bfloat16
    assert float((parts - whole).abs().max() / whole.abs().max()) < 5e-2


@torch.no_grad()
def test_masked_padding_before_a_prompt_does_not_matter():
    """A mask of the keys counts those of the cache, so prompts of different lengths decode side by side."""
    torch.manual_seed(1)
    stack = build_transformer(8, 2, 2, 16, activation="gelu", causal=True).double()
    x = torch.randn(2, 7, 8, dtype=torch.float64)
    padded = torch.cat([torch.randn(2, 3, 8, dtype=torch.float64) * 50, x], 1)
    mask = (torch.arange(10) >= 3).expand(2, -1)
    mask_pairs = mask[:, None] | torch.eye(10, dtype=torch.bool)  # what is padding sees itself
    cache = KVCache(2, 10)
    parts = [stack(padded[:, a:b], mask=mask_pairs[:, a:b, :b], cache=cache) for a, b in ((0, 6), (6, 7), (7, 10))]
    assert torch.allclose(torch.cat(parts, 1)[:, 3:], stack(x), rtol=0, atol=1e-12)
    cache = KVCache(2, 10)
    stack(padded[:, :6], mask=mask_pairs[:, :6, :6], cache=cache)
    last = stack(padded[:, 6:], mask=mask, cache=cache)
    assert torch.allclose(last, stack(x)[:, 3:], rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("rows", [[1, 1, 0], [2, 0], [0, 1, 2, 2, 1], [1]])
def test_reordered_sequences_go_on_as_if_read_so(rows):
    network, read = model(), tokens(3, 8)
    cache, chosen = network.new_cache(), torch.tensor(rows)
    network(read[:, :5], cache)
    cache.reorder(chosen)
    found = network(read[chosen, 5:], cache)
    assert torch.allclose(found, network(read[chosen])[:, 5:], rtol=0, atol=1e-12)


def test_memory_is_allocated_once():
    cache = LayerCache(6)
    cache.reorder(torch.tensor([0]))  # nothing yet: nothing to do
    k, v = cache.append(torch.zeros(2, 3, 2, 4), torch.ones(2, 3, 2, 4))
    first = cache._kept_2BHSK.data_ptr()
    k, v = cache.append(torch.full((2, 3, 1, 4), 5.0), torch.full((2, 3, 1, 4), 6.0))
    assert cache._kept_2BHSK.data_ptr() == first == k.data_ptr()
    assert k.shape == v.shape == (2, 3, 3, 4)
    assert k[:, :, 2].unique().tolist() == [5.0] and v[:, :, 2].unique().tolist() == [6.0]
    cache.reorder(torch.tensor([1, 0]))
    assert cache._kept_2BHSK.data_ptr() == first


@torch.no_grad()
def test_a_cache_grows_forgets_and_goes_on():
    """What is forgotten is overwritten by other tokens, as if it had never been read; growing changes nothing."""
    network, read, other = model(), tokens(2, 8), tokens(2, 5, seed=1)
    cache = network.new_cache(3)
    network(read[:, :3], cache)
    cache.grow(8)
    cache.grow(2)
    assert cache.capacity == 8 and cache.length == 3
    torch.testing.assert_close(network(read[:, 3:], cache), network(read)[:, 3:], rtol=0, atol=1e-12)
    cache.forget(2)
    mixed = torch.cat([read[:, :2], other], 1)
    torch.testing.assert_close(network(other, cache), network(mixed)[:, 2:], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="keeps 7 positions, not 8"):
        cache.forget(8)


@torch.no_grad()
def test_a_stepper_goes_on_behind_what_was_read_before():
    network, read = model(), tokens(1, 6)
    cache = network.new_cache(0)
    first = generate(TransformerStepper(network, begun=cache), read[:, :4], 2)
    assert cache.length == 5, "the last token need not be read"
    cache.forget(4)
    whole = generate(TransformerStepper(network), read, 6)
    assert torch.equal(generate(TransformerStepper(network, begun=cache), read[:, 4:], 6), whole)
    assert torch.equal(first, generate(TransformerStepper(network), read[:, :4], 2))
    cache.forget(4)
    with pytest.raises(DataError, match="reads at most 8"):
        generate(TransformerStepper(network, begun=cache), tokens(1, 9), 1)


def test_what_a_cache_refuses():
    cache = LayerCache(2)
    with torch.no_grad():
        cache.append(torch.zeros(2, 1, 2, 4), torch.zeros(2, 1, 2, 4))
        with pytest.raises(ValueError, match="room for 2 positions, 2 are taken and 1 more"):
            cache.append(torch.zeros(2, 1, 1, 4), torch.zeros(2, 1, 1, 4))
        other = LayerCache(4)
        other.append(torch.zeros(2, 1, 2, 4), torch.zeros(2, 1, 2, 4))
        with pytest.raises(ValueError, match="holds 2 sequences, 3 came"):
            other.append(torch.zeros(3, 1, 1, 4), torch.zeros(3, 1, 1, 4))
        with pytest.raises(ValueError, match="Only causal self-attention"):
            Attention(4, 1)(torch.zeros(1, 2, 4), cache=LayerCache(3))
    with pytest.raises(ValueError, match="keeps no gradients"):
        model()(tokens(1, 3), model().new_cache())
    network = model()
    with torch.no_grad(), pytest.raises(DataError, match="at most 12"):
        network(tokens(1, 13))
    with torch.no_grad(), pytest.raises(DataError, match="with the 8 that it has read"):
        cache = network.new_cache()
        network(tokens(1, 8), cache)
        network(tokens(1, 5), cache)
    with pytest.raises(DataError, match="shape"):
        network(tokens(1, 0))


@torch.no_grad()
def test_post_norm_blocks_take_a_cache_too():
    torch.manual_seed(0)
    stack = Transformer(
        PostNormBlock(8, Attention(8, 2, causal=True), torch.nn.Linear(8, 8)) for _ in range(2)
    ).double()
    x, cache = torch.randn(2, 5, 8, dtype=torch.float64), KVCache(2, 5)
    parts = [stack(part, cache=cache) for part in x.split([2, 1, 1, 1], 1)]
    assert torch.allclose(torch.cat(parts, 1), stack(x), rtol=0, atol=1e-12)
    assert KVCache(0, 4).length == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 10},
        {"heads": 0},
        {"activation": "tanh"},
        {"vocab_size": 0},
        {"depth": 0},
        {"outputs": 14},
        {"dropout": 1.0},
    ],
)
def test_bad_sizes_are_refused(changes):
    with pytest.raises(ConfigError, match="Causal transformer"):
        SMALL.replace(**changes)


def test_gradients_reach_everything_with_a_head_of_its_own(gradients_reach):
    network = CausalTransformer(SMALL.replace(outputs=7)).double()
    out = network(torch.arange(12).remainder(13).repeat(2, 1))
    assert out.shape == (2, 12, 7)
    gradients_reach(network, out)


def gpt2(**changes):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 61, "n_positions": 24, "n_embd": 24, "n_layer": 3, "n_head": 4, **changes}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(len(changes))
    theirs = transformers.GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    ours = CausalTransformer(read_config(config.to_dict())).double().eval()
    ours.load_state_dict(key_map().to_ours(theirs.state_dict()))
    return theirs, ours


GPT2 = [{}, {"n_inner": 40, "activation_function": "gelu"}, {"n_head": 1, "n_layer": 1, "layer_norm_epsilon": 1e-3}]


@pytest.mark.parametrize("changes", GPT2)
def test_logits_and_gradients_are_gpt2s(changes):
    theirs, ours = gpt2(**changes)
    read = tokens(3, 17, most=61)
    wanted, found = theirs(read).logits, ours(read)
    assert float((found - wanted).detach().abs().max() / wanted.detach().abs().max()) < 1e-9
    weigh = torch.randn_like(wanted)
    (wanted * weigh).sum().backward()
    (found * weigh).sum().backward()
    gradients = {n: p.grad for n, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        mapped = key_map().to_ours(gradients)[name]
        assert float((parameter.grad - mapped).abs().max() / mapped.abs().max().clamp(min=1e-3)) < 1e-9, name


@torch.no_grad()
@pytest.mark.parametrize("changes", GPT2)
def test_logits_with_a_cache_are_gpt2s_with_its_own(changes):
    theirs, ours = gpt2(**changes)
    read, cache, past = tokens(2, 15, most=61), ours.new_cache(), None
    for part in read.split([6, 1, 1, 4, 1, 2], 1):
        answer = theirs(part, past_key_values=past, use_cache=True)
        past = answer.past_key_values
        found = ours(part, cache)
        assert float((found - answer.logits).abs().max() / answer.logits.abs().max()) < 1e-9


def test_published_sizes_that_are_not_ours_are_refused():
    with pytest.raises(CheckpointError, match="built otherwise"):
        read_config({"scale_attn_by_inverse_layer_idx": True})
    with pytest.raises(CheckpointError, match="'swish'"):
        read_config({"activation_function": "swish"})
    assert read_config({}) == CausalConfig(dropout=0.1, attention_dropout=0.1)


def test_a_copy_of_a_cache_stands_alone():
    """Two continuations of one prompt, as a search makes them."""
    network, read = model(), tokens(1, 6)
    with torch.no_grad():
        cache = network.new_cache()
        network(read[:, :4], cache)
        other = copy.deepcopy(cache)
        network(read[:, 4:5], cache)
        found = network(read[:, 4:], other)
        assert torch.allclose(found, network(read)[:, 4:], rtol=0, atol=1e-12)
