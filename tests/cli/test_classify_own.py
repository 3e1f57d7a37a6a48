"""``intermodal classify`` with a model that has classes of its own: none need be named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from intermodal.data.processors import ImageProcessor, LabelProcessor
from intermodal.methods.vision_language.swin import Swin, SwinClassifierConfig
from intermodal.nn.swin import SwinConfig

Cli = Any


@pytest.fixture
def swin(tmp_path: Path) -> Path:
    """A checkpoint folder of a Swin that knows three classes."""
    torch.manual_seed(0)
    config = SwinConfig(image_size=16, patch_size=2, width=8, depths=(2, 1), heads=(1, 2), window=4)
    names = LabelProcessor(names=("ape", "bee", "cat"))
    model = Swin(SwinClassifierConfig(image=config), {"image": ImageProcessor(size=(16, 16)), "label": names})
    model.save(tmp_path / "swin")
    return tmp_path / "swin"


def test_all_classes_by_default(cli: Cli, swin: Path, pictures: Path) -> None:
    ran = cli("classify", swin, pictures, "-o", "out.jsonl")
    assert ran.code == 0 and "12 pictures" in ran.err
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    assert all({entry["label"] for entry in row["labels"]} == {"ape", "bee", "cat"} for row in rows)
    assert all(sum(entry["probability"] for entry in row["labels"]) == pytest.approx(1, abs=1e-4) for row in rows)


def test_some_classes_and_strange_ones(cli: Cli, swin: Path, pictures: Path) -> None:
    assert "ape" not in cli("classify", swin, pictures / "000.png", "--labels", "bee", "cat").out
    ran = cli("classify", swin, pictures / "000.png", "--labels", "bees")
    assert ran.code == 2 and "did you mean 'bee'" in ran.sentence


def test_a_model_without_classes_asks_for_labels(cli: Cli, model: Path, pictures: Path) -> None:
    ran = cli("classify", model, pictures)
    assert ran.code == 2 and "name at least one label" in ran.sentence


def test_embedding_and_exporting(cli: Cli, swin: Path, pictures: Path) -> None:
    assert "12 vectors of 16" in cli("embed", swin, pictures, "-o", "out.npy").err
    assert cli("convert", swin, "published").code == 0
    assert cli("classify", "published", pictures / "000.png").out == cli("classify", swin, pictures / "000.png").out
