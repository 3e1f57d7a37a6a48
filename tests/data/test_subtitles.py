"""Cues can be read in time and parse back; no word is lost, whatever the words and their times."""

from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intermodal.core.errors import ConfigError, DataError
from intermodal.core.transcript import Hypothesis, Segment, Transcript, Word
from intermodal.data.subtitles import CueStyle, cues, read_cues, to_ctm, to_srt, to_text, to_tsv, to_vtt, written

text = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=60)
time = st.one_of(st.floats(0, 4000, allow_nan=False), st.just(math.nan))


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    """Words in any order of times, overlapping, with and without pauses, with characters that formats use."""
    words, at = [], 0.0
    for said in draw(st.lists(text, max_size=40)):
        at += draw(st.sampled_from([0.0, 0.02, 0.1, 2.0]))
        length = draw(st.floats(0, 2))
        start, end = (at, at + length) if draw(st.booleans()) else (draw(time), draw(time))
        words.append(Word(said, start, end, draw(st.floats(0, 1))))
        at += length
    return Transcript(" ".join(w.text for w in words), tuple(words), seconds=at)


def plain(said: str) -> str:
    return " ".join(said.replace("-->", "→").split())


@given(transcripts())
def test_cues_rise_do_not_overlap_and_say_every_word(transcript: Transcript) -> None:
    found, style = cues(transcript), CueStyle()
    assert [w.text for cue in found for w in cue.words] == [w.text for w in transcript.words]
    for place, cue in enumerate(found):
        after = found[place + 1] if place + 1 < len(found) else None
        assert 0 <= cue.start <= cue.end and (after is None or cue.end <= after.start)
        assert len(cue.words) == 1 or cue.words[-1].end - cue.start <= style.longest
        gaps = [b.start - a.end for a, b in itertools.pairwise(cue.words)]
        assert all(gap < style.pause for gap in gaps)


@given(transcripts())
def test_subtitles_parse_back(transcript: Transcript) -> None:
    expected = cues(transcript)
    for written_text in (to_srt(transcript), to_vtt(transcript)):
        found = read_cues(written_text)
        assert [c.text for c in found] == [plain(c.text) for c in expected]
        for a, b in zip(found, expected, strict=True):
            assert a.start == pytest.approx(b.start, abs=5.1e-4) and a.end == pytest.approx(b.end, abs=5.1e-4)
        for a, b in itertools.pairwise(found):
            assert a.end <= b.start + 1e-9


@given(transcripts())
def test_ctm_has_a_line_a_word(transcript: Transcript) -> None:
    rows = [line.split(" ") for line in to_ctm(transcript, "a recording").splitlines()]
    assert [row[4] for row in rows] == [w.text for w in transcript.words]
    starts = [float(row[2]) for row in rows]
    assert starts == sorted(starts) and all(float(row[3]) >= 0 for row in rows)
    assert all(row[:2] == ["a_recording", "1"] and 0 <= float(row[5]) <= 1 for row in rows)


SAID = Transcript(
    "ENTER FOUR < FIVE & GO",
    (
        Word("ENTER", 0.1, 0.5, 0.9),
        Word("FOUR", 0.55, 0.8, 0.5),
        Word("<", 0.8, 0.9),
        Word("FIVE", 2.0, 2.4, 1.0),
        Word("&", 2.4, 2.5),
        Word("GO", 3661.5, 3662.25, 0.25),
    ),
    seconds=3663.0,
    alternatives=(Hypothesis("ENTER FOR", -3.0, -2.0, -1.0),),
    notes=("It is clipped.",),
)


