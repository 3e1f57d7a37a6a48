"""The HTTP application: what it answers, and how it refuses."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from intermodal.api.app import create_app
from intermodal.core.errors import CheckpointError
from intermodal.evaluate.result import Evaluation
from intermodal.evaluate.result import save as save_evaluation
from intermodal.index.session import Session
from intermodal.methods.contrastive.clip import CLIP

pytestmark = [
    # Starlette's test client tells of its own move from httpx to httpx2; it works with either.
    pytest.mark.filterwarnings("ignore:Using `httpx`:DeprecationWarning"),
]


def png(colour: str = "red", size: int = 20) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def session(small_clip: CLIP, tmp_path: Path) -> Session:
    small_clip.save(tmp_path / "run" / "model")
    return Session(tmp_path / "run")


@pytest.fixture
def client(session: Session, pictures: Path) -> Iterator[TestClient]:
    index, _ = session.folder(pictures)
    with TestClient(create_app(session, index, max_bytes=200_000)) as found:
        yield found


def test_health_and_info(client: TestClient, session: Session, pictures: Path) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    info = client.get("/info").json()
    assert (info["name"], info["method"], info["capabilities"]) == ("run", "clip", ["embed", "classify"])
    assert info["searches"] == str(pictures) and info["metrics"] == {}
    save_evaluation(Evaluation("test", {"recall@10": 0.5}), session.path / "evaluation" / "test")
    assert client.get("/info").json()["metrics"] == {"recall@10": 0.5}


def test_embed_equals_the_model(client: TestClient, small_clip: CLIP) -> None:
    answer = client.post("/embed", data={"text": ["a cat", "ein Hünd"]}, files={"image": ("x.png", png())})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["dim"] == 8 and [e["input"] for e in found["embeddings"]] == ["a cat", "ein Hünd", "x.png"]
    expected = [
        *small_clip.embed("text", ["a cat", "ein Hünd"]),
        *small_clip.embed("image", [Image.new("RGB", (20, 20), "red")]),
    ]
    np.testing.assert_allclose([e["vector"] for e in found["embeddings"]], expected, atol=1e-6)


def test_search_by_text_and_by_picture(client: TestClient, pictures: Path) -> None:
    by_text = client.post("/search", data={"text": "a red square", "k": 3}).json()["hits"]
    assert len(by_text) == 3 and by_text[0]["score"] >= by_text[2]["score"]
    image = {"image": ("q.png", (pictures / "004.png").read_bytes())}
    assert client.post("/search", files=image).json()["hits"][0]["path"] == str(pictures / "004.png")


def test_search_among_held_out_pictures(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERMODAL_CACHE", str(tmp_path / "cache"))
    with TestClient(create_app(session.path)) as client:
        hits = client.post("/search", data={"text": "ice cream", "k": 4}).json()["hits"]
    assert len(hits) == 4 and all(hit["caption"] for hit in hits)


def test_classify(client: TestClient, small_clip: CLIP) -> None:
    form: dict[str, Any] = {"label": ["red", "blue"], "template": ["a {} square"]}
    answer = client.post("/classify", data=form, files={"image": ("x.png", png())}).json()
    shares = small_clip.classify([Image.new("RGB", (20, 20), "red")], ["red", "blue"], ["a {} square"])[0]
    found = {row["label"]: row["probability"] for row in answer["pictures"][0]["labels"]}
    assert found == pytest.approx({"red": shares[0], "blue": shares[1]}, abs=1e-6)
    assert answer["pictures"][0]["labels"][0]["probability"] == max(found.values())


@pytest.mark.parametrize(
    ("path", "form", "files", "words"),
    [
        ("/embed", {}, {}, "at least one"),
        ("/search", {}, {}, "a text or a picture"),
        ("/search", {"text": "x"}, {"image": ("x.png", png())}, "one of the two"),
        ("/search", {}, {"image": ("x.png", b"no picture")}, "the picture 'x.png' cannot be read"),
        ("/search", {"text": "x", "k": "0"}, {}, "k: Input should be greater"),
        ("/search", {"text": "x", "k": "many"}, {}, "k: Input should be a valid integer"),
        ("/search", {"text": "x" * 20_000}, {}, "text: String should have at most"),
        ("/classify", {"label": "a"}, {}, "image: Field required"),
        ("/classify", {"label": "a", "template": "no place"}, {"image": ("x.png", png())}, "has no {}"),
        ("/nothing", {}, {}, "Not Found"),
        ("/embed", {}, {"image": ("x.png", b"x" * 300_000)}, "larger than"),
    ],
)
def test_bad_requests_are_one_sentence(
    client: TestClient, path: str, form: dict[str, str], files: dict[str, Any], words: str
) -> None:
    answer = client.post(path, data=form, files=files or None)
    assert answer.status_code == {"Not Found": 404, "larger than": 413}.get(words, 422)
    assert set(answer.json()) == {"error"} and words in answer.json()["error"]


def test_a_body_that_hides_its_length_is_refused_too(client: TestClient) -> None:
    def stream() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n'
        for _ in range(40):
            yield b"x" * 10_000

    answer = client.post("/embed", content=stream(), headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413 and "larger" in answer.json()["error"]


def test_a_header_that_claims_a_huge_picture_is_refused(client: TestClient) -> None:
    data = bytearray(png())
    data[16:24] = struct.pack(">II", 50_000, 50_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    answer = client.post("/embed", files={"image": ("bomb.png", bytes(data))})
    assert answer.status_code == 422 and "bomb.png' claims too many pixels" in answer.json()["error"]


def test_a_model_that_cannot_says_so(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intermodal.index.embedding.capabilities_of", lambda model: ("embed",))
    answer = client.post("/classify", data={"label": "a"}, files={"image": ("x.png", png())})
    assert answer.status_code == 422 and "capability 'classify'" in answer.json()["error"]


def test_no_model_is_an_error_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        create_app(tmp_path / "nothing")
