import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from intermodal.core.errors import CheckpointError
from intermodal.train.state import load_tree, save_tree

LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.text())
TREES = st.recursive(
    LEAVES,
    lambda x: st.one_of(
        st.lists(x, max_size=3),
        st.lists(x, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(), st.integers()), x, max_size=3),
    ),
    max_leaves=8,
)


@given(tree=TREES)
def test_plain_trees_come_back_the_same(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree") / "state"
    save_tree(folder, {"root": tree})
    assert load_tree(folder) == {"root": tree}


def test_tensors_keep_their_bits_and_dtypes(tmp_path):
    tensors = {
        "bf16": torch.randn(3).bfloat16(),
        "f64": torch.tensor([math.pi, float("inf")], dtype=torch.float64),
        "u8": torch.arange(5, dtype=torch.uint8),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }
    tree = {"a": [tensors, {"n": np.arange(4)}], 3: (tensors["f64"],)}
    save_tree(tmp_path / "s", tree)
    again = load_tree(tmp_path / "s")
    for name, value in tensors.items():
        assert again["a"][0][name].dtype == value.dtype
        assert torch.equal(again["a"][0][name], value)
    assert np.array_equal(again["a"][1]["n"], np.arange(4))
    assert isinstance(again[3], tuple)


def test_objects_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="cannot hold a object"):
        save_tree(tmp_path / "s", {"x": object()})
    assert not (tmp_path / "s").exists()


def test_damage_is_named(tmp_path):
    save_tree(tmp_path / "s", {"x": torch.randn(100)})
    file = tmp_path / "s" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="cut short"):
        load_tree(tmp_path / "s")
