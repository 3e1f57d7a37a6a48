from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from intermodal.core.errors import DataError
from intermodal.data.image_pairs import ImagePairSource
from intermodal.data.loader import train_loader
from intermodal.data.pictures import PictureSource, without_classes
from intermodal.data.processors import ImageProcessor, LabelProcessor
from intermodal.data.transforms import ImageAugment


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "more").mkdir()
    for i in range(12):
        Image.new("RGB", (10, 10), (20 * i, 0, 0)).save(tmp_path / ("more" if i % 2 else ".") / f"{i}.png")
    return tmp_path


def write(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(["a,b,same", *rows]) + "\n", encoding="utf-8")
    return path


ROWS = ["0.png,2.png,1", "0.png,more/1.png,0", "4.png,6.png,yes", "4.png,more/3.png,different"] * 3
ROWS = [row.replace("0.png", f"{i // 4 * 2}.png", 1) for i, row in enumerate(ROWS)]


def test_csv_and_jsonl_say_the_same(folder):
    csv = ImagePairSource(path=write(folder / "pairs.csv", ROWS)).open("train")
    lines = [dict(zip(("a", "b", "same"), row.split(","), strict=True)) for row in ROWS]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    jsonl = ImagePairSource(path=folder / "pairs.jsonl").open("train")
    assert csv.pairs == jsonl.pairs
    sample = csv.sample(0)
    assert len(sample["image"]) == 2
    assert csv.labels() == ["same" if pair.same else "different" for pair in csv.pairs]


def test_a_batch_holds_both_pictures_and_whether_they_belong_together(folder):
    source = ImagePairSource(path=write(folder / "pairs.csv", ROWS)).open("train")
    processors = {"image": ImageProcessor(size=(8, 8)), "label": LabelProcessor.of(source.labels())}
    loader, _ = train_loader(source, processors, batch_size=4, seed=0, augment=ImageAugment(flip=0.5, views=2))
    batch = next(iter(loader)).tensors
    assert batch["image"].shape == (4, 2, 3, 8, 8)
    assert set(batch["label"].tolist()) <= {0, 1}
    assert processors["label"].decode(torch.tensor([0, 1])) == ["different", "same"]


def test_held_out_pairs_are_no_training_pairs(folder):
    source = ImagePairSource(path=write(folder / "pairs.csv", list(dict.fromkeys(ROWS))), validation_share=0.3)
    train, held = source.open("train").pairs, source.open("validation").pairs
    assert train
    assert held
    assert not set(train) & set(held)
    assert {pair.same for pair in train} == {pair.same for pair in held} == {True, False}


def test_a_split_column_is_followed(folder):
    path = folder / "pairs.csv"
    path.write_text("a,b,same,split\n0.png,2.png,1,train\n0.png,4.png,0,train\n2.png,4.png,0,val\n", encoding="utf-8")
    assert len(ImagePairSource(path=path).open("train")) == 2
    assert len(ImagePairSource(path=path).open("validation")) == 1
    path.write_text("a,b,same,split\n0.png,2.png,1,train\n0.png,4.png,1,train\n2.png,4.png,0,val\n", encoding="utf-8")
    with pytest.raises(DataError, match="2 training pairs of .* are 'same': both kinds are needed"):
        ImagePairSource(path=path).open("train")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["0.png,2.png,maybe"], "line 2: the column 'same' should be 1 or 0"),
        (["0.png,nowhere.png,1"], "line 2 names the picture 'nowhere.png', which is not there"),
        (["0.png,,1"], "line 2 names no picture in its column 'b'"),
        (["0.png,2.png,1", "0.png,4.png,1", "2.png,4.png,0"], "1 of them 'different': at least two of each kind"),
        ([], "lists no pairs"),
    ],
)
def test_a_wrong_list_is_refused_in_a_sentence_that_names_the_line(folder, rows, says):
    with pytest.raises(DataError, match=says):
        ImagePairSource(path=write(folder / "pairs.csv", rows)).open("train")


def test_a_missing_column_another_suffix_and_another_encoding_are_refused(folder):
    (folder / "pairs.csv").write_text("a,c\n0.png,1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"lacks the column 'b'.*found are a, c"):
        ImagePairSource(path=folder / "pairs.csv").open("train")
    with pytest.raises(DataError, match=r"should be a \.csv or \.jsonl file"):
        ImagePairSource(path=folder / "pairs.xlsx").open("train")
    (folder / "latin.csv").write_bytes("a,b,same\nÄ.png,2.png,1\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        ImagePairSource(path=folder / "latin.csv").open("train")


def test_a_folder_of_nothing_but_pictures_is_enough_without_labels(folder):
    assert without_classes(folder)
    source = PictureSource(path=folder, validation_share=0.3)
    train, held = source.open("train"), source.open("validation")
    assert len(train) + len(held) == 12
    assert not set(train.files) & set(held.files)
    assert set(train.sample(0)) == set(train.fields) == {"image"}
    with pytest.raises(DataError, match="has no classes"):
        train.labels()


def test_texts_are_no_classes_and_class_folders_are(folder, tmp_path):
    (folder / "0.txt").write_text("a red square")
    assert without_classes(folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert not without_classes(empty)
    with pytest.raises(DataError, match="holds no pictures"):
        PictureSource(path=empty).open("train")
    with pytest.raises(DataError, match="There is no folder"):
        PictureSource(path=tmp_path / "nowhere").open("train")
    for name in ("cats", "dogs"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "classes" / name / "a.png")
    assert not without_classes(tmp_path / "classes")
