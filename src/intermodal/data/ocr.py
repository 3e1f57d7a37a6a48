"""Lines of text to learn reading from: scanned receipts (SROIE), and lines drawn with free fonts and worn.

The fonts are those that come with matplotlib (DejaVu, STIX, Computer Modern): nothing is fetched. A drawn line is
slanted, turned a little, blurred, laid on uneven paper, and given noise, each by a random amount; a real one is stretched,
shifted, turned, blurred and given noise by a smaller one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import Field
from intermodal.data.catalog import find
from intermodal.data.source import Sample, Source, SourceConfig
from intermodal.data.table import TableSource, read_parquet

if TYPE_CHECKING:
    import pyarrow as pa

NAME = "sroie-lines"
COLUMNS = ("image", "text", "receipt", "split")
NO_LETTERS = ("cmex", "cmmi", "cmsy", "Display", "NonUni", "Siz", "LastResort")
"""Parts of the names of fonts of mathematical signs, and of the one that draws a box for everything."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIZES = {"train": 20_000, "validation": 500, "test": 500}
"""How many lines of each split are drawn."""
LINE = {"image": Field((), "image", "a picture of a line of text"), "text": Field((), "str", "what it says")}


@dataclass(frozen=True, kw_only=True)
class Wear(Config):
    """How much a drawn line may be worn; 0 everywhere leaves it clean.

    Attributes:
        slant: columns that a letter leans per row of its height, at most.
        turn: degrees, at most.
        blur: standard deviation in pixels of a line 32 pixels high, at most.
        noise: standard deviation in grey values, at most.
        paper: grey values by which the paper is uneven, at most.
    """

    slant: float = 0.25
    turn: float = 1.0
    blur: float = 0.9
    noise: float = 14.0
    paper: float = 30.0


WEAR = Wear()


@functools.lru_cache(maxsize=1)
def fonts() -> tuple[tuple[Path, frozenset[int]], ...]:
    """Return matplotlib's text fonts, and the code points that each can draw."""
    import matplotlib as mpl
    from matplotlib.ft2font import FT2Font

    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    chosen = [f for f in sorted(folder.glob("*.ttf")) if not any(part in f.name for part in NO_LETTERS)]
    return tuple((file, frozenset(FT2Font(str(file)).get_charmap())) for file in chosen)


@functools.lru_cache(maxsize=256)
def _font(file: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(file), size)


def drawable(text: str) -> list[Path]:
    """Return the fonts that have every character of a text.

    Raises:
        DataError: if none has; the first character that no font has is named.
    """
    found = [file for file, points in fonts() if all(ord(c) in points for c in text)]
    if not found:
        lacking = next((c for c in text if not any(ord(c) in points for _, points in fonts())), text)
        raise DataError(f"No font that comes with matplotlib can draw {lacking!r} of {text!r}.")
    return found


