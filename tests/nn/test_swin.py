"""Swin: windows and masks against their definition, merges, sizes, and what it refuses."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.swin import Merging, SwinConfig, SwinTransformer, WindowAttention
from intermodal.nn.swin_windows import ContinuousBias, Unit, windows

VERSIONS = [1, 2]


def small(**changes):
    values = {"image_size": 32, "patch_size": 2, "width": 8, "depths": (2, 2), "heads": (2, 4), "window": 4, **changes}
    return SwinConfig(**values)


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 13), columns=st.integers(1, 13), side=st.integers(1, 5), part=st.integers(0, 4))
def test_windows_hold_each_place_once_and_see_what_lies_beside(rows, columns, side, part):
    """Against the paper's figure: cut shifted windows out of the map itself, without rolling it."""
    shift = part % side
    cut = windows(rows, columns, side, shift)
    high, wide = rows + cut.below, columns + cut.right
    assert high % side == 0 and wide % side == 0 and cut.below < side and cut.right < side
    assert sorted(cut.place_NS.flatten().tolist()) == list(range(high * wide))

    def part_of(place):  # which shifted window of the unrolled map a place lies in
        row, column = divmod(place, wide)
        return (row - shift) // side, (column - shift) // side

    for places, apart in zip(cut.place_NS.tolist(), cut.apart_NSS.tolist(), strict=True):
        for (i, one), (j, other) in itertools.product(enumerate(places), repeat=2):
            assert apart[i][j] == (part_of(one) != part_of(other))


def test_unit_vectors_and_their_gradients_are_those_of_normalize():
    """Of lengths from 1e-6 to 1e6, of strides as attention has them, and of zeros; the second gradient too."""
    generator = torch.Generator().manual_seed(0)
    lengths = 10 ** torch.linspace(-6, 6, 15, dtype=torch.float64)[None, :, None, None]
    x = (torch.randn(2, 15, 3, 4, dtype=torch.float64, generator=generator) * lengths).transpose(1, 2).requires_grad_()
    weight = torch.randn(2, 3, 15, 4, dtype=torch.float64, generator=generator)
    found, wanted = Unit.apply(x), torch.nn.functional.normalize(x, dim=-1)
    assert found.is_contiguous()
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, wanted)]
    torch.testing.assert_close(*gradients)
    zeros = torch.zeros(2, 4, requires_grad=True)
    (Unit.apply(zeros) * 3).sum().backward()
    assert torch.equal(zeros.grad, torch.full((2, 4), 3e12))  # as F.normalize's
    near = torch.randn(2, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(Unit.apply, near) and torch.autograd.gradgradcheck(Unit.apply, near)


@torch.no_grad()
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("rows", "columns", "shift"), [(8, 12, 2), (8, 8, 0), (6, 11, 2), (9, 5, 2)])
def test_window_attention_is_attention_of_each_place_to_its_window(version, rows, columns, shift, randomise):
    """Place by place, in float64: which places are seen, with which bias."""
    model = WindowAttention(8, 2, side=4, shift=shift, version=version)
    randomise(model.double())
    x = torch.randn(1, rows, columns, 8, dtype=torch.float64)
    found = model(x)[0]
    high, wide = rows + -rows % 4, columns + -columns % 4
    padded = torch.zeros(high, wide, 8, dtype=torch.float64)
    padded[:rows, :columns] = x[0]
    q, k, v = (t.unflatten(-1, (2, 4)) for t in model.attention.qkv(padded).chunk(3, -1))
    if version == 2:
        q, k = (t / t.norm(dim=-1, keepdim=True).clamp(min=1e-12) for t in (q, k))  # a filled-up key is zero
    scale = model.attention.positions.log_scale.exp().flatten() if version == 2 else torch.full((2,), 0.5).double()
    bias = model.bias()
    for row, column in itertools.product(range(rows), range(columns)):
        seen = [
            (r, c)
            for r, c in itertools.product(range(high), range(wide))
            if ((r - shift) // 4, (c - shift) // 4) == ((row - shift) // 4, (column - shift) // 4)
        ]
        for head in range(2):
            scores = []
            for r, c in seen:
                own = ((row - shift) % 4) * 4 + (column - shift) % 4
                other = ((r - shift) % 4) * 4 + (c - shift) % 4
                scores.append(scale[head] * (q[row, column, head] @ k[r, c, head]) + bias[head, own, other])
            weights = torch.stack(scores).softmax(0)
            mixed = sum(w * v[r, c, head] for w, (r, c) in zip(weights, seen, strict=True))
            part = model.attention.out.weight[:, 4 * head : 4 * head + 4] @ mixed
            total = part if head == 0 else total + part  # noqa: F821
        assert torch.allclose(found[row, column], total + model.attention.out.bias, rtol=0, atol=1e-10)


@torch.no_grad()
def test_the_bias_that_is_kept_follows_the_weights():
    """What is kept between calls is made anew when a weight has changed, the type, or the size of the map."""
    model = WindowAttention(8, 2, side=4, shift=2, version=1)
    x, wide = torch.randn(2, 8, 8, 8), torch.randn(1, 12, 8, 8)
    first = model(x)
    assert torch.equal(model(x), first)
    model(wide)
    assert torch.equal(model(x), first)
    model.bias.table.add_(torch.randn_like(model.bias.table))
    changed = model(x)
    assert not torch.allclose(changed, first)
    other = WindowAttention(8, 2, side=4, shift=2, version=1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), changed)
    assert model.double()(x.double()).dtype == torch.float64


