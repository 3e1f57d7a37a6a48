from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from intermodal.core.errors import DataError
from intermodal.data.images import from_struct, open_image, to_rgb


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixel(image: Image.Image) -> tuple[int, ...]:
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("LA", (100, 255), (100, 100, 100)),
        ("LA", (100, 0), (255, 255, 255)),  # transparent: white shows
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("I;16", 0x1234, (0x12, 0x12, 0x12)),
        ("I;16", 0xFFFF, (255, 255, 255)),
    ],
)
def test_modes_of_png(mode, colour, expected):
    assert pixel(open_image(encoded(Image.new(mode, (3, 2), colour)))) == expected


def test_cmyk_jpeg():
    red, green, blue = pixel(open_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")))
    assert red > 240
    assert green < 15
    assert blue < 15


def test_big_endian_16_bit_tiff_is_scaled():
    grey = np.full((2, 2), 0xABCD, dtype=">u2")
    image = Image.frombytes("I;16B", (2, 2), grey.tobytes())
    assert pixel(to_rgb(image)) == (0xAB, 0xAB, 0xAB)


def test_palette_with_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1])
    opened = open_image(encoded(image, transparency=0))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 255, 0)]


def test_floating_point_is_refused():
    image = Image.fromarray(np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(DataError, match="floating-point"):
        open_image(encoded(image, "TIFF"), "depth.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation):
    upright = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10)
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_image(encoded(stored, exif=exif))
    assert np.array_equal(np.array(opened), np.array(upright))


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixel(open_image(data)) == (255, 0, 0)


def test_truncated_jpeg_names_the_file(tmp_path: Path, png):
    path = tmp_path / "cut.jpg"
    data = encoded(open_image(png(1, (64, 64))), "JPEG")
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cut\.jpg cannot be read as a picture \(.*truncated"):
        open_image(path)


@pytest.mark.parametrize("size", [(50_000, 50_000), (10_000, 8_000), (12_000, 8_000)])
def test_bombs_are_refused_by_their_header(forged_png, size):
    with pytest.raises(DataError, match=r"big\.png claims .* pixels, more than the 64,000,000 allowed"):
        open_image(forged_png(*size), "big.png")


def test_missing_folder_and_text(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        open_image(tmp_path / "no.png")
    with pytest.raises(DataError, match="is a folder"):
        open_image(tmp_path)
    with pytest.raises(DataError, match="cannot be read as a picture"):
        open_image(b"hello", "hello.png")


def test_postscript_is_not_run():
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(DataError, match="cannot identify"):
        open_image(data, "page.png")


def test_structs(tmp_path: Path, png):
    (tmp_path / "a.png").write_bytes(png(1))
    expected = np.array(open_image(png(1)))
    for value in ({"bytes": png(1), "path": "x"}, {"bytes": None, "path": "a.png"}, "a.png", png(1)):
        assert np.array_equal(np.array(from_struct(value, "row", tmp_path)), expected)
    with pytest.raises(DataError, match="row holds no picture"):
        from_struct({"bytes": None, "path": None}, "row")


PNG, JPEG, GIF, TIFF, WEBP, BMP = (
    encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)), kind)
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")
)


def check_opens_or_refuses(data: bytes) -> None:
    try:
        image = open_image(data, "fuzz", max_pixels=1_000_000)
    except DataError as error:
        assert "fuzz" in str(error)
    else:
        assert image.mode == "RGB"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes(data):
    check_opens_or_refuses(data)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from([PNG, JPEG, GIF, TIFF, WEBP, BMP]), st.data())
def test_damaged_pictures(good, draw):
    data = bytearray(good)
    for _ in range(draw.draw(st.integers(1, 6))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    check_opens_or_refuses(bytes(data[: draw.draw(st.integers(1, len(data)))]))
