from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intermodal.core.config import Config
from intermodal.core.errors import DataError
from intermodal.data.folder import FolderSource
from intermodal.data.loader import train_loader

COUNT = 12


def numbered(template: str, count: int = COUNT) -> dict[str, int]:
    return {template.format(i): i for i in range(count)}


def everything(config: FolderSource) -> dict[str, list[str]]:
    """Return all captions by the name of their picture; check that no picture is on both sides."""
    found: dict[str, list[str]] = {}
    for split in ("train", "validation"):
        source = config.open(split)
        for i in range(len(source)):
            sample = source.sample(i)
            assert sample["image"].size == (8, 8)
            assert sample["text"] == sample["captions"][0]
            assert set(sample) == set(source.fields)
            assert source.sample_name(i) not in found
            found[source.sample_name(i)] = sample["captions"]
    return found


def refused(config: FolderSource, *messages: str, split: str = "train") -> None:
    with pytest.raises(DataError) as caught:
        config.open(split)
    for message in messages:
        assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# The layouts


@pytest.mark.parametrize("column", ["text", "caption", "captions"])
def test_metadata_csv(write, column):
    rows = "".join(f'{i}.png,"a, picture {i}"\n' for i in range(COUNT))
    root = write({**numbered("{}.png"), "metadata.csv": f"file_name,{column}\n{rows}"})
    for path in (root, root / "metadata.csv"):
        found = everything(FolderSource(path=path))
        assert found == {str(root / f"{i}.png"): [f"a, picture {i}"] for i in range(COUNT)}


def test_metadata_with_split_label_and_several_rows_a_picture(write):
    lines = [
        {
            "file_name": f"in/{i}.png",
            "caption": f"{word} {i}",
            "split": "val" if i < 3 else "train",
            "label": i % 2,
        }
        for i in range(6)
        for word in ("one", "two")
    ]
    root = write({**numbered("in/{}.png", 6), "metadata.jsonl": "\n".join(map(json.dumps, lines))})
    config = FolderSource(path=root)
    train, validation = config.open("train"), config.open("validation")
    assert (len(train), len(validation)) == (3, 3)
    assert validation.sample(1)["captions"] == ["one 1", "two 1"]
    assert validation.sample(1)["label"] == "1"
    assert {train.sample(0, np.random.default_rng(i))["text"] for i in range(20)} == {"one 3", "two 3"}
    assert config.open("test").texts() == validation.texts()
    assert len(config.training_texts()) == 6


def test_metadata_of_its_own_column_names_and_a_list_of_captions(write):
    lines = [{"picture": f"{i}.png", "said": [f"a {i}", " ", f"b {i}"]} for i in range(COUNT)]
    root = write({**numbered("{}.png"), "metadata.jsonl": "\n".join(map(json.dumps, lines))})
    found = everything(FolderSource(path=root, text_column="said", image_column="picture"))
    assert found[str(root / "3.png")] == ["a 3", "b 3"]


def test_metadata_in_the_folders_of_splits(write):
    contents: dict[str, str | int] = {}
    for split, count in (("train", 5), ("validation", 2), ("test", 3)):
        contents |= numbered(split + "/{}.png", count)
        contents[f"{split}/metadata.csv"] = "file_name,text\n" + "".join(f"{i}.png,{split} {i}\n" for i in range(count))
    config = FolderSource(path=write(contents))
    for split, count in (("train", 5), ("validation", 2), ("test", 3)):
        assert config.open(split).texts() == [f"{split} {i}" for i in range(count)]


def test_caption_files(write, caplog):
    captions = {f"{i}.txt": f"\ufeffa {i}\r\n\n  b {i}  \n" for i in range(COUNT)}
    root = write({**numbered("{}.png"), **captions, "bare.jpg": 3, ".hidden.png": 4, "notes.md": "hello"})
    with caplog.at_level(logging.WARNING):
        found = everything(FolderSource(path=root))
    assert found == {str(root / f"{i}.png"): [f"a {i}", f"b {i}"] for i in range(COUNT)}
    assert "1 pictures have no caption file and are left out (the first: bare.jpg)" in caplog.text


def test_folders_of_classes(write):
    root = write({**numbered("red_fox/{}.png", 6), **numbered("cat/{}.PNG", 6)})
    source = FolderSource(path=root).open("train")
    assert {(s["text"], s["label"]) for s in map(source.sample, range(len(source)))} == {
        ("cat", "cat"),
        ("red fox", "red_fox"),
    }
    assert source.fields["label"].dtype == "str"
    everything(FolderSource(path=root))


def test_folders_of_classes_in_folders_of_splits(write):
    root = write(
        {
            **numbered("train/cat/{}.png", 4),
            **numbered("train/dog/{}.png", 4),
            **numbered("val/dog/{}.png", 2),
        }
    )
    config = FolderSource(path=root)
    assert len(config.open("train")) == 8
    assert config.open("validation").texts() == ["dog", "dog"]


