"""Rates and distances: counted by hand for codecs and tokenizers, the same pictures for all."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from intermodal.core.errors import DataError
from intermodal.data.emoji import EmojiSource
from intermodal.evaluate.rate_distortion import (
    Curve,
    codec_curves,
    jpeg_payload,
    panels,
    pictures_of,
    tokenizer_curve,
    webp_payload,
)
from intermodal.evaluate.result import Lines, Table
from intermodal.evaluate.tokenizers import decibels, thumbnail


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return pictures_of(EmojiSource(), "test", 32, 4)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_pictures_are_held_out_and_of_one_size(images):
    assert len(images) == 4 and {i.size for i in images} == {(32, 32)}
    assert len({i.tobytes() for i in images}) == 4


def test_headers_of_jpeg_are_what_is_before_and_after_the_scan(images):
    for quality in (5, 50, 95):
        data = saved(images[0], "JPEG", quality=quality)
        start = data.index(b"\xff\xda")
        assert jpeg_payload(data) == len(data) - start - 2 - 12 - 2  # SOS of three channels has 12 bytes; then EOI
    flat = Image.new("RGB", (32, 32), "white")
    data = saved(flat, "JPEG", quality=50)
    assert jpeg_payload(data) < 20 and len(data) > 500
    with pytest.raises(DataError, match="no scan"):
        jpeg_payload(b"\xff\xd8\xff\xd9")


def test_headers_of_webp(images):
    data = saved(images[0], "WEBP", quality=50, method=6)
    assert data[12:16] == b"VP8 " and data[23:26] == b"\x9d\x01\x2a"  # the start code after the frame's tag
    assert webp_payload(data) in (len(data) - 30, len(data) - 31)
    assert webp_payload(saved(images[0], "WEBP", quality=50, exif=b"Exif\0\0" + bytes(51))) == webp_payload(
        saved(images[0], "WEBP", quality=50)
    )
    with pytest.raises(DataError, match="no lossy frame"):
        webp_payload(saved(images[0], "WEBP", lossless=True))


def test_codecs_are_what_pillow_makes(images):
    curves = {c.name: {p.name: p for p in c.points} for c in codec_curves(images)}
    assert list(curves) == [
        "JPEG, with headers",
        "JPEG, without headers",
        "WebP, with headers",
        "WebP, without headers",
        "thumbnail",
    ]
    files = [saved(i, "JPEG", quality=50, optimize=True) for i in images]
    point = curves["JPEG, with headers"]["quality 50"]
    assert point.bits_per_pixel == pytest.approx(np.mean([8 * len(f) / 1024 for f in files]))
    assert point.psnr == pytest.approx(np.mean(decibels(images, [Image.open(io.BytesIO(f)) for f in files])))
    for kind in ("JPEG", "WebP"):
        whole, bare = curves[f"{kind}, with headers"], curves[f"{kind}, without headers"]
        for name in whole:
            assert bare[name].bits_per_pixel < whole[name].bits_per_pixel
            assert bare[name].psnr == pytest.approx(whole[name].psnr)
        rates = [p.bits_per_pixel for p in whole.values()]
        assert rates == sorted(rates) and whole["quality 95"].psnr > whole["quality 5"].psnr
        assert whole["quality 95"].perceptual < whole["quality 5"].perceptual
    small = curves["thumbnail"]["side 8"]
    assert small.bits_per_pixel == 24 * 64 / 1024
    assert small.psnr == pytest.approx(np.mean(decibels(images, [thumbnail(i, 24 * 64) for i in images])))
    assert list(curves["thumbnail"])[-1] == "side 16"


def test_a_tokenizer_is_a_point_and_one_with_levels_a_curve(toys, images):
    one = tokenizer_curve("one", toys.toy(codes=64), images)
    assert [p.name for p in one.points] == ["one"] and one.points[0].bits_per_pixel == 64 * 6 / 1024
    model = toys.toy(codes=64, levels=3)
    three = tokenizer_curve("three", model, images)
    assert [p.name for p in three.points] == ["1 of 3 codes", "2 of 3 codes", "3 of 3 codes"]
    assert [p.bits_per_pixel for p in three.points] == [0.375, 0.75, 1.125]
    psnr = [p.psnr for p in three.points]
    assert psnr == sorted(psnr) and psnr[0] == pytest.approx(one.points[0].psnr, abs=3)
    latents = model.encode(images)
    assert psnr[1] == pytest.approx(np.mean(decibels(images, model.decode(latents[..., :2]))))
    assert psnr[2] == pytest.approx(np.mean(decibels(images, model.decode(latents))))


def test_other_sizes_where_the_model_can(toys, images):
    model = toys.toy(size=64, kind="map")
    assert tokenizer_curve("map", model, images).points[0].bits_per_pixel == 1.5
    assert model.picture.size == (64, 64)
    with pytest.raises(DataError, match="vector takes pictures of 64 x 64 alone, not 32 x 32"):
        tokenizer_curve("vector", toys.toy(size=64, kind="vector"), images)


def test_curves_are_saved_and_shown(toys, images):
    curves = [tokenizer_curve("three", toys.toy(levels=3), images[:2]), *codec_curves(images[:2])]
    assert [Curve.from_dict(c.to_dict()) for c in curves] == curves
    found = panels(curves, "Two emoji.")
    assert [type(p) for p in found] == [Lines, Lines, Table] and found[0].log_x
    assert len(found[0].series) == 6 and len(found[2].rows) == 3 + 4 * 10 + 8
