"""What recognisers are judged on: utterances with what is said in them, and what anyone could say without listening."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from intermodal.core.errors import DataError
from intermodal.data.audio import Waveform
from intermodal.data.source import Source
from intermodal.evaluate.energy import spread_out
from intermodal.metrics.speech import errors, normalise, total

QUICK, MOST = 64, 5000
"""Utterances that are judged while training, and in full, at most."""
CHUNK = 32
CANDIDATES, JUDGED_BY = 20, 200
"""What could always be said: so many texts and words; and so many training texts that they are compared on."""
FEW_WORDS = 64
"""A set of single words of at most so many is judged as a classification as well."""


@dataclass(frozen=True)
class Utterances:
    """What is judged.

    Attributes:
        source: where the recordings are read from.
        rows: which of them.
        texts: what is said in each, as the data has it.
        speakers: who speaks; empty strings where that is not known.
        unreadable: how many more cannot be read, or have no transcript.
    """

    source: Source
    rows: list[int]
    texts: list[str]
    speakers: list[str]
    unreadable: int = 0

    def recording(self, place: int) -> Waveform:
        """Return one recording."""
        return self.source.sample(self.rows[place])["audio"]

    def chunks(self) -> Iterator[list[Waveform]]:
        """Yield the recordings, a few at a time."""
        for first in range(0, len(self.rows), CHUNK):
            yield [self.recording(place) for place in range(first, min(first + CHUNK, len(self.rows)))]


def utterances(source: Source, most: int) -> Utterances:
    """Return at most so many utterances of a split, evenly spread, without those that cannot be read.

    Raises:
        DataError: if no word is said in any of them.
    """
    asked, rows, texts, speakers = spread_out(len(source), most), [], [], []
    for row in asked:
        try:
            sample = source.sample(row)
        except DataError:
            continue
        rows.append(row)
        texts.append(str(sample["text"]))
        speakers.append(str(sample.get("speaker") or ""))
    found = Utterances(source, rows, texts, speakers, len(asked) - len(rows))
    if not any(normalise(text) for text in found.texts):
        raise DataError(f"{source.name} has no transcript with a word to judge a recogniser by.")
    return found


def constant(texts: Sequence[str]) -> str:
    """Return what a recogniser that always says the same had best say; empty if there is no text.

    Of the most frequent texts and single words it is the one that gets fewest words wrong, of at most 200 of the texts.
    """
    return _constant(tuple(texts))


@functools.lru_cache(maxsize=4)
def _constant(texts: tuple[str, ...]) -> str:
    judged = [text for text in map(normalise, texts) if text]
    counts, words = Counter(judged), Counter(word for text in judged for word in text.split())
    candidates = dict.fromkeys(text for found in (counts, words) for text, _ in found.most_common(CANDIDATES))
    some = [judged[i] for i in spread_out(len(judged), JUDGED_BY)] if judged else []
    return min(candidates, key=lambda text: total(errors(some, [text] * len(some))).wrong, default="")


def isolated(texts: Sequence[str]) -> list[str]:
    """Return the words of a set in which every recording is one word of a few; empty for any other."""
    judged = [normalise(text) for text in texts]
    if any(len(text.split()) != 1 for text in judged):
        return []
    words = sorted(set(judged))
    return words if len(words) <= min(FEW_WORDS, max(len(judged) // 2, 1)) else []


def right_share(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Return the share of transcripts without an error."""
    pairs = zip(references, hypotheses, strict=True)
    return float(np.mean([normalise(said) == normalise(heard) for said, heard in pairs]))
