"""The page's tab of speech, without a browser."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

from intermodal.data.subtitles import read_cues
from intermodal.index.session import Session
from intermodal.studio.app import create_studio
from intermodal.studio.tab import tabs_for

ARPA = "\\data\\\nngram 1=5\n\n\\1-grams:\n-2.0 <unk>\n-99 <s>\n-0.5 </s>\n-0.6 THE\n-0.6 SHED\n\n\\end\\\n"
Listen = Callable[..., str]


@pytest.fixture
def listen(tones: ModuleType, tmp_path: Path) -> Listen:
    tones.recogniser(deaf="E").save(tmp_path / "model")
    page = create_studio(Session(tmp_path / "model"))
    function: Any = next(f.fn for f in page.fns.values() if f.fn is not None and f.fn.__name__ == "listen")

    def call(
        file: Path | None,
        lm: Path | None = None,
        said: str | None = None,
        beam: float = 1,
        weight: float | None = None,
        bonus: float | None = None,
        hot: str | None = None,
    ) -> str:
        return function(
            None if file is None else str(file), None if lm is None else str(lm), said, beam, weight, bonus, hot
        )

    return call


def sound(path: Path, samples: np.ndarray, rate: int = 8000) -> Path:
    soundfile.write(path, samples, rate)
    return path


def spoken(page: str) -> list[str]:
    """The transcripts on a page."""
    return [" ".join(re.sub("<[^>]+>", "", p).split()) for p in re.findall('<p class="im-spoken">(.*?)</p>', page)]


def saved(page: str) -> str:
    data = re.search(r'data:application/x-subrip;base64,([^"]*)"', page)
    assert data is not None
    return base64.b64decode(data[1]).decode()


def test_the_tab_is_there_for_recognisers() -> None:
    assert [t.title for t in tabs_for(("transcribe", "align", "emit"))] == ["Listen"]


def test_what_was_said_and_when(listen: Listen, tones: ModuleType, tmp_path: Path) -> None:
    assert "Drop a recording" in listen(None)
    page = listen(sound(tmp_path / "a.wav", tones.spoken("GO UP", 16_000), 16_000))
    assert spoken(page) == ["GO UP"] and "0.70 s, 16,000 samples" in page and page.count('<div class="im-wide">') == 1
    assert 'title="0.10 to 0.26 s, 100% sure"' in page
    assert [cue.text for cue in read_cues(saved(page))] == ["GO UP"] and "im-table" in page


def test_with_and_without_a_language_model(listen: Listen, tones: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "small.arpa").write_text(ARPA)
    file = sound(tmp_path / "a.wav", tones.spoken("THE SHED"))
    page = listen(file, tmp_path / "small.arpa", weight=2)
    assert spoken(page) == ["THF SHFD", "THE SHED"] and "with the language model" in page
    assert page.count("<tr>") == 1 + 5 + 1 + 2, "the n-best, and the words"
    assert [cue.text for cue in read_cues(saved(page))] == ["THE SHED"]
    assert spoken(listen(file, hot="the, SHED,")) == ["THF SHED"] or spoken(listen(file, hot="THE, SHED,")) == [
        "THE SHED"
    ]


def test_a_known_text_is_aligned(listen: Listen, tones: ModuleType, tmp_path: Path) -> None:
    file = sound(tmp_path / "a.wav", tones.spoken("GO UP"))
    assert spoken(listen(file, said="go up")) == ["GO UP"]
    assert 'role="alert"' in listen(file, said="GO 5") and "does not know" in listen(file, said="GO 5")


def test_what_is_odd_is_said(listen: Listen, tones: ModuleType, tmp_path: Path) -> None:
    page = listen(sound(tmp_path / "silent.wav", np.zeros(8000)))
    assert "nothing was heard" in page and "It is silent." in page and saved(page) == ""
    assert "It is 1 samples long" in listen(sound(tmp_path / "one.wav", np.zeros(1)))
    long = np.tile(tones.spoken("GO ON "), 60)
    page = listen(sound(tmp_path / "long.wav", long))
    assert "The first 30 s are drawn" in page and len(spoken(page)[0].split()) == 120


def test_bad_input_is_a_sentence(
    listen: Listen, tones: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "cut.arpa").write_text(ARPA[:60])
    file = sound(tmp_path / "a.wav", tones.spoken("GO"))
    for page, words in (
        (listen(tmp_path / "text.wav"), "The recording cannot be read as sound"),
        (listen(file, tmp_path / "cut.arpa"), "cut.arpa"),
        (listen(file, said="A" * 10_001), "at most 10,000 characters"),
    ):
        assert 'role="alert"' in page and words in page
    monkeypatch.setattr("intermodal.studio.tabs.listen.LONGEST", 0.1)
    assert "the page listens to" in listen(file)
