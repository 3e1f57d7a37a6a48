from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from intermodal.core.errors import DataError
from intermodal.data.folder import FolderSource
from intermodal.data.loader import stream_loader, train_loader
from intermodal.data.stream import RowStream, StreamSource
from intermodal.data.transforms import ImageAugment

AUGMENT = ImageAugment(flip=0.5, rotate=20, brightness=0.2)
SHARDS, EACH = 4, 15


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path: Path):
    """Keep what ``datasets`` writes inside the test's folder, and the network out of it."""
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    for module in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("INTERMODAL_OFFLINE", "1")
    enabled = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    yield
    if enabled:
        datasets.enable_progress_bars()


def write_shards(root: Path, png, names: list[str], each: int = EACH) -> Path:
    root.mkdir()
    for shard, name in enumerate(names):
        with tarfile.open(root / f"{name}.tar", "w") as tar:
            for i in range(each):
                for suffix, data in (
                    ("png", png(shard * each + i)),
                    ("txt", f"shard {shard} row {i}".encode()),
                ):
                    info = tarfile.TarInfo(f"{shard}_{i}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return root


@pytest.fixture
def shards(tmp_path: Path, png) -> Path:
    return write_shards(tmp_path / "shards", png, [f"part-{k}" for k in range(SHARDS)])


def stream(path: Path, **options) -> StreamSource:
    config = FolderSource(path=path, streaming=True, shuffle_block=7, stream_epoch=24, **options)
    source = config.open("train")
    assert isinstance(source, StreamSource)
    return source


def one_pass(source: StreamSource, rank: int = 0, world: int = 1, seed: int = 0) -> list[str]:
    """Return the texts of the first pass of one rank."""
    texts = []
    for place, row in RowStream(source, seed, rank, world, reader=rank):
        if place.epoch:
            break
        texts += source.columns.captions(row)
    return texts


def read(source, processors, *, state=None, stop=None, epochs=4, **options):
    loader, counter = train_loader(source, processors, batch_size=6, seed=2, augment=AUGMENT, **options)
    if state is not None:
        loader.load_state_dict(json.loads(json.dumps(state)))
    batches = []
    for epoch in range(counter.epoch, epochs):
        counter.set_epoch(epoch)
        for batch in loader:
            batches.append(batch.tensors)
            if len(batches) == stop:
                return batches, loader.state_dict()
    return batches, loader.state_dict()


def equal(first, second) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a[k], b[k]) for a, b in zip(first, second, strict=True) for k in a
    )


def test_shards_can_be_opened_whole(shards):
    config = FolderSource(path=shards)
    train, validation = config.open("train"), config.open("validation")
    assert len(train) + len(validation) == SHARDS * EACH
    assert not set(train.texts()) & set(validation.texts())
    assert train.sample(0)["image"].size == (8, 8)
    assert config.open("test").texts() == validation.texts()


def test_a_stream_holds_out_what_the_whole_does(shards):
    whole = FolderSource(path=shards)
    source = stream(shards)
    assert sorted(one_pass(source)) == sorted(whole.training_texts())
    held = FolderSource(path=shards, streaming=True).open("validation")
    assert sorted(held.texts()) == sorted(whole.open("validation").texts())
    assert held.sample(0)["image"].size == (8, 8)
    assert source.fields.keys() == held.fields.keys()


def test_passes_are_shuffled_and_reproducible(shards):
    source = stream(shards)
    assert one_pass(source) == one_pass(source)
    assert one_pass(source) != one_pass(source, seed=1)
    assert one_pass(source) != source.texts()


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_are_disjoint_and_complete(shards, world):
    source = stream(shards)
    parts = [one_pass(source, rank, world) for rank in range(world)]
    assert all(parts)
    assert sorted(text for part in parts for text in part) == sorted(FolderSource(path=shards).training_texts())


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_gives_the_same_batches(shards, processors, workers):
    source = stream(shards)
    whole, _ = read(source, processors, workers=workers)
    assert len(whole) == 16
    for stop in (1, 4, 10, 15):
        begun, state = read(source, processors, workers=workers, stop=stop)
        rest, _ = read(stream(shards), processors, workers=workers, state=state)
        assert equal(begun + rest, whole)


