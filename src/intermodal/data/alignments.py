"""Alignments as files: Praat's TextGrid, NIST's CTM, JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from intermodal.core.errors import ConfigError
from intermodal.core.transcript import Alignment, Transcript, Word
from intermodal.data.subtitles import to_ctm

SUFFIXES = (".textgrid", ".ctm", ".json")


def written(alignment: Alignment, suffix: str, name: str) -> str:
    """Return an alignment as text.

    Args:
        alignment: what.
        suffix: ``.TextGrid`` (in any case), ``.ctm`` or ``.json``.
        name: of the recording.

    Raises:
        ConfigError: for another suffix.
    """
    kind = suffix.lower()
    if kind == ".textgrid":
        return to_textgrid(alignment)
    if kind == ".ctm":
        text = " ".join(word.text for word in alignment.words)
        return to_ctm(Transcript(text, alignment.words, seconds=alignment.seconds), name)
    if kind == ".json":
        return json.dumps({"file": name, **dataclasses.asdict(alignment)}, indent=2, ensure_ascii=False) + "\n"
    raise ConfigError(
        f"Alignments are written as .TextGrid, .ctm or .json, not as {suffix or 'a file without suffix'}."
    )


def to_textgrid(alignment: Alignment) -> str:
    """Return Praat's long text format: a tier of words and, where there are any, one of phones; gaps are empty intervals."""
    tiers = [("words", alignment.words), *([("phones", alignment.phones)] if alignment.phones else [])]
    ends = [word.end or 0.0 for _, words in tiers for word in words]
    end = max([alignment.seconds, *ends])
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end:.6f}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, words) in enumerate(tiers, 1):
        filled = _filled(words, end)
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {end:.6f}", f"        intervals: size = {len(filled)}"]
        for place, (start, stop, text) in enumerate(filled, 1):
            quoted = text.replace('"', '""')
            lines += [f"        intervals [{place}]:", f"            xmin = {start:.6f}"]
            lines += [f"            xmax = {stop:.6f}", f'            text = "{quoted}"']
    return "\n".join(lines) + "\n"


def _filled(words: Sequence[Word], end: float) -> list[tuple[float, float, str]]:
    """Return intervals without gaps from 0 to the end, as the format wants them."""
    found: list[tuple[float, float, str]] = []
    place = 0.0
    for word in words:
        start, stop = max(word.start or 0.0, place), max(word.end or 0.0, place)
        if stop <= start:
            continue
        if start > place + 1e-9:
            found.append((place, start, ""))
        found.append((start, stop, word.text))
        place = stop
    if end > place + 1e-9:
        found.append((place, end, ""))
    return found
