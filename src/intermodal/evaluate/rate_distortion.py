"""How much of pictures each tokenizer keeps for how many bits, beside JPEG, WebP and thumbnails: one figure for all.

All are given the same pictures at the same size and judged on what comes back, at eight bits: mean PSNR (of a picture at
most 58.9 dB) and mean perceptual distance on features-v1, against mean bits per pixel, all over pictures.

- A tokenizer is a point, by :meth:`ImageTokenizer.bits`: codes of equal length, no header; of a latent with a prior the
  divergence from it, which bits-back coding attains for many pictures together and no file of one picture does. Where its
  codes refine each other it is a curve over how many of them are kept.
- JPEG and WebP are curves over the quality. ``with headers`` counts whole files: for JPEG with Huffman tables made for the
  picture. ``without headers`` counts what is left where both sides know size, quality and standard tables: for JPEG the
  entropy-coded bytes of a file with the standard's Huffman tables; for WebP the VP8 frame less its ten bytes of start code
  and size. Small pictures are mostly header, and a tokenizer's decoder also knows much in advance: its weights.
- A thumbnail is a small RGB picture at 24 bits a pixel, bicubic both ways.

    N pictures of one size
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from intermodal.core.errors import DataError
from intermodal.core.progress import Progress, silent
from intermodal.data.processors import signed_pixels
from intermodal.data.source import SourceConfig
from intermodal.evaluate.energy import spread_out
from intermodal.evaluate.result import Line, Lines, Panel, Table
from intermodal.evaluate.tokenizers import CHUNK, decibels, encoded, perceptual, thumbnail
from intermodal.methods.image_tokenizers.tokenizer import ImageTokenizer

QUALITIES = (1, 5, 10, 20, 35, 50, 65, 80, 90, 95)
SIDES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


@dataclass(frozen=True)
class Point:
    """One way to keep pictures.

    Attributes:
        name: what sets it apart on its curve (``"quality 50"``, ``"2 of 4 codes"``).
        bits_per_pixel: mean over pictures.
        psnr: in decibels, mean over pictures.
        perceptual: mean distance on features-v1; None for pictures that are too small.
    """

    name: str
    bits_per_pixel: float
    psnr: float
    perceptual: float | None


@dataclass(frozen=True)
class Curve:
    """Points of one family, by rising rate; ``baseline`` says that no network made them."""

    name: str
    points: list[Point]
    baseline: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Curve:
        """Return the curve of :meth:`to_dict`'s data."""
        return Curve(data["name"], [Point(**point) for point in data["points"]], data["baseline"])


def pictures_of(source: SourceConfig, split: str, size: int, most: int = 512) -> list[Image.Image]:
    """Return pictures of a split, evenly spread, their middle at ``size`` x ``size`` pixels."""
    opened, processor = source.open(split), signed_pixels(size, "crop")
    return [processor.fitted(opened.sample(i)["image"]) for i in spread_out(len(opened), most)]


def tokenizer_curve(
    name: str, method: ImageTokenizer, images: Sequence[Image.Image], progress: Progress = silent
) -> Curve:
    """Return a tokenizer's point, or its curve over the codes of a place that are kept.

    A model of another picture size is asked to take these, which one whose latent has places can.

    Raises:
        DataError: if it cannot.
        TrainingError: if a latent is not finite.
    """
    width, height = images[0].size
    before = method.picture
    if before.size != (height, width):
        if len(method.latent_shape()) == 1:
            raise DataError(
                f"{name} takes pictures of {before.size[1]} x {before.size[0]} alone, not {width} x {height}."
            )
        processors = {**method.processors, "image": before.replace(size=(height, width))}
        other = type(method)(method.config, processors)
        other.load_state_dict(method.state_dict())
        method = other.to(method.device).eval()
    points = []
    for levels in range(1, method.levels + 1):
        seen = _Means()
        for first in range(0, len(images), CHUNK):
            part = images[first : first + CHUNK]
            latents = encoded(method, part)
            share = levels / method.levels if method.levels > 1 else 1.0
            kept = latents[..., :levels] if method.levels > 1 else latents
            seen.add(part, method.decode(kept), (method.bits(part) * share).tolist())
            progress(f"{name}, {levels} of {method.levels}", (first + len(part)) / len(images))
        points.append(seen.point(f"{levels} of {method.levels} codes" if method.levels > 1 else name))
    return Curve(name, points)


