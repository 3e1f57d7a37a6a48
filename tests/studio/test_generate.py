"""The page's tab that generates, without a browser."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gradio as gr

from intermodal.index.session import Session
from intermodal.studio.app import create_studio
from intermodal.studio.tab import tabs_for


def tiny(name: str, make: str) -> Any:
    path = Path(__file__).parents[1] / "methods" / f"test_{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, make)()


def generator_of(model: Any, folder: Path) -> Any:
    model.save(folder)
    page = create_studio(Session(folder))
    assert isinstance(page, gr.Blocks)
    return next(f.fn for f in page.fns.values() if f.fn is not None and f.fn.__name__ == "generate")


def test_the_tab_is_there_for_models_that_generate() -> None:
    assert [t.title for t in tabs_for(("generate",))] == ["Generate"]


def test_pictures(tmp_path: Path) -> None:
    generate = generator_of(tiny("ebm", "of_pictures"), tmp_path / "model")
    made = generate("", 3, 2, 7)
    assert made.count("<li title=") == 3 and "3 samples, seed 7" in made and "im-score" not in made
    assert made == generate(" ", 3, 2, 7) != generate("", 3, 2, 8)
    assert generate("", 1, None, None).count("<li title=") == 1
    refused = generate("a cat", 1, 0, 0)
    assert 'role="alert"' in refused and "takes no prompt" in refused


def test_texts_and_points(tmp_path: Path) -> None:
    made = generator_of(tiny("nce", "writer"), tmp_path / "texts")("the cat", 2, 3, 0)
    assert made.count("<li><b>") == 2 and "the cat" in made
    made = generator_of(tiny("ebm", "of_points"), tmp_path / "points")("", 2, 0, 0)
    assert made.count("<li><b>") == 2
