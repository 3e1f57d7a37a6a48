import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

STYLES = {"one": "train", "two": "train", "three": "train", "new": "test"}
GROUPS = ("food", "travel")


def drawing(concept: int, style: int) -> Image.Image:
    """A picture that tells its concept (red, green) and style (blue) in its first pixel; half of the rest
    is noise of the concept, half of the style."""
    array = np.random.default_rng(concept).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    array[8:, 8:] = np.random.default_rng([concept, style]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    array[:8, :8] = (concept % 256, concept // 256, style)
    return Image.fromarray(array)


def concept_of(image: Image.Image) -> int:
    red, green, _ = image.getpixel((0, 0))
    return red + 256 * green


def synthetic_table(concepts: int = 120) -> pa.Table:
    """120 concepts in four styles: 60 train, 20 validate, 40 test; style three lacks every other pair."""
    rows = []
    for c in range(concepts):
        split = "train" if c % 6 < 3 else "validation" if c % 6 == 3 else "test"
        for s, (style, style_split) in enumerate(STYLES.items()):
            if style == "three" and c % 4 < 2:
                continue
            buffer = io.BytesIO()
            drawing(c, s).save(buffer, "PNG")
            rows.append(
                {
                    "image": {"bytes": buffer.getvalue(), "path": None},
                    "name": f"thing {c}",
                    "keywords": [f"key{c}", f"shared{c % 7}"],
                    "group": GROUPS[c % 2],
                    "subgroup": f"{GROUPS[c % 2]}-kind{c % 4}",
                    "concept": f"thing-{c:03}",
                    "family": f"kind {c // 6}" if c % 12 < 6 else f"thing {c}",
                    "style": style,
                    "concept_split": split,
                    "style_split": style_split,
                }
            )
    return pa.Table.from_pylist(rows)


@pytest.fixture
def small_set(monkeypatch):
    table = synthetic_table()
    monkeypatch.setattr("intermodal.evaluate.emoji_set.emoji_table", lambda: table)
    return table


class Perfect:
    """Reads the concept off a picture, and off a text's name or keyword."""

    id = "perfect"
    modalities = ("image", "text")

    def embed(self, modality, inputs):
        out = np.zeros((len(inputs), 128), np.float32)
        for row, value in zip(out, inputs, strict=True):
            if modality == "image":
                row[concept_of(value)] = 1
            else:
                digits = "".join(c if c.isdigit() else " " for c in value.split("shared")[0]).split()
                row[int(digits[0]) if digits else 127] = 1
        return out


class Constant:
    id = "constant"
    modalities = ("image", "text")

    def embed(self, modality, inputs):
        return np.full((len(inputs), 16), 0.25, np.float32)


class Random:
    id = "random"
    modalities = ("image", "text")

    def embed(self, modality, inputs):
        keys = [concept_of(x) if modality == "image" else sum(x.encode()) for x in inputs]
        vectors = [np.random.default_rng([k, modality == "image"]).standard_normal(16) for k in keys]
        array = np.array(vectors, np.float32)
        return array / np.linalg.norm(array, axis=1, keepdims=True)


@pytest.fixture
def embedders():
    return {"perfect": Perfect(), "constant": Constant(), "random": Random()}


@pytest.fixture
def progress():
    told: list[tuple[str, float]] = []

    def tell(what: str, share: float) -> None:
        told.append((what, share))

    tell.told = told
    return tell
