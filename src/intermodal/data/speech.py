"""Recordings with transcripts: AN4, FSDD, Parquet files, or a person's own folder."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import Field
from intermodal.data.audio import Waveform, audio_info, read_audio, resample
from intermodal.data.catalog import find
from intermodal.data.channel import ChannelConfig, through
from intermodal.data.layouts import read_text, scan
from intermodal.data.source import Sample, Source, SourceConfig
from intermodal.data.speech_layouts import ACCEPTED, SPEAKER_COLUMNS, TRANSCRIPT_COLUMNS, Recording, list_recordings
from intermodal.data.splits import check_split, choose_split
from intermodal.data.table import clean_texts, read_parquet, row_names
from intermodal.data.transcripts import AUDIO, TRANSCRIPT

KNOWN = ("an4", "fsdd")
"""Sets of the catalogue that are speech."""
SAME_CHANNEL = ChannelConfig()


@dataclass(frozen=True, kw_only=True)
class SpeechSource(SourceConfig):
    """Recordings with transcripts.

    Splits are those that the data states; where it names no validation split, a share of its training *speakers* is held out
    (by a stable hash of their names; where the speakers are not known, of the recordings). ``test`` is what the data calls
    so, else the validation part.

    Attributes:
        path: ``an4`` or ``fsdd``, a Parquet file (columns ``audio`` and ``text``, and ``speaker`` and ``split`` if known),
            or a folder in one of the usual layouts (:data:`~intermodal.data.speech_layouts.ACCEPTED`).
        validation_share: of the training speakers, held out where the data has no validation split; 0 for none.
        speeds: speed perturbation: in training, a recording is played at one of these speeds, drawn for each (Ko et al.
            2015); pitch changes with it.
        channel: in training, a recording is heard through another microphone and with noise; nothing by default.
        left_out: one speaker, whose recordings are the test; all others are trained on (or held out), whatever the data
            states.
        most_seconds: longer recordings are left out of training.
    """

    path: Path
    validation_share: float = 0.1
    speeds: tuple[float, ...] = (1.0,)
    channel: ChannelConfig = SAME_CHANNEL
    left_out: str | None = None
    most_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not self.speeds or not all(0.25 <= speed <= 4 for speed in self.speeds):
            raise ConfigError(f"speeds are factors from 0.25 to 4, at least one; found {self.speeds}.")
        if not 0 <= self.validation_share < 1:
            raise ConfigError(f"validation_share goes from 0 to below 1, found {self.validation_share}.")

    def open(self, split: str) -> Recordings:
        """Open one split.

        Raises:
            DataError: if the data is not there, is damaged, or the split is empty.
        """
        check_split(split)
        known = str(self.path) in KNOWN
        path = find(str(self.path)) if known else self.path
        if not path.exists():
            sets = ", ".join(KNOWN)
            raise DataError(f"There is no file or folder {path}, and no known set of speech of that name ({sets}).")
        files = [path.name] if path.is_file() else scan(path)
        tables = [f for f in files if f.endswith(".parquet")]
        root = path.parent if path.is_file() else path
        table: _Listing
        if tables:
            table = _TableListing(root, tables)
        elif path.is_file():
            raise DataError(f"{path} is neither a folder nor a Parquet file. {ACCEPTED}")
        else:
            table = _FileListing(root, list_recordings(root, files))
        rows = self._rows(table, split, str(self.path))
        return Recordings(f"{self.path} ({split})", table, rows, self, split)

    def _rows(self, table: _Listing, split: str, name: str) -> list[int]:
        speakers, given = table.speakers, table.splits
        if self.left_out is not None:
            if self.left_out not in speakers:
                known = ", ".join(sorted(set(speakers))[:12])
                raise DataError(f"{name} has no speaker {self.left_out!r} to leave out; it has {known}.")
            given = ["test" if speaker == self.left_out else "train" for speaker in speakers]
        groups = [s or n for s, n in zip(speakers, table.names, strict=True)]
        if self.validation_share == 0 and "validation" not in given and split != "test":
            if split == "validation":
                raise DataError(f"{name} has no validation split, and none is held out (validation_share is 0).")
            return [i for i, word in enumerate(given) if (word or "train") == "train"]
        rows = choose_split(groups, given, split, self.validation_share or 0.1, name)
        if split == "train":
            rows = [i for i in rows if table.seconds(i) <= self.most_seconds]
            if not rows:
                raise DataError(f"{name}: all recordings for training are longer than {self.most_seconds:g} seconds.")
        return rows


class _Listing:
    """What is there: one entry for each recording."""

    names: list[str]
    speakers: list[str]
    splits: list[str | None]

    def audio(self, row: int) -> Any:
        raise NotImplementedError

    def text(self, row: int) -> str:
        raise NotImplementedError

    def seconds(self, row: int) -> float:
        raise NotImplementedError


class _TableListing(_Listing):
    def __init__(self, root: Path, files: Sequence[str]) -> None:
        import pyarrow as pa

        paths = [root / f for f in files]
        tables = [_table(path, path.stat().st_mtime_ns) for path in paths]
        try:
            self.table = pa.concat_tables(tables, promote_options="default")
        except pa.ArrowException as error:
            raise DataError(f"The Parquet files in {root} have different columns ({error}).") from error
        columns = self.table.column_names
        text = next((c for c in TRANSCRIPT_COLUMNS if c in columns), None)
        if "audio" not in columns or text is None:
            raise DataError(f"{root} has the columns {', '.join(columns)}: speech needs audio and text. {ACCEPTED}")
        count = self.table.num_rows
        self.names = row_names(self.table, "audio")
        self._texts = self.table.column(text).to_pylist()
        speaker = next((c for c in SPEAKER_COLUMNS if c in columns), None)
        self.speakers = [str(s or "") for s in self.table.column(speaker).to_pylist()] if speaker else [""] * count
        self.splits = self.table.column("split").to_pylist() if "split" in columns else [None] * count
        self._seconds = self.table.column("seconds").to_pylist() if "seconds" in columns else None

    def audio(self, row: int) -> Any:
        return self.table.column("audio")[row].as_py()

    def text(self, row: int) -> str:
        return str(self._texts[row] or "")

    def seconds(self, row: int) -> float:
        if self._seconds is not None:
            return float(self._seconds[row])
        return _header_seconds(self.audio(row))


class _FileListing(_Listing):
    def __init__(self, root: Path, recordings: Sequence[Recording]) -> None:
        self.root, self.recordings = root, list(recordings)
        self.names = [r.file for r in self.recordings]
        self.speakers = [r.speaker for r in self.recordings]
        self.splits = [r.split for r in self.recordings]
        self._lengths: dict[int, float] = {}

    def audio(self, row: int) -> Any:
        return self.root / self.recordings[row].file

    def text(self, row: int) -> str:
        text = self.recordings[row].text
        return " ".join(read_text(text).split()) if isinstance(text, Path) else text

    def seconds(self, row: int) -> float:
        if row not in self._lengths:  # asked for twice: to leave out what is too long, and to sort by
            self._lengths[row] = _header_seconds(self.audio(row))
        return self._lengths[row]


class Recordings(Source):
    """One split of a :class:`SpeechSource`: samples with ``audio`` (a Waveform), ``text`` and ``speaker``."""

    def __init__(self, name: str, listing: _Listing, rows: Sequence[int], config: SpeechSource, split: str) -> None:
        self.name, self.listing, self.rows, self.config = name, listing, list(rows), config
        self.speeds = config.speeds if split == "train" else (1.0,)
        self.channel = config.channel if split == "train" else SAME_CHANNEL
        self.fields = {
            "audio": AUDIO,
            "text": TRANSCRIPT,
            "speaker": Field((), "str", "who speaks; empty where it is not known"),
        }

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return one recording, decoded at its own rate, with its transcript; with ``rng`` sped up and through a channel."""
        row = self.rows[index]
        wave = read_audio(self.listing.audio(row), name=self.sample_name(index))
        if rng is not None and self.speeds != (1.0,):
            speed = self.speeds[int(rng.integers(len(self.speeds)))]
            wave = Waveform(resample(wave.samples, wave.rate * speed, wave.rate), wave.rate, wave.name)
        if rng is not None and self.channel.changes:
            wave = Waveform(through(wave.samples, wave.rate, self.channel, rng), wave.rate, wave.name)
        text = self.listing.text(row)
        if not clean_texts(text):
            raise DataError(f"{self.sample_name(index)} has no transcript.")
        return {"audio": wave, "text": text, "speaker": self.listing.speakers[row]}

    def sample_name(self, index: int) -> str:
        """Return the recording's file."""
        return self.listing.names[self.rows[index]]

    def lengths(self) -> Sequence[float]:
        """Return each recording's seconds, by its header."""
        return [self.listing.seconds(row) for row in self.rows]

    def texts(self) -> list[str]:
        """Return all transcripts; no recording is decoded."""
        return [self.listing.text(row) for row in self.rows]

    def speakers(self) -> list[str]:
        """Return who speaks in each recording."""
        return [self.listing.speakers[row] for row in self.rows]


@functools.lru_cache(maxsize=4)
def _table(path: Path, changed: int) -> Any:
    """Read a Parquet file once for all splits; ``changed`` is its time of change."""
    del changed
    return read_parquet(path)


def _header_seconds(value: Any) -> float:
    """Return a recording's length by its header; 0 where it cannot be read, which is said when it is asked for."""
    try:
        return audio_info(value).seconds
    except DataError:
        return 0.0
