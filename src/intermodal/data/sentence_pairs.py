"""Pairs of passages: one that follows the other or does not (next-sentence prediction), and a person's list of pairs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from intermodal.core.errors import DataError
from intermodal.core.fields import Field
from intermodal.data.source import Sample, Source, SourceConfig
from intermodal.data.splits import choose_split
from intermodal.data.text import Texts, TextSource

NEAR = 4
"""A random passage of the same document begins at least so many sentences before or after the pair's first passage."""
BOOKS_AND_SPEECHES = TextSource(parts=("gutenberg", "sotu"))
FEWEST = 8
"""Documents with fewer sentences give no pair whose negative is of the same document."""


@dataclass(frozen=True, kw_only=True)
class NextSentenceSource(SourceConfig):
    """Two passages of whole sentences, of which the second follows the first or is taken from elsewhere.

    As in BERT (Devlin et al. 2019, section 3.1 and appendix A.2) several sentences are packed into each passage: the
    first holds a random quarter to three quarters of ``words``, the second fills up. One half of the pairs is real. In
    the other half the second passage begins at a random sentence of another document, each sentence equally likely, so
    that a long document is no sign of a random passage.

    Attributes:
        text: where the sentences are from; its ``unit`` is set to ``sentence``.
        negatives: a random passage is from another document (``other``, BERT's definition, in which topic and style
            help), or from the same document, away from the first passage (``same``, which is harder). Where there is
            only one document it is from that one.
        words: of both passages together; a longer sentence is kept whole, and the model's processor cuts it.
        seed: of the pairs that are the same at each evaluation.
    """

    text: TextSource = BOOKS_AND_SPEECHES
    negatives: Literal["other", "same"] = "other"
    words: int = 96
    seed: int = 0

    def open(self, split: str) -> SentencePairs:
        """Open the pairs of one split.

        Raises:
            DataError: if there is no text, or no document has a sentence that follows another.
        """
        return SentencePairs(self, split)

    def training_texts(self) -> list[str]:
        """Return the sentences of the training split, for training a tokenizer."""
        return self.text.replace(unit="sentence").open("train").texts()