def codec_curves(images: Sequence[Image.Image], progress: Progress = silent) -> list[Curve]:
    """Return the curves of JPEG and WebP with and without their headers, and of thumbnails."""
    ways: list[tuple[str, Iterable[int], Callable[[Image.Image, int], tuple[Image.Image, int]], str]] = [
        ("JPEG, with headers", QUALITIES, lambda i, q: _codec(i, "JPEG", q, True), "quality"),
        ("JPEG, without headers", QUALITIES, lambda i, q: _codec(i, "JPEG", q, False), "quality"),
        ("WebP, with headers", QUALITIES, lambda i, q: _codec(i, "WEBP", q, True), "quality"),
        ("WebP, without headers", QUALITIES, lambda i, q: _codec(i, "WEBP", q, False), "quality"),
        ("thumbnail", [s for s in SIDES if 2 * s <= min(images[0].size)], _thumbnail, "side"),
    ]
    curves = []
    for name, values, way, word in ways:
        points = []
        for value in values:
            progress(f"{name}, {word} {value}", 0.0)
            seen = _Means()
            for first in range(0, len(images), CHUNK):
                part = images[first : first + CHUNK]
                found = [way(image, value) for image in part]
                seen.add(part, [back for back, _ in found], [bits for _, bits in found])
            points.append(seen.point(f"{word} {value}"))
        curves.append(Curve(name, points, baseline=True))
    return curves


def _codec(image: Image.Image, kind: str, quality: int, headers: bool) -> tuple[Image.Image, int]:
    """Return what a codec makes of a picture, and its bits."""
    buffer = io.BytesIO()
    if kind == "JPEG":
        image.save(buffer, kind, quality=quality, optimize=headers)
    else:
        image.save(buffer, kind, quality=quality, method=6)
    data = buffer.getvalue()
    size = len(data) if headers else (jpeg_payload(data) if kind == "JPEG" else webp_payload(data))
    with Image.open(io.BytesIO(data)) as opened:
        return opened.convert("RGB"), 8 * size


def jpeg_payload(data: bytes) -> int:
    """Return how many bytes of a baseline JPEG file are its entropy-coded data (ITU-T T.81, annex B).

    Raises:
        DataError: if it has no scan.
    """
    place = 2  # after the start of the image
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        place += 2 + length
        if marker == 0xDA:  # start of scan: its data runs up to the end of the image, two bytes
            return len(data) - place - 2
    raise DataError("The JPEG file holds no scan.")


def webp_payload(data: bytes) -> int:
    """Return how many bytes of a lossy WebP file are its VP8 frame, less frame tag, start code and size (RFC 6386, 9.1).

    Raises:
        DataError: if it has no VP8 frame.
    """
    place = 12  # after RIFF, its length, and WEBP
    while place + 8 <= len(data):
        kind, length = data[place : place + 4], struct.unpack("<I", data[place + 4 : place + 8])[0]
        if kind == b"VP8 ":
            return int(length) - 10
        place += 8 + length + length % 2
    raise DataError("The WebP file holds no lossy frame.")


def _thumbnail(image: Image.Image, side: int) -> tuple[Image.Image, int]:
    bits = 24 * side * side
    return thumbnail(image, bits), bits


class _Means:
    """Gathers the figures of a point."""

    def __init__(self) -> None:
        self.each: dict[str, list[float]] = {"bits_per_pixel": [], "psnr": [], "perceptual": []}

    def add(self, images: Sequence[Image.Image], others: Sequence[Image.Image], bits: Sequence[float]) -> None:
        """Take note of pictures, what comes back, and for how many bits each."""
        self.each["bits_per_pixel"] += [b / (image.width * image.height) for b, image in zip(bits, images, strict=True)]
        self.each["psnr"] += decibels(images, others)
        self.each["perceptual"] += perceptual(images, others)

    def point(self, name: str) -> Point:
        """Return the means."""
        found = {key: float(np.mean(values)) for key, values in self.each.items() if values}
        return Point(name, found["bits_per_pixel"], found["psnr"], found.get("perceptual"))


def panels(curves: Sequence[Curve], about: str) -> list[Panel]:
    """Return the figure as two panels of lines and a table.

    Args:
        curves: of :func:`tokenizer_curve` and :func:`codec_curves`.
        about: which pictures, in a sentence.
    """
    rate = "bits per pixel"
    shown: list[Panel] = []
    for title, label, value in (
        ("Rate and distortion", "PSNR, dB", lambda p: p.psnr),
        ("Rate and perceptual distance", "distance on features-v1", lambda p: p.perceptual),
    ):
        series = [
            Line(c.name, [p.bits_per_pixel for p in points], [value(p) for p in points])
            for c in curves[:10]
            if (points := [p for p in c.points if value(p) is not None])
        ]
        if series:
            shown.append(Lines(title, about, rate, label, series, log_x=True))
    rows: list[list[str | float | None]] = [
        [f"{c.name}, {p.name}" if len(c.points) > 1 else c.name, p.bits_per_pixel, p.psnr, p.perceptual]
        for c in curves
        for p in c.points
    ]
    return [*shown, Table("Rates and distances", about, ["", rate, "PSNR, dB", "distance on features-v1"], rows)]