def test_the_offsets_of_version_2_are_log_spaced():
    """By the paper's formula, at the window's own scale and at another one's."""
    for pretrained, scale in ((0, 3), (8, 7)):
        offsets = ContinuousBias(4, 2, pretrained).offsets().unflatten(0, (7, 7))
        for i, j in itertools.product(range(7), repeat=2):
            for found, step in zip(offsets[i, j].tolist(), (i - 3, j - 3), strict=True):
                x = 8 * abs(step) / scale
                wanted = torch.log2(torch.tensor(1.0 + x)).item() / 3 * (1 if step > 0 else -1)
                assert found == pytest.approx(wanted, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("merge", ["concat", "mean", "max"])
def test_merging_reads_four_places(version, merge):
    """Each place of the result is made of the four it stands for; an odd edge of those and zeros."""
    model = Merging(4, version, merge).double()
    x = torch.randn(2, 5, 6, 4, dtype=torch.float64)
    found = model(x)
    assert found.shape == (2, 3, 3, 8)
    padded = torch.cat([x, torch.zeros(2, 1, 6, 4, dtype=torch.float64)], 1)
    for row, column in itertools.product(range(3), repeat=2):
        four = [padded[:, 2 * row + r, 2 * column + c] for c in (0, 1) for r in (0, 1)]
        if merge == "concat":
            joined = torch.cat(four, -1)
        else:
            stacked = torch.stack(four)
            joined = stacked.mean(0) if merge == "mean" else stacked.amax(0)
        wanted = model.reduction(model.norm(joined)) if version == 1 else model.norm(model.reduction(joined))
        assert torch.allclose(found[:, row, column], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [(32, 32), (31, 45), (2, 3), (64, 16)])
def test_any_size_gives_a_pyramid(version, size):
    """Four resolutions, halved and rounded up."""
    config = small(version=version, depths=(2, 1, 2, 1), heads=(1, 2, 4, 8))
    maps = SwinTransformer(config).maps(torch.zeros(2, 3, *size))
    rows, columns = -(-size[0] // 2), -(-size[1] // 2)
    for stage, found in enumerate(maps):
        assert found.shape == (2, rows, columns, 8 * 2**stage)
        rows, columns = -(-rows // 2), -(-columns // 2)


@torch.no_grad()
@pytest.mark.parametrize("version", VERSIONS)
def test_pictures_of_a_batch_do_not_meet(version, randomise):
    """Each picture's vector is the one that it has alone."""
    model = randomise(SwinTransformer(small(version=version)).double())
    images = torch.randn(3, 3, 30, 44, dtype=torch.float64)
    together = model(images)[0]
    alone = torch.cat([model(image[None])[0] for image in images])
    assert torch.allclose(together, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("version", VERSIONS)
def test_gradients_reach_every_parameter_and_are_right(version, gradients_reach):
    """Every part takes part, and the gathers' way back is the gradient (checked by differences)."""
    torch.manual_seed(0)
    config = small(version=version, image_size=16, depths=(2, 1), heads=(1, 2), width=4)
    model = SwinTransformer(config).double()
    image = torch.randn(1, 3, 14, 18, dtype=torch.float64, requires_grad=True)
    gradients_reach(model, model(image)[0])
    assert torch.autograd.gradcheck(lambda x: model(x)[0], (image,), atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("merge", ["concat", "mean"])
@pytest.mark.parametrize("size", [(32, 32), (30, 44)])
def test_flops_are_what_torch_counts(merge, size):
    """Every product of one picture's forward pass is counted, those of filled-up windows included."""
    config = small(merge=merge)
    model = SwinTransformer(config)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, *size))
    assert counter.get_total_flops() == config.flops(*size)


def test_config_survives_json():
    """Windows of one number and of each stage come back."""
    for config in (small(), small(window=(4, 2), image_size=(8, 20)), small(version=2, pretrained_windows=(3, 3))):
        assert Config.from_json(config.to_json()) == config


def test_windows_are_no_larger_than_the_maps():
    """Where one number is said, of each stage the smaller of it and the map; else what is said."""
    assert [small(image_size=16, window=8).window_of(i) for i in (0, 1)] == [8, 4]
    assert [small(image_size=16, window=(8, 8)).window_of(i) for i in (0, 1)] == [8, 8]
    assert [small(image_size=16, window=8, version=2).shift_of(i) for i in (0, 1)] == [0, 0]
    assert [small(image_size=32, window=8, version=2).shift_of(i) for i in (0, 1)] == [4, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": (3, 4)},
        {"heads": (2,)},
        {"window": 0},
        {"window": (4,)},
        {"patch_size": 40},
        {"activation": "tanh"},
        {"pretrained_windows": (4,)},
        {"depths": ()},
    ],
    ids=str,
)
def test_wrong_sizes_are_refused(changes):
    """A configuration that cannot be built is an error when it is written."""
    with pytest.raises(ConfigError):
        small(**changes)


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (3, 32, 32), (1, 3, 0, 32), (0, 3, 32, 32)])
def test_wrong_pictures_are_refused(shape):
    """The error states the shape that is wanted and the one found."""
    with pytest.raises(DataError, match=r"\(B, 3, H, W\), found \("):
        SwinTransformer(small())(torch.zeros(shape))
