"""The index of a folder: exact, incremental, safe from kills, and loyal to its model."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from intermodal.core.errors import DataError, IntermodalError
from intermodal.index import embedding
from intermodal.index.database import HIDDEN, IndexMismatchError
from intermodal.index.embedding import ModelStamp, stamp
from intermodal.index.folder import FolderIndex
from intermodal.methods.contrastive.clip import CLIP


def vectors_of(model: CLIP, folder: Path) -> tuple[list[str], np.ndarray]:
    files = sorted(folder.rglob("*.png"))
    return [str(f) for f in files], model.embed("image", [Image.open(f).convert("RGB") for f in files])


def changed(model: CLIP) -> CLIP:
    other = copy.deepcopy(model)
    other.image_projection.weight.data[0, 0] += 1e-3
    return other


def test_search_is_the_exact_cosine_order(small_clip: CLIP, pictures: Path) -> None:
    index = FolderIndex(pictures, small_clip)
    assert index.update().added == 12
    files, vectors = vectors_of(small_clip, pictures)
    query = small_clip.embed("text", ["a red square"])[0]
    hits = index.search(query, 5)
    scores = vectors @ query
    best = np.argsort(-scores)[:5]
    assert [hit.path for hit in hits] == [files[i] for i in best]
    np.testing.assert_allclose([hit.score for hit in hits], scores[best], atol=1e-5)
    assert hits[0].picture().size == (24, 24)


def test_more_asked_than_there_is(small_clip: CLIP, pictures: Path) -> None:
    index = FolderIndex(pictures, small_clip)
    assert index.search(np.eye(8, dtype=np.float32)[0], 3) == []
    index.update()
    assert len(index.search(np.eye(8, dtype=np.float32)[0], 100)) == len(index) == 12


def test_update_reads_only_what_changed(small_clip: CLIP, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FolderIndex(pictures, small_clip).update()
    read: list[str] = []
    original = CLIP.embed
    monkeypatch.setattr(CLIP, "embed", lambda *a: read.append(a[1]) or original(*a))

    again = FolderIndex(pictures, small_clip, made_by=stamp(small_clip))
    read.clear()
    assert str(again.update()) == "12 pictures (0 new, 0 changed, 0 gone)"
    assert read == []

    (pictures / "000.png").unlink()
    Image.new("RGB", (9, 9), "red").save(pictures / "001.png")
    (pictures / "deeper" / "it's").mkdir(parents=True)
    Image.new("RGB", (9, 9), "blue").save(pictures / "deeper" / "it's" / "new.png")
    update = again.update()
    assert (update.added, update.changed, update.removed, update.total) == (1, 1, 1, 12)
    files, vectors = vectors_of(small_clip, pictures)
    hit = again.search(vectors[-1], 1)[0]
    assert hit.path == files[-1] and hit.score == pytest.approx(1, abs=1e-5)
    assert str(pictures / "000.png") not in [h.path for h in again.search(vectors[0], 100)]

    (pictures / "deeper" / "it's" / "new.png").unlink()
    assert again.update().removed == 1


def test_unreadable_pictures_are_reported_once_and_retried_when_they_change(small_clip: CLIP, pictures: Path) -> None:
    (pictures / "000.png").write_bytes((pictures / "000.png").read_bytes()[:40])
    index = FolderIndex(pictures, small_clip)
    update = index.update()
    assert len(update.unreadable) == 1 and "000.png" in update.unreadable[0].reason
    assert update.total == 11
    again = index.update()
    assert again.unreadable == [] and again.known_unreadable == 1 and "1 unreadable" in str(again)
    assert len(index.search(np.ones(8, np.float32) / 8**0.5, 100)) == 11
    Image.new("RGB", (9, 9), "red").save(pictures / "000.png")
    assert index.update().changed == 1
    assert len(index) == 12


def test_another_model_is_refused_and_rebuild_replaces(small_clip: CLIP, pictures: Path, tmp_path: Path) -> None:
    FolderIndex(pictures, small_clip).update()
    other = changed(small_clip)
    with pytest.raises(IndexMismatchError, match=r"made by another model.*--rebuild.*--index"):
        FolderIndex(pictures, other)
    assert len(FolderIndex(pictures, small_clip)) == 12, "the refusal changes nothing"
    assert FolderIndex(pictures, other, path=tmp_path / "elsewhere").update().added == 12
    rebuilt = FolderIndex(pictures, other, rebuild=True)
    assert rebuilt.update().added == 12
    with pytest.raises(IndexMismatchError):
        FolderIndex(pictures, small_clip)


def test_the_stamp_follows_weights_and_processors_not_the_place(small_clip: CLIP, tmp_path: Path) -> None:
    small_clip.save(tmp_path / "a")
    first = stamp(small_clip)
    assert first == stamp(CLIP.load(tmp_path / "a")) and (first.method, first.dim) == ("clip", 8)
    assert ModelStamp.from_json(first.to_json()) == first
    assert stamp(changed(small_clip)) != first
    other = copy.deepcopy(small_clip)
    other.processors["image"] = small_clip.processors["image"].replace(resize="pad")  # type: ignore[attr-defined]
    assert stamp(other) != first


def test_damage_is_a_sentence_and_rebuild_repairs(small_clip: CLIP, pictures: Path) -> None:
    FolderIndex(pictures, small_clip).update()
    for manifest in (pictures / HIDDEN).rglob("*.manifest"):
        manifest.write_bytes(b"junk")
    with pytest.raises(DataError, match=r"damaged.*--rebuild"):
        FolderIndex(pictures, small_clip)
    assert FolderIndex(pictures, small_clip, rebuild=True).update().total == 12


def test_bad_folders(small_clip: CLIP, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        FolderIndex(tmp_path / "nowhere", small_clip)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="There is no picture in"):
        FolderIndex(tmp_path / "empty", small_clip).update()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(13, "Permission denied"), "No permission.*--index"),
        (OSError(30, "Read-only file system"), "cannot be written .Read-only"),
        (RuntimeError("lance error: IO: No space left on device (os error 28)"), "disk is full"),
        (RuntimeError("lance error: Permission denied (os error 13)"), "No permission.*--index"),
        (RuntimeError("lance error: something else\nand its trace"), "failed: lance error: something else$"),
    ],
)
def test_what_the_database_reports_becomes_a_sentence(
    small_clip: CLIP, pictures: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    def fail(self: Path, **options: bool) -> None:
        raise error

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(IntermodalError, match=sentence):
        FolderIndex(pictures, small_clip)


def test_bad_queries(small_clip: CLIP, pictures: Path) -> None:
    index = FolderIndex(pictures, small_clip)
    with pytest.raises(DataError, match="8 dimensions"):
        index.search(np.ones(7, np.float32), 3)
    with pytest.raises(DataError, match="at least 1"):
        index.search(np.ones(8, np.float32), 0)


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from intermodal.hub.load import load
from intermodal.index import embedding
from intermodal.index.folder import FolderIndex

embedding.BATCH = 2
model, folder = load(sys.argv[1]), Path(sys.argv[2])

def update_and_die(die_at):  # in a child, so that both kills share one start of Python
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        return child, reading
    def progress(what, share):
        os.write(writing, b"x")
        if what.startswith("indexing") and share >= die_at:
            os.kill(os.getpid(), signal.SIGKILL)
    FolderIndex(folder, model).update(progress)
    os._exit(0)

child, _ = update_and_die(0.5)
assert os.waitpid(child, 0)[1] == signal.SIGKILL
print(sum(1 for _ in (folder / ".intermodal-index").rglob("*.manifest")), flush=True)
child, reading = update_and_die(2.0)  # this one from outside, at a moment that is nobody's choice
while len(os.read(reading, 1)) and not os.read(reading, 1):
    pass
time.sleep(0.003)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""


def test_a_killed_update_keeps_its_batches_and_the_next_completes_it(
    small_clip: CLIP, pictures: Path, tmp_path: Path
) -> None:
    small_clip.save(tmp_path / "model")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "model"), str(pictures)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 4, "the table, and three batches of two, were committed before the first kill"

    index = FolderIndex(pictures, small_clip)
    kept = len(index)
    assert kept >= 6, "whatever was committed is there"
    _, vectors = vectors_of(small_clip, pictures)
    assert len(index.search(vectors[0], 100)) == kept, "a half-built index can be searched"
    assert index.update().added == 12 - kept
    files, vectors = vectors_of(small_clip, pictures)
    for vector in vectors:
        assert index.search(vector, 1)[0].score > 0.9999
    assert sorted(hit.path for hit in index.search(vectors[0], 100)) == files, "each picture once"


def test_a_creation_cut_short_is_done_again(small_clip: CLIP, pictures: Path) -> None:
    (pictures / HIDDEN / "pictures.lance").mkdir(parents=True)
    assert FolderIndex(pictures, small_clip).update().added == 12


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 5), st.integers(1, 2000))
def test_batches_hold_every_picture_once_and_are_bounded(sizes: list[int], batch: int, pixels: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "BATCH", batch)
        patch.setattr(embedding, "PIXELS", pixels)

        def read(i: int) -> Image.Image:
            if sizes[i] % 7 == 0:
                raise DataError(f"{i} is bad")
            return Image.new("RGB", (sizes[i], sizes[i]))

        seen: list[int] = []
        for good, opened, bad in embedding.in_batches(range(len(sizes)), read, str):
            assert len(good) == len(opened) and 0 < len(good) + len(bad) <= batch
            assert sum(p.width * p.height for p in opened[:-1]) < pixels
            seen += [*good, *(i for i, _ in bad)]
        assert sorted(seen) == list(range(len(sizes)))


class Ear:
    """Embeds a recording by the octave of its loudest frequency."""

    id = "ear"
    modalities = ("audio",)
    config = ModelStamp("ear", 4, "0")

    def embed(self, modality: str, inputs: list) -> np.ndarray:
        assert modality == "audio"
        out = np.zeros((len(inputs), 4), np.float32)
        for row, wave in zip(out, inputs, strict=True):
            loudest = np.abs(np.fft.rfft(wave.samples)).argmax() * wave.rate / len(wave.samples)
            row[int(np.clip(np.log2(loudest / 200), 0, 3))] = 1
        return out


def test_a_folder_of_recordings(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    time = np.arange(4000) / 8000
    for frequency in (250, 500, 1000, 2000):
        soundfile.write(tmp_path / f"{frequency}.wav", 0.1 * np.sin(2 * np.pi * frequency * time), 8000)
    (tmp_path / "torn.wav").write_bytes(b"RIFF")
    index = FolderIndex(tmp_path, Ear(), "audio", made_by=Ear.config)
    update = index.update()
    assert str(update) == "4 recordings (5 new, 0 changed, 0 gone), 1 unreadable"
    query = Ear().embed("audio", [embedding.open_file(tmp_path / "1000.wav", "audio")])[0]
    hit = index.search(query, 2)[0]
    assert hit.path == str(tmp_path / "1000.wav") and hit.score == pytest.approx(1) and hit.picture is None
    assert embedding.modality_of(tmp_path, ("image", "audio")) == "audio", "there is no picture"
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert embedding.modality_of(tmp_path, ("image", "audio")) == "image"
    assert embedding.modality_of(tmp_path, ("text", "audio")) == "audio"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="There is no recording in"):
        FolderIndex(tmp_path / "empty", Ear(), "audio", made_by=Ear.config).update()
