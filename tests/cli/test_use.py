"""The commands that use a model: search, index, embed, classify, info, convert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from intermodal.data.emoji import EmojiSource
from intermodal.methods.contrastive.clip import CLIP

Cli = Any


def test_search_in_a_folder(cli: Cli, model: Path, pictures: Path, small_clip: CLIP) -> None:
    ran = cli("search", model, "a red square", "--in", pictures, "-k", 3)
    assert ran.code == 0 and len(ran.out.splitlines()) == 3
    assert "indexing 12 pictures" in ran.err, "progress where there is no terminal"
    (pictures / "000.png").write_bytes(b"no picture")
    ran = cli("search", model, "--image", pictures / "004.png", "--in", pictures, "--json", "--index", "elsewhere")
    hits = json.loads(ran.out)
    assert hits[0]["path"] == str(pictures / "004.png") and hits[0]["score"] == pytest.approx(1, abs=1e-5)
    assert len(hits) == 10 and "skipped:" in ran.err and "000.png" in ran.err
    assert Path("elsewhere").is_dir()


def test_search_among_held_out_pictures(cli: Cli, model: Path) -> None:
    ran = cli("search", model, "something cold to eat", "-k", 4, "--json")
    pictures = EmojiSource(unit="picture").open("unseen")
    names = {pictures.sample_name(row) for row in range(len(pictures))}
    hits = json.loads(ran.out)
    assert len(hits) == 4 and {hit["path"] for hit in hits} <= names and all(hit["caption"] for hit in hits)


def test_index(cli: Cli, model: Path, pictures: Path) -> None:
    assert "12 pictures (12 new, 0 changed, 0 gone)" in cli("index", model, pictures).out
    assert "12 pictures (0 new, 0 changed, 0 gone)" in cli("index", model, pictures).out


def test_an_index_made_by_another_model(cli: Cli, model: Path, pictures: Path, small_clip: CLIP) -> None:
    cli("index", model, pictures)
    small_clip.image_projection.weight.data[0, 0] += 1
    small_clip.save("other")
    for command in (("index", "other", pictures), ("search", "other", "red", "--in", pictures)):
        ran = cli(*command)
        assert ran.code == 2 and "made by another model" in ran.sentence and "--rebuild" in ran.sentence
    assert "12 new" in cli("index", "other", pictures, "--rebuild").out


def test_embed(cli: Cli, model: Path, pictures: Path, small_clip: CLIP) -> None:
    lines = [json.loads(line) for line in cli("embed", model, "hello", pictures / "001.png").out.splitlines()]
    assert [line.get("text") or line["path"] for line in lines] == ["hello", str(pictures / "001.png")]
    np.testing.assert_allclose(lines[0]["vector"], small_clip.embed("text", ["hello"])[0], atol=1e-6)
    assert "13 vectors of 8" in cli("embed", model, pictures, "x" * 5000, "-o", "out.npy").err
    matrix = np.load("out.npy")
    picture = Image.open(pictures / "002.png").convert("RGB")
    np.testing.assert_allclose(matrix[2], small_clip.embed("image", [picture])[0], atol=1e-6)
    assert cli("embed", model, "a", "b", "--output", "out.jsonl").code == 0
    assert len(Path("out.jsonl").read_text().splitlines()) == 2


def test_classify(cli: Cli, model: Path, pictures: Path, small_clip: CLIP) -> None:
    ran = cli("classify", model, pictures, "--labels", "red", "a dark blue", "--top", 1)
    assert ran.code == 0 and len(ran.out.splitlines()) == 12 and "%" in ran.out
    (pictures / "000.png").write_bytes(b"no picture")
    ran = cli(
        *("classify", model, pictures, "--labels", "red", "blue"),
        *("--templates", "a {} square", "{}", "-o", "out.jsonl"),
    )
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert ran.code == 0 and len(rows) == 11 and "000.png" in ran.err
    picture = Image.open(pictures / "001.png").convert("RGB")
    expected = small_clip.classify([picture], ["red", "blue"], ["a {} square", "{}"])[0]
    found = {entry["label"]: entry["probability"] for entry in rows[0]["labels"]}
    assert found == pytest.approx({"red": expected[0], "blue": expected[1]}, abs=1e-6)


def test_info_of_a_model_and_of_data(cli: Cli, model: Path, pictures: Path) -> None:
    facts = json.loads(cli("info", model, "--json").out)
    assert facts["is"] == "a checkpoint" and facts["method"] == "clip" and facts["parameters"] > 1000
    assert set(facts["processors"]) == {"image", "text"} and "embed" in facts["capabilities"]
    facts = json.loads(cli("info", pictures, "--json").out)
    assert facts["is"] == "data" and facts["splits"]["train"] + facts["splits"]["validation"] == 12
    out = cli("info", "emoji").out
    assert "splits.style" in out and "fields.label" in out


def test_convert_there_and_back(cli: Cli, model: Path, small_clip: CLIP) -> None:
    assert "layout transformers" in cli("convert", model, "published", "--to", "transformers").out
    assert "a published model" in cli("info", "published").out
    assert cli("convert", "published", "back").code == 0
    back = CLIP.load("back")
    np.testing.assert_allclose(
        back.embed("text", ["a red square"]), small_clip.embed("text", ["a red square"]), atol=1e-6
    )
    ran = cli("convert", "published", "back")
    assert ran.code == 2 and "exists already" in ran.sentence
    assert cli("convert", "published", "back", "--overwrite").code == 0


def test_doctor(cli: Cli) -> None:
    facts = json.loads(cli("doctor", "--json").out)
    assert set(facts) == {"versions", "extras", "machine", "data", "speed"}
    assert "training pictures" in facts["data"]["emoji"] and "GFLOP/s" in facts["speed"]["matrix product"]
    assert "usable of" in cli("doctor").out


def test_doctor_knows_the_extras_of_pyproject() -> None:
    import re
    import tomllib

    from intermodal.cli import doctor

    file = Path(__file__).parents[2] / "pyproject.toml"
    stated = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    names = {k: [re.split(r"[<>=\[]", part)[0] for part in v] for k, v in stated["optional-dependencies"].items()}
    assert {k: list(v) for k, v in doctor.EXTRAS.items()} == {k: v for k, v in names.items() if k != "dev"}
    dependencies = {re.split(r"[<>=\[]", part)[0] for part in stated["dependencies"]}
    assert set(doctor.PARTS) <= dependencies


def test_doctor_says_how_to_install_what_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from intermodal.cli import doctor

    monkeypatch.setattr(doctor, "EXTRAS", {"nonsense": ("no-such-package", "torch")})
    assert 'pip install "intermodal[nonsense]" (missing: no-such-package)' in doctor.extras()["nonsense"]
