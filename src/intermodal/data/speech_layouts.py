"""The ways in which people keep recordings with transcripts in a folder: one detector, one small reader each."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from intermodal.core.errors import DataError
from intermodal.data.audio import SUFFIXES
from intermodal.data.layouts import read_rows, read_text, split_folders, split_of
from intermodal.data.splits import ALIASES
from intermodal.data.table import did_you_mean

FILE_COLUMNS = ("file_name", "path", "file", "audio", "wav")
TRANSCRIPT_COLUMNS = ("text", "transcript", "transcription", "sentence", "normalized_text", "label")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id", "user_id")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.tsv", "validated.tsv", "transcripts.csv", "transcripts.tsv")
TRANSCRIPT_SUFFIXES = (".txt", ".lab", ".transcript")
ACCEPTED = (
    "Accepted are: a metadata.csv, .tsv or .jsonl with the columns file_name and text (and speaker and split, if known); a "
    "transcript beside each recording (a.wav, a.txt); LibriSpeech's *.trans.txt; one folder of recordings per word; Parquet "
    "files with the columns audio and text."
)


@dataclass(frozen=True)
class Recording:
    """One recording of a listing.

    Attributes:
        file: relative to the root, with forward slashes.
        text: what is said, or the file that says it (read when it is asked for).
        speaker: who speaks; empty where the data does not say.
        split: None where the data does not say.
    """

    file: str
    text: str | Path
    speaker: str = ""
    split: str | None = None


def is_recording(file: str) -> bool:
    """Say whether a file's name is that of a recording."""
    return PurePosixPath(file).suffix.lower() in SUFFIXES


def list_recordings(root: Path, files: Sequence[str]) -> list[Recording]:
    """Return the recordings with transcripts under a folder, in whichever of the layouts they are found.

    Args:
        root: the folder.
        files: all files under it, relative to it.

    Raises:
        DataError: if there is none, or a layout is damaged; the message lists the accepted ones.
    """
    metadata = [f for f in files if PurePosixPath(f).name in METADATA]
    if metadata:
        return [r for file in metadata for r in _from_metadata(root, file)]
    librispeech = [f for f in files if f.endswith(".trans.txt")]
    recordings = [f for f in files if is_recording(f)]
    if librispeech:
        return [r for file in librispeech for r in _from_librispeech(root, file, set(files))]
    if not recordings:
        what = "is empty" if not files else f"holds {len(files)} files, but no recordings"
        raise DataError(f"The folder {root} {what}. {ACCEPTED}")
    present, splits = set(files), split_folders(recordings)
    beside = {f: _beside(f, present) for f in recordings}
    if any(beside.values()):
        return [
            Recording(f, root / text, _speaker(f, splits), split_of(f, splits)) for f, text in beside.items() if text
        ]
    words = {f: _folder(f, splits) for f in recordings}
    if len(set(words.values()) - {""}) > 1:
        return [Recording(f, word, "", split_of(f, splits)) for f, word in words.items() if word]
    raise DataError(f"The folder {root} holds {len(recordings)} recordings, but no transcripts. {ACCEPTED}")


def _from_metadata(root: Path, file: str) -> list[Recording]:
    folder, path = str(PurePosixPath(file).parent), root / file
    found = []
    for number, row in _rows(path):
        name, text = _cell(row, FILE_COLUMNS, path, "file_name"), _cell(row, TRANSCRIPT_COLUMNS, path, "text")
        if not name:
            raise DataError(f"{path}, line {number} names no file.")
        place = f"{folder}/{name}" if folder != "." else name
        if not (root / place).exists() and (root / folder / "clips" / name).exists():  # Common Voice keeps them so
            place = f"{folder}/clips/{name}" if folder != "." else f"clips/{name}"
        speaker = next((str(row[c]) for c in SPEAKER_COLUMNS if row.get(c)), "")
        split = row.get("split")
        found.append(Recording(place, text, speaker, ALIASES.get(str(split).lower(), str(split)) if split else None))
    if not found:
        raise DataError(f"{path} has no rows.")
    return found


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    if path.suffix != ".tsv":
        return list(read_rows(path))
    reader = csv.DictReader(read_text(path).splitlines(keepends=True), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [(reader.line_num, {str(k): v for k, v in row.items() if k is not None}) for row in reader]


def _cell(row: dict[str, Any], names: Sequence[str], path: Path, what: str) -> str:
    name = next((c for c in names if c in row), None)
    if name is None:
        raise DataError(
            f"{path} has no column {what!r}; its columns are {', '.join(row)}.{did_you_mean(what, list(row))} {ACCEPTED}"
        )
    return str(row[name] or "").strip()


def _from_librispeech(root: Path, file: str, present: set[str]) -> list[Recording]:
    folder = PurePosixPath(file).parent
    found = []
    for number, line in enumerate(read_text(root / file).splitlines(), start=1):
        name, _, text = line.strip().partition(" ")
        if not name:
            continue
        place = next((p for s in (".flac", ".wav") if (p := str(folder / (name + s))) in present), None)
        if place is None:
            raise DataError(f"{root / file}, line {number} names the recording {name}, which is not beside it.")
        found.append(Recording(place, text.strip(), name.partition("-")[0]))
    return found


def _beside(file: str, present: set[str]) -> str | None:
    stem = str(PurePosixPath(file).with_suffix(""))
    return next((stem + s for s in TRANSCRIPT_SUFFIXES if stem + s in present), None)


def _folder(file: str, splits: dict[str, str]) -> str:
    folders = PurePosixPath(file).parts[:-1]
    if folders and folders[0] in splits:
        folders = folders[1:]
    return folders[-1] if folders else ""


def _speaker(file: str, splits: dict[str, str]) -> str:
    """Return the folder of a recording that has its transcript beside it: people sort such recordings by speaker."""
    return _folder(file, splits)