def test_a_class_may_be_called_test(write):
    root = write({**numbered("test/{}.png", 4), **numbered("practice/{}.png", 4)})
    assert set(FolderSource(path=root).training_texts()) == {"test", "practice"}


def table(png, count: int = COUNT, start: int = 0, **columns) -> pa.Table:
    numbers = range(start, start + count)
    pictures = [{"bytes": png(i), "path": f"{i}.png"} for i in numbers]
    return pa.table({"image": pictures, "text": [f"a {i}" for i in numbers], **columns})


def test_one_parquet_file_with_splits(tmp_path, png):
    path = tmp_path / "mine.parquet"
    pq.write_table(table(png, split=["train"] * 8 + ["validation"] * 3 + ["test"]), path, row_group_size=5)
    config = FolderSource(path=path)
    assert [len(config.open(s)) for s in ("train", "validation", "test")] == [8, 3, 1]
    assert config.open("test").sample(0)["text"] == "a 11"
    assert len(everything(config)) == 11
    assert "(9.png)" in config.open("validation").sample_name(1)


def test_a_folder_of_parquet_files_named_by_split(tmp_path, png):
    for name, count, start in (
        ("train-00000-of-00002", 4, 0),
        ("train-00001-of-00002", 4, 4),
        ("test-00000", 2, 8),
    ):
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(table(png, count, start), tmp_path / "data" / f"{name}.parquet")
    config = FolderSource(path=tmp_path)
    assert len(everything(config)) == 8
    assert config.open("test").texts() == ["a 8", "a 9"]


def test_parquet_with_class_labels_bytes_and_other_names(tmp_path, png):
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["big_cat", "dog"])})
    rows = {
        "img": [{"bytes": png(i), "path": None} for i in range(COUNT)],
        "label": [i % 2 for i in range(COUNT)],
    }
    path = tmp_path / "labelled.parquet"
    pq.write_table(pa.table(rows, schema=features.arrow_schema), path)
    source = FolderSource(path=path).open("train")
    assert {(s["text"], s["label"]) for s in map(source.sample, range(len(source)))} == {
        ("big cat", "big_cat"),
        ("dog", "dog"),
    }
    plain = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"photo": [png(i) for i in range(COUNT)], "said": ["x"] * COUNT}), plain)
    everything(FolderSource(path=plain, image_column="photo", text_column="said"))


# What a person may get wrong


def test_missing_empty_and_unknown(tmp_path, write):
    refused(FolderSource(path=tmp_path / "no"), "There is no file or folder", "no")
    refused(FolderSource(path=tmp_path), "is empty", "Accepted are: a metadata.csv")
    write({"a.docx": "x", "b.docx": "x"})
    refused(FolderSource(path=tmp_path), "holds 2 files, but no pictures")
    refused(FolderSource(path=tmp_path / "a.docx"), "is neither a folder nor a data file")
    refused(FolderSource(path=tmp_path), "There is no split 'dev'", split="dev")


def test_pictures_without_captions(write):
    refused(
        FolderSource(path=write(numbered("{}.png"))),
        "12 pictures, but no captions",
        "a caption file beside each",
    )


def test_pictures_in_one_folder(write):
    refused(
        FolderSource(path=write(numbered("all/{}.png"))),
        "lie in one folder, 'all'",
        "nothing to tell them apart",
    )


def test_metadata_without_a_column(write):
    root = write({**numbered("{}.png", 2), "metadata.csv": "filename,text\n0.png,a\n1.png,b\n"})
    refused(
        FolderSource(path=root),
        "metadata.csv has no column 'file_name'",
        "are filename, text",
        "mean 'filename'?",
    )
    write({"metadata.csv": "file_name,words\n0.png,a\n"})
    refused(FolderSource(path=root), "no column of texts", "expected one of text, caption, captions", "words")
    refused(FolderSource(path=root, text_column="word"), "no column 'word' (text_column)", "Did you mean 'words'?")


def test_metadata_that_names_a_missing_picture(write):
    root = write({"0.png": 0, "metadata.csv": "file_name,text\n0.png,a\n9.png,b\n"})
    refused(FolderSource(path=root), "metadata.csv, line 3 names the picture '9.png', which is not in the folder")


def test_damaged_metadata(write):
    root = write({"0.png": 0, "metadata.jsonl": '{"file_name": "0.png", "text": "a"}\n{"file_'})
    refused(FolderSource(path=root), "metadata.jsonl, line 2 is not valid JSON")
    write({"metadata.jsonl": "[1]\n"})
    refused(FolderSource(path=root), "line 1 should be a JSON object")
    write({"metadata.jsonl": '{"file_name": null, "text": "a"}\n'})
    refused(FolderSource(path=root), "line 1 names no file")
    write({"metadata.jsonl": '{"file_name": "0.png", "text": " "}\n'})
    refused(FolderSource(path=root), "no rows with a text")
    write({"metadata.jsonl": ""})
    refused(FolderSource(path=root), "no rows with a text")


