"""Transcripts as files: subtitles (SRT, WebVTT) whose cues can be read in time, NIST's CTM, tables and JSON.

A cue ends where the speaker pauses, where its text would no longer fit on two lines, or where it would stand too long. Cues
never overlap and never go back in time, whatever times the words have.
"""

from __future__ import annotations

import dataclasses
import html
import json
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from intermodal.core.errors import ConfigError, DataError
from intermodal.core.transcript import Segment, Transcript, Word

Format = Literal["text", "srt", "vtt", "json", "tsv", "ctm"]
SUFFIXES: dict[str, str] = {"text": ".txt", **{name: f".{name}" for name in get_args(Format) if name != "text"}}
"""What files of each format end in."""
COMBINES = ("text", "json", "tsv", "ctm")
"""The formats of which one file may hold several recordings."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class CueStyle:
    """How much a cue may hold.

    Attributes:
        line: characters of a line.
        lines: of a cue.
        longest: seconds that it may stand.
        shortest: seconds that it stands at least, where the next one leaves room.
        pause: seconds of silence after which a new one begins.
    """

    line: int = 42
    lines: int = 2
    longest: float = 6.0
    shortest: float = 0.8
    pause: float = 0.6

    def __post_init__(self) -> None:
        if self.line < 1 or self.lines < 1 or not 0 < self.shortest <= self.longest or not self.pause > 0:
            raise ConfigError(f"A cue needs room for a letter and 0 < shortest <= longest; found {self}.")


DEFAULT = CueStyle()


def cues(transcript: Transcript, style: CueStyle = DEFAULT) -> list[Segment]:
    """Return a transcript in cues that can be read in time.

    Without times of words its segments are taken as they are; without those either, the whole is one cue. Their starts and
    ends rise, no two overlap, and together they say all words in order.

    Args:
        transcript: what was said.
        style: how much a cue holds.
    """
    units = transcript.words if _timed(transcript.words) else _units(transcript)
    groups: list[list[Word]] = []
    for word in _rising(units):
        if not groups or _ends_before(groups[-1], word, style):
            groups.append([])
        groups[-1].append(word)
    found = []
    for place, group in enumerate(groups):
        start, end = _start(group[0]), _end(group[-1])
        after = _start(groups[place + 1][0]) if place + 1 < len(groups) else max(transcript.seconds, end)
        end = min(max(end, start + style.shortest), max(after, end))
        found.append(Segment(" ".join(w.text for w in group), start, end, tuple(group)))
    return found


def _timed(words: Sequence[Word]) -> bool:
    return bool(words) and all(word.start is not None and word.end is not None for word in words)


def _units(transcript: Transcript) -> list[Word]:
    """Return what has a time of its own if the words have none: the segments, or the whole."""
    if transcript.segments:
        return [Word(s.text.strip(), s.start, s.end) for s in transcript.segments if s.text.strip()]
    text = transcript.text.strip()
    return [Word(text, 0.0, transcript.seconds)] if text else []


def _rising(words: Iterable[Word]) -> list[Word]:
    """Return words whose times rise: one that begins before the last ended is moved to its end."""
    found: list[Word] = []
    last = 0.0
    for word in words:
        start, end = (value if value is not None and math.isfinite(value) else last for value in (word.start, word.end))
        start = max(start, last)
        end = max(end, start)
        found.append(dataclasses.replace(word, start=start, end=end))
        last = end
    return found


def _ends_before(group: Sequence[Word], word: Word, style: CueStyle) -> bool:
    text = " ".join([*(w.text for w in group), word.text])
    return (
        _start(word) - _end(group[-1]) >= style.pause
        or _end(word) - _start(group[0]) > style.longest
        or len(textwrap.wrap(text, style.line)) > style.lines
    )


def _start(word: Word) -> float:
    return word.start or 0.0


def _end(word: Word) -> float:
    return word.end or 0.0


def to_srt(transcript: Transcript, style: CueStyle = DEFAULT) -> str:
    """Return SubRip text; times have whole milliseconds."""
    return "".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{_lines(cue.text, style)}\n\n"
        for number, cue in enumerate(cues(transcript, style), 1)
    )


def to_vtt(transcript: Transcript, style: CueStyle = DEFAULT) -> str:
    """Return WebVTT text; ``&``, ``<`` and ``>`` are escaped, so that no word is taken for a tag or an arrow."""
    body = "".join(
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{html.escape(_lines(cue.text, style), quote=False)}\n\n"
        for cue in cues(transcript, style)
    )
    return f"WEBVTT\n\n{body}"


def _lines(text: str, style: CueStyle) -> str:
    """Return a cue's text on lines of their own, none empty (an empty line ends a cue), without control characters."""
    text = " ".join(_CONTROL.sub(" ", text).split()).replace("-->", "→")
    return "\n".join(textwrap.wrap(text, style.line, break_long_words=False, break_on_hyphens=False)) or "…"


