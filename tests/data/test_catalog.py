from __future__ import annotations

from pathlib import Path

import pytest

from intermodal.core.errors import DataError
from intermodal.data import catalog
from intermodal.data.catalog import CATALOG, Entry, cache_folder, find


@pytest.fixture
def folders(tmp_path: Path, monkeypatch) -> tuple[Path, Path]:
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    cache.mkdir()
    monkeypatch.setenv("INTERMODAL_DATA", str(data))
    monkeypatch.setenv("INTERMODAL_CACHE", str(cache))
    return data, cache


def test_the_data_folder_goes_before_the_cache(folders):
    data, cache = folders
    (cache / "flickr8k-96.parquet").touch()
    assert find("flickr8k-96") == cache / "flickr8k-96.parquet"
    (data / "flickr8k-96.parquet").touch()
    assert find("flickr8k-96") == data / "flickr8k-96.parquet"


def test_what_is_nowhere_is_explained(folders, monkeypatch):
    data, cache = folders
    with pytest.raises(DataError) as caught:
        find("flickr8k-96")
    for word in (str(data), str(cache), "flickr8k-96.parquet", "set INTERMODAL_DATA", "no public address"):
        assert word in str(caught.value)
    monkeypatch.delenv("INTERMODAL_DATA")
    with pytest.raises(DataError, match="INTERMODAL_DATA is not set"):
        find("flickr8k-96")


def test_an_unknown_name_gets_a_suggestion(folders):
    with pytest.raises(DataError, match=r"no data set 'flickr8k'.*'flickr8k-96'"):
        find("flickr8k")


def test_a_set_with_an_address_is_fetched_into_the_cache(folders, monkeypatch):
    asked = []
    monkeypatch.setitem(CATALOG, "toy", Entry(file="toy.parquet", about="a toy", url="https://x/y", sha256="00"))
    monkeypatch.setattr(catalog, "fetch", lambda *arguments: asked.append(arguments) or arguments[2])
    assert find("toy") == folders[1] / "toy.parquet"
    assert asked == [("https://x/y", "00", folders[1] / "toy.parquet", None)]


def test_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("INTERMODAL_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "intermodal"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "intermodal"


def test_entries_are_fetched_only_with_a_checksum():
    for entry in CATALOG.values():
        assert (entry.url is None) == (entry.sha256 is None)
