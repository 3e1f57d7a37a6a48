"""Pairs of definitions of one word by two dictionaries, read from ``text-15m``: WordNet's gloss and GCIDE's.

The two were written a century apart by different people, so that a definition has to be found by its meaning; that of
the same word with the same part of speech is the right answer. GCIDE's entries that were taken from WordNet are left
out, and so are definitions that hold the word itself.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from intermodal.core.errors import DataError
from intermodal.core.fields import Field
from intermodal.data.source import Sample, Source, SourceConfig
from intermodal.data.splits import choose_split
from intermodal.data.text import TextSource, read_documents

MIN_WORDS, MAX_WORDS = 4, 40
"""A definition's length; a longer one is cut."""

_WORDNET_SENSE = re.compile(r"^    (?:(n|v|adj|adv) )?(\d+): (.*)$")
_GCIDE_HEAD = re.compile(r"^(\S[^,]*?)  (.*)$")
_GCIDE_PART = re.compile(r"(?:,|\)|\s)\s*(n|v\. ?t|v\. ?i|v|a|adj|adv)\.(?:\s|$)")
_PARTS = {"n": "n", "v": "v", "v. t": "v", "v.t": "v", "v. i": "v", "v.i": "v", "a": "adj", "adj": "adj", "adv": "adv"}
_MARKS = re.compile(
    r"\b(?:Obs|Archaic|R|Colloq|Prov|Scot|Eng|U\. S|Slang|Poetic)\.|--\s*[A-Z][\w.]*\.?|\([A-Z][\w. &]*\.\)"
)

_ETYMOLOGY = re.compile(r"\b(?:fr|cf|Cf|pl|p|OE|ME|AS|LL|L|F|OF|Gr|G|OHG|Icel|Sp|It|D|Skr|akin)\.(?=\s|$)")


@dataclass(frozen=True, kw_only=True)
class GlossSource(SourceConfig):
    """Definitions of one word by two dictionaries.

    Attributes:
        path: a Parquet file like ``text-15m``; None for that set.
        paired: a sample is a pair, ``text`` (WordNet) and ``positive`` (GCIDE); else each definition is a sample of its
            own, with the field ``text`` alone: the same words without the knowledge of what belongs together.
        validation_share: of the words, held out by a hash of the word.
    """

    path: Path | None = None
    paired: bool = True
    validation_share: float = 0.1

    def open(self, split: str) -> Glosses:
        """Open one split.

        Raises:
            DataError: if the data is not there, or has no word that both define.
        """
        return Glosses(self, split)


class Glosses(Source):
    """The definitions of one split."""

    def __init__(self, config: GlossSource, split: str) -> None:
        words, pairs = _pairs(config.path)
        if len(words) < 2:
            raise DataError("The dictionaries define no two words in common: both WordNet and GCIDE are needed.")
        names = [word.lower() for word, _ in words]
        chosen = choose_split(names, [None] * len(names), split, config.validation_share, "the dictionaries")
        self.name = f"definitions of WordNet and GCIDE ({split})"
        field = Field((), "str", "a definition")
        self.fields: Mapping[str, Field] = {"text": field, "positive": field} if config.paired else {"text": field}
        self.words = [words[i][0] for i in chosen]
        self.pairs = [pairs[i] for i in chosen]
        self._paired = config.paired

    def __len__(self) -> int:
        return len(self.pairs) * (1 if self._paired else 2)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return one pair, or one definition."""
        del rng
        if self._paired:
            return dict(zip(("text", "positive"), self.pairs[index], strict=True))
        return {"text": self.pairs[index // 2][index % 2]}

    def texts(self) -> list[str]:
        """Return every definition."""
        return [text for pair in self.pairs for text in pair]


@functools.lru_cache(maxsize=1)
def _pairs(path: Path | None) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return words with their part of speech, and each one's two definitions."""
    books = [_read(path, part) for part in ("wordnet", "gcide")]
    ours = dict(_wordnet(books[0]))
    theirs: dict[tuple[str, str], str] = {}
    for key, gloss in _gcide(books[1]):
        theirs.setdefault(key, gloss)
    both = sorted(
        key
        for key in ours.keys() & theirs.keys()
        if not any(re.search(rf"\b{re.escape(key[0])}\b", text, re.IGNORECASE) for text in (ours[key], theirs[key]))
    )
    return both, [(ours[key], theirs[key]) for key in both]


def _read(path: Path | None, part: str) -> str:
    return "\n".join(d.read(0, d.size) for d in read_documents(TextSource(path=path, parts=(part,))))


def _wordnet(text: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield (word, part of speech) and the gloss of its first sense, without synonyms and examples."""
    word, part, first = "", "", False
    gloss: list[str] = []
    for line in [*text.split("\n"), "end"]:
        sense = _WORDNET_SENSE.match(line)
        if sense or not line.startswith(" "):
            if first and gloss:
                cleaned = _cleaned(re.sub(r"\[(?:syn|ant|also):.*", "", " ".join(gloss)).partition('; "')[0])
                if cleaned:
                    yield (word, part), cleaned
            gloss, first = [], False
        if sense:
            first = sense[1] is not None  # a part of speech is stated at its first sense alone
            part = sense[1] or part
            gloss = [sense[3]]
        elif line and not line.startswith(" "):
            word = line.strip().lower()
        elif gloss:
            gloss.append(line.strip())


def _gcide(text: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield (word, part of speech) and the first definition of each entry that is Webster's own."""
    for entry in re.split(r"\n(?=\S)", text):
        head, _, body = entry.partition("\n")
        found, part = _GCIDE_HEAD.match(head), _GCIDE_PART.search(head)
        if not found or not part or "WordNet" in entry or "1913 Webster" not in entry:
            continue
        definition = re.match(r"(?: {3,}\S.*\n?)+", body)
        if definition is None:
            continue
        said = " ".join(definition[0].split())
        said = re.split(r"(?:^|\s)(?:1\.|\(a\))\s", said, maxsplit=1)[-1].partition('"')[0]
        cleaned = _cleaned(_MARKS.sub(" ", said).partition(" -- ")[0].partition(" 1913 Webster")[0])
        if cleaned and not _ETYMOLOGY.search(cleaned) and not cleaned.startswith(("See ", "Same as", "of ", "imp. ")):
            yield (found[1].strip().lower(), _PARTS[part[1]]), cleaned


def _cleaned(text: str) -> str:
    """Return a definition on one line, cut to :data:`MAX_WORDS`; empty where it is too short to mean anything."""
    words = text.replace("{", "").replace("}", "").split()
    return " ".join(words[:MAX_WORDS]).strip(" ;,.") if len(words) >= MIN_WORDS else ""