def _clock(seconds: float, mark: str) -> str:
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{mark}{rest % 1000:03}"


_TIMES = re.compile(r"(?:(\d+):)?(\d{2}):(\d{2})[.,](\d{3}) --> (?:(\d+):)?(\d{2}):(\d{2})[.,](\d{3})")


def read_cues(text: str) -> list[Segment]:
    """Return the cues of SRT or WebVTT text; lines of a cue are joined by spaces.

    Raises:
        DataError: if a block that is no heading or note has no line of times.
    """
    vtt = text.lstrip("\ufeff").startswith("WEBVTT")
    found = []
    for place, block in enumerate(re.split(r"\n{2,}", text.lstrip("\ufeff").replace("\r\n", "\n").strip())):
        lines = block.split("\n")
        if not block or (vtt and (place == 0 or lines[0].startswith(("NOTE", "STYLE", "REGION")))):
            continue
        at = next((i for i, line in enumerate(lines[:2]) if _TIMES.match(line)), None)
        if at is None:
            raise DataError(
                f"The subtitles are damaged: block {place + 1} has no line of times (it begins {lines[0]!r})."
            )
        parts = _TIMES.match(lines[at])
        assert parts is not None
        hours, minutes, seconds, thousandths, *end = (int(part or 0) for part in parts.groups())
        start = 3600 * hours + 60 * minutes + seconds + thousandths / 1000
        stop = 3600 * end[0] + 60 * end[1] + end[2] + end[3] / 1000
        words = " ".join(lines[at + 1 :])
        found.append(Segment(html.unescape(words) if vtt else words, start, stop))
    return found


def to_ctm(transcript: Transcript, name: str) -> str:
    """Return NIST's CTM: ``recording channel start duration word confidence``, a line a word.

    Raises:
        DataError: if the words have no times.
    """
    if not _timed(transcript.words) and transcript.text.strip():
        raise DataError(f"CTM needs the times of words, which the model does not give for {name}.")
    name, rows = _joined(name), []
    for word in _rising(transcript.words):
        sure = "" if word.confidence is None else f" {word.confidence:.3f}"
        rows.append(f"{name} 1 {_start(word):.3f} {_end(word) - _start(word):.3f} {_joined(word.text)}{sure}\n")
    return "".join(rows)


def _joined(text: str) -> str:
    return re.sub(r"\s+", "_", text) or "_"


def to_tsv(named: Iterable[tuple[str, Transcript]]) -> str:
    """Return a table with a head: ``file``, ``seconds``, ``text``, a row a recording."""
    rows = [("file", "seconds", "text"), *((name, f"{t.seconds:.3f}", t.text) for name, t in named)]
    return "".join("\t".join(" ".join(cell.split()) for cell in row) + "\n" for row in rows)


def to_json(named: Sequence[tuple[str, Transcript]]) -> str:
    """Return indented JSON: an object with ``file`` for one recording, a list of them for several."""
    rows = [{"file": name, **_without_nan(transcript)} for name, transcript in named]
    return json.dumps(rows[0] if len(rows) == 1 else rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _without_nan(transcript: Transcript) -> dict[str, object]:
    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    found = plain(transcript.to_dict())
    assert isinstance(found, dict)
    return found


def to_text(transcript: Transcript, *, times: bool = False) -> str:
    """Return the text, or with ``times`` a line a word: start, end, confidence in per cent, word.

    What has no times of its own is one line with those of its segment or of the whole.
    """
    if not times:
        return f"{transcript.text}\n"
    words = _rising(transcript.words if _timed(transcript.words) else _units(transcript))
    return "".join(
        f"{_start(w):8.2f} {_end(w):8.2f}  {'    ' if w.confidence is None else f'{w.confidence:4.0%}'}  {w.text}\n"
        for w in words
    )


def written(
    named: Sequence[tuple[str, Transcript]], kind: Format, *, times: bool = False, style: CueStyle = DEFAULT
) -> str:
    """Return transcripts as the text of one file.

    Args:
        named: recordings by name, one at least.
        kind: the format.
        times: of ``text``: with the times of words.
        style: of cues.

    Raises:
        ConfigError: if there are several recordings and the format holds one.
        DataError: if the format needs times that there are none of.
    """
    if kind not in COMBINES and len(named) != 1:
        raise ConfigError(f"A file of {kind.upper()} holds one recording, found {len(named)}: write into a folder.")
    if kind == "srt":
        return to_srt(named[0][1], style)
    if kind == "vtt":
        return to_vtt(named[0][1], style)
    if kind == "json":
        return to_json(named)
    if kind == "tsv":
        return to_tsv(named)
    if kind == "ctm":
        return "".join(to_ctm(transcript, Path(name).stem) for name, transcript in named)
    if len(named) == 1:
        return to_text(named[0][1], times=times)
    if times:
        return "\n".join(f"{name}\n{to_text(transcript, times=True)}" for name, transcript in named)
    return "".join(f"{name}\t{transcript.text}\n" for name, transcript in named)