def draw_line(text: str, rng: np.random.Generator, wear: Wear = WEAR) -> Image.Image:
    """Return a grey picture of a line of text, 18 to 44 pixels high.

    Args:
        text: at least one character.
        rng: of font, size, inks and wear.
        wear: how much at most.

    Raises:
        DataError: if the text is blank, or no font has all of its characters.
    """
    if not text.strip():
        raise DataError("There is no text to draw.")
    choice = drawable(text)
    font = _font(choice[int(rng.integers(len(choice)))], 32)
    left, top, right, bottom = font.getbbox(text)
    margin = rng.integers(2, 9, size=4)
    size = (int(right - left + margin[0] + margin[1]), int(bottom - top + margin[2] + margin[3]))
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).text((int(margin[0]) - left, int(margin[2]) - top), text, fill=255, font=font)
    lean = float(rng.uniform(-wear.slant, wear.slant)) * float(rng.random() < 0.5)
    turn = float(rng.uniform(-wear.turn, wear.turn))
    wide, high = size[0] + int(abs(lean) * size[1]) + 1, size[1]
    shift = -lean * high if lean > 0 else 0.0
    mask = mask.transform((wide, high), Image.Transform.AFFINE, (1, lean, shift, 0, 1, 0), Image.Resampling.BILINEAR)
    mask = mask.rotate(turn, Image.Resampling.BILINEAR, expand=True)
    squeeze = float(rng.uniform(0.7, 1.15))
    tall = int(rng.integers(18, 45))
    mask = mask.resize((max(4, round(mask.width * tall / mask.height * squeeze)), tall), Image.Resampling.BOX)
    mask = mask.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, wear.blur)) * tall / 32))
    ink = np.asarray(mask, np.float32) / 255 * float(rng.uniform(0.7, 1.3))
    paper = float(rng.uniform(190, 255)) - _uneven(ink.shape, rng) * float(rng.uniform(0, wear.paper))
    dark = float(rng.uniform(0, 110))
    grey = paper + (dark - paper) * ink.clip(0, 1) + rng.normal(0, 1, ink.shape) * float(rng.uniform(0, wear.noise))
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def wear_line(image: Image.Image, rng: np.random.Generator, wear: Wear = WEAR) -> Image.Image:
    """Return a real line worn once more: stretched by up to a seventh, shifted, turned, blurred, made noisy.

    Args:
        image: the line; it becomes grey.
        rng: of all that is drawn.
        wear: half of it at most.
    """
    grey = image.convert("L")
    paper = int(np.percentile(np.asarray(grey), 75))
    lean = float(rng.uniform(-wear.slant, wear.slant)) / 2
    stretch, down = float(rng.uniform(0.87, 1.15)), float(rng.uniform(-0.06, 0.06)) * grey.height
    size = (max(4, round(grey.width * stretch)), grey.height)
    affine = (1 / stretch, lean, -lean * grey.height / 2, 0, float(rng.uniform(0.95, 1.05)), down)
    grey = grey.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR, fillcolor=paper)
    turn = float(rng.uniform(-wear.turn, wear.turn)) / 2
    grey = grey.rotate(turn, Image.Resampling.BILINEAR, fillcolor=paper)
    grey = grey.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, wear.blur)) / 2 * grey.height / 32))
    noisy = (
        np.asarray(grey, np.float32)
        + rng.normal(0, 1, (grey.height, grey.width)) * float(rng.uniform(0, wear.noise)) / 2
    )
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _cased(text: str, rng: np.random.Generator) -> str:
    """Return a text as receipts print it: in capitals, or one in three times in small letters behind each word's first."""
    kind = rng.random()
    return text if kind >= 1 / 3 else text.title() if kind >= 0.1 else text.lower()


