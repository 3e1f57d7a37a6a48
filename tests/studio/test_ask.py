"""The page's tab Ask, without a browser."""

from __future__ import annotations

from pathlib import Path

from intermodal.core.chat import Turn
from intermodal.index.session import Session
from intermodal.studio.app import create_studio
from toy_captioner import pictures
from toy_llava import ASKED, FRUIT, learn, tiny


def test_the_tab_streams_and_remembers(tmp_path: Path) -> None:
    model = learn(tiny(), 60)
    model.save(tmp_path / "model")
    page = create_studio(Session(tmp_path / "model"))
    ask = next(f.fn for f in page.fns.values() if f.fn is not None and f.fn.__name__ == "ask")
    file = tmp_path / "one.png"
    pictures()[2].save(file)
    first = model.answer([[Turn(ASKED, None, (pictures()[2],))]])[0].text
    shown = list(ask(str(file), ASKED, 0.0, []))
    assert len(shown) > 2 and first in shown[-1][0] and shown[-1][1] == [(ASKED, first)]
    chat = [Turn(ASKED, first, (pictures()[2],)), Turn(FRUIT)]
    again = list(ask(str(file), FRUIT, 0.0, shown[-1][1]))
    assert again[-1][1] == [(ASKED, first), (FRUIT, model.answer([chat])[0].text)]
    refused = list(ask(str(file), "colour " * 99, 0.0, []))
    assert "shorten" in refused[-1][0] and refused[-1][1] == []
