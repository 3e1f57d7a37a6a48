"""``intermodal transcribe``: every format, folders and streams, and what is refused in one sentence."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile

from intermodal.core.transcript import Transcript
from intermodal.data.subtitles import read_cues
from intermodal.index.listening import find_recordings, settings_of, transcribe_each

from .conftest import Cli

ARPA = """\\data\\
ngram 1=6

\\1-grams:
-2.0 <unk>
-99 <s>
-0.5 </s>
-0.6 THE
-0.6 SHED
-0.6 BED

\\end\\
"""


@pytest.fixture
def deaf(tones: ModuleType, tmp_path: Path) -> Path:
    """A recogniser that hears E as F."""
    tones.recogniser(deaf="E").save(tmp_path / "deaf")
    return tmp_path / "deaf"


@pytest.fixture
def toy(tones: ModuleType, tmp_path: Path) -> Path:
    tones.recogniser().save(tmp_path / "toy")
    return tmp_path / "toy"


@pytest.fixture
def sounds(tones: ModuleType, tmp_path: Path) -> Path:
    folder = tmp_path / "sounds"
    (folder / "more").mkdir(parents=True)
    soundfile.write(folder / "go.wav", tones.spoken("GO HOME"), 8000)
    soundfile.write(folder / "help.flac", tones.spoken("HELP", 16_000), 16_000)
    soundfile.write(folder / "more" / "yes.wav", tones.spoken("YES"), 8000)
    (folder / "notes.txt").write_text("no recording")
    return folder


def test_text_and_times(cli: Cli, toy: Path, sounds: Path) -> None:
    assert cli("transcribe", toy, sounds / "go.wav").out == "GO HOME\n"
    lines = cli("transcribe", toy, sounds / "go.wav", "--times").out.splitlines()
    assert [line.split()[-1] for line in lines] == ["GO", "HOME"] and lines[0].split()[:2] == ["0.10", "0.26"]
    assert all(line.split()[2].endswith("%") for line in lines)


def test_a_folder(cli: Cli, toy: Path, sounds: Path) -> None:
    ran = cli("transcribe", toy, sounds)
    assert ran.code == 0 and ran.out == "go.wav\tGO HOME\nhelp.flac\tHELP\nmore/yes.wav\tYES\n"
    ran = cli("transcribe", toy, sounds, "--format", "srt", "--out", "subtitles")
    assert ran.code == 0 and "3 srt files" in ran.err
    assert [c.text for c in read_cues(Path("subtitles/more/yes.srt").read_text())] == ["YES"]
    assert sorted(p.name for p in Path("subtitles").rglob("*.srt")) == ["go.srt", "help.srt", "yes.srt"]
    again = cli("transcribe", toy, sounds, "--format", "srt", "--out", "subtitles")
    assert again.code == 2 and "exists already" in again.sentence
    assert cli("transcribe", toy, sounds, "--format", "srt", "--out", "subtitles", "--overwrite").code == 0


def test_names_that_differ_by_their_ending_alone_have_files_of_their_own(
    cli: Cli, toy: Path, tones: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for name, text in (("a.wav", "ONE"), ("a.flac", "TWO")):
        soundfile.write(tmp_path / "in" / name, tones.spoken(text), 8000)
    assert cli("transcribe", toy, "in", "-o", "out").code == 0
    assert {p.name: p.read_text() for p in Path("out").iterdir()} == {"a.wav.txt": "ONE\n", "a.flac.txt": "TWO\n"}


@pytest.mark.parametrize("kind", ["json", "tsv", "ctm", "text"])
def test_many_in_one_file(cli: Cli, toy: Path, sounds: Path, kind: str) -> None:
    ran = cli("transcribe", toy, sounds, "--format", kind, "-o", f"all.{kind}")
    assert ran.code == 0 and ran.out == "" and "3 recordings" in ran.err
    written = Path(f"all.{kind}").read_text()
    assert cli("transcribe", toy, sounds, "--format", kind).out == written
    if kind == "json":
        assert (json.loads(written)[0]["file"], json.loads(written)[0]["text"]) == ("go.wav", "GO HOME")
        assert json.loads(written)[2]["words"][0]["confidence"] > 0.9
    if kind == "ctm":
        assert written.splitlines()[0].split()[:5] == ["go", "1", "0.100", "0.160", "GO"]
    assert cli("transcribe", toy, sounds, "--format", kind, "-o", f"all.{kind}").code == 2


def test_subtitles_of_one_recording(cli: Cli, toy: Path, sounds: Path) -> None:
    assert cli("transcribe", toy, sounds / "go.wav", "--format", "srt").out.startswith("1\n00:00:00,100 --> 00:00:00,")
    assert cli("transcribe", toy, sounds / "go.wav", "--format", "vtt").out.startswith("WEBVTT\n\n00:00:00.100")
    ran = cli("transcribe", toy, sounds, "--format", "srt")
    assert ran.code == 2 and "SRT holds one recording, found 3" in ran.sentence


def test_with_a_language_model(cli: Cli, deaf: Path, tones: ModuleType, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tones.spoken("THE SHED"), 8000)
    (tmp_path / "lm.arpa").write_text(ARPA)
    assert cli("transcribe", deaf, "a.wav").out == "THF SHFD\n"
    ran = cli("transcribe", deaf, "a.wav", "--lm", "lm.arpa", "--lm-weight", "2", "--n-best", "3")
    lines = ran.out.splitlines()
    assert ran.code == 0 and lines[0] == "THE SHED" and lines[1].split() == ["score", "acoustic", "language", "bonus"]
    score, acoustic, language, bonus = map(float, lines[2].split()[:4])
    assert score == pytest.approx(acoustic + 2 * language + bonus, abs=0.03) and len(lines) == 5
    Path("words.txt").write_text("THE\nSHED\n")
    assert cli("transcribe", deaf, "a.wav", "--lexicon", "words.txt").out == "THE SHED\n"
    assert cli("transcribe", deaf, "a.wav", "--hot-words", "SHED").out == "THF SHED\n"
    Path("none.txt").write_text("OTHER\n")
    assert cli("transcribe", deaf, "a.wav", "--lexicon", "none.txt").code == 0, (
        "a lexicon without the words that are said"
    )


def test_streaming_says_what_it_knows_and_ends_as_offline(cli: Cli, toy: Path, sounds: Path) -> None:
    ran = cli("transcribe", toy, sounds / "go.wav", "--stream", "--block", "0.1")
    assert ran.code == 0 and ran.out == cli("transcribe", toy, sounds / "go.wav").out
    partials = [line.split("] ")[1] for line in ran.err.splitlines() if line.startswith("[")]
    assert partials[0] == "G" and partials[-1] == "GO HOME" and partials == sorted(partials, key=len)
    assert "looks 0.02 s ahead" in ran.err


@pytest.mark.parametrize("head", [True, False])
def test_the_standard_input(
    cli: Cli, toy: Path, tones: ModuleType, monkeypatch: pytest.MonkeyPatch, head: bool
) -> None:
    file = io.BytesIO()
    soundfile.write(file, tones.spoken("GO HOME"), 8000, format="WAV")
    whole = file.getvalue()
    bare = (tones.spoken("GO HOME") * 32767).astype("<i2").tobytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(whole if head else bare)))
    assert cli("transcribe", toy, "-", "--stream").out == "GO HOME\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(whole)))
    assert cli("transcribe", toy, "-").out == "GO HOME\n"
    for data, words in ((b"RIFF    WAVE", "ends before its samples"), (b"", "No sound arrived")):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        ran = cli("transcribe", toy, "-", "--stream")
        assert ran.code == 2 and words in ran.sentence
    file = io.BytesIO()
    soundfile.write(file, np.zeros((10, 2)), 44_100, format="WAV")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(file.getvalue())))
    assert "2 channels and 44100 samples" in cli("transcribe", toy, "-", "--stream").sentence


def test_odd_recordings(cli: Cli, toy: Path, tones: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    loud = np.clip(4 * tones.spoken("HELP"), -1, 1)
    soundfile.write(folder / "clipped.wav", loud, 8000)
    soundfile.write(folder / "deep.wav", tones.spoken("HELP", 44_100), 44_100, subtype="PCM_24")
    soundfile.write(folder / "one.wav", np.zeros(1), 8000)
    soundfile.write(folder / "silent.wav", np.zeros(8000), 8000)
    soundfile.write(folder / "stereo.ogg", np.stack([tones.spoken("HELP", 16_000)] * 2, 1), 16_000)
    ran = cli("transcribe", toy, folder)
    assert ran.code == 0
    assert dict(line.split("\t") for line in ran.out.splitlines()) == {
        "clipped.wav": "HELP",
        "deep.wav": "HELP",
        "one.wav": "",
        "silent.wav": "",
        "stereo.ogg": "HELP",
    }
    for note in ("silent.wav: It is silent.", "one.wav: It is 1 samples long", "clipped.wav: It is clipped"):
        assert note in ran.err
    assert cli("transcribe", toy, folder / "silent.wav", "--format", "srt").out == ""


def test_what_cannot_be_read_is_skipped_and_said(cli: Cli, toy: Path, sounds: Path) -> None:
    (sounds / "a.wav").write_text("this is no sound")
    nan = np.zeros(8000, np.float32)
    nan[4000] = np.nan
    soundfile.write(sounds / "nan.wav", nan, 8000, subtype="FLOAT")
    (sounds / "empty.wav").touch()
    ran = cli("transcribe", toy, sounds)
    assert ran.code == 2 and ran.out == "go.wav\tGO HOME\nhelp.flac\tHELP\nmore/yes.wav\tYES\n"
    assert "3 of 6 recordings could not be transcribed; the others are." in ran.sentence
    for words in ("a.wav cannot be read as sound", "empty.wav is an empty file", "nan.wav holds a sample that is not"):
        assert f"{words}" in ran.err
    assert cli("transcribe", toy, sounds, "--format", "json", "-o", "out.json").code == 2
    assert len(json.loads(Path("out.json").read_text())) == 3
    ran = cli("transcribe", toy, sounds / "a.wav")
    assert ran.code == 2 and ran.out == "" and "cannot be read as sound" in ran.sentence
    ran = cli("transcribe", toy, sounds / "a.wav", sounds / "nan.wav", "-o", "x.txt")
    assert ran.code == 2 and "None of the 2 recordings" in ran.sentence and not Path("x.txt").exists()
    ran = cli("transcribe", toy, sounds / "nan.wav", "--stream")
    assert ran.code == 2 and "not a finite number" in ran.sentence


def test_bad_requests_are_one_sentence(cli: Cli, toy: Path, model: Path, sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "cut.arpa").write_text(ARPA[: len(ARPA) // 2])
    one = sounds / "go.wav"
    for words, sentence in (
        ((toy,), "Say what to transcribe"),
        ((toy, "nothing"), "There is no recording in nothing"),
        ((toy, "gone.wav"), "There is no recording or folder gone.wav"),
        ((toy, one, "--lm", "gone.arpa"), "There is no language model at gone.arpa"),
        ((toy, one, "--lexicon", "gone.txt"), "There is no lexicon at gone.txt"),
        ((toy, sounds, "--lm", "cut.arpa"), "cut.arpa"),
        ((toy, one, "--lm", "cut.arpa", "--beam", "1"), "a beam of 1 searches nothing"),
        ((toy, one, "--beam", "0"), "A beam is 1 to"),
        ((toy, one, "--language", "de"), "one language"),
        ((toy, one, "-", "--stream"), "by itself"),
        ((toy, sounds, "--stream"), "--stream hears one recording, found 3"),
        ((toy, one, "--stream", "--beam", "4"), "does not go with streaming"),
        ((toy, one, "--block", "0", "--stream"), "--block must be above 0"),
        ((toy, one, "--times", "--format", "srt"), "--times and --n-best go with"),
        ((model, one), "capability 'transcribe'"),
        ((model, one, "--stream"), "capability 'transcribe'"),
    ):
        ran = cli("transcribe", *words)
        assert ran.code == 2 and sentence in ran.sentence, (words, ran.err)
        assert ran.out == ""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux' /proc")
def test_an_hour_in_bounded_memory(toy: Path, tones: ModuleType, tmp_path: Path) -> None:
    """The samples of an hour would take 115 MB as float32 at the toy's rate, and 635 MB at the file's."""
    piece = tones.spoken("GO HOME ", 44_100)
    with soundfile.SoundFile(tmp_path / "hour.flac", "w", 44_100, 1) as file:
        block = np.concatenate([piece, np.zeros(60 * 44_100 - len(piece), np.float32)])
        for _ in range(60):
            file.write(block)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import toy_recogniser as toy\n"
        "def memory(name):\n"
        "    line = next(x for x in open('/proc/self/status') if x.startswith(name)); return int(line.split()[1]) // 1024\n"
        "model = toy.recogniser(); model.transcribe([toy.recorded('HELP')])\n"
        "open('/proc/self/clear_refs', 'w').write('5'); before = memory('VmRSS')\n"
        "found = model.transcribe([sys.argv[2]])[0]\n"
        "print(len(found.text.split()), round(found.seconds), memory('VmHWM') - before)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parents[1]), str(tmp_path / "hour.flac")],
        capture_output=True,
        text=True,
        check=True,
    )
    words, seconds, megabytes = map(int, ran.stdout.split())
    assert (words, seconds) == (120, 3600) and megabytes < 80, megabytes


def test_a_batch_with_a_bad_recording_is_heard_one_by_one(tones: ModuleType, sounds: Path, tmp_path: Path) -> None:
    files = [sounds / "go.wav", tmp_path / "gone.wav", sounds / "help.flac"]
    told: list[float] = []
    found = list(transcribe_each(tones.recogniser(), files, settings_of({}), lambda _, share: told.append(share)))
    assert [f.text if isinstance(f, Transcript) else "" for f in found] == ["GO HOME", "", "HELP"]
    assert told[-1] == 1.0 and told == sorted(told)
    assert settings_of({"n_best": 70}).beam == 70 and settings_of({}).beam == 1 and settings_of({"beam": 3}).beam == 3
    assert [name for _, name in find_recordings([sounds / "go.wav"])] == ["go.wav"]


def test_info_says_what_a_recording_is(cli: Cli, sounds: Path) -> None:
    facts = json.loads(cli("info", sounds / "help.flac", "--json").out)
    assert facts == {"is": "a recording", "format": "FLAC, PCM_16", "rate": 16_000, "channels": 1, "seconds": 0.6}
    soundfile.write(sounds / "silent.wav", np.zeros((8000, 2)), 8000)
    ran = cli("info", sounds / "silent.wav")
    assert "It is silent." in ran.out and "channels" in ran.out
    (sounds / "a.wav").write_text("no sound")
    assert "cannot be read as sound" in cli("info", sounds / "a.wav").sentence
