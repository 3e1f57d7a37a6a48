"""What the tests of data share: pictures as bytes, a small tokenizer, a source in memory."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intermodal.core.errors import DataError
from intermodal.data.processors import ImageProcessor, Processor, TextProcessor
from intermodal.data.source import CaptionedSource
from intermodal.data.tokenizers import BOS, EOS, train_bpe


def encode_png(value: int = 0, size: tuple[int, int] = (8, 8)) -> bytes:
    """Return a PNG whose pixels depend on ``value``."""
    width, height = size
    array = np.random.default_rng(value).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def forge_png(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


class Pictures(CaptionedSource):
    """Random pictures in memory, three captions each; those in ``broken`` cannot be read."""

    def __init__(self, count: int, broken: frozenset[int] = frozenset()) -> None:
        super().__init__("pictures", labelled=False)
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def picture(self, index: int) -> Image.Image:
        if index in self.broken:
            raise DataError(f"{self.sample_name(index)} is broken.")
        array = np.random.default_rng(index).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        return Image.fromarray(array)

    def captions(self, index: int) -> list[str]:
        return [f"picture {index} {word}" for word in ("one", "two", "three")]


@pytest.fixture(scope="session")
def png() -> Callable[..., bytes]:
    return encode_png


@pytest.fixture(scope="session")
def forged_png() -> Callable[[int, int], bytes]:
    return forge_png


@pytest.fixture(scope="session")
def make_source() -> type[Pictures]:
    return Pictures


@pytest.fixture(scope="session")
def text_processor() -> TextProcessor:
    texts = [caption for i in range(40) for caption in Pictures(40).captions(i)]
    tokenizer = train_bpe(texts, 300)
    eos, pad = tokenizer.token_to_id(EOS), tokenizer.token_to_id(BOS)
    return TextProcessor(tokenizer, context_length=16, eos_id=eos, pad_id=pad)


@pytest.fixture(scope="session")
def processors(text_processor: TextProcessor) -> dict[str, Processor]:
    return {"image": ImageProcessor(size=(8, 8)), "text": text_processor}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes files: text as it is, a number as a picture."""

    def files(contents: dict[str, str | bytes | int], root: Path = tmp_path) -> Path:
        for name, content in contents.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            data = encode_png(content) if isinstance(content, int) else content
            path.write_bytes(data.encode() if isinstance(data, str) else data)
        return root

    return files
