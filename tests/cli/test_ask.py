"""``intermodal ask``: one picture, a folder as lines of JSON, a chat, no picture, and what it refuses."""

from __future__ import annotations

import io
import json

from PIL import Image

from intermodal.core.captioning import Captioning
from intermodal.core.chat import Turn
from toy_llava import ASKED, FRUIT, learn, tiny


def test_a_model_that_answers_nothing_is_told_apart(cli, model, pictures):
    ran = cli("ask", model, pictures, ASKED)
    assert ran.code and "needs a model with the capability 'answer'" in ran.sentence


def test_wrong_settings_and_no_question_are_one_sentence(cli, model, pictures):
    assert "searches and draws nothing" in cli("ask", model, pictures, ASKED, "--beam", 2, "--temperature", 1).sentence
    assert "Say what to ask" in cli("ask", model).sentence
    assert "The question is missing" in cli("ask", model, pictures).sentence
    assert "leave --output out" in cli("ask", model, "--chat", "-o", "x.jsonl").sentence


def test_answers_are_the_models(cli, pictures, tmp_path, monkeypatch):
    llava = learn(tiny(), 60)
    llava.save(tmp_path / "llava")
    broken = pictures / "broken.png"
    broken.write_bytes(b"no picture")
    ran = cli("ask", tmp_path / "llava", pictures, ASKED, "-o", "out.jsonl", "--length", 3)
    assert ran.code == 0 and "skipped" in ran.err, ran.err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    files = sorted(p for p in pictures.iterdir() if p.suffix == ".png" and p != broken)
    shown = [Image.open(p).convert("RGB") for p in files]
    wanted = llava.answer([[Turn(ASKED, None, (picture,))] for picture in shown], Captioning(most=3))
    assert [(r["path"], r["question"], r["answer"], r["ended"]) for r in rows] == [
        (p.name, ASKED, c.text, c.ended) for p, c in zip(files, wanted, strict=True)
    ]
    one = cli("ask", tmp_path / "llava", files[0], ASKED)
    first = llava.answer([[Turn(ASKED, None, (shown[0],))]])[0].text
    assert one.out.strip() == first
    assert cli("ask", tmp_path / "llava", FRUIT).out.strip() == llava.answer([[Turn(FRUIT)]])[0].text
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ASKED}\n\n{FRUIT}\n"))
    chat = cli("ask", tmp_path / "llava", files[0], "--chat")
    second = llava.answer([[Turn(ASKED, first, (shown[0],)), Turn(FRUIT)]])[0].text
    assert chat.out.splitlines() == [first, second]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ASKED}\n{files[1]}\n{ASKED}\n"))
    chat = cli("ask", tmp_path / "llava", files[0], "--chat")
    turns = [Turn(ASKED, first, (shown[0],)), Turn(ASKED, None, (shown[1],))]
    assert chat.out.splitlines() == [first, llava.answer([turns])[0].text], "a picture in a later turn"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ASKED}\n{broken}\n{'colour ' * 90}\n{FRUIT}\n"))
    chat = cli("ask", tmp_path / "llava", files[0], "--chat")
    assert chat.out.splitlines() == [first, second] and chat.code
    assert "cannot be read as a picture" in chat.err and "shorten" in chat.err, "said, and the chat goes on"
    assert "None of the pictures" in cli("ask", tmp_path / "llava", broken, ASKED).sentence
    assert "reads at most 96: shorten" in cli("ask", tmp_path / "llava", files[0], "colour " * 90).sentence
