from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intermodal.core.errors import DataError
from intermodal.data.flickr import Flickr8kSource
from intermodal.data.loader import train_loader

needs_data = pytest.mark.skipif(
    "INTERMODAL_DATA" not in os.environ, reason="INTERMODAL_DATA does not say where flickr8k-96.parquet is"
)


@needs_data
def test_the_published_splits():
    train, validation = (Flickr8kSource().open(s) for s in ("train", "validation"))
    assert (len(train), len(validation)) == (6528, 742)
    names = [{s.sample_name(i).rpartition("(")[2] for i in range(0, len(s), 7)} for s in (train, validation)]
    assert not names[0] & names[1]


@needs_data
def test_a_sample():
    source = Flickr8kSource().open("train")
    sample = source.sample(0)
    assert sample["image"].size == (96, 96)
    assert len(sample["captions"]) == 5
    assert sample["text"] == sample["captions"][0]
    drawn = {source.sample(0, np.random.default_rng(i))["text"] for i in range(60)}
    assert drawn == set(sample["captions"])
    assert "1000268201_693b08cb0e.jpg" in source.sample_name(0)


@needs_data
def test_texts_and_batches(processors):
    assert len(Flickr8kSource().training_texts()) == 5 * 6528
    source = Flickr8kSource().open("validation")
    loader, sampler = train_loader(source, processors, batch_size=64, seed=0)
    assert next(iter(loader)).tensors["image"].shape == (64, 3, 8, 8)
    assert len(sampler) == 742 // 64


@needs_data
def test_the_test_split_is_kept_apart():
    with pytest.raises(DataError, match=r"splits train and validation; found 'test'. Its test photographs are kept"):
        Flickr8kSource().open("test")


def test_another_file_under_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERMODAL_DATA", str(tmp_path))
    path = tmp_path / "flickr8k-96.parquet"
    pq.write_table(pa.table({"image": ["x"], "text": ["a"]}), path)
    with pytest.raises(DataError, match="lacks the columns captions, split; it has image, text"):
        Flickr8kSource().open("train")
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        Flickr8kSource().open("train")