def _uneven(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random surface from 0 to 1."""
    coarse = Image.fromarray((rng.random((3, 5)) * 255).astype(np.uint8))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), np.float32) / 255


def made_up(rng: np.random.Generator, words: Sequence[str] = (), most: int = 40) -> str:
    """Return a line such as receipts have: words, an amount, a date, a code, at most ``most`` characters.

    Args:
        rng: of all that is drawn.
        words: that lines are put together of; without any, syllables make them up.
        most: characters.
    """
    parts: list[str] = []
    for _ in range(int(rng.integers(1, 6))):
        kind = rng.random()
        if kind < 0.2:
            parts.append(f"{rng.integers(0, 10 ** int(rng.integers(1, 5)))}.{rng.integers(0, 100):02d}")
        elif kind < 0.28:
            sign = "/-."[int(rng.integers(3))]
            parts.append(f"{rng.integers(1, 32):02d}{sign}{rng.integers(1, 13):02d}{sign}{rng.integers(1990, 2031)}")
        elif kind < 0.38:
            parts.append("".join(str(d) for d in rng.integers(0, 10, size=int(rng.integers(1, 10)))))
        elif kind < 0.48:
            pool = LETTERS + "0123456789-:/()&.,#*%@'+"
            parts.append("".join(pool[int(i)] for i in rng.integers(0, len(pool), size=int(rng.integers(2, 8)))))
        elif words:
            parts.append(words[int(rng.integers(len(words)))])
        else:
            parts.append("".join("BDGKLMNRST"[rng.integers(10)] + "AEIOU"[rng.integers(5)] for _ in range(3)))
    return " ".join(parts)[:most].strip() or "0"


@dataclass(frozen=True, kw_only=True)
class RenderedLines(SourceConfig):
    """Lines that are made up and drawn; each split has its own, the same every time.

    Attributes:
        wear: how much they are worn.
    """

    wear: Wear = WEAR

    def open(self, split: str) -> Source:
        """Open ``train``, ``validation`` or ``test``.

        Raises:
            DataError: if the split is another.
        """
        if split not in SIZES:
            raise DataError(f"Rendered lines have the splits {', '.join(SIZES)}; found {split!r}.")
        return DrawnLines(split, self.wear)


class DrawnLines(Source):
    """One split of made-up lines.

    Args:
        split: which.
        wear: how much they are worn.
    """

    fields = LINE

    def __init__(self, split: str, wear: Wear) -> None:
        self.name, self.wear, self.count = f"rendered lines ({split})", wear, SIZES[split]
        self.first = list(SIZES).index(split)

    def __len__(self) -> int:
        return self.count

    def text(self, index: int) -> str:
        """Return what a line says."""
        return made_up(np.random.default_rng([self.first, index]))

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return a line; the wear is its own, or with ``rng`` a new one each time."""
        text = self.text(index)
        drawn = np.random.default_rng([self.first, index, 1]) if rng is None else rng
        return {"image": draw_line(text, drawn, self.wear), "text": text}

    def lengths(self) -> list[float]:
        """Return how many characters each line has."""
        return [float(len(self.text(i))) for i in range(self.count)]

    def texts(self) -> list[str]:
        """Return what all lines say."""
        return [self.text(i) for i in range(self.count)]


@dataclass(frozen=True, kw_only=True)
class ReceiptLines(SourceConfig):
    """SROIE's lines (ICDAR 2019): train (8,249), validation (1,982) by receipt; some drawn lines among the training ones.

    The texts are in capitals, whatever the picture has; one in three drawn lines has small letters too.

    Attributes:
        drawn: this share of the training samples is a drawn line in the place of the real one, of words of the training
            lines, amounts, dates and codes, about as long.
        wear: how much drawn lines are worn.
        worn: this share of the real training lines is worn once more, by half as much.
        aside: every so many-th training receipt is no part of ``train`` but is ``aside``, to choose settings by; 0 for none.

    Raises:
        ConfigError: if a share is none, or ``aside`` leaves no receipt.
    """

    drawn: float = 0.3
    wear: Wear = WEAR
    worn: float = 0.0
    aside: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.drawn < 1 or not 0 <= self.worn <= 1:
            raise ConfigError(f"drawn and worn are shares, drawn below 1; found {self.drawn} and {self.worn}.")
        if self.aside < 0 or self.aside == 1:
            raise ConfigError(f"aside is 0, or at least 2: every so many-th receipt; found {self.aside}.")

    def open(self, split: str) -> Receipts:
        """Open ``train``, ``validation``, or with ``aside`` the training receipts that are set aside.

        Raises:
            DataError: if the file is not found or damaged, or for ``test``, which is not part of it.
        """
        path = find(NAME)
        table = read_parquet(path)
        missing = [c for c in COLUMNS if c not in table.column_names]
        if missing:
            raise DataError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(table.column_names)}.")
        rows = self._rows(table, split)
        if not rows:
            why = " Its test lines are kept apart, for judging: use validation." if split == "test" else ""
            raise DataError(f"{NAME} has the splits train and validation; found {split!r}.{why}")
        lines = TableSource(
            table.select(["image", "text"]),
            image="image",
            captions=lambda row: [row["text"]],
            name=f"SROIE lines ({split})",
            rows=rows,
        )
        said = table.column("text").to_pylist()
        return Receipts(lines, [said[i] for i in rows], self)

    def _rows(self, table: pa.Table, split: str) -> list[int]:
        """Return the rows of a split."""
        splits, receipts = table.column("split").to_pylist(), table.column("receipt").to_pylist()
        training = dict.fromkeys(name for name, part in zip(receipts, splits, strict=True) if part == "train")
        aside = set(list(training)[self.aside - 1 :: self.aside]) if self.aside else set()
        parts = ["aside" if name in aside else part for name, part in zip(receipts, splits, strict=True)]
        return [i for i, part in enumerate(parts) if part == split]


class Receipts(Source):
    """One split of real lines; where a generator decides, some are drawn ones.

    Args:
        lines: the real ones.
        said: what each says.
        config: how many are drawn and how much they are worn.
    """

    fields = LINE

    def __init__(self, lines: TableSource, said: Sequence[str], config: ReceiptLines) -> None:
        self.name, self.real, self.said, self.config = lines.name, lines, list(said), config
        self.words = sorted({word for text in said for word in text.split()})

    def __len__(self) -> int:
        return len(self.said)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return a real line, or with ``rng`` perhaps a drawn one."""
        config = self.config
        if rng is not None and rng.random() < config.drawn:
            text = made_up(rng, self.words, max(4, round(len(self.said[index]) * 1.25)))
            return {"image": draw_line(_cased(text, rng), rng, config.wear), "text": text}
        picture = self.real.picture(index)
        if rng is not None and config.worn and rng.random() < config.worn:
            picture = wear_line(picture, rng, config.wear)
        return {"image": picture, "text": self.said[index]}

    def sample_name(self, index: int) -> str:
        """Return what a person would call the line."""
        return self.real.sample_name(index)

    def lengths(self) -> list[float]:
        """Return how many characters each line has."""
        return [float(len(text)) for text in self.said]

    def texts(self) -> list[str]:
        """Return what all real lines say."""
        return list(self.said)
