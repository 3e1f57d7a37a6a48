"""Key maps: the round trip is the identity, and everything that does not fit is an error that lists it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.core.errors import CheckpointError
from intermodal.hub.keymap import KeyMap, divide, expand, fuse, rename, reshape, split, transpose

MAP = KeyMap(
    rename("enc.layers.{i}.norm{n}.{p}", "blocks.{i}.n{n}.{p}"),
    fuse("enc.layers.{i}.{q,k,v}_proj.{p}", "blocks.{i}.qkv.{p}"),
    split("head.in_proj", "pool.{q,kv}.weight", (1, 2)),
    transpose("proj", "projection.weight"),
    reshape("scale", "scale", (1,), ()),
    fuse("wide.{a,b}", "wide", axis=1),
    ignored=("{tower}.position_ids",),
)


def tensors(width=2, layers=2):
    """Published tensors that the map covers, each number different."""
    shapes = {"head.in_proj": (3 * width, width), "proj": (width, 5), "scale": (1,)}
    shapes |= {"wide.a": (2, width), "wide.b": (2, width)}
    for i in range(layers):
        shapes |= {f"enc.layers.{i}.norm{n}.weight": (width,) for n in (1, 2)}
        shapes |= {f"enc.layers.{i}.{x}_proj.weight": (width, width) for x in "qkv"}
        shapes |= {f"enc.layers.{i}.{x}_proj.bias": (width,) for x in "qkv"}
    generator = torch.Generator().manual_seed(width)
    return {k: torch.randn(s, generator=generator) for k, s in shapes.items()}


def same(a, b):
    return sorted(a) == sorted(b) and all(torch.equal(a[k], b[k]) for k in a)


@settings(deadline=None, max_examples=25)
@given(width=st.integers(1, 5), layers=st.integers(0, 12))
def test_there_and_back_is_the_identity(width, layers):
    """Both ways round, to the bit."""
    published = tensors(width, layers)
    ours = MAP.to_ours(published)
    assert same(MAP.to_published(ours), published)
    assert same(MAP.to_ours(MAP.to_published(ours)), ours)


def test_each_operation_does_what_it_says():
    """Values end where the declaration puts them."""
    published = tensors()
    ours = MAP.to_ours(published | {"x.position_ids": torch.arange(3)})
    wanted = torch.cat([published[f"enc.layers.1.{x}_proj.weight"] for x in "qkv"])
    assert torch.equal(ours["blocks.1.qkv.weight"], wanted)
    assert torch.equal(ours["blocks.0.n2.weight"], published["enc.layers.0.norm2.weight"])
    assert torch.equal(ours["pool.q.weight"], published["head.in_proj"][:2])
    assert torch.equal(ours["pool.kv.weight"], published["head.in_proj"][2:])
    assert torch.equal(ours["projection.weight"], published["proj"].T)
    assert torch.equal(ours["wide"], torch.cat([published["wide.a"], published["wide.b"]], dim=1))
    assert ours["scale"].shape == ()
    assert "x.position_ids" not in ours


def test_loading_gives_what_the_model_expects():
    """Checked tensors come contiguous, in the shapes that were asked for."""
    published = tensors()
    expected = {k: tuple(t.shape) for k, t in MAP.to_ours(published).items()}
    ours = MAP.load(published, expected, "here")
    assert {k: tuple(t.shape) for k, t in ours.items()} == expected
    assert all(t.is_contiguous() for t in ours.values())


@pytest.mark.parametrize("key", sorted(tensors()))
def test_a_missing_key_is_listed_by_its_published_name(key):
    """Take any one away: the error names it and the place."""
    published = tensors()
    expected = {k: tuple(t.shape) for k, t in MAP.to_ours(published).items()}
    del published[key]
    with pytest.raises(CheckpointError, match=rf"here.*1 missing: {key}\."):
        MAP.load(published, expected, "here")


@pytest.mark.parametrize("key", ["enc.layers.2.norm1.weight", "enc.layers.0.extra", "projx", "a.b.position_ids"])
def test_a_left_over_key_is_listed(key):
    """A key that no rule takes, or of a layer that the model lacks, is an error."""
    published = tensors()
    expected = {k: tuple(t.shape) for k, t in MAP.to_ours(published).items()}
    with pytest.raises(CheckpointError, match=f"1 left over: {key}"):
        MAP.load(published | {key: torch.zeros(2)}, expected, "here")


@pytest.mark.parametrize("key", sorted(tensors()))
def test_a_wrong_shape_is_listed(key):
    """Each shape is compared in the published layout, before anything is joined."""
    published = tensors()
    expected = {k: tuple(t.shape) for k, t in MAP.to_ours(published).items()}
    published[key] = torch.zeros(7, *published[key].shape)
    with pytest.raises(CheckpointError, match=f"1 of another shape: {key} should be"):
        MAP.load(published, expected, "here")


def test_a_part_that_is_missing_is_named_without_a_model_too():
    """Converting alone is strict as well, in both directions."""
    published = tensors()
    del published["enc.layers.0.k_proj.bias"]
    with pytest.raises(CheckpointError, match=r"1 missing: enc.layers.0.k_proj.bias"):
        MAP.to_ours(published)
    ours = MAP.to_ours(tensors())
    del ours["pool.kv.weight"]
    with pytest.raises(CheckpointError, match=r"1 missing: pool.kv.weight"):
        MAP.to_published(ours)
    with pytest.raises(CheckpointError, match=r"1 left over: other"):
        MAP.to_published(MAP.to_ours(tensors()) | {"other": torch.zeros(1)})


def test_a_key_that_two_rules_take_is_a_defect_of_the_map():
    """Ambiguity is never resolved by order."""
    ambiguous = KeyMap(rename("a.{x}", "b.{x}"), rename("a.w", "c.w"))
    with pytest.raises(ValueError, match="fits 2 rules"):
        ambiguous.to_ours({"a.w": torch.zeros(1)})


def test_a_rule_that_loses_a_field_is_a_defect_of_the_map():
    """What tells two keys apart on one side must do so on the other."""
    with pytest.raises(ValueError, match="differ"):
        rename("layers.{i}.weight", "layer.weight")


def test_a_field_is_within_one_part_and_repeats_itself():
    """A field never spans a dot, and where it occurs twice it stands for the same text."""
    keys = KeyMap(rename("a.{i}.b.{i}", "c.{i}"))
    assert list(keys.to_ours({"a.1.b.1": torch.zeros(1)})) == ["c.1"]
    for key in ("a.1.b.2", "a.1.2.b.1.2"):
        with pytest.raises(CheckpointError, match="left over"):
            keys.to_ours({key: torch.zeros(1)})


def test_expansion_and_division():
    """``{a,b}`` is several patterns; what cannot be cut in proportion is an error."""
    assert expand("x.{q,k}.{p}") == ("x.q.{p}", "x.k.{p}")
    assert expand("x.{p}") == ("x.{p}",)
    assert [len(t) for t in divide(torch.zeros(9), (1, 2), 0)] == [3, 6]
    with pytest.raises(CheckpointError, match="cannot be cut"):
        divide(torch.zeros(8), (1, 2), 0)