def test_resume_of_a_rank_with_workers(shards, processors):
    options = {"workers": 1, "rank": 1, "world": 2}
    whole, _ = read(stream(shards), processors, **options)
    begun, state = read(stream(shards), processors, stop=6, **options)
    assert equal(begun + read(stream(shards), processors, state=state, **options)[0], whole)
    with pytest.raises(DataError, match="read by 2 processes with 1 workers each, now by 2 with 0"):
        read(stream(shards), processors, state=state, workers=0, rank=1, world=2)


def test_epochs_have_the_same_length_on_every_rank(shards, processors):
    lengths = []
    for rank in (0, 1, 2):
        loader, counter = stream_loader(stream(shards), processors, batch_size=6, seed=0, rank=rank, world=3)
        batches = list(loader)
        lengths.append((len(batches), len(counter), len(batches[0].tensors["text"])))
    assert lengths == [(4, 4, 2)] * 3


def test_parquet_files_can_be_streamed(tmp_path, png, processors):
    for shard in range(2):
        rows = [{"image": {"bytes": png(i), "path": f"{shard}_{i}.png"}, "text": f"{shard} {i}"} for i in range(20)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"part{shard}.parquet", row_group_size=6)
    config = FolderSource(path=tmp_path)
    source = stream(tmp_path)
    assert sorted(one_pass(source)) == sorted(config.training_texts())
    whole, _ = read(source, processors)
    begun, state = read(source, processors, stop=5)
    assert equal(begun + read(stream(tmp_path), processors, state=state)[0], whole)


def test_shards_named_by_split(tmp_path, png):
    root = write_shards(tmp_path / "named", png, ["train-0", "train-1", "val-0"])
    assert len(one_pass(stream(root))) == 2 * EACH
    for streaming in (True, False):
        texts = FolderSource(path=root, streaming=streaming).open("validation").texts()
        assert texts == [f"shard 2 row {i}" for i in range(EACH)]


def test_unreadable_pictures_of_a_stream_are_skipped(tmp_path, png, processors):
    root = write_shards(tmp_path / "broken", lambda i: b"broken" if i == 3 else png(i), ["train-0", "val-0"])
    loader, _ = stream_loader(stream(root), processors, batch_size=5, seed=0)
    skipped = [s for batch in loader for s in batch.skipped]
    assert skipped
    assert all("0_3.png" in s.name and "cannot be read" in s.reason for s in skipped)


def test_a_damaged_shard_is_named(shards):
    path = shards / "part-2.tar"
    path.write_bytes(path.read_bytes()[:9000])  # in the middle of a picture
    with pytest.raises(DataError, match=r"shards cannot be read on .*: a shard is damaged or out of reach"):
        one_pass(stream(shards))
    with pytest.raises(DataError, match="shards cannot be opened"):
        FolderSource(path=shards).open("train")


def test_not_a_shard_at_all(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"hello")
    for streaming in (False, True):
        with pytest.raises(DataError, match="cannot be opened"):
            FolderSource(path=tmp_path, streaming=streaming).open("train")


def test_a_stream_has_no_random_access(shards):
    with pytest.raises(DataError, match="is a stream"):
        stream(shards).sample(0)


def test_hub_while_offline():
    with pytest.raises(DataError) as caught:
        FolderSource(path=Path("hub:nobody/nothing")).open("train")
    assert "hub:nobody/nothing is not in the cache and the network is off (INTERMODAL_OFFLINE is set)" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_as_the_library_answers(monkeypatch, png, streaming):
    import datasets

    def answer(name: str, streaming: bool):
        assert name == "owner/name"
        rows = {
            "image": [{"bytes": png(i), "path": None} for i in range(30)],
            "label": [i % 2 for i in range(30)],
        }
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
        train = datasets.Dataset.from_dict(rows, features=features)
        parts = {"train": train, "test": train.take(4)}
        return {k: d.to_iterable_dataset() if streaming else d for k, d in parts.items()}

    monkeypatch.setattr(datasets, "load_dataset", answer)
    config = FolderSource(path=Path("hub:owner/name"), streaming=streaming)
    train, validation, test = (config.open(s) for s in ("train", "validation", "test"))
    assert len(test) == 4
    assert test.sample(1)["text"] == test.sample(1)["label"] == "dog"
    assert len(validation) >= 1
    if streaming:
        assert set(train.texts()) == {"cat", "dog"}
        assert len(one_pass(train)) + len(validation) == 30
    else:
        assert len(train) + len(validation) == 30
