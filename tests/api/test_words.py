"""The route for questions about words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from intermodal.api.app import create_app
from intermodal.data.words import Vocabulary
from intermodal.methods.contrastive.clip import CLIP
from intermodal.methods.contrastive.word2vec import Word2Vec, Word2VecConfig

pytestmark = [
    # Starlette's test client tells of its own move from httpx to httpx2; it works with either.
    pytest.mark.filterwarnings("ignore:Using `httpx`:DeprecationWarning"),
]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    words = Vocabulary(["king", "queen", "man", "woman"], [4, 3, 2, 1], total=10)
    model = Word2Vec(Word2VecConfig(vocab_size=4, dim=2), {"text": words})
    model.centre.weight.data = torch.tensor([[1.0, 1], [1, -1], [0.1, 1], [0.1, -1]])
    model.save(tmp_path / "run" / "model")
    with TestClient(create_app(tmp_path / "run")) as found:
        yield found


def test_near_and_analogy(client: TestClient) -> None:
    answer = client.post("/words", data={"near": "king", "k": 1}).json()
    assert answer == {"words": [{"word": "man", "cosine": pytest.approx(0.774, abs=1e-3), "rank": 3}]}
    answer = client.post("/words", data={"analogy": ["man", "king", "woman"]}).json()
    assert answer["words"][0]["word"] == "queen"
    assert client.get("/info").json()["capabilities"] == ["embed", "words"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "one of the two"),
        ({"near": "king", "analogy": ["a", "b", "c"]}, "one of the two"),
        ({"analogy": ["man", "king"]}, "takes three words, found 2"),
        ({"near": "kign"}, "did you mean 'king'?"),
        ({"near": " "}, "an empty one"),
        ({"near": "king", "k": 0}, "greater than or equal to 1"),
    ],
)
def test_bad_questions(client: TestClient, data: dict[str, object], said: str) -> None:
    answer = client.post("/words", data=data)
    assert answer.status_code == 422 and said in answer.json()["error"]


def test_a_model_without_words(small_clip: CLIP, tmp_path: Path) -> None:
    small_clip.save(tmp_path / "run" / "model")
    with TestClient(create_app(tmp_path / "run")) as client:
        answer = client.post("/words", data={"near": "king"})
        assert answer.status_code == 422 and "capability 'words'" in answer.json()["error"]
