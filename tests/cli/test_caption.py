"""``intermodal caption``: lines of JSON, one caption, and what it refuses."""

from __future__ import annotations

import json

from PIL import Image

from intermodal.core.captioning import Captioning
from toy_captioner import tiny


def test_a_model_without_captions_is_told_apart(cli, model, pictures):
    ran = cli("caption", model, pictures)
    assert ran.code and "needs a model with the capability 'caption'" in ran.sentence


def test_wrong_settings_and_no_pictures_are_one_sentence(cli, model, pictures, tmp_path):
    assert "searches and draws nothing" in cli("caption", model, pictures, "--beam", 2, "--temperature", 1).sentence
    assert "Say what to caption" in cli("caption", model).sentence
    (tmp_path / "there.jsonl").write_text("kept")
    assert "exists already" in cli("caption", model, pictures, "-o", "there.jsonl").sentence
    assert (tmp_path / "there.jsonl").read_text() == "kept"


def test_a_folder_becomes_lines_of_json_and_a_picture_a_caption(cli, pictures, tmp_path):
    captioner = tiny()
    captioner.save(tmp_path / "captioner")
    broken = pictures / "broken.png"
    broken.write_bytes(b"no picture")
    ran = cli("caption", tmp_path / "captioner", pictures, "-o", "out.jsonl", "--length", 3)
    assert ran.code == 0 and "skipped" in ran.err, ran.err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    files = sorted(p for p in pictures.iterdir() if p.suffix == ".png" and p != broken)
    assert [row["path"] for row in rows] == [p.name for p in files]
    wanted = captioner.eval().caption([Image.open(p) for p in files], Captioning(most=3))
    assert [row["caption"] for row in rows] == [c.text for c in wanted]
    assert [row["ended"] for row in rows] == [c.ended for c in wanted]
    assert all(row["log_prob"] < 0 for row in rows)
    one = cli("caption", tmp_path / "captioner", files[0], "--beam", 2)
    assert one.out.strip() == captioner.caption([Image.open(files[0])], Captioning(beam=2))[0].text
    assert "None of the pictures" in cli("caption", tmp_path / "captioner", broken).sentence
