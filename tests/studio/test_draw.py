"""The page's tab that draws, without a browser: forming, stopping, looking back, and what is refused."""

from __future__ import annotations

import base64
import io
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from intermodal.core.drawing import Drawing
from intermodal.data.picture_files import read_facts
from intermodal.index.session import Session
from intermodal.studio.app import create_studio
from intermodal.studio.tab import tabs_for
from intermodal.studio.tabs.draw import BECOMES, MOMENTS, NOISY, Kept

WHO = SimpleNamespace(session_hash="somebody")


@pytest.fixture
def page(small_cfg: Any, tmp_path: Path) -> gr.Blocks:
    small_cfg.save(tmp_path / "my-run")
    return create_studio(Session(tmp_path / "my-run"))


def function(page: gr.Blocks, name: str) -> Any:
    return next(f.fn for f in page.fns.values() if f.fn is not None and f.fn.__name__ == name)


def asked(prompt: str = "a red square", **changes: Any) -> list[Any]:
    given = {
        "prompt": prompt,
        "negative": "",
        "steps": 4,
        "guidance": 2.0,
        "count": 2,
        "sampler": "ddim",
        "eta": 0,
        "seed": 3,
        **changes,
    }
    return [*given.values(), WHO]


def pictures_of(html: str) -> list[Image.Image]:
    found = re.findall(r'<img src="data:image/webp;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in found]


def small(picture: Image.Image) -> bytes:
    return picture.resize((8, 8), Image.Resampling.NEAREST).tobytes()


def test_a_model_that_draws_has_that_tab_and_not_the_simpler_one() -> None:
    assert [t.title for t in tabs_for(("generate", "draw"))] == ["Draw"]
    assert [t.title for t in tabs_for(("generate",))] == ["Generate"]


def test_pictures_form_and_are_the_models(page: gr.Blocks, small_cfg: Any, tmp_path: Path) -> None:
    seen = list(function(page, "draw")(*asked()))
    assert "Drawing" in seen[0][0] and seen[0][2].interactive
    forming = [answer[0] for answer in seen[1:-1]]
    assert [html.partition('status">')[2].partition(",")[0] for html in forming[:4]] == [
        f"Before step {i} of 4" for i in range(1, 5)
    ]
    assert all(len(pictures_of(html)) == 2 for html in forming) and len(set(forming)) == len(forming)
    html, kept, halt, at, shown = seen[-1]
    expected = small_cfg.draw(["a red square"] * 2, [3, 4])
    assert [small(p) for p in pictures_of(html)] == [p.tobytes() for p in expected]
    assert "a red square: 4 steps of DDIM." in html and "seed 3" in html and "seed 4" in html
    assert not halt.interactive and at.visible and at.maximum == at.value == 5 and shown.visible
    assert [m.done for m in kept.moments] == [0, 1, 2, 3, 4] and kept.seeds == (3, 4)
    [data] = re.findall(r'href="data:image/png;base64,([^"]+)" download', html)
    (tmp_path / "saved.png").write_bytes(base64.b64decode(data))
    facts = read_facts(tmp_path / "saved.png")
    assert facts["seed"] == "3, 4" and facts["prompt"] == "a red square" and facts["model"] == "my-run"
    assert Drawing.from_dict(facts["drawing"]) == small_cfg.drawing


def test_looking_back(page: gr.Blocks) -> None:
    *_, (html, kept, *_) = function(page, "draw")(*asked())
    look_back = function(page, "look_back")
    begins, becomes = look_back(kept, 1, NOISY), look_back(kept, 1, BECOMES)
    assert "Before step 1 of 4" in begins and pictures_of(begins)[0].tobytes() != pictures_of(becomes)[0].tobytes()
    ends = [pictures_of(page_)[1].tobytes() for page_ in (html, look_back(kept, 5, NOISY), look_back(kept, 9, BECOMES))]
    assert len(set(ends)) == 1 and "After 4 steps" in look_back(kept, 5, BECOMES)
    assert "nothing to look back at" in look_back(Kept(), 1, BECOMES)


def test_settings_reach_the_model(page: gr.Blocks, small_cfg: Any) -> None:
    changes = {"negative": " blue ", "steps": 3, "guidance": 5.0, "sampler": "dpm", "count": 1, "seed": None}
    *_, (html, *_) = function(page, "draw")(*asked("", **changes))
    drawing = small_cfg.drawing.replace(negative="blue", steps=3, guidance=5.0, sampler="dpm")
    assert small(pictures_of(html)[0]) == small_cfg.draw([None], [0], drawing)[0].tobytes()
    assert "Nothing in particular: 3 steps of DPM-Solver++." in html and "im-large" in html


def test_a_long_drawing_keeps_some_moments_and_can_be_stopped(page: gr.Blocks) -> None:
    drawing = function(page, "draw")(*asked(steps=200))
    next(drawing)
    next(drawing)
    function(page, "halt_drawing")(WHO)
    *_, (html, kept, halt, *_) = drawing
    assert "Stopped. Before step" in html and 1 <= len(kept.moments) < MOMENTS and not halt.interactive
    assert "Save as PNG" not in html
    function(page, "halt_drawing")(SimpleNamespace(session_hash="somebody else"))


def test_a_person_who_leaves_ends_the_drawing(page: gr.Blocks) -> None:
    before, drawing = threading.active_count(), function(page, "draw")(*asked(steps=500))
    next(drawing)
    next(drawing)
    drawing.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "x" * 10_001}, "at most 10,000 characters"),
        ({"prompt": "зелёный"}, "knows none of the words"),
        ({"guidance": 1.0, "negative": "blue"}, "acts through guidance"),
        ({"steps": 1001}, "trained with 1000 steps"),
        ({"seed": -1}, "Seeds go from 0"),
    ],
)
def test_mistakes_are_a_sentence_in_the_page(page: gr.Blocks, changes: dict[str, Any], words: str) -> None:
    *_, (html, kept, halt, at, _) = function(page, "draw")(*asked(**changes))
    assert 'role="alert"' in html and words in html
    assert kept == Kept() and not halt.interactive and not at.visible


def test_what_is_not_heard_is_said(page: gr.Blocks) -> None:
    *_, (html, *_) = function(page, "draw")(*asked("a purple square"))
    assert "The model does not know &#x27;purple&#x27;." in html


def test_a_model_without_texts_asks_for_none(small_ddpm: Any, tmp_path: Path) -> None:
    small_ddpm.save(tmp_path / "plain")
    page = create_studio(Session(tmp_path / "plain"))
    boxes = {b.label: b for b in page.blocks.values() if isinstance(b, gr.Textbox | gr.Slider)}
    assert not any(boxes[name].visible for name in ("Prompt", "Not", "Guidance")) and boxes["Steps"].visible
    *_, (html, *_) = function(page, "draw")(*asked("ignored"))
    assert len(pictures_of(html)) == 2 and "Nothing in particular" in html
