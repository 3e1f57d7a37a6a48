"""Parity must not go silently untested: where tests are run for the record, the references must be there."""

import importlib.util
import os

import pytest


@pytest.mark.parametrize(
    "package",
    [
        "transformers",
        "diffusers",
        "safetensors",
        "tokenizers",
        "pytorch_metric_learning",
        "vector_quantize_pytorch",
        "gensim",
        "numba",
        "sklearn",
    ],
)
def test_core_group_is_installed(package):
    """Fail, rather than skip, in continuous integration if a reference of the core group is missing."""
    if importlib.util.find_spec(package) is None:
        message = f"{package}, of the core group of references, is not installed"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
