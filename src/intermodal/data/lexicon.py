"""Lexicons: how words are said, as sequences of phones.

A pronunciation dictionary in CMU's format has one word a line, then its phones; further ways to say a word are written
``WORD(2)``. Where there is none, a word's letters stand for its phones (:meth:`Lexicon.spelling`), or each word has units
of its own (:meth:`Lexicon.whole_words`), which suits a handful of words that were all heard often.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.data.processors import Processor
from intermodal.data.transcripts import TRANSCRIPT, Case, normalise

SILENCE = "SIL"
"""The phone between words; no word may hold it."""
MOST_NAMED = 20
"""So many missing words are named in one error; the others are counted."""
_VARIANT = re.compile(r"^(.+)\((\d+)\)$")
_STRESS = re.compile(r"^([A-Z]+)[012]$")


@dataclass(frozen=True, kw_only=True)
class Lexicon(Config):
    """Words and their pronunciations.

    Attributes:
        entries: a word and its phones, separated by spaces, one pair for each pronunciation; a word's pronunciations stand
            together, the usual one first.
        case: to which transcripts are brought before a word is looked up.

    Raises:
        ConfigError: if there is no entry, one has no phone, or a word holds white space or the phone SIL.
    """

    entries: tuple[tuple[str, str], ...]
    case: Case = "upper"

    def __post_init__(self) -> None:
        if not self.entries:
            raise ConfigError("A lexicon needs at least one word.")
        for word, phones in self.entries:
            if not word or word.split() != [word] or not phones.split():
                raise ConfigError(
                    f"A lexicon's entry is a word without white space and its phones, found {word!r}: {phones!r}."
                )
            if SILENCE in phones.split():
                raise ConfigError(f"{SILENCE} is the silence between words, no phone of a word; {word!r} has it.")

    @staticmethod
    def read(path: str | Path, case: Case = "upper") -> Lexicon:
        """Read a dictionary in CMU's format; stress digits are left off, comments (``;;;`` or ``#``) skipped.

        Raises:
            DataError: if the file cannot be read or is no such dictionary; the message names the line.
        """
        found: dict[str, list[str]] = {}
        for number, line in enumerate(_lines(path), 1):
            parts = line.split()
            if not parts or line.startswith((";;;", "#")):
                continue
            word, phones = _base(parts[0]), [_STRESS.sub(r"\1", phone) for phone in parts[1:]]
            if not phones:
                raise DataError(f"{path}, line {number}: the word {parts[0]!r} has no phones.")
            if SILENCE in phones:
                if word.startswith(("<", "[")):  # fillers such as <sil> of other recognisers' dictionaries
                    continue
                raise DataError(f"{path}, line {number}: {SILENCE} is the silence between words, no phone of {word!r}.")
            said = found.setdefault(normalise(word, case), [])
            if (spelt := " ".join(phones)) not in said:
                said.append(spelt)
        if not found:
            raise DataError(f"{path} holds no word: expected lines of a word and its phones.")
        return Lexicon(entries=tuple((word, said) for word, all_said in found.items() for said in all_said), case=case)

    @staticmethod
    def spelling(words: Iterable[str], case: Case = "upper") -> Lexicon:
        """Return the lexicon in which a word's letters are its phones.

        Raises:
            DataError: if there is no word.
        """
        known = _distinct(words, case)
        return Lexicon(entries=tuple((word, " ".join(word)) for word in known), case=case)

    @staticmethod
    def whole_words(words: Iterable[str], units: int = 1, case: Case = "upper") -> Lexicon:
        """Return the lexicon in which each word has ``units`` units that no other word shares.

        Raises:
            DataError: if there is no word.
            ConfigError: if ``units`` is below 1.
        """
        if units < 1:
            raise ConfigError(f"A word needs at least one unit, found {units}.")
        known = _distinct(words, case)
        return Lexicon(
            entries=tuple((word, " ".join(f"{word}.{i + 1}" for i in range(units))) for word in known), case=case
        )

    @cached_property
    def _said(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        said: dict[str, list[tuple[str, ...]]] = {}
        for word, phones in self.entries:
            said.setdefault(word, []).append(tuple(phones.split()))
        return {word: tuple(all_said) for word, all_said in said.items()}

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Every word once, in the order of the entries."""
        return tuple(self._said)

    @cached_property
    def phones(self) -> tuple[str, ...]:
        """Every phone once, sorted, without silence."""
        return tuple(sorted({phone for _, phones in self.entries for phone in phones.split()}))

    def __contains__(self, word: str) -> bool:
        return word in self._said

    def pronunciations(self, word: str) -> tuple[tuple[str, ...], ...]:
        """Return all ways to say a word, each its phones.

        Raises:
            DataError: if the word is not there.
        """
        if word not in self._said:
            raise _missing([word])
        return self._said[word]

    def split(self, text: str) -> list[str]:
        """Return the words of a transcript, in the lexicon's case.

        Raises:
            DataError: if some are not in the lexicon; one message names them all.
        """
        words = normalise(text, self.case).split()
        if missing := [word for word in dict.fromkeys(words) if word not in self._said]:
            raise _missing(missing)
        return words

    def check(self, texts: Iterable[str]) -> None:
        """Check that every word of some transcripts is there.

        Raises:
            DataError: if not; one message names the missing words.
        """
        words = dict.fromkeys(word for text in texts for word in normalise(text, self.case).split())
        if missing := [word for word in words if word not in self._said]:
            raise _missing(missing)

    def only(self, words: Iterable[str]) -> Lexicon:
        """Return the lexicon of some of its words.

        Raises:
            DataError: if one of them is missing, or there is none.
        """
        wanted = _distinct(words, self.case)
        self.check(wanted)
        keep = set(wanted)
        return self.replace(entries=tuple(entry for entry in self.entries if entry[0] in keep))


