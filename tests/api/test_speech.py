"""``POST /transcribe`` and ``/align``: the model's own transcripts and times, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient

from intermodal.api.app import create_app
from intermodal.data.subtitles import read_cues
from intermodal.methods.contrastive.clip import CLIP

pytestmark = [
    # Starlette's test client tells of its own move from httpx to httpx2; it works with either.
    pytest.mark.filterwarnings("ignore:Using `httpx`:DeprecationWarning"),
]
ARPA = "\\data\\\nngram 1=5\n\n\\1-grams:\n-2.0 <unk>\n-99 <s>\n-0.5 </s>\n-0.6 THE\n-0.6 SHED\n\n\\end\\\n"


def wav(samples: np.ndarray, rate: int = 8000, **how: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", **how)
    return file.getvalue()


@pytest.fixture
def client(tones: ModuleType, tmp_path: Path) -> Iterator[TestClient]:
    tones.recogniser(deaf="E").save(tmp_path / "model")
    with TestClient(create_app(tmp_path / "model")) as found:
        yield found


def test_words_times_and_notes(client: TestClient, tones: ModuleType) -> None:
    loud = np.clip(4 * tones.spoken("HI", 44_100), -1, 1)
    files = [
        ("audio", ("a.wav", wav(tones.spoken("GO UP")))),
        ("audio", ("b.wav", wav(loud, 44_100, subtype="PCM_24"))),
    ]
    first, second = client.post("/transcribe", files=files).json()["recordings"]
    assert (first["input"], first["text"], second["text"]) == ("a.wav", "GO UP", "HI")
    assert [w["text"] for w in first["words"]] == ["GO", "UP"] and first["words"][0]["start"] == pytest.approx(0.1)
    assert 0.9 < first["words"][0]["confidence"] <= 1 and first["seconds"] == pytest.approx(0.7)
    assert first["notes"] == [] and "clipped" in second["notes"][0]
    assert first["alternatives"] == [] and first["subtitles"] is None
    silent = client.post("/transcribe", files={"audio": ("s.wav", wav(np.zeros(8000)))}).json()["recordings"][0]
    assert silent["text"] == "" and silent["notes"] == ["It is silent."]


def test_a_language_model_can_be_sent_along(client: TestClient, tones: ModuleType) -> None:
    audio = ("audio", ("a.wav", wav(tones.spoken("THE SHED"))))
    assert client.post("/transcribe", files=[audio]).json()["recordings"][0]["text"] == "THF SHFD"
    form = {"lm_weight": 2, "n_best": 2, "subtitles": "vtt"}
    files = [audio, ("lm", ("small.arpa", ARPA.encode()))]
    found = client.post("/transcribe", files=files, data=form).json()["recordings"][0]
    assert found["text"] == "THE SHED" and [c.text for c in read_cues(found["subtitles"])] == ["THE SHED"]
    best = found["alternatives"][0]
    assert best["score"] == pytest.approx(best["acoustic"] + 2 * best["language"] + best["bonus"], abs=1e-3)
    files = [audio, ("lexicon", ("words.txt", b"THE\nSHED\n"))]
    assert client.post("/transcribe", files=files).json()["recordings"][0]["text"] == "THE SHED"
    answer = client.post("/transcribe", files=[audio], data={"hot_words": ["SHED", "THE"]})
    assert answer.json()["recordings"][0]["text"] == "THE SHED"


def test_alignment(client: TestClient, tones: ModuleType) -> None:
    files = {"audio": ("a.wav", wav(tones.spoken("GO UP")))}
    found = client.post("/align", files=files, data={"text": "go up"}).json()
    assert [w["text"] for w in found["words"]] == ["GO", "UP"] and len(found["phones"]) == 4
    starts = [w["start"] for w in found["phones"]]
    assert starts == sorted(starts) and found["seconds"] == pytest.approx(0.7)
    for text, words in (("", "text"), (" ", "The text is empty"), ("GO 5", "does not know"), ("GO" * 90, "frames")):
        answer = client.post("/align", files=files, data={"text": text})
        assert answer.status_code == 422 and words in answer.json()["error"], answer.text


def test_bad_requests_are_one_sentence(client: TestClient, tones: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = ("audio", ("a.wav", wav(tones.spoken("GO"))))
    nan = np.full(800, np.nan, np.float32)
    for files, data, words in (
        ([], {}, "audio"),
        ([("audio", ("a.wav", b"no sound"))], {}, "The recording 'a.wav' cannot be read as sound"),
        ([("audio", ("a.wav", wav(nan, subtype="FLOAT")))], {}, "not a finite number"),
        ([audio, ("lm", ("cut.arpa", ARPA[:40].encode()))], {}, "lm.arpa"),
        ([audio], {"beam": 0}, "beam"),
        ([audio], {"lm_weight": -1}, "lm_weight must be"),
        ([audio], {"language": "de"}, "one language"),
        ([audio], {"task": "sing"}, "task"),
        ([audio] * 17, {}, "audio"),
    ):
        answer = client.post("/transcribe", files=files, data=data)
        assert answer.status_code == 422 and words in answer.json()["error"], (data, answer.text)
    monkeypatch.setattr("intermodal.api.speech.MAX_SECONDS", 0.5)
    answer = client.post("/transcribe", files=[audio, audio])
    assert answer.status_code == 422 and "send it in parts" in answer.json()["error"]


def test_a_model_that_cannot_says_which_capability_lacks(small_clip: CLIP, tmp_path: Path, tones: ModuleType) -> None:
    small_clip.save(tmp_path / "clip")
    files = {"audio": ("a.wav", wav(tones.spoken("GO")))}
    with TestClient(create_app(tmp_path / "clip")) as client:
        for route, data in (("/transcribe", {}), ("/align", {"text": "GO"})):
            answer = client.post(route, files=files, data=data)
            assert answer.status_code == 422 and "needs a model with the capability" in answer.json()["error"]
