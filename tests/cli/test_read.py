"""``intermodal read``: text, boxes, lines of JSON, blank pages, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from intermodal.data.ocr import draw_line
from toy_reader import tiny


def test_a_model_that_cannot_read_is_told_apart(cli, model, pictures):
    ran = cli("read", model, pictures)
    assert ran.code and "needs a model with the capability 'read'" in ran.sentence
    assert "Say what to read" in cli("read", model).sentence
    assert ".jsonl or .txt" in cli("read", model, pictures, "-o", "out.csv").sentence


def test_pages_become_text_and_json_and_blank_ones_are_said(cli, tmp_path):
    reader = tiny()
    reader.save(tmp_path / "reader")
    scans = tmp_path / "scans"
    scans.mkdir()
    page = Image.new("L", (200, 120), 250)
    for i in range(2):
        line = draw_line("TOTAL 1.20", np.random.default_rng(i)).point(lambda v: 0 if v < 140 else 250)
        page.paste(line.resize((150, 30)), (20, 10 + 60 * i))
    page.save(scans / "a.png")
    Image.new("RGB", (40, 40), "white").save(scans / "b.png")
    (scans / "c.png").write_bytes(b"no picture")
    ran = cli("read", tmp_path / "reader", scans, "-o", "out.jsonl")
    assert ran.code == 0 and "skipped" in ran.err and "1 pages have no line" in ran.err, ran.err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    wanted = reader.eval().read([page])[0]
    assert [row["path"] for row in rows] == ["a.png", "b.png"]
    assert rows[0]["lines"] == [line.to_dict() for line in wanted] and len(wanted) == 2
    assert rows[1]["lines"] == [] and rows[1]["text"] == ""
    one = cli("read", tmp_path / "reader", scans / "a.png", "--boxes")
    assert [row.split()[0] for row in one.out.splitlines()] == [",".join(map(str, line.box)) for line in wanted]
    assert cli("read", tmp_path / "reader", scans / "a.png", "-o", "out.txt").code == 0
    assert (tmp_path / "out.txt").read_text().splitlines() == [line.text for line in wanted]
    assert "the page is blank" in cli("read", tmp_path / "reader", scans / "b.png").err
    assert "None of the pictures" in cli("read", tmp_path / "reader", scans / "c.png").sentence
