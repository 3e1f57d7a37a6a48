"""Pictures that were decoded, at the size of their originals, for each way of fitting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.processors import signed_pixels
from intermodal.index.tokens import as_it_was, kept, levels_of, show, tokenizer_of


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (7, 200), (31, 33), (32, 32), (1, 1)])
@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
def test_a_picture_returns_to_its_size(size, resize):
    processor = signed_pixels(32, resize)
    left_half = Image.new("RGB", size, "white")
    left_half.paste((200, 0, 0), (0, 0, size[0] // 2, size[1]))
    back = as_it_was(processor.fitted(left_half), size, processor)
    if resize == "crop":
        assert back.size == (min(size), min(size))
        return
    assert back.size == size
    if min(size) >= 31:  # its left half is red again
        error = np.abs(np.asarray(back, float) - np.asarray(left_half, float)).mean()
        assert error < 12


def test_sizes_that_are_none_are_refused():
    picture, processor = Image.new("RGB", (32, 32)), signed_pixels(32, "squash")
    for size in ((0, 5), (-1, 3), (10**6, 10**6)):
        with pytest.raises(DataError, match="no size to return to"):
            as_it_was(picture, size, processor)


def test_identity_depends_on_weights_and_settings(toys):
    one, two = toys.toy(), toys.toy()
    assert tokenizer_of(one) == tokenizer_of(two) and tokenizer_of(one).codebook == 16
    two.book_QKC.data[0, 0, 0] += 1e-3
    assert tokenizer_of(one) != tokenizer_of(two)
    assert tokenizer_of(one) != tokenizer_of(toys.toy(resize="squash"))


def test_levels(toys):
    three, one = toys.toy(levels=3), toys.toy()
    latents = np.zeros((2, 8, 8, 3), int)
    assert (
        levels_of(three) == 3
        and kept(three, latents, 2).shape == (2, 8, 8, 2)
        and kept(three, latents, None) is latents
    )
    assert levels_of(one) == 1 and kept(one, latents[..., 0], 1).shape == (2, 8, 8)
    with pytest.raises(ConfigError, match="no coarser"):
        kept(one, latents, 2)


def test_what_is_shown(toys):
    picture = Image.new("RGB", (40, 30), (128, 128, 128))
    shown = show(toys.toy(levels=2), picture, 1)
    assert shown.original.size == shown.returned.size == (32, 32) and len(shown.tokens) == 1
    assert shown.bits == 64 * 4 and shown.bits_per_pixel == 0.25 and "(1 different ones)" in shown.in_words(16)
    exact = show(toys.toy(kind="map"), picture)
    assert math.isinf(exact.psnr) and "nothing is lost" in exact.in_words(None)


def test_larger_pictures_are_taken_fewer_at_a_time(toys):
    assert [toys.toy(size=size).chunk for size in (8, 64, 128, 1024)] == [64, 64, 16, 1]
    few, many = toys.toy(size=128), [Image.new("RGB", (9, 9), (i, 0, 0)) for i in range(20)]
    assert few.encode(many).shape == (20, 32, 32) and len(few.decode(few.encode(many))) == 20