@dataclass(frozen=True, kw_only=True)
class WordProcessor(Config, Processor):
    """Transcripts <-> numbers of a lexicon's words, int64 ``(U,)`` of varying length, from 0.

    Attributes:
        lexicon: the words, and how they are said.
    """

    lexicon: Lexicon

    raw = TRANSCRIPT
    varying = True

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.lexicon.words)}

    def encode(self, value: Any) -> Tensor:
        """Return a transcript's words.

        Raises:
            DataError: if some are not in the lexicon; one message names them all.
        """
        return torch.tensor([self._numbers[word] for word in self.lexicon.split(str(value))], dtype=torch.int64)

    def decode(self, numbers: Sequence[int]) -> str:
        """Return the text of words."""
        return " ".join(self.lexicon.words[i] for i in numbers)

    def to_folder(self, folder: Path) -> dict[str, Any]:
        """Return the configuration, the lexicon in it; there are no other assets."""
        del folder
        return self.to_dict()


def read_words(path: str | Path, case: Case = "upper") -> tuple[str, ...]:
    """Return the words of a file, one a line (a pronunciation dictionary will do: the first word of each line), each once.

    Raises:
        DataError: if the file cannot be read or holds none.
    """
    firsts = (line.split()[0] for line in _lines(path) if line.split() and not line.startswith((";;;", "#")))
    words = tuple(dict.fromkeys(normalise(_base(word), case) for word in firsts))
    if not words:
        raise DataError(f"{path} holds no word.")
    return words


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no text in UTF-8: expected a list of words or a pronunciation dictionary."
        ) from error
    except OSError as error:
        raise DataError(f"The lexicon {path} cannot be read: {error.strerror or error}.") from error


def _base(word: str) -> str:
    """Return a word without the number of its variant."""
    found = _VARIANT.match(word)
    return found.group(1) if found else word


def _distinct(words: Iterable[str], case: Case) -> list[str]:
    known = list(dict.fromkeys(normalise(part, case) for word in words for part in str(word).split()))
    if not known:
        raise DataError("There are no words to make a lexicon of.")
    return known


def _missing(words: Sequence[str]) -> DataError:
    more = f" and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else ""
    plural = "s are" if len(words) > 1 else " is"
    return DataError(
        f"{len(words)} word{plural} not in the lexicon: {', '.join(words[:MOST_NAMED])}{more}. Add how they are said, or "
        "let letters stand for phones."
    )