class SentencePairs(Source):
    """One sample for each sentence that another follows: ``pair`` begins there, ``relation`` is ``next`` or ``random``."""

    fields: Mapping[str, Field] = {
        "pair": Field((), "list[str]", "two passages"),
        "relation": Field((), "str", "next or random"),
    }

    def __init__(self, config: NextSentenceSource, split: str) -> None:
        self.config = config
        self.sentences: Texts = config.text.replace(unit="sentence").open(split)
        self.name = f"pairs of passages of {self.sentences.name}"
        documents = self.sentences.documents
        self._same = config.negatives == "same" or len(documents) == 1
        fewest = FEWEST if self._same else 2
        self._ends = np.array([d.stop for d in documents], np.int64)
        kept = [np.arange(d.start, d.stop - 1) for d in documents if len(d) >= fewest]
        self._starts = np.concatenate(kept) if kept else np.zeros(0, np.int64)
        if not len(self._starts):
            longest = max(map(len, documents))
            raise DataError(
                f"{self.sentences.name}: no document has the {fewest} sentences that it takes to say what comes next (the "
                f"longest has {longest}): give longer text, with sentences that end in a full stop."
            )

    def __len__(self) -> int:
        return len(self._starts)

    def sample_name(self, index: int) -> str:
        """Return the first passage's first sentence."""
        return self.sentences.sample_name(int(self._starts[index]))

    def texts(self) -> list[str]:
        """Return every sentence."""
        return self.sentences.texts()

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return one pair; without ``rng`` the one that is the same each time."""
        rng = np.random.default_rng([self.config.seed, index]) if rng is None else rng
        start = int(self._starts[index])
        document = self.sentences.documents[int(np.searchsorted(self._ends, start, side="right"))]
        share, is_random = rng.uniform(0.25, 0.75), rng.random() < 0.5
        most = max(1, len(document) // 4) if self._same else len(document)
        stop = min(start + most, document.stop - 1)
        first, after = self._passage(start, stop, share * self.config.words)
        second = after
        if is_random:
            second = self._elsewhere(document, start, after, rng)
            document = self.sentences.documents[int(np.searchsorted(self._ends, second, side="right"))]
        room = self.config.words - len(first.split())
        follows, _ = self._passage(second, document.stop, room)
        return {"pair": [first, follows], "relation": "random" if is_random else "next"}

    def _passage(self, start: int, stop: int, words: float) -> tuple[str, int]:
        """Return the sentences from ``start`` up to so many words, at least one, and the place behind them."""
        found: list[str] = []
        count, at = 0, start
        while at < stop and (not found or count < words):
            found.append(self.sentences.text(at))
            count += len(found[-1].split())
            at += 1
        return " ".join(found), at

    def _elsewhere(self, document: range, start: int, after: int, rng: np.random.Generator) -> int:
        """Draw a sentence outside the document, or of the same one and away from the first passage."""
        first, last = document.start, document.stop
        if not self._same:
            drawn = int(rng.integers(len(self.sentences) - len(document)))
            return drawn if drawn < first else drawn + len(document)
        for margin in (NEAR, 0):
            before = range(first, max(first, start - margin))
            behind = range(min(last, after + 1 + margin), last)
            if before or behind:
                drawn = int(rng.integers(len(before) + len(behind)))
                return before[drawn] if drawn < len(before) else behind[drawn - len(before)]
        raise AssertionError("a document of FEWEST sentences has one away from a quarter of it")


@dataclass(frozen=True, kw_only=True)
class PairListSource(SourceConfig):
    """A person's list of texts that belong together, one pair a row, with an optional hard negative.

    Attributes:
        path: a ``.csv`` or ``.tsv`` file in UTF-8 with a header, or ``.jsonl`` with an object a line.
        text: the column of the first text.
        positive: the column of the text that belongs to it.
        negative: the column of a text that does not; used where the file has it.
        validation_share: held out, by a hash of the first text.
    """

    path: Path
    text: str = "text"
    positive: str = "positive"
    negative: str = "negative"
    validation_share: float = 0.1

    def open(self, split: str) -> PairList:
        """Open one split.

        Raises:
            DataError: if the file is missing, is not UTF-8, lacks a column or has an empty cell; the message names the
                file and the line.
        """
        return PairList(self, split)

    @property
    def has_negatives(self) -> bool:
        """Whether the file has a column of hard negatives."""
        return self.negative in next(_rows(self))[1]

    def training_texts(self) -> list[str]:
        """Return all texts of the training split."""
        return self.open("train").texts()


class PairList(Source):
    """The rows of one split: ``text``, ``positive`` and, where the file has it, ``negative``."""

    def __init__(self, config: PairListSource, split: str) -> None:
        columns = {"text": config.text, "positive": config.positive}
        if config.has_negatives:
            columns["negative"] = config.negative
        lines, rows = [], []
        for line, row in _rows(config):
            values = {}
            for name, column in columns.items():
                value = row.get(column)
                if not isinstance(value, str) or not value.strip():
                    raise DataError(
                        f"{config.path}, line {line}: the column {column!r} is empty; every row needs a text."
                    )
                values[name] = value.strip()
            lines.append(line)
            rows.append(values)
        names = [row["text"] for row in rows]
        if len(set(names)) < 2:
            raise DataError(f"{config.path} holds fewer than two different texts: pairs are told apart by one another.")
        chosen = choose_split(names, [None] * len(rows), split, config.validation_share, str(config.path))
        self.name = f"{config.path} ({split})"
        self.fields = {name: Field((), "str", "a text of a pair") for name in columns}
        self._rows = [rows[i] for i in chosen]
        self._where = [f"{config.path}, line {lines[i]}" for i in chosen]

    def __len__(self) -> int:
        return len(self._rows)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return one row."""
        del rng
        return dict(self._rows[index])

    def sample_name(self, index: int) -> str:
        """Return the file and the line."""
        return self._where[index]

    def texts(self) -> list[str]:
        """Return every text of every row."""
        return [text for row in self._rows for text in row.values()]


def _rows(config: PairListSource) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a file with their lines, having checked that the columns are there."""
    path = config.path
    if not path.is_file():
        raise DataError(f"There is no list of pairs at {path}.")
    read = {".csv": _table, ".tsv": _table, ".jsonl": _objects}.get(path.suffix.lower())
    if read is None:
        raise DataError(f"{path} should end in .csv, .tsv or .jsonl: a list of pairs is one of these.")
    found = False
    try:
        for line, row in read(path):
            missing = [c for c in (config.text, config.positive) if c not in row]
            if missing:
                raise DataError(
                    f"{path}, line {line}, has no column {missing[0]!r}; it has {', '.join(map(str, row)) or 'none'}. A "
                    f"list of pairs needs {config.text!r} and {config.positive!r}, and may have {config.negative!r}."
                )
            found = True
            yield line, row
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start:,}): convert it, for example with iconv.") from error
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table ({error}).") from error
    if not found:
        raise DataError(f"{path} holds no row: a list of pairs has a header and a pair a line.")


def _table(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        for row in reader:
            yield reader.line_num, row


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}, is not JSON ({error}).") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}, should be an object with named columns.")
            yield number, row
