"""``POST /encode`` and ``/decode``: the model's own tokens and pictures, and what is refused."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from intermodal.api.app import MAX_SAMPLES, create_app
from intermodal.data.tokens import TokenFile
from intermodal.methods.contrastive.clip import CLIP

pytestmark = [
    # Starlette's test client tells of its own move from httpx to httpx2; it works with either.
    pytest.mark.filterwarnings("ignore:Using `httpx`:DeprecationWarning"),
]


def png(colour: str = "red", size: tuple[int, int] = (20, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def opened(image: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(image)))


@pytest.fixture
def client(toys: ModuleType, tmp_path: Path) -> Iterator[TestClient]:
    toys.toy(levels=2).save(tmp_path / "model")
    with TestClient(create_app(tmp_path / "model")) as found:
        yield found


def encoded(client: TestClient, *colours: str) -> dict:
    return client.post("/encode", files=[("image", (f"{c}.png", png(c))) for c in colours]).json()


def test_tokens_are_the_models(client: TestClient, toys: ModuleType, tmp_path: Path) -> None:
    found, model = encoded(client, "red", "blue"), toys.toy(levels=2)
    pictures = [Image.new("RGB", (20, 30), c) for c in ("red", "blue")]
    assert found["codebook"] == 16 and found["shape"] == [8, 8, 2]
    assert [p["input"] for p in found["pictures"]] == ["red.png", "blue.png"]
    assert [p["bits"] for p in found["pictures"]] == [512.0, 512.0]
    np.testing.assert_array_equal([p["latent"] for p in found["pictures"]], model.encode(pictures))
    (tmp_path / "a.imtok").write_bytes(base64.b64decode(found["file"]))
    assert TokenFile(tmp_path / "a.imtok").sizes.tolist() == [[20, 30]] * 2


def test_a_file_and_bare_numbers_decode_to_the_same_pictures(client: TestClient, toys: ModuleType) -> None:
    found, model = encoded(client, "red", "blue"), toys.toy(levels=2)
    latents = [p["latent"] for p in found["pictures"]]
    by_file = client.post("/decode", files={"tokens": ("a.imtok", base64.b64decode(found["file"]))}).json()
    bare = client.post("/decode", data={"latents": json.dumps(latents)}).json()
    assert by_file["names"] == ["red.png", "blue.png"] and bare["names"] == []
    assert bare["images"] == by_file["images"]
    expected = model.decode(np.array(latents))
    assert [opened(i).tobytes() for i in bare["images"]] == [e.tobytes() for e in expected]
    coarse = client.post("/decode", data={"latents": json.dumps(latents), "levels": 1}).json()["images"]
    assert opened(coarse[0]).tobytes() == model.decode(np.array(latents)[..., :1])[0].tobytes()


@pytest.mark.parametrize(
    ("latents", "words"),
    [
        ("hello", "no JSON list"),
        ("[[1, 2], [3]]", "no JSON list"),
        ("3", "nested lists"),
        ('[[["a"]]]', "nested lists"),
        ("[[[true]]]", "nested lists"),
        ("[]", "nested lists"),
        ("[[[[0]]]]", "have the shape"),
        (json.dumps(np.full((1, 8, 8, 2), 16).tolist()), "The codes run from 16 to 16"),
        (json.dumps(np.full((1, 8, 8, 2), -1).tolist()), "The codes run from -1"),
        (json.dumps(np.full((1, 8, 8, 2), 0.5).tolist()), "codes (whole numbers)"),
        (json.dumps(np.zeros((MAX_SAMPLES + 1, 1), int).tolist()), f"1 to {MAX_SAMPLES} pictures, found 65"),
    ],
)
def test_bad_numbers_are_one_sentence(client: TestClient, latents: str, words: str) -> None:
    answer = client.post("/decode", data={"latents": latents})
    assert answer.status_code == 422 and words in answer.json()["error"], answer.text


def test_bad_requests_are_one_sentence(client: TestClient, toys: ModuleType, tmp_path: Path) -> None:
    data = base64.b64decode(encoded(client, "red")["file"])
    for sent, words in (
        (data[:-1], "cut short"),
        (b"hello", "The file that was sent cannot be read"),
        (b"", "cannot be read"),
    ):
        answer = client.post("/decode", files={"tokens": ("a.imtok", sent)})
        assert answer.status_code == 422 and words in answer.json()["error"]
    toys.toy(kind="map").save(tmp_path / "other")
    with TestClient(create_app(tmp_path / "other")) as other:
        answer = other.post("/decode", files={"tokens": ("a.imtok", data)})
        assert answer.status_code == 422 and "another tokenizer" in answer.json()["error"]
        numbers = json.dumps(np.full((1, 3, 8, 8), 1e999).tolist())
        assert "not finite" in other.post("/decode", data={"latents": numbers}).json()["error"]
    for form in (
        {},
        {"latents": "[]", "levels": 0},
        {"latents": json.dumps(np.zeros((1, 8, 8, 2), int).tolist()), "levels": 3},
    ):
        assert client.post("/decode", data=form).status_code == 422
    assert client.post("/encode").status_code == 422
    answer = client.post("/encode", files={"image": ("x.png", b"no picture")})
    assert answer.status_code == 422 and "the picture 'x.png' cannot be read" in answer.json()["error"]
    many = [("image", ("x.png", png()))] * (MAX_SAMPLES + 1)
    assert client.post("/encode", files=many).status_code == 422


def test_a_model_that_cannot_says_so(tmp_path: Path, small_clip: CLIP) -> None:
    small_clip.save(tmp_path / "clip")
    with TestClient(create_app(tmp_path / "clip")) as client:
        for answer in (
            client.post("/encode", files={"image": ("x.png", png())}),
            client.post("/decode", data={"latents": "[[0]]"}),
        ):
            assert answer.status_code == 422 and "capability 'reconstruct'" in answer.json()["error"]
