"""The text tower: causality, padding, pooling, short and long texts, and what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.text import TextConfig, TextTransformer

EOS, PAD = 19, 0


def small(**changes):
    values = {"vocab_size": 20, "context_length": 8, "width": 12, "depth": 2, "heads": 3, "eos_id": EOS}
    return TextConfig(**{**values, "pad_id": PAD, **changes})


def padded(words, length, fill=PAD):
    return torch.tensor([[*words, EOS, *[fill] * (length - len(words) - 1)]])


@torch.no_grad()
@settings(deadline=None, max_examples=25)
@given(
    words=st.lists(st.integers(1, 18), min_size=0, max_size=5),
    length=st.integers(6, 8),
    fill=st.integers(0, 19),
)
def test_what_follows_the_end_does_not_matter(words, length, fill):
    """CLIP's vector is that of the unpadded text, whatever fills it up, more end tokens included."""
    torch.manual_seed(len(words))
    model = TextTransformer(small()).double()
    alone, _ = model(padded(words, len(words) + 1))
    filled, _ = model(padded(words, length, fill))
    assert torch.allclose(alone, filled, rtol=0, atol=1e-13)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["mean", "eos"])
def test_padding_is_masked_where_tokens_see_ahead(pool, randomise):
    """Without causality, padding is neither attended to nor averaged."""
    model = randomise(TextTransformer(small(causal=False, pool=pool)).double())
    alone, _ = model(padded([3, 4], 3))
    filled, _ = model(padded([3, 4], 8))
    assert torch.allclose(alone, filled, rtol=0, atol=1e-12)


@torch.no_grad()
def test_siglip_reads_the_last_position_and_sees_padding(randomise):
    """Its padding is part of the input, as published."""
    model = randomise(TextTransformer(small(causal=False, pool="last")).double())
    pooled, tokens = model(padded([3, 4], 8))
    assert torch.equal(pooled, tokens[:, -1])
    assert not torch.allclose(pooled, model(padded([3, 4], 7))[0])


@torch.no_grad()
def test_the_first_end_token_is_read(randomise):
    """Where there are several, the first one counts."""
    model = randomise(TextTransformer(small()))
    tokens = torch.tensor([[1, EOS, 5, EOS, EOS], [1, 2, 3, 4, EOS]])
    pooled, hidden = model(tokens)
    assert torch.equal(pooled, torch.stack([hidden[0, 1], hidden[1, 4]]))


@torch.no_grad()
def test_the_mean_is_over_what_is_not_padding(randomise):
    """The average by hand."""
    model = randomise(TextTransformer(small(causal=False, pool="mean")))
    pooled, hidden = model(padded([3, 4], 6))
    assert torch.allclose(pooled, hidden[:, :3].mean(1))


@torch.no_grad()
@pytest.mark.parametrize("length", range(1, 9))
def test_short_texts_use_the_first_positions(length, randomise):
    """A shorter input is the beginning of a longer one, as far as a causal tower can tell."""
    model = randomise(TextTransformer(small(pool="last")).double())
    tokens = torch.arange(1, 9)[None]
    assert torch.allclose(model(tokens[:, :length])[0], model(tokens)[1][:, length - 1], rtol=0, atol=1e-13)


@pytest.mark.parametrize(("causal", "pool"), [(True, "eos"), (False, "last"), (False, "mean")])
def test_gradients_reach_every_parameter(causal, pool, randomise, gradients_reach):
    """Every part takes part; of the embeddings, those of the tokens that occur."""
    model = randomise(TextTransformer(small(causal=causal, pool=pool)).double())
    pooled, _ = model(torch.tensor([[1, 2, 3, 4, 5, 6, 7, EOS]]))
    gradients_reach(model, pooled)


def test_flops_are_what_torch_counts():
    """Every product of one full text's forward pass is counted."""
    config = small(mlp_width=20)
    model = TextTransformer(config)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(padded([1, 2], 8))
    assert counter.get_total_flops() == config.flops()


def test_config_survives_json():
    """Out and back."""
    config = small(pool="mean", causal=False)
    assert Config.from_json(config.to_json()) == config


def test_it_is_built_on_the_meta_device():
    """Nothing is outside the state that a checkpoint holds."""
    with torch.device("meta"):
        model = TextTransformer(small())
    other = TextTransformer(small())
    model.load_state_dict(other.state_dict(), strict=True, assign=True)
    assert torch.equal(model(padded([1], 4))[0], other(padded([1], 4))[0])


def test_wrong_texts_are_refused():
    """Too long, empty, without an end token, of another rank."""
    model = TextTransformer(small())
    for shape in ((1, 9), (1, 0), (4,)):
        with pytest.raises(DataError, match="L from 1 to 8, found"):
            model(torch.full(shape, EOS))
    with pytest.raises(DataError, match="no end token"):
        model(torch.tensor([[1, EOS], [1, 2]]))


@pytest.mark.parametrize(
    "changes",
    [{"heads": 5}, {"eos_id": 20}, {"eos_id": -1}, {"activation": "tanh"}, {"causal": False, "pad_id": EOS}],
    ids=str,
)
def test_wrong_settings_are_refused(changes):
    """A configuration that cannot work is an error when it is written."""
    with pytest.raises(ConfigError):
        small(**changes)
