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
    shown = list(ask(str(file), ASKED, 0.0, [], None))
    assert len(shown) > 2 and first in shown[-1][0] and shown[-1][1] == [(ASKED, first, str(file))]
    chat = [Turn(ASKED, first, (pictures()[2],)), Turn(FRUIT)]
    memory = shown[-1][2]
    read = memory.read
    again = list(ask(str(file), FRUIT, 0.0, shown[-1][1], memory))
    second = model.answer([chat])[0].text
    assert again[-1][1] == [(ASKED, first, str(file)), (FRUIT, second, None)]
    assert memory.read - read < len(model.chats.chat(chat)[0]), "the picture and the first question are not read again"

    other = tmp_path / "two.png"
    pictures()[0].save(other)
    chat = [chat[0], Turn(FRUIT, second), Turn(ASKED, None, (pictures()[0],))]
    third = list(ask(str(other), ASKED, 0.0, again[-1][1], memory))
    assert third[-1][1][-1] == (ASKED, model.answer([chat])[0].text, str(other)), "another picture in a later turn"
    assert "[picture 2]" in third[-1][0]
    another = next(f.fn for f in page.fns.values() if f.fn is not None and f.fn.__name__ == "another")
    assert another(True, third[-1][1], memory) == (third[-1][0], third[-1][1], memory)
    assert another(False, third[-1][1], memory)[1:] == ([], None)
    refused = list(ask(str(file), "colour " * 99, 0.0, [], None))
    assert "shorten" in refused[-1][0] and refused[-1][1] == []