def test_other_encodings(write):
    root = write({"0.png": 0, "1.png": 1, "metadata.csv": "file_name,text\n0.png,café\n".encode("latin-1")})
    refused(FolderSource(path=root), "metadata.csv is not UTF-8 text", "0xe9", "save it as UTF-8")
    (root / "metadata.csv").unlink()
    write({"0.txt": "café".encode("latin-1"), "1.txt": "b"})
    with pytest.raises(DataError, match=r"0\.txt is not UTF-8 text .* save it as UTF-8"):
        everything(FolderSource(path=root))


def test_an_empty_caption_file(write):
    root = write({"0.png": 0, "0.txt": "\n", "1.png": 1, "1.txt": " "})
    with pytest.raises(DataError, match=r"The caption file .*\.txt is empty"):
        FolderSource(path=root).open("train").sample(0)


def test_unreadable_pictures_are_skipped_and_reported(write, png, forged_png, processors):
    contents: dict[str, str | bytes | int] = {
        **numbered("{:02}.png"),
        **{f"{i:02}.txt": "a" for i in range(COUNT)},
    }
    contents |= {"03.png": png(3, (64, 64))[:900], "05.png": forged_png(50_000, 50_000)}
    config = FolderSource(path=write(contents), validation_share=0.001)
    loader, _ = train_loader(config.open("train"), processors, batch_size=COUNT - 1, seed=0)
    (batch,) = loader
    reasons = sorted(s.reason for s in batch.skipped)
    assert "03.png cannot be read as a picture" in reasons[0]
    assert "05.png claims" in reasons[1]
    assert len(batch.tensors["image"]) == COUNT - 1


def test_a_picture_of_one_pixel_is_accepted(write, png, processors):
    root = write({"a.png": png(1, (1, 1)), "a.txt": "dot", "b.png": 2, "b.txt": "b"})
    for split in ("train", "validation"):
        loader, _ = train_loader(FolderSource(path=root).open(split), processors, batch_size=1, seed=0)
        assert [b.tensors["image"].shape for b in loader] == [(1, 3, 8, 8)]


def test_bad_parquet(tmp_path, png):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 this is not Parquet at all")
    refused(FolderSource(path=path), "a.parquet cannot be read as Parquet")
    pq.write_table(table(png).slice(0, 0), path)
    refused(FolderSource(path=path), "a.parquet has no rows")
    pq.write_table(pa.table({"picture": ["x"], "text": ["a"]}), path)
    refused(FolderSource(path=path), "no column of pictures named 'image'", "picture, text", "image_column")
    refused(FolderSource(path=path, image_column="pictur"), "no column 'pictur'", "Did you mean 'picture'?")
    pq.write_table(table(png).drop_columns(["text"]), path)
    refused(FolderSource(path=path), "no column of texts")
    pq.write_table(table(png, split=["train"] * 11 + ["extra"]), path)
    refused(FolderSource(path=path), "names the split 'extra'")
    pq.write_table(table(png, split=["test"] * 12), path)
    refused(FolderSource(path=path), "leaves no picture for train (found: 12 in test)")


def test_parquet_files_that_do_not_fit_together(tmp_path, png):
    pq.write_table(table(png), tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [1], "text": ["a"]}), tmp_path / "b.parquet")
    refused(FolderSource(path=tmp_path), "have different columns")


def test_a_parquet_row_without_a_caption_or_with_a_broken_picture(tmp_path, png):
    path = tmp_path / "a.parquet"
    good = table(png, 2, split=["train"] * 2).to_pylist()
    pq.write_table(
        pa.Table.from_pylist([{**good[0], "text": " "}, {**good[1], "image": {"bytes": b"x", "path": "y.png"}}]),
        path,
    )
    source = FolderSource(path=path, validation_share=0.001).open("train")
    held = FolderSource(path=path, validation_share=0.001).open("validation")
    messages = []
    for part in (source, held):
        with pytest.raises(DataError) as caught:
            part.sample(0)
        messages.append(str(caught.value))
    assert any("row 0" in m and "has no caption" in m for m in messages)
    assert any("row 1 (y.png) cannot be read" in m for m in messages)


def test_single_files_cannot_be_streamed(write):
    root = write({**numbered("{}.png", 2), "0.txt": "a", "1.txt": "b"})
    refused(FolderSource(path=root, streaming=True), "cannot be streamed")


def test_shares_out_of_range(write):
    root = write({**numbered("{}.png", 2), "0.txt": "a", "1.txt": "b"})
    refused(FolderSource(path=root, validation_share=0.0), "must lie between 0 and 1")


def test_heavy_libraries_are_imported_when_needed():
    check = "import sys, intermodal.data.folder; sys.exit('datasets' in sys.modules or 'pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_the_configuration_survives_json(tmp_path):
    for path in (tmp_path, Path("hub:owner/name")):
        config = FolderSource(path=path, text_column="said", streaming=True)
        assert Config.from_json(config.to_json()) == config
