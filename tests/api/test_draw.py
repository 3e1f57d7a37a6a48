"""``POST /draw`` and ``/interpolate``: the model's own pictures, how they came about, and what is refused."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from intermodal.api.app import create_app
from intermodal.core.drawing import Drawing
from intermodal.data.picture_files import read_facts
from intermodal.methods.contrastive.clip import CLIP

pytestmark = [
    # Starlette's test client tells of its own move from httpx to httpx2; it works with either.
    pytest.mark.filterwarnings("ignore:Using `httpx`:DeprecationWarning"),
]


@pytest.fixture
def client(small_cfg: Any, tmp_path: Path) -> Iterator[TestClient]:
    small_cfg.save(tmp_path / "my-run")
    with TestClient(create_app(tmp_path / "my-run")) as found:
        yield found


def pixels(image: str) -> bytes:
    return Image.open(io.BytesIO(base64.b64decode(image))).tobytes()


def png(colour: str) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 30), colour).save(buffer, "PNG")
    return f"{colour}.png", buffer.getvalue()


def test_pictures_their_seeds_and_all_settings(client: TestClient, small_cfg: Any, tmp_path: Path) -> None:
    form = {"prompt": "a red square", "count": 2, "seed": 4, "steps": 3, "guidance": 3.5, "sampler": "dpm"}
    answer = client.post("/draw", data={**form, "negative": "blue", "spacing": "karras", "eta": 0}).json()
    drawing = small_cfg.drawing.replace(steps=3, guidance=3.5, sampler="dpm", negative="blue", spacing="karras")
    expected = small_cfg.draw(["a red square"] * 2, [4, 5], drawing)
    assert [pixels(p["image"]) for p in answer["pictures"]] == [e.tobytes() for e in expected]
    assert [p["seed"] for p in answer["pictures"]] == [4, 5] and answer["notes"] == []
    assert Drawing.from_dict(answer["settings"]) == drawing
    (tmp_path / "a.png").write_bytes(base64.b64decode(answer["pictures"][1]["image"]))
    facts = read_facts(tmp_path / "a.png")
    assert (facts["prompt"], facts["seed"], facts["model"]) == ("a red square", "5", "my-run")
    assert Drawing.from_dict(facts["drawing"]) == drawing


def test_nothing_given_is_the_models_own_choice(client: TestClient, small_cfg: Any) -> None:
    answer = client.post("/draw").json()
    assert pixels(answer["pictures"][0]["image"]) == small_cfg.draw([None], [0])[0].tobytes()
    assert Drawing.from_dict(answer["settings"]) == small_cfg.drawing
    answer = client.post("/draw", data={"prompt": "purple red"}).json()
    assert answer["notes"] == ["The model does not know 'purple'."]


def test_between_texts_and_between_pictures(client: TestClient, small_cfg: Any) -> None:
    answer = client.post("/interpolate", data={"text": ["red", "blue"], "count": 3, "seed": 2, "steps": 2}).json()
    drawing = small_cfg.drawing.replace(steps=2)
    expected = small_cfg.interpolate("red", "blue", 3, seed=2, drawing=drawing)
    assert [pixels(i) for i in answer["images"]] == [e.tobytes() for e in expected]
    assert Drawing.from_dict(answer["settings"]) == drawing
    answer = client.post(
        "/interpolate", files=[("image", png("red")), ("image", png("blue"))], data={"count": 3}
    ).json()
    ends = [Image.new("RGB", (20, 30), colour) for colour in ("red", "blue")]
    assert [pixels(i) for i in answer["images"]] == [e.tobytes() for e in small_cfg.interpolate(*ends, 3)]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"prompt": "  "}, "The prompt is empty"),
        ({"prompt": "зелёный"}, "knows none of the words"),
        ({"prompt": "x" * 10_001}, "prompt: String should have at most 10000"),
        ({"count": 0}, "count: Input should be greater"),
        ({"count": 65}, "count: Input should be less"),
        ({"steps": 0}, "steps: Input should be greater"),
        ({"steps": 1001}, "trained with 1000 steps"),
        ({"steps": 10_001}, "steps: Input should be less"),
        ({"guidance": "nan"}, "must be a finite number"),
        ({"guidance": "much"}, "guidance: Input should be a valid number"),
        ({"sampler": "magic"}, "sampler: Input should be 'ddpm'"),
        ({"spacing": "odd"}, "spacing: Input should be"),
        ({"eta": 2}, "eta: Input should be less"),
        ({"seed": -1}, "seed: Input should be greater"),
        ({"seed": 2**63 - 1, "count": 2}, "Seeds go from 0"),
        ({"guidance": 1, "negative": "blue"}, "acts through guidance"),
    ],
)
def test_bad_requests_are_one_sentence(client: TestClient, form: dict[str, Any], words: str) -> None:
    answer = client.post("/draw", data=form)
    assert answer.status_code == 422 and words in answer.json()["error"], answer.text


def test_two_ends_of_one_kind(client: TestClient) -> None:
    for data, files in (
        ({}, []),
        ({"text": ["red"]}, []),
        ({"text": ["red"]}, [("image", png("red"))]),
        ({}, [("image", png("red"))]),
        ({"text": ["red", "blue"]}, [("image", png("red")), ("image", png("blue"))]),
    ):
        answer = client.post("/interpolate", data=data, files=files or None)
        assert answer.status_code == 422 and "Send two texts" in answer.json()["error"]
    for data, words in (
        ({"text": ["red"] * 3}, "text: List should have at most 2"),
        ({"text": ["red", "blue"], "count": 1}, "count: Input should be greater"),
        ({"text": ["red", "  "]}, "The text is empty"),
    ):
        answer = client.post("/interpolate", data=data)
        assert answer.status_code == 422 and words in answer.json()["error"]
    answer = client.post("/interpolate", files=[("image", png("red")), ("image", ("x.png", b"none"))])
    assert answer.status_code == 422 and "the picture 'x.png' cannot be read" in answer.json()["error"]


def test_a_model_without_texts(small_ddpm: Any, tmp_path: Path) -> None:
    small_ddpm.save(tmp_path / "plain")
    with TestClient(create_app(tmp_path / "plain")) as client:
        assert len(client.post("/draw", data={"count": 2}).json()["pictures"]) == 2
        answer = client.post("/draw", data={"prompt": "a cat"})
        assert answer.status_code == 422 and "takes no prompt" in answer.json()["error"]
        answer = client.post("/interpolate", data={"text": ["a cat", "a dog"]})
        assert answer.status_code == 422 and "takes no prompt" in answer.json()["error"]


def test_a_model_that_cannot_says_so(tmp_path: Path, small_clip: CLIP) -> None:
    small_clip.save(tmp_path / "clip")
    with TestClient(create_app(tmp_path / "clip")) as client:
        for route, capability in (("/draw", "draw"), ("/interpolate", "interpolate")):
            answer = client.post(route, data={"text": ["a", "b"]})
            assert answer.status_code == 422 and f"capability '{capability}'" in answer.json()["error"]
