"""encode_in_chunks: the gradients of the whole batch, the memory of a chunk."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from intermodal.losses.chunked import encode_in_chunks
from intermodal.losses.contrastive import info_nce


class Tower(nn.Module):
    def __init__(self, *extra):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 10), nn.GELU(), *extra, nn.Linear(10, 4))
        self.seen = []

    def forward(self, x, weight=None):
        self.seen.append(len(x))
        x = self.layers(x)
        return F.normalize(x if weight is None else x * weight[:, None], dim=-1)


def towers():
    torch.manual_seed(0)
    return nn.ModuleDict({"image": Tower(), "text": Tower()}).double()


def gradients(model, batch, chunk_size):
    generator = torch.Generator().manual_seed(1)
    image, text, weight = (
        torch.randn(batch, *rest, dtype=torch.float64, generator=generator) for rest in ((6,), (6,), ())
    )
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    if chunk_size is None:
        embedded = model["image"](image, weight), model["text"](text)
    else:
        embedded = (
            encode_in_chunks(model["image"], (image, weight), chunk_size=chunk_size),
            encode_in_chunks(lambda t: model["text"](t), text, chunk_size=chunk_size, module=model["text"]),
        )
    loss = info_nce(*embedded, scale.exp())
    return loss, torch.autograd.grad(loss, (*model.parameters(), scale))


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 20), chunk_size=st.integers(1, 24))
def test_gradients_are_those_of_the_whole_batch(batch, chunk_size):
    model = towers()
    expected, theirs = gradients(model, batch, None)
    found, ours = gradients(model, batch, chunk_size)
    assert abs(expected - found) < 1e-13
    for a, b in zip(theirs, ours, strict=True):
        assert (a - b).abs().max() < 1e-13


def test_a_chunk_at_a_time_forward_and_backward():
    tower = Tower()
    x = torch.randn(10, 6)
    encode_in_chunks(tower, x, chunk_size=4).sum().backward()
    assert tower.seen == [4, 4, 2, 2, 4, 4]


def test_activations_of_one_chunk_are_kept():
    """What autograd saves between forward and backward are the inputs, not the hidden layers."""
    saved = []

    def pack(tensor):
        saved.append(tuple(tensor.shape))
        return tensor

    tower = Tower()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        encode_in_chunks(tower, torch.randn(12, 6), chunk_size=4)
    assert (4, 10) not in saved


def test_without_gradients_nothing_is_made_twice():
    tower = Tower()
    with torch.no_grad():
        encode_in_chunks(tower, torch.randn(10, 6), chunk_size=4)
    assert tower.seen == [4, 4, 2]


def test_dropout_draws_the_same_mask_in_backward():
    torch.manual_seed(3)
    drop = nn.Dropout(0.5)
    x = torch.randn(12, 5, dtype=torch.float64, requires_grad=True)
    y = encode_in_chunks(lambda x: drop(x) * 3, x, chunk_size=5, module=drop)
    y.sum().backward()
    mask = (y != 0).double() * 2
    assert torch.equal(x.grad, mask * 3)


def test_batch_norm_is_refused_where_it_would_use_the_chunk():
    model = Tower(nn.BatchNorm1d(10))
    x = torch.randn(8, 6)
    for encode, module in ((model, None), (model.forward, None), (lambda x: model(x), model)):
        with pytest.raises(ValueError, match=r"batch norm \(layers\.2\)"):
            encode_in_chunks(encode, x, chunk_size=4, module=module)
    model.eval()
    assert torch.allclose(encode_in_chunks(model, x, chunk_size=4), model(x), atol=1e-6)
    stateless = Tower(nn.BatchNorm1d(10, track_running_stats=False)).eval()
    with pytest.raises(ValueError, match="batch norm"):
        encode_in_chunks(stateless, x, chunk_size=4)


def test_wrong_input_is_named():
    x = torch.randn(8, 6)
    with pytest.raises(ValueError, match="at least 1, found 0"):
        encode_in_chunks(Tower(), x, chunk_size=0)
    with pytest.raises(ValueError, match="at least one input"):
        encode_in_chunks(Tower(), (), chunk_size=2)
    with pytest.raises(ValueError, match=r"found shapes \[\[8, 6\], \[7, 6\]\]"):
        encode_in_chunks(Tower(), (x, x[:7]), chunk_size=2)
    with pytest.raises(ValueError, match=r"given 2 rows, it returned shape \[1, 6\]"):
        encode_in_chunks(lambda x: x[:1], x, chunk_size=2)
