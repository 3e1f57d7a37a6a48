"""Transcribing as command line, page and API share it: who can, which recordings, many files, sound that arrives."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from intermodal.core.capabilities import Aligns, Streams, Transcribes
from intermodal.core.errors import DataError
from intermodal.core.progress import Progress, silent
from intermodal.core.transcript import Transcribing, Transcript
from intermodal.data.audio import SUFFIXES, Waveform
from intermodal.data.layouts import scan
from intermodal.data.speech_layouts import is_recording
from intermodal.index.embedding import offering

AT_ONCE = 16
"""Recordings that are handed to a model together."""
SEARCH_BEAM = 50
"""The beam where what is asked for needs a search and no width is given."""


def transcribes(model: object, need: str) -> Transcribes:
    """Return ``model`` as one that transcribes, or raise a ConfigError that says what lacks."""
    return offering(model, "transcribe", need)


def aligns(model: object, need: str) -> Aligns:
    """Return ``model`` as one that aligns a known text, or raise a ConfigError that says what lacks."""
    return offering(model, "align", need)


def streams(model: object, need: str) -> Streams:
    """Return ``model`` as one that transcribes while sound arrives, or raise a ConfigError that says what lacks."""
    return offering(model, "stream", need)


def settings_of(given: dict[str, Any]) -> Transcribing:
    """Return how to transcribe; without a width, a search is 50 wide where what is asked for needs one.

    Args:
        given: fields of a :class:`~intermodal.core.transcript.Transcribing`; None stands for its default.

    Raises:
        ConfigError: if a number is out of range.
        DataError: if a file of a language model or lexicon is not there.
    """
    given = {name: value for name, value in given.items() if value is not None}
    for name, what in (("lm", "language model"), ("lexicon", "lexicon")):
        if name in given and not Path(given[name]).is_file():
            raise DataError(f"There is no {what} at {given[name]}.")
    if "beam" not in given:
        searches = given.get("lm") or given.get("lexicon") or given.get("hot_words") or given.get("n_best", 1) > 1
        given["beam"] = max(SEARCH_BEAM, given.get("n_best", 1)) if searches else 1
    return Transcribing(**given)


def find_recordings(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Return recordings with their names: files as they are given, and those under folders, sorted.

    Names are relative to the folder where one folder is given, else as they were given.

    Raises:
        DataError: if a file or folder is not there, or a folder holds no recording.
    """
    found: list[tuple[Path, str]] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"There is no recording or folder {path}.")
        if not path.is_dir():
            found.append((path, path.name if len(paths) == 1 else path.as_posix()))
            continue
        files = [file for file in scan(path) if is_recording(file)]
        if not files:
            raise DataError(f"There is no recording in {path} ({', '.join(sorted(SUFFIXES))}).")
        found += [(path / file, file if len(paths) == 1 else (path / file).as_posix()) for file in files]
    return found


def transcribe_each(
    model: Transcribes, recordings: Sequence[Any], settings: Transcribing, watch: Progress = silent
) -> Iterator[Transcript | DataError]:
    """Yield each recording's transcript in order, or why it cannot be read; the others do not suffer from it.

    Args:
        model: a recogniser.
        recordings: paths, encoded bytes or waveforms.
        settings: how.
        watch: told what is done of the whole.

    Raises:
        ConfigError: if the settings ask for what the model cannot do.
        DataError: if a language model or lexicon is damaged.
    """
    if settings.lm is not None or settings.lexicon is not None:
        # If one of these is damaged, it is said at once, and is no recording's fault.
        rate = model.sample_rate
        model.transcribe([Waveform(np.zeros(rate // 2, np.float32), rate)], settings)
    for first in range(0, len(recordings), AT_ONCE):
        part = recordings[first : first + AT_ONCE]

        def within(what: str, share: float, first: int = first, count: int = len(part)) -> None:
            watch(what, (first + share * count) / len(recordings))

        try:
            yield from model.transcribe(part, settings, watch=within)
        except DataError:
            yield from _one_by_one(model, part, settings)
        within("listening", 1.0)


def _one_by_one(model: Transcribes, part: Sequence[Any], settings: Transcribing) -> Iterator[Transcript | DataError]:
    for recording in part:
        try:
            yield model.transcribe([recording], settings)[0]
        except DataError as error:
            yield error


@dataclass(frozen=True)
class Partial:
    """What is known of a recording that is still arriving.

    Attributes:
        transcript: so far; of the last, the whole.
        arrived: seconds of sound that have arrived.
        took: seconds that the model worked on what arrived last.
        done: nothing more arrives.
    """

    transcript: Transcript
    arrived: float
    took: float
    done: bool = False


def live(model: Any, blocks: Iterable[np.ndarray], settings: Transcribing | None = None) -> Iterator[Partial]:
    """Feed a model sound as it arrives and yield what it knows after each block, and at the end.

    Args:
        model: one that :class:`~intermodal.core.capabilities.Streams` and has a ``sample_rate``.
        blocks: float32 samples ``(T,)`` at that rate.
        settings: how.

    Raises:
        ConfigError: if the model does not stream, or not with such settings.
        DataError: if nothing arrives, or a sample is not a finite number.
    """
    listener, count = streams(model, "To transcribe while sound arrives").listen(settings), 0
    for block in blocks:
        if not np.isfinite(block).all():
            raise DataError(f"A sample that arrived after {count / model.sample_rate:.2f} s is not a finite number.")
        count += len(block)
        start = time.perf_counter()
        transcript = listener.feed(block)
        yield Partial(transcript, count / model.sample_rate, time.perf_counter() - start)
    if not count:
        raise DataError("No sound arrived.")
    start = time.perf_counter()
    yield Partial(listener.finish(), count / model.sample_rate, time.perf_counter() - start, done=True)


def checked_text(text: str, most: int) -> str:
    """Return a text that is to be aligned.

    Raises:
        DataError: if it is empty or longer than ``most`` characters.
    """
    if not text.strip():
        raise DataError("The text is empty: say what is spoken in the recording.")
    if len(text) > most:
        raise DataError(f"A text has at most {most:,} characters, found {len(text):,}.")
    return text
