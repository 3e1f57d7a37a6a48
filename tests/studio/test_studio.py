"""The page without a browser: which tabs there are, what the searches answer, what bad input says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from intermodal.core.errors import ConfigError
from intermodal.evaluate.result import Evaluation, Headline
from intermodal.evaluate.result import save as save_evaluation
from intermodal.index.session import Session
from intermodal.methods.contrastive.clip import CLIP
from intermodal.studio import look
from intermodal.studio.app import create_studio
from intermodal.studio.tab import tabs_for
from intermodal.studio.tabs.search import HELD_OUT, OWN


@pytest.fixture
def session(small_clip: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("INTERMODAL_CACHE", str(tmp_path / "cache"))
    small_clip.save(tmp_path / "my-run" / "model")
    return Session(tmp_path / "my-run")


def function(page: gr.Blocks, name: str) -> Any:
    return next(f.fn for f in page.fns.values() if f.fn is not None and f.fn.__name__ == name)


def text_of(page: gr.Blocks) -> str:
    return " ".join(str(b.value) for b in page.blocks.values() if isinstance(b, gr.HTML))


def test_tabs_follow_the_capabilities() -> None:
    assert [t.title for t in tabs_for(("classify", "embed"))] == ["Search", "Classify"]
    assert [t.title for t in tabs_for(("embed",))] == ["Search"]
    assert tabs_for(("stream",)) == []


def test_head_says_which_model_and_what_it_reached(session: Session) -> None:
    assert "my-run" in text_of(create_studio(session)) and "Not judged yet" in text_of(create_studio(session))
    headline = Headline("52 %", "It finds half of the <b>unseen</b> pictures.")
    save_evaluation(Evaluation("test", {"recall@10": 0.52}, headline=headline), session.path / "evaluation" / "test")
    page = text_of(create_studio(session))
    assert "recall@10 0.520" in page and "half of the &lt;b&gt;unseen" in page


def test_search_among_held_out_pictures_and_in_a_folder(session: Session, pictures: Path) -> None:
    find = function(create_studio(session), "find")
    report = gr.Progress()
    found = find(("something cold to eat", None), HELD_OUT, "", False, report)
    assert found.count("<li title=") == 18 and "data:image/webp" in found and "never" not in found
    found = find(("", str(pictures / "003.png")), OWN, f" {pictures} ", False, report)
    assert f"12 pictures in {pictures}" in found and found.index("003.png") < found.index("009.png")
    assert "Ready to search" in find((" ", None), OWN, str(pictures), False, report)


def test_bad_input_is_a_sentence_on_the_page(session: Session, pictures: Path, tmp_path: Path) -> None:
    find = function(create_studio(session), "find")
    report = gr.Progress()
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    for query, place, folder, words in (
        (("x", None), OWN, "", "which file or folder"),
        (("x", None), OWN, str(tmp_path / "<i>nowhere"), "&lt;i&gt;nowhere does not exist"),
        (("x", None), OWN, str(tmp_path / "empty"), "no picture in"),
        (("", str(broken)), HELD_OUT, "", "The picture cannot be read"),
    ):
        answer = find(query, place, folder, False, report)
        assert 'role="alert"' in answer and words in answer


def test_an_index_of_another_model_is_refused_until_it_is_to_be_replaced(
    session: Session, pictures: Path, small_clip: CLIP
) -> None:
    session.folder(pictures)
    session.model.image_projection.weight.data[0, 0] += 1
    other = Session.__new__(Session)
    other.__dict__ |= {k: v for k, v in vars(session).items() if k != "stamp"}
    other._held_out = None
    find = function(create_studio(other), "find")
    report = gr.Progress()
    assert "made by another model" in find(("x", None), OWN, str(pictures), False, report)
    assert "12 pictures in" in find(("x", None), OWN, str(pictures), True, report)


def test_a_page_that_others_reach_offers_no_folders(session: Session) -> None:
    choices = [b.choices for b in create_studio(session, folders=False).blocks.values() if isinstance(b, gr.Radio)]
    assert [c[1] for c in choices[0]] == [HELD_OUT]


def test_classify(session: Session, pictures: Path, tmp_path: Path) -> None:
    classify = function(create_studio(session), "classify")
    answer = classify(str(pictures / "000.png"), "red, blue,, red , green")
    assert answer.count("<li>") == 3 and "%" in answer
    assert "Drop a picture" in classify(None, "red") and "Drop a picture" in classify("x.png", " , ")
    assert "does not exist" in classify(str(tmp_path / "gone.png"), "red") or "cannot" in classify("gone.png", "red")


def test_nothing_to_show_is_a_sentence(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "capabilities", ("stream",))
    with pytest.raises(ConfigError, match=r"No tab of the page.*stream"):
        create_studio(session)


def test_the_look_fetches_nothing_and_escapes() -> None:
    assert "http" not in look.style() and look.theme()._stylesheets == []
    card = look.cards([(Image.new("RGB", (900, 300)), -0.5, "<x>", '"y"')], "<z>")
    assert "<x>" not in card and "<z>" not in card and 'title="&quot;y&quot;"' in card and "width:0.0%" in card
