from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from intermodal.core.errors import CheckpointError, ConfigError, DataError
from intermodal.data.processors import ImageProcessor, LabelProcessor, Processor, TextProcessor


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (16, 24), (33, 17)])
def test_every_size_becomes_the_stated_one(resize, interpolation, size):
    processor = ImageProcessor(size=(24, 16), resize=resize, interpolation=interpolation)
    encoded = processor.encode(picture(*size))
    assert encoded.shape == (3, 24, 16)
    assert encoded.dtype == torch.uint8


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_long_strip_is_cropped_without_being_scaled_whole(size):
    strip = Image.new("RGB", size, (10, 20, 30))
    encoded = ImageProcessor(size=(64, 64)).encode(strip)
    assert (encoded == torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)).all()


def test_crop_through_a_box_equals_scaling_and_cropping(monkeypatch):
    image = picture(90, 40)
    processor = ImageProcessor(size=(24, 16))
    whole = processor.encode(image)
    monkeypatch.setattr("intermodal.data.processors.MAX_PIXELS", 0)
    boxed = processor.encode(image)
    assert (whole.int() - boxed.int()).abs().max() <= 1


def test_pad_keeps_the_picture_and_fills_with_white():
    encoded = ImageProcessor(size=(8, 8), resize="pad").encode(Image.new("RGB", (8, 4), (0, 0, 0)))
    assert (encoded[:, 2:6] == 0).all()
    assert (encoded[:, :2] == 255).all()
    assert (encoded[:, 6:] == 255).all()


def test_crop_takes_the_centre():
    image = Image.new("RGB", (12, 4))
    image.paste((255, 0, 0), (4, 0, 8, 4))
    encoded = ImageProcessor(size=(4, 4)).encode(image)
    assert (encoded[0] == 255).all()


def test_prepare_normalises_bytes_and_floats_alike():
    processor = ImageProcessor(size=(8, 8))
    encoded = processor.encode(picture(8, 8)).unsqueeze(0)
    values = encoded.double() / 255
    expected = (values - torch.tensor(processor.mean).view(1, 3, 1, 1)) / torch.tensor(processor.std).view(1, 3, 1, 1)
    torch.testing.assert_close(processor.prepare(encoded).double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(processor.prepare(values.float()).double(), expected, atol=1e-5, rtol=1e-5)


def test_decode_undoes_prepare():
    processor = ImageProcessor(size=(8, 8))
    image = picture(8, 8)
    assert np.array_equal(np.array(processor.decode(processor([image]))[0]), np.array(image))


def test_round_trip_through_a_folder(tmp_path: Path, text_processor: TextProcessor):
    for processor in (ImageProcessor(size=(8, 12), resize="pad"), text_processor):
        assert Processor.from_folder(processor.to_folder(tmp_path), tmp_path) == processor


def test_a_damaged_or_missing_tokenizer_is_named(tmp_path: Path, text_processor: TextProcessor):
    data = text_processor.to_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        Processor.from_folder(data, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        Processor.from_folder(data, tmp_path)


def test_text_is_padded_and_a_long_one_keeps_its_end(text_processor: TextProcessor):
    short, long = text_processor.encode("picture"), text_processor.encode("picture 1 one " * 20)
    assert short.shape == long.shape == (16,)
    assert short.dtype == torch.int64
    assert short[-1] == text_processor.pad_id
    assert (short == text_processor.eos_id).sum() == 1
    assert long[-1] == text_processor.eos_id
    assert text_processor.encode("").tolist()[1] == text_processor.eos_id


def test_text_is_normalised_and_decoded(text_processor: TextProcessor):
    assert torch.equal(text_processor.encode("  Picture\n ONE "), text_processor.encode("picture one"))
    assert text_processor.decode(text_processor(["picture 3 one"]))[0].strip() == "picture 3 one"


def test_labels_are_numbered_in_their_order_and_come_back(tmp_path: Path):
    labels = LabelProcessor.of(["dog", "cat", "dog", "owl"])
    assert labels.names == ("cat", "dog", "owl")
    numbers = labels(["owl", "cat"])
    assert numbers.dtype == torch.int64 and numbers.tolist() == [2, 0]
    assert labels.decode(numbers) == ["owl", "cat"]
    assert Processor.from_folder(labels.to_folder(tmp_path), tmp_path) == labels


def test_labels_that_cannot_be_are_named():
    with pytest.raises(DataError, match="'bird' is not one of the 2"):
        LabelProcessor.of(["dog", "cat"]).encode("bird")
    with pytest.raises(DataError, match="no labels"):
        LabelProcessor.of([])
    for names in (("b", "a"), ("a", "a")):
        with pytest.raises(ConfigError, match="sorted"):
            LabelProcessor(names=names)
