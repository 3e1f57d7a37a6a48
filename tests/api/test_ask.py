"""``POST /ask``: the model's answers, in turns, streamed, and what is refused."""

from __future__ import annotations

import io

import pytest
from fastapi.testclient import TestClient

from intermodal.api.app import create_app
from intermodal.core.chat import Turn
from toy_captioner import pictures
from toy_llava import ASKED, FRUIT, learn, tiny

pytestmark = [pytest.mark.filterwarnings("ignore:Using `httpx`:DeprecationWarning")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = learn(tiny(), 60)
    folder = tmp_path_factory.mktemp("llava") / "model"
    model.save(folder)
    return model, folder


def png(picture) -> tuple[str, bytes, str]:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "one.png", buffer.getvalue(), "image/png"


def test_answers_are_the_models(saved) -> None:
    model, folder = saved
    sent = [("image", png(pictures()[2]))]
    first = model.answer([[Turn(ASKED, None, (pictures()[2],))]])[0]
    chat = [Turn(ASKED, first.text, (pictures()[2],)), Turn(FRUIT)]
    with TestClient(create_app(folder)) as client:
        answer = client.post("/ask", files=sent, data={"question": ASKED}).json()
        streamed = client.post("/ask", files=sent, data={"question": ASKED, "stream": "true"}).text
        second = client.post("/ask", files=sent, data={"question": [ASKED, FRUIT], "answer": first.text}).json()
        two = [("image", png(pictures()[0])), ("image", png(pictures()[2]))]
        turns = {"question": [ASKED, ASKED], "answer": "it is red", "shown": [1, 1]}
        third = client.post("/ask", files=two, data=turns).json()
        odd = client.post("/ask", files=two, data=turns | {"shown": [1, 0]})
        bare = client.post("/ask", data={"question": FRUIT}).json()
        short = client.post("/ask", files=sent, data={"question": [ASKED, FRUIT]})
        long = client.post("/ask", files=sent, data={"question": "colour " * 99, "stream": "true"})
        wrong = client.post("/ask", files=[("image", ("x.png", b"no", "image/png"))], data={"question": ASKED})
    assert (answer["answer"], answer["ended"]) == (first.text, first.ended)
    assert answer["log_prob"] == pytest.approx(first.log_prob, rel=1e-4)
    assert streamed == first.text
    assert second["answer"] == model.answer([chat])[0].text and second["question"] == FRUIT
    several = [Turn(ASKED, "it is red", (pictures()[0],)), Turn(ASKED, None, (pictures()[2],))]
    assert third["answer"] == model.answer([several])[0].text
    assert odd.status_code == 422 and "2 numbers that make 2 together, found [1, 0]" in odd.json()["error"]
    assert bare["answer"] == model.answer([[Turn(FRUIT)]])[0].text
    assert short.status_code == 422 and "2 questions, 0 answers" in short.json()["error"]
    assert long.status_code == 422 and "reads at most 96: shorten" in long.json()["error"]
    assert wrong.status_code == 422 and "cannot be read" in wrong.json()["error"]
