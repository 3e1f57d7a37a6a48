"""The page's tab of tokens, without a browser."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import gradio as gr
from PIL import Image

from intermodal.index.session import Session
from intermodal.studio.app import create_studio
from intermodal.studio.tab import tabs_for


def page_of(model: Any, folder: Path) -> tuple[Any, gr.Slider]:
    model.save(folder)
    page = create_studio(Session(folder))
    slider = next(b for b in page.blocks.values() if isinstance(b, gr.Slider))
    return next(f.fn for f in page.fns.values() if f.fn is not None and f.fn.__name__ == "tokens"), slider


def test_the_tab_is_there_for_tokenizers() -> None:
    assert [t.title for t in tabs_for(("reconstruct", "generate"))] == ["Tokens", "Generate"]


def test_a_picture_its_codes_and_what_comes_back(toys: ModuleType, tmp_path: Path, pictures: Path) -> None:
    tokens, slider = page_of(toys.toy(), tmp_path / "model")
    assert not slider.visible
    found = tokens(str(pictures / "000.png"), 1)
    assert found.count("<li title=") == 3 and "8 x 8 codes of 16" in found and "0.25 bits per pixel" in found
    assert "what comes back" in found and "im-score" not in found
    assert "Drop a picture" in tokens(None, 1)
    (tmp_path / "broken.png").write_bytes(b"none")
    refused = tokens(str(tmp_path / "broken.png"), 1)
    assert 'role="alert"' in refused and "The picture cannot be read" in refused


def test_levels_have_a_slider(toys: ModuleType, tmp_path: Path) -> None:
    tokens, slider = page_of(toys.toy(levels=3), tmp_path / "model")
    assert slider.visible and (slider.minimum, slider.maximum, slider.value) == (1, 3, 3)
    Image.linear_gradient("L").save(tmp_path / "picture.png")
    all_of_them, one = (tokens(str(tmp_path / "picture.png"), keep) for keep in (3, 1))
    assert all_of_them.count("<li title=") == 5 and "codes, level 3" in all_of_them and "768 bits" in all_of_them
    assert one.count("<li title=") == 3 and "256 bits" in one


def test_numbers(toys: ModuleType, tmp_path: Path, pictures: Path) -> None:
    tokens, _ = page_of(toys.toy(kind="vector"), tmp_path / "model")
    found = tokens(str(pictures / "000.png"), 1)
    assert "192 numbers" in found and found.count("<li title=") == 3
