"""Files of tokens: what goes in comes out, in as many bits as it takes; what is no such file is refused in words."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from intermodal.core.errors import DataError
from intermodal.data.tokens import KEY, TokenFile, Tokenizer, TokenWriter, bytes_of_codes, pack, picture_names, unpack

SHA = "ab" * 32


def written(path, made_by: Tokenizer, latents: np.ndarray, batch: int = 3, **options) -> TokenFile:
    names = [f"ordner/bild ü{i}.jpg" for i in range(len(latents))]
    sizes = [(10 + i, 20 + i) for i in range(len(latents))]
    with path.open("wb") as file:
        writer = TokenWriter(file, made_by, **options)
        for first in range(0, len(latents), batch):
            part = slice(first, first + batch)
            writer.add(latents[part], names[part], sizes[part])
        writer.close()
    found = TokenFile(path)
    assert found.names == names and found.sizes.tolist() == [list(s) for s in sizes]
    return found


def codes(codebook: int, shape: tuple[int, ...], count: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(0, codebook, (count, *shape))


@settings(deadline=None, max_examples=60)
@given(bits=st.integers(0, 20), count=st.integers(1, 30), seed=st.integers(0, 99))
def test_packed_codes_come_out_and_take_their_bits(bits, count, seed):
    code_NM = np.random.default_rng(seed).integers(0, 2**bits, (5, count))
    packed = pack(code_NM, bits)
    assert packed.shape == (5, math.ceil(bits * count / 8)) and packed.dtype == np.uint8
    np.testing.assert_array_equal(unpack(packed, bits, count), code_NM)


def test_packing_is_the_highest_bit_first():
    np.testing.assert_array_equal(pack(np.array([[0b101, 0b001, 0b110]]), 3), [[0b10100111, 0b00000000]])


@pytest.mark.parametrize("codebook", [1, 2, 3, 255, 256, 512, 1000, 16_384, 2**31])
@pytest.mark.parametrize("shape", [(3, 5), (2, 2, 3), (1, 1)])
def test_codes_of_any_codebook(tmp_path, codebook, shape):
    made_by, latents = Tokenizer("toy", SHA, shape, codebook), codes(codebook, shape)
    file = written(tmp_path / "a.imtok", made_by, latents)
    assert file.made_by == made_by and len(file) == 7
    np.testing.assert_array_equal(file.read(0, 7), latents)
    np.testing.assert_array_equal(file.read(4, 6), latents[4:6])
    assert file.read(5, 99).shape == (2, *shape) and file.read(7, 9).shape == (0, *shape)
    assert file.read(0, 2).dtype == np.int64


def test_the_file_is_as_large_as_the_rate_says(tmp_path):
    made_by = Tokenizer("toy", SHA, (8, 8), 512)
    file = written(tmp_path / "a.imtok", made_by, codes(512, (8, 8), 500), batch=64)
    names = sum(len(n.encode()) + 1 for n in file.names)
    assert bytes_of_codes(made_by) * 8 == made_by.bits == 8 * 8 * 9
    assert (tmp_path / "a.imtok").stat().st_size <= 500 * (72 + 8) + names + 1024


@pytest.mark.parametrize(("half", "error"), [(False, 0.0), (True, 2**-11)])
def test_real_numbers(tmp_path, half, error):
    latents = np.random.default_rng(1).normal(size=(5, 4, 2, 3)).astype(np.float32)
    file = written(tmp_path / "a.imtok", Tokenizer("vae", SHA, (4, 2, 3), None), latents, half=half)
    found = file.read(0, 5)
    assert found.dtype == np.float32
    assert (np.abs(found - latents) <= error * np.abs(latents) + error * 2**-14).all()


def test_every_reader_of_safetensors_opens_it(tmp_path):
    latents = codes(10, (3, 3))
    written(tmp_path / "a.imtok", Tokenizer("toy", SHA, (3, 3), 10), latents)
    tensors = load_file(tmp_path / "a.imtok")
    np.testing.assert_array_equal(unpack(tensors["latents"], 4, 9).reshape(latents.shape), latents)
    with safe_open(tmp_path / "a.imtok", "np") as file:
        about = json.loads(file.metadata()[KEY])
    assert about["method"] == "toy" and about["codebook"] == 10 and about["shape"] == [3, 3]


def test_an_empty_file_of_tokens(tmp_path):
    file = written(tmp_path / "a.imtok", Tokenizer("toy", SHA, (3, 3), 10), codes(10, (3, 3), 0))
    assert len(file) == 0 and file.read(0, 1).shape == (0, 3, 3)


def test_what_does_not_fit_is_not_written(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        with pytest.raises(DataError, match="were expected"):
            TokenWriter(file, Tokenizer("toy", SHA, (2, 2), 4)).add(codes(4, (3, 3), 1), ["a"], [(1, 1)])
        with pytest.raises(DataError, match="too large for 16 bits"):
            big = np.full((1, 2), 1e6, np.float32)
            TokenWriter(file, Tokenizer("toy", SHA, (2,), None), half=True).add(big, ["a"], [(1, 1)])


def test_another_tokenizers_file_is_refused(tmp_path):
    made_by = Tokenizer("toy", SHA, (2, 2), 4)
    file = written(tmp_path / "a.imtok", made_by, codes(4, (2, 2)))
    assert file.check(made_by) is file
    with pytest.raises(DataError, match="Its weights or settings are others"):
        file.check(Tokenizer("toy", "cd" * 32, (2, 2), 4))
    with pytest.raises(DataError, match=r"toy, 2 x 2 codes of 4, abababab.*vae, 8 numbers.*another tokenizer"):
        file.check(Tokenizer("vae", SHA, (8,), None))


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match="There is no file of tokens at"):
            TokenFile(path)


def test_every_cut_and_garbage_are_refused_in_words(tmp_path):
    written(tmp_path / "a.imtok", Tokenizer("toy", SHA, (3, 3), 10), codes(10, (3, 3)))
    whole, path = (tmp_path / "a.imtok").read_bytes(), tmp_path / "b.imtok"
    rng = random.Random(0)
    for length in [0, 1, 7, 8, 9, 100, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(30))]:
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="cut short"):
            TokenFile(path)
    for data in (b"hello", rng.randbytes(2000), b"\x89PNG\r\n" + bytes(100), b"\xff" * 64):
        path.write_bytes(data)
        with pytest.raises(DataError, match="cannot be read as a file of tokens"):
            TokenFile(path)


def test_a_flipped_byte_is_an_error_in_words_or_a_readable_file(tmp_path):
    written(tmp_path / "a.imtok", Tokenizer("toy", SHA, (3, 3), 10), codes(10, (3, 3)))
    whole, path = (tmp_path / "a.imtok").read_bytes(), tmp_path / "b.imtok"
    rng = random.Random(0)
    for _ in range(150):
        data = bytearray(whole)
        data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            file = TokenFile(path)
            file.read(0, len(file))
        except DataError:
            pass


def altered(tmp_path, tensors: dict[str, np.ndarray] | None = None, **about) -> None:
    written(tmp_path / "a.imtok", Tokenizer("toy", SHA, (3, 3), 10), codes(10, (3, 3)))
    base = {"format": 1, "method": "toy", "sha256": SHA, "shape": [3, 3], "codebook": 10, **about}
    parts = {**load_file(tmp_path / "a.imtok"), **(tensors or {})}
    save_file({k: v for k, v in parts.items() if v is not None}, tmp_path / "b.imtok", {KEY: json.dumps(base)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "token format 2; this version"),
        ({"shape": [3, 4]}, "damaged"),
        ({"shape": []}, "damaged"),
        ({"shape": [-3, -3]}, "damaged"),
        ({"shape": None}, "damaged"),
        ({"codebook": "many"}, "damaged"),
        ({"codebook": 0}, "damaged"),
        ({"codebook": None}, "damaged"),
        ({"tensors": {"names": np.zeros(3, np.uint8)}}, "damaged"),
        ({"tensors": {"names": np.zeros((3, 3), np.float32)}}, "damaged"),
        ({"tensors": {"sizes": np.zeros((9, 2), np.int32)}}, "damaged"),
        ({"tensors": {"sizes": None}}, "cannot be read|damaged"),
        ({"tensors": {"latents": None}}, "damaged"),
    ],
)
def test_parts_that_do_not_fit_together(tmp_path, changes, words):
    altered(tmp_path, **changes)
    with pytest.raises(DataError, match=words):
        TokenFile(tmp_path / "b.imtok")


def test_a_safetensors_file_of_something_else(tmp_path):
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="is no file of tokens: `intermodal encode` makes them"):
        TokenFile(tmp_path / "model.safetensors")


def test_names_lead_nowhere_else_and_are_each_once():
    names = ["a.jpg", "a.png", "A.PNG", "../../etc/passwd", "/abs/y.jpeg", "C:\\w\\z.bmp", "..", "", "b.c.d", "a.jpg"]
    found = picture_names(names)
    assert found[:2] == ["a.png", "a.png.png"] and found[3:6] == ["etc/passwd.png", "abs/y.png", "C_/w/z.png"]
    assert len({f.lower() for f in found}) == len(names)
    for path in found:
        assert ".." not in path.split("/") and not path.startswith("/") and path.endswith(".png") and ":" not in path
