"""The emoji set that the library ships, read as it lies there: columns, pictures, splits, licences."""

import hashlib
import io
import json
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

ASSETS = Path(__file__).parents[2] / "src" / "intermodal" / "data" / "assets"
PARQUET = ASSETS / "emoji.parquet"
PICTURES = {  # pictures per style, give or take a new version of a package
    "noto": 1645,
    "noto-v1": 1197,
    "twemoji": 1881,
    "openmoji": 1881,
    "fluent-emoji": 1594,
    "fluent-emoji-flat": 1591,
    "emojione": 1364,
    "emojione-v1": 1169,
    "fxemoji": 860,
}
TEST_STYLES = {"noto", "noto-v1"}
LICENCES = {"Apache-2.0", "CC-BY-4.0", "CC-BY-SA-4.0", "MIT"}


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return pq.read_table(PARQUET)


@pytest.fixture(scope="module")
def rows(table: pa.Table) -> list[dict]:
    return table.drop_columns(["image"]).to_pylist()


@pytest.fixture(scope="module")
def concepts(rows: list[dict]) -> dict[str, dict]:
    return {row["concept"]: row for row in rows}


def test_size() -> None:
    assert 5_000_000 < PARQUET.stat().st_size < 20_000_000


def test_columns(table: pa.Table) -> None:
    strings = {"name", "group", "subgroup", "codepoints", "concept", "base_concept", "family", "style", "licence"}
    strings |= {"concept_split", "style_split"}
    assert set(table.column_names) == strings | {"image", "keywords"}
    assert all(table.schema.field(name).type == pa.string() for name in strings)
    assert table.schema.field("image").type == pa.struct({"bytes": pa.binary(), "path": pa.string()})
    assert table.schema.field("keywords").type.value_type == pa.string()
    assert all(table.column(name).null_count == 0 for name in table.column_names)


def test_counts(rows: list[dict], concepts: dict[str, dict]) -> None:
    per_style: dict[str, int] = defaultdict(int)
    for row in rows:
        per_style[row["style"]] += 1
    assert list(per_style) == list(PICTURES)
    assert per_style == {style: pytest.approx(n, rel=0.05) for style, n in PICTURES.items()}
    assert 11_500 < len(rows) < 14_000
    assert 1_890 < len(concepts) < 1_950


def test_metadata_says_what_is_there(table: pa.Table, rows: list[dict], concepts: dict[str, dict]) -> None:
    facts = json.loads(table.schema.metadata[b"intermodal"])
    assert facts["pictures"] == len(rows)
    assert facts["concepts"] == len(concepts)
    assert facts["base_concepts"] == len({row["base_concept"] for row in rows})
    assert set(facts["pictures_per_style"]) == set(PICTURES)
    assert len(facts["packages"]) == len(PICTURES) + 2
    assert all(package["integrity"].startswith("sha512-") for package in facts["packages"].values())


def test_names(rows: list[dict]) -> None:
    assert all(row["name"] and row["name"] == row["name"].lower() for row in rows)
    assert sum(bool(row["keywords"]) for row in rows) > 0.98 * len(rows)
    assert len({(row["style"], row["concept"]) for row in rows}) == len(rows)
    assert len({(row["concept"], row["name"], row["codepoints"], row["group"]) for row in rows}) == len(
        {row["concept"] for row in rows}
    )


def test_no_skin_tones_and_no_components(rows: list[dict]) -> None:
    tones = {f"1F3F{digit}" for digit in "BCDEF"}
    assert not any(tones & set(row["codepoints"].split("-")) for row in rows)
    assert "component" not in {row["group"] for row in rows}


def test_order(rows: list[dict]) -> None:
    styles = list(PICTURES)
    places = [(styles.index(row["style"]), [int(code, 16) for code in row["codepoints"].split("-")]) for row in rows]
    assert places == sorted(places)


def test_pictures(table: pa.Table) -> None:
    seen: dict[bytes, int] = {}
    for place, entry in enumerate(table.column("image").to_pylist()):
        assert entry["bytes"][:4] == b"RIFF" and entry["bytes"][8:16] == b"WEBPVP8L", "not a lossless WebP"
        with Image.open(io.BytesIO(entry["bytes"])) as picture:
            assert picture.size == (64, 64) and picture.mode == "RGB", entry["path"]
            drawn = picture.convert("L").point(lambda value: 255 if value < 250 else 0).histogram()[255]
            assert drawn >= 15, f"{entry['path']} is blank"
            digest = hashlib.sha256(picture.tobytes()).digest()
        assert digest not in seen, f"{entry['path']} repeats row {seen[digest]}"
        seen[digest] = place


def test_concept_split(rows: list[dict], concepts: dict[str, dict]) -> None:
    sides: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        sides[row["base_concept"]].add(row["concept_split"])
    assert [base for base, splits in sides.items() if len(splits) > 1] == []
    held_out: dict[str, list[dict]] = defaultdict(list)
    for concept in concepts.values():
        held_out[concept["concept_split"]].append(concept)
    assert {split: len(members) for split, members in held_out.items() if split != "train"} == {
        "test": 300,
        "validation": 150,
    }
    for split in ("test", "validation"):
        groups = [concept["group"] for concept in held_out[split]]
        assert len(set(groups)) >= 8
        assert max(groups.count(group) for group in set(groups)) < 0.3 * len(groups)


def test_held_out_concepts_are_drawn_by_four_training_styles(rows: list[dict]) -> None:
    styles: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row["concept_split"] != "train" and row["style_split"] == "train":
            styles[row["concept"]].add(row["style"])
    assert len(styles) == 450
    assert min(map(len, styles.values())) >= 4


@pytest.mark.parametrize("base", ["flag", "clock face", "keycap", "family"])
def test_large_bases_stay_in_train(rows: list[dict], base: str) -> None:
    members = [row for row in rows if row["base_concept"] == base]
    assert members
    assert {row["concept_split"] for row in members} == {"train"}


def test_style_split(rows: list[dict]) -> None:
    assert all((row["style_split"] == "test") == (row["style"] in TEST_STYLES) for row in rows)
    assert {row["style_split"] for row in rows} == {"train", "test"}


def test_every_style_has_its_licence(rows: list[dict]) -> None:
    licences = {row["style"]: row["licence"] for row in rows}
    assert set(licences.values()) <= LICENCES
    assert len({(row["style"], row["licence"]) for row in rows}) == len(PICTURES)
    for style, licence in licences.items():
        text = (ASSETS / "emoji_licences" / f"{style}.txt").read_text("utf-8")
        assert f"SPDX: {licence}" in text and "Author: " in text and "https://" in text and "64x64" in text
        assert len(text) > 1_500, "no licence text"
        assert "<copyright holders>" not in text
    assert "Miles Johnson" in (ASSETS / "emoji_licences" / "emojibase-data.txt").read_text("utf-8")
    assert "concept_split" in (ASSETS / "emoji_licences" / "README.md").read_text("utf-8")


def test_datasets_sees_an_image(tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset("parquet", data_files=str(PARQUET), split="train", cache_dir=str(tmp_path))
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded[0]["image"].size == (64, 64)
    assert isinstance(loaded[0]["keywords"], list)
