"""One test file over every image tokenizer: odd and broken pictures, and latents that are not its own."""

from __future__ import annotations

import copy
import io
import re
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from intermodal.core.errors import ConfigError, DataError
from intermodal.core.registry import cards, load_class
from intermodal.data.processors import LabelProcessor
from intermodal.methods.base import Batch
from intermodal.methods.image_tokenizers.tokenizer import ImageTokenizer
from intermodal.recipes import get_recipe

RECIPES = [
    name
    for card in cards().values()
    if card.field == "image_tokenizers" and issubclass(load_class(card.id), ImageTokenizer)
    for name in card.recipes
]
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16")
SIZES = ((1, 1), (2, 1), (1, 300), (301, 7), (17, 19))


@cache
def _built(recipe: str) -> ImageTokenizer:
    method = get_recipe(recipe).smoke().build()
    assert isinstance(method, ImageTokenizer)
    return method


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def method(recipe: str) -> ImageTokenizer:
    return copy.deepcopy(_built(recipe)).eval()


def noise(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Return a picture of random pixels."""
    rng = np.random.default_rng(seed)
    if mode.startswith("I"):
        kind = np.int32 if mode == "I" else np.uint16
        return Image.fromarray(rng.integers(0, 65536, size[::-1]).astype(kind))
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 4)).astype(np.uint8), "RGBA" if mode != "RGB" else None)
    if mode in ("La", "RGBa", "PA"):
        return image.convert({"La": "LA", "PA": "P", "RGBa": "RGBA"}[mode]).convert(mode)
    if mode == "LAB":
        return Image.merge("LAB", image.convert("RGB").split())
    if mode in ("HSV", "CMYK", "YCbCr", "1", "P"):
        image = image.convert("RGB")
    return image.convert(mode)


def of_file(image: Image.Image, kind: str) -> Image.Image:
    """Return the picture as it is opened from an encoded file."""
    data = io.BytesIO()
    image.save(data, kind)
    return Image.open(io.BytesIO(data.getvalue()))


def batch_of(method: ImageTokenizer, images: list[Image.Image]) -> Batch:
    batch = {"image": method.picture(images), "seed": torch.arange(len(images))}
    for name, processor in method.inputs.items():
        if isinstance(processor, LabelProcessor):  # every picture is of the first class
            batch[name] = processor([processor.names[0]] * len(images))
    return batch


@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_every_mode_and_size_go_there_and_back(method, mode):
    """Grey, alpha, palette, CMYK, 16 bits; one pixel, strips, sizes that no power of two divides."""
    pictures = [noise(size, mode) for size in SIZES]
    latents = method.encode(pictures)
    assert latents.shape == (len(pictures), *method.latent_shape())
    assert latents.dtype == (np.float32 if method.codebook_size is None else np.int64)
    assert np.isfinite(latents).all()
    back = method.decode(latents)
    assert [(p.mode, p.size) for p in back] == [("RGB", method.picture.size[::-1])] * len(pictures)
    bits = method.bits(pictures)
    assert bits.shape == (len(pictures),) and np.isfinite(bits).all() and (bits > 0).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
def test_opened_files_are_pictures_too(method, kind):
    mode = {"JPEG": "CMYK", "GIF": "P", "TIFF": "I;16"}.get(kind, "RGBA")
    assert method.encode([of_file(noise((23, 9), mode), kind)]).shape == (1, *method.latent_shape())


def test_transparency_is_white_and_grey_is_grey(method):
    clear, white = Image.new("RGBA", (20, 20), (255, 0, 0, 0)), Image.new("RGB", (20, 20), "white")
    assert np.array_equal(method.encode([clear]), method.encode([white]))
    for grey in (Image.new("L", (20, 20), 100), Image.new("I;16", (20, 20), 100 * 256)):
        assert np.array_equal(method.encode([grey]), method.encode([Image.new("RGB", (20, 20), (100,) * 3)]))


def test_pictures_that_cannot_be_read_are_named(method, tmp_path):
    with pytest.raises(DataError, match="floating-point"):
        method.encode([Image.new("F", (8, 8), 0.5)])
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"cut\.png"):
        method.encode([tmp_path / "cut.png"])
    with pytest.raises(DataError, match="does not exist"):
        method.encode([tmp_path / "none.png"])


@pytest.mark.parametrize("colour", ["black", "white", (127, 127, 127)], ids=str)
def test_a_constant_picture_is_a_picture(method, colour):
    """Nothing is divided by its variance; and a batch of it can be learnt from."""
    picture = Image.new("RGB", (30, 30), colour)
    assert np.isfinite(method.encode([picture])).all()
    method.train()
    method.begin_step(5, 10)
    for phase in method.phases():
        total = method(batch_of(method, [picture] * 4), phase.loss).total
        total.backward()
        assert torch.isfinite(total)
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_a_codebook_larger_than_the_data(method):
    """A single picture, as often as it takes to be met again."""
    method.train()
    batch = batch_of(method, [noise((20, 20))])
    for step in range(3):
        method.begin_step(step, 3)
        for phase in method.phases():
            total = method(batch, phase.loss).total
            assert torch.isfinite(total), step
            total.backward()
    method.eval()
    assert np.isfinite(method.encode([noise((20, 20))])).all()


def test_no_picture_is_no_latent(method):
    latents = method.encode([])
    assert latents.shape == (0, *method.latent_shape())
    assert method.decode(latents) == [] and method.bits([]).shape == (0,)


def test_more_pictures_than_are_encoded_at_once(method, monkeypatch):
    monkeypatch.setattr("intermodal.methods.image_tokenizers.tokenizer.CHUNK", 2)
    pictures = [noise((16, 16), seed=seed) for seed in range(5)]
    latents = method.encode(pictures)
    assert len(latents) == len(method.decode(latents)) == len(method.bits(pictures)) == 5


def test_same_pictures_same_latents_whatever_the_mode_and_the_global_seed(method):
    pictures = [noise((16, 16)), noise((40, 30), seed=1)]
    torch.manual_seed(1)
    first = method.encode(pictures)
    method.train()
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    again = method.encode(pictures)
    assert np.array_equal(first, again) and method.training
    assert [p.tobytes() for p in method.decode(first)] == [p.tobytes() for p in method.decode(again)]
    assert torch.equal(state, torch.random.get_rng_state())


def valid(method: ImageTokenizer) -> np.ndarray:
    return method.encode([noise((16, 16))])


def test_latents_of_another_shape_are_refused(method):
    good = valid(method)
    for bad in (
        good[0],
        good[None],
        good[..., :-1],
        np.concatenate([good, good], -1),
        good[:, :0],
        np.zeros(()),
        good[:, :, None],
    ):
        if bad.shape[1:] == good.shape[1:] or (
            method.levels > 1 and bad.shape[:-1] == good.shape[:-1] and bad.shape[-1] < method.levels
        ):
            continue  # the first codes of a place alone are a coarser picture
        with pytest.raises(DataError, match="another model"):
            method.decode(bad)


def test_latents_of_another_kind_are_refused(method):
    good = valid(method)
    for bad in (good.astype(str), good.astype(object), good.astype(complex)):
        with pytest.raises(DataError, match="numbers"):
            method.decode(bad)
    with pytest.raises(DataError, match="another model|numbers"):
        method.decode([[1, 2], [3]])


def test_numbers_that_are_not_finite_are_refused(method):
    good = valid(method).astype(np.float64)
    for value in (np.nan, np.inf, -np.inf):
        bad = good.copy()
        bad.flat[-1] = value
        with pytest.raises(DataError, match="not finite|whole numbers"):
            method.decode(bad)
    if method.codebook_size is None:
        with pytest.raises(DataError, match="not finite"):
            method.decode(np.full_like(good, 1e300))  # too large for single precision


def test_codes_that_do_not_exist_are_refused(method):
    if method.codebook_size is None:
        pytest.skip("its latent is of real numbers")
    good = valid(method)
    for value in (-1, method.codebook_size, 2**62):
        bad = good.copy()
        bad.flat[0] = value
        with pytest.raises(DataError, match=f"knows 0 to {method.codebook_size - 1}"):
            method.decode(bad)
    with pytest.raises(DataError, match="whole numbers"):
        method.decode(good.astype(np.float32))
    with pytest.raises(DataError, match="knows 0 to"):
        method.decode(np.full(good.shape, 2**64 - 1, np.uint64))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.uint64])
def test_codes_of_any_whole_type_are_the_same_codes(method, kind):
    good = valid(method)
    if method.codebook_size is None or good.max() > np.iinfo(kind).max:
        pytest.skip("no codes, or too large for the type")
    assert method.decode(good.astype(kind))[0].tobytes() == method.decode(good)[0].tobytes()


@pytest.mark.parametrize("size", [17, 1])
def test_a_size_that_no_stride_divides_works_or_is_refused_in_words(recipe, size):
    odd = get_recipe(recipe).smoke().replace(size=size)
    try:
        method = odd.build()
    except ConfigError as error:
        assert re.search("multiples? of|must have from", str(error)) and re.search(r"\d", str(error))
        return
    assert isinstance(method, ImageTokenizer)
    picture = noise((30, 20))
    latents = method.encode([picture])
    assert latents.shape == (1, *method.latent_shape())
    assert method.decode(latents)[0].size == (size, size)
    assert torch.isfinite(method.loss(batch_of(method, [picture] * 4)).total)
