"""``POST /generate``: the same samples as the model's, and what is refused."""

from __future__ import annotations

import base64
import importlib.util
import io
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from intermodal.api.app import create_app
from intermodal.methods.contrastive.clip import CLIP

pytestmark = [
    # Starlette's test client tells of its own move from httpx to httpx2; it works with either.
    pytest.mark.filterwarnings("ignore:Using `httpx`:DeprecationWarning"),
]


def tiny(name: str, make: str) -> Any:
    path = Path(__file__).parents[1] / "methods" / f"test_{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, make)()


def test_pictures_come_as_png(tmp_path: Path) -> None:
    model = tiny("ebm", "of_pictures")
    model.save(tmp_path / "model")
    with TestClient(create_app(tmp_path / "model")) as client:
        assert client.get("/info").json()["capabilities"] == ["generate"]
        answer = client.post("/generate", data={"count": 2, "seed": 5, "steps": 3}).json()
        refused = client.post("/generate", data={"prompt": "a cat"})
    found = [Image.open(io.BytesIO(base64.b64decode(image))) for image in answer["images"]]
    expected = model.generate(2, seed=5, steps=3)
    assert answer["kind"] == "image" and answer["texts"] == answer["points"] == []
    assert [f.tobytes() for f in found] == [e.tobytes() for e in expected]
    assert refused.status_code == 422 and "takes no prompt" in refused.json()["error"]


def test_texts_and_points(tmp_path: Path) -> None:
    model = tiny("nce", "writer")
    model.save(tmp_path / "texts")
    with TestClient(create_app(tmp_path / "texts")) as client:
        answer = client.post("/generate", data={"prompt": "the cat", "count": 2, "steps": 4}).json()
    assert answer == {"kind": "text", "images": [], "texts": model.generate(2, prompt="the cat", steps=4), "points": []}
    tiny("ebm", "of_points").save(tmp_path / "points")
    with TestClient(create_app(tmp_path / "points")) as client:
        points = client.post("/generate", data={"count": 3}).json()["points"]
    assert len(points) == 3 and all(len(p) == 2 for p in points)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"count": 0}, "count: Input should be greater"),
        ({"count": 65}, "count: Input should be less"),
        ({"steps": 0}, "steps: Input should be greater"),
        ({"seed": -1}, "seed: Input should be greater"),
    ],
)
def test_bad_requests_are_one_sentence(tmp_path: Path, form: dict[str, int], words: str) -> None:
    tiny("ebm", "of_pictures").save(tmp_path / "model")
    with TestClient(create_app(tmp_path / "model")) as client:
        answer = client.post("/generate", data=form)
    assert answer.status_code == 422 and words in answer.json()["error"]


def test_a_model_that_cannot_says_so(tmp_path: Path, small_clip: CLIP) -> None:
    small_clip.save(tmp_path / "model")
    with TestClient(create_app(tmp_path / "model")) as client:
        answer = client.post("/generate", data={"count": 1})
    assert answer.status_code == 422 and "capability 'generate'" in answer.json()["error"]
