"""Recordings with transcripts, in every layout that people keep them in."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.speech import SpeechSource

RATE = 8_000


def write(path: Path, seconds: float = 0.2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(str(path))).standard_normal(round(seconds * RATE)) * 0.1
    soundfile.write(path, noise.astype(np.float32), RATE)


def everything(source: SpeechSource) -> dict[str, tuple[str, str, str]]:
    return {
        opened.sample_name(i): (opened.sample(i)["text"], opened.sample(i)["speaker"], split)
        for split in ("train", "validation")
        for opened in [source.open(split)]
        for i in range(len(opened))
    }


def test_transcripts_beside_recordings_and_whole_speakers_held_out(tmp_path):
    for speaker in "abcdefghij":
        for n in range(3):
            write(tmp_path / speaker / f"{n}.wav")
            (tmp_path / speaker / f"{n}.txt").write_text(f"{speaker} says\n {n}")
    found = everything(SpeechSource(path=tmp_path, validation_share=0.3))
    assert len(found) == 30
    assert found["a/1.wav"][:2] == ("a says 1", "a")
    by_speaker = {s: {split for name, (_, who, split) in found.items() if who == s} for s in "abcdefghij"}
    assert all(len(splits) == 1 for splits in by_speaker.values())
    assert set().union(*by_speaker.values()) == {"train", "validation"}


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_metadata_with_speakers_and_splits(tmp_path, suffix):
    rows = [("x.wav", "hello", "ann", "train"), ("y.wav", "there", "bob", "dev"), ("z.wav", "you", "cy", "test")]
    with (tmp_path / f"metadata{suffix}").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="," if suffix == ".csv" else "\t")
        writer.writerow(["file_name", "sentence", "client_id", "split"])
        writer.writerows(rows)
    for name, *_ in rows:
        write(tmp_path / name)
    source = SpeechSource(path=tmp_path)
    assert [source.open(s).sample(0)["text"] for s in ("train", "validation", "test")] == ["hello", "there", "you"]
    assert source.open("train").speakers() == ["ann"]


def test_librispeech(tmp_path):
    for speaker in ("12", "34"):
        for n in range(2):
            write(tmp_path / speaker / "7" / f"{speaker}-7-000{n}.flac")
        lines = [f"{speaker}-7-000{n} WORDS {n}" for n in range(2)]
        (tmp_path / speaker / "7" / f"{speaker}-7.trans.txt").write_text("\n".join(lines) + "\n")
    found = everything(SpeechSource(path=tmp_path))
    assert found["12/7/12-7-0001.flac"][:2] == ("WORDS 1", "12")
    assert len(found) == 4
    (tmp_path / "12" / "7" / "12-7-0001.flac").unlink()
    with pytest.raises(DataError, match="12-7-0001"):
        SpeechSource(path=tmp_path).open("train")


def test_folders_of_words(tmp_path):
    for word in ("yes", "no"):
        for n in range(5):
            write(tmp_path / word / f"{n}.ogg")
    assert {text for text, *_ in everything(SpeechSource(path=tmp_path)).values()} == {"yes", "no"}


def test_parquet_and_left_out_speaker(tmp_path):
    write(tmp_path / "a.wav")
    sound = (tmp_path / "a.wav").read_bytes()
    table = pa.table(
        {
            "audio": [{"bytes": sound, "path": f"{i}.wav"} for i in range(6)],
            "text": [f"word {i}" for i in range(6)],
            "speaker": list("aabbcc"),
        }
    )
    pq.write_table(table, tmp_path / "data.parquet")
    source = SpeechSource(path=tmp_path / "data.parquet", left_out="b", validation_share=0.0)
    assert source.open("test").speakers() == ["b", "b"]
    assert source.open("train").speakers() == list("aacc")
    with pytest.raises(DataError, match="none is held out"):
        source.open("validation")
    with pytest.raises(DataError, match="no speaker 'z'"):
        source.replace(left_out="z").open("test")
    assert source.open("train").lengths() == pytest.approx([0.2] * 4)


def test_speed_changes_length_in_training_alone(tmp_path):
    for n in range(20):
        write(tmp_path / f"{n}.wav", 1.0)
        (tmp_path / f"{n}.txt").write_text("word")
    source = SpeechSource(path=tmp_path, speeds=(0.9, 1.0, 1.1))
    train = source.open("train")
    found = {len(train.sample(0, np.random.default_rng(i))["audio"].samples) for i in range(30)}
    assert found == {RATE, round(RATE / 1.1), round(RATE / 0.9)}
    assert len(train.sample(0)["audio"].samples) == RATE
    assert len(source.open("validation").sample(0, np.random.default_rng(0))["audio"].samples) == RATE


def test_long_recordings_are_left_out_of_training(tmp_path):
    for n in range(12):
        write(tmp_path / f"{n}.wav", 0.2 if n % 2 else 2.0)
        (tmp_path / f"{n}.txt").write_text("word")
    assert max(SpeechSource(path=tmp_path, most_seconds=1.0).open("train").lengths()) < 1
    with pytest.raises(DataError, match="longer than"):
        SpeechSource(path=tmp_path, most_seconds=0.1).open("train")


def test_bad_data_is_said_in_words(tmp_path):
    with pytest.raises(DataError, match="no file or folder"):
        SpeechSource(path=tmp_path / "nowhere").open("train")
    with pytest.raises(DataError, match="is empty"):
        SpeechSource(path=tmp_path).open("train")
    write(tmp_path / "a.wav")
    with pytest.raises(DataError, match="no transcripts"):
        SpeechSource(path=tmp_path).open("train")
    (tmp_path / "a.txt").write_text(" ")
    write(tmp_path / "b.wav")
    (tmp_path / "b.txt").write_text("b")
    source = SpeechSource(path=tmp_path)
    opened = [source.open(s) for s in ("train", "validation")]
    empty = next(o for o in opened if o.sample_name(0) == "a.wav")
    with pytest.raises(DataError, match="no transcript"):
        empty.sample(0)
    with pytest.raises(ConfigError, match="speeds"):
        SpeechSource(path=tmp_path, speeds=(0.0,))
    with pytest.raises(DataError, match="neither a folder"):
        SpeechSource(path=tmp_path / "a.wav").open("train")
    (tmp_path / "metadata.csv").write_text("name,text\na.wav,hello\n")
    with pytest.raises(DataError, match="no column 'file_name'"):
        SpeechSource(path=tmp_path).open("train")


@pytest.mark.skipif("INTERMODAL_DATA" not in os.environ, reason="INTERMODAL_DATA is not set")
def test_an4_has_its_published_split():
    source = SpeechSource(path=Path("an4"))
    train, validation, test = (source.open(s) for s in ("train", "validation", "test"))
    assert len(train) + len(validation) == 948
    assert len(test) == 130
    assert sum(len(t.split()) for t in test.texts()) == 773
    assert not set(train.speakers()) & set(validation.speakers())
    assert not (set(train.speakers()) | set(validation.speakers())) & set(test.speakers())
    assert test.sample(0)["audio"].rate == 16_000
