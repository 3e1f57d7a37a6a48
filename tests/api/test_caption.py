"""``POST /caption``: the model's captions, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from intermodal.api.app import create_app
from intermodal.core.captioning import Captioning
from toy_captioner import pictures, tiny

pytestmark = [pytest.mark.filterwarnings("ignore:Using `httpx`:DeprecationWarning")]


def test_captions_are_the_models(tmp_path: Path) -> None:
    model = tiny()
    model.save(tmp_path / "model")
    sent = []
    for i, picture in enumerate(pictures()):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        sent.append(("image", (f"{i}.png", buffer.getvalue(), "image/png")))
    with TestClient(create_app(tmp_path / "model")) as client:
        assert client.get("/info").json()["capabilities"] == ["embed", "caption"]
        answer = client.post("/caption", files=sent, data={"beam": 2, "length": 4}).json()
        refused = client.post("/caption", files=sent[:1], data={"beam": 2, "temperature": 1})
        wrong = client.post("/caption", files=[("image", ("x.png", b"nothing", "image/png"))])
    wanted = model.eval().caption(pictures(), Captioning(beam=2, most=4))
    assert [row["input"] for row in answer["pictures"]] == ["0.png", "1.png", "2.png", "3.png"]
    assert [row["caption"] for row in answer["pictures"]] == [c.text for c in wanted]
    assert [row["log_prob"] for row in answer["pictures"]] == pytest.approx([c.log_prob for c in wanted], rel=1e-4)
    assert refused.status_code == 422 and "searches and draws nothing" in refused.json()["error"]
    assert wrong.status_code == 422 and "cannot be read" in wrong.json()["error"]
