from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from intermodal.core.errors import DataError
from intermodal.data.folder import FolderSource
from intermodal.data.splits import choose_split


def numbered(template: str, count: int) -> dict[str, int]:
    return {template.format(i): i for i in range(count)}


def test_held_out_files_stay_held_out_when_others_come(write):
    root = write({name: i for i, name in enumerate(f"{c}/{n}.png" for c in "ab" for n in range(40))})
    config = FolderSource(path=root, validation_share=0.2)
    before = {Path(config.open("validation").sample_name(i)).name for i in range(len(config.open("validation")))}
    held = set(config.open("validation").files)
    write({name: i for i, name in enumerate(f"{c}/new{n}.png" for c in "ab" for n in range(20))})
    assert held <= set(config.open("validation").files)
    assert before
    assert not held & set(config.open("train").files)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("share", [0.0001, 0.9999])
def test_tiny_folders_have_something_on_each_side(write, count, share):
    root = write({**numbered("{}.png", count), **{f"{i}.txt": "a" for i in range(count)}})
    config = FolderSource(path=root, validation_share=share)
    sizes = [len(config.open(s)) for s in ("train", "validation")]
    assert min(sizes) >= 1
    assert sum(sizes) == count
    assert config.open("test").files == config.open("validation").files


def test_one_picture_can_only_be_trained_on(write):
    config = FolderSource(path=write({"a.png": 1, "a.txt": "a"}))
    assert len(config.open("train")) == 1
    with pytest.raises(DataError, match="leaves no picture for validation"):
        config.open("validation")


def test_share_is_about_what_was_asked_for():
    names = [f"{i}.jpg" for i in range(5000)]
    held = choose_split(names, [None] * 5000, "validation", 0.1, "mine")
    assert 430 < len(held) < 570


def test_a_hundred_thousand_files_are_listed_quickly(tmp_path):
    for folder in range(10):
        (tmp_path / str(folder)).mkdir()
        for i in range(1000):
            os.close(os.open(tmp_path / str(folder) / f"{i}.jpg", os.O_CREAT))
    began = time.perf_counter()
    assert len(FolderSource(path=tmp_path).open("train")) > 8500
    assert time.perf_counter() - began < 1.0  # a tenth of the hundred thousand, with room for a busy machine
