"""The page's tab that reads text, without a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from intermodal.core.registry import card
from intermodal.data.ocr import draw_line
from intermodal.studio.app import create_studio
from intermodal.studio.tab import tabs_for
from toy_reader import tiny


@pytest.fixture
def page(tmp_path: Path) -> gr.Blocks:
    tiny().save(tmp_path / "my-run" / "model")
    return create_studio(tmp_path / "my-run")


def function(page: gr.Blocks, name: str) -> Any:
    return next(f.fn for f in page.fns.values() if f.fn is not None and f.fn.__name__ == name)


def test_a_reader_gets_this_tab_and_none_for_captions() -> None:
    assert [t.title for t in tabs_for(card("trocr").capabilities)] == ["Read"]
    assert [t.title for t in tabs_for(("caption",))] == ["Caption"]


def test_lines_blank_pages_and_bad_files(page: gr.Blocks, tmp_path: Path) -> None:
    read = function(page, "read")
    draw_line("TOTAL 9", np.random.default_rng(0)).save(tmp_path / "line.png")
    Image.new("L", (30, 30), 255).save(tmp_path / "blank.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    answer = read(str(tmp_path / "line.png"), True, 2)
    assert "One line" in answer and "<img" in answer
    assert "the page is blank" in read(str(tmp_path / "blank.png"), False, 1)
    assert "im-bad" in read(str(tmp_path / "bad.png"), False, 1)
    assert "Drop a picture" in read(None, False, 1)