def test_what_the_formats_look_like() -> None:
    assert to_srt(SAID) == (
        "1\n00:00:00,100 --> 00:00:00,900\nENTER FOUR <\n\n2\n00:00:02,000 --> 00:00:02,800\nFIVE &\n\n"
        "3\n01:01:01,500 --> 01:01:02,300\nGO\n\n"
    )
    assert to_vtt(SAID).startswith("WEBVTT\n\n00:00:00.100 --> 00:00:00.900\nENTER FOUR &lt;\n\n")
    assert "FIVE &amp;\n" in to_vtt(SAID)
    assert to_ctm(SAID, "a b").splitlines()[1] == "a_b 1 0.550 0.250 FOUR 0.500"
    assert to_text(SAID) == "ENTER FOUR < FIVE & GO\n"
    assert to_text(SAID, times=True).splitlines()[0] == "    0.10     0.50   90%  ENTER"
    assert to_tsv([("a\tb.wav", SAID)]) == "file\tseconds\ttext\na b.wav\t3663.000\tENTER FOUR < FIVE & GO\n"
    data = json.loads(written([("a.wav", SAID)], "json"))
    assert data["file"] == "a.wav" and data["words"][0] == {
        "text": "ENTER",
        "start": 0.1,
        "end": 0.5,
        "confidence": 0.9,
    }
    assert data["notes"] == ["It is clipped."] and data["alternatives"][0]["language"] == -1.0


def test_several_recordings_in_one_file() -> None:
    named = [("a.wav", SAID), ("b/c.wav", Transcript("YES", (Word("YES", 0.0, 0.5),)))]
    assert written(named, "text") == "a.wav\tENTER FOUR < FIVE & GO\nb/c.wav\tYES\n"
    assert [row["file"] for row in json.loads(written(named, "json"))] == ["a.wav", "b/c.wav"]
    assert written(named, "ctm").splitlines()[-1] == "c 1 0.000 0.500 YES"
    assert written(named, "tsv").count("\n") == 3 and "b/c.wav\n" in written(named, "text", times=True)
    for kind in ("srt", "vtt"):
        with pytest.raises(ConfigError, match="holds one recording, found 2"):
            written(named, kind)


def test_without_times_of_words() -> None:
    segments = (Segment(" one two ", 0.0, 4.0), Segment("three", 4.0, 9.0), Segment(" ", 9.0, 9.5))
    assert [(c.text, c.start, c.end) for c in cues(Transcript("one two three", segments=segments, seconds=9.5))] == [
        ("one two", 0.0, 4.0),
        ("three", 4.0, 9.0),
    ]
    whole = Transcript("one two", (Word("one"), Word("two")), seconds=2.0)
    assert cues(whole) == [Segment("one two", 0.0, 2.0, (Word("one two", 0.0, 2.0),))]
    with pytest.raises(DataError, match="CTM needs the times of words"):
        to_ctm(whole, "a")
    for empty in (Transcript(""), Transcript(" ", seconds=1.0)):
        assert cues(empty) == [] and to_srt(empty) == "" and to_vtt(empty) == "WEBVTT\n\n" and to_ctm(empty, "a") == ""


def test_a_cue_never_holds_more_than_two_lines_of_ordinary_words() -> None:
    words = tuple(Word(f"word{i}", 0.25 * i, 0.25 * i + 0.24) for i in range(200))
    for block in to_srt(Transcript("", words)).strip().split("\n\n"):
        lines = block.split("\n")[2:]
        assert len(lines) <= 2 and all(len(line) <= 42 for line in lines)


def test_damaged_subtitles_and_styles() -> None:
    with pytest.raises(DataError, match="block 2 has no line of times"):
        read_cues("1\n00:00:00,000 --> 00:00:01,000\na\n\nhello\n")
    assert read_cues("WEBVTT\n\nNOTE a note\n\nid\n00:01.000 --> 00:02.500\na\nb\n") == [Segment("a b", 1.0, 2.5)]
    for wrong in ({"line": 0}, {"lines": 0}, {"shortest": 0}, {"longest": 0.1}, {"pause": 0}):
        with pytest.raises(ConfigError, match="A cue needs room"):
            CueStyle(**wrong)
