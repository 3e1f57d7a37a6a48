"""``POST /read``: the model's lines and boxes, a blank page, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from intermodal.api.app import create_app
from intermodal.core.captioning import Captioning
from intermodal.data.ocr import draw_line
from toy_reader import tiny

pytestmark = [pytest.mark.filterwarnings("ignore:Using `httpx`:DeprecationWarning")]


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_lines_are_the_models(tmp_path: Path) -> None:
    model = tiny()
    model.save(tmp_path / "model")
    line, blank = draw_line("TOTAL 9", np.random.default_rng(0)), Image.new("L", (30, 30), 255)
    sent = [("image", ("a.png", png(line), "image/png")), ("image", ("b.png", png(blank), "image/png"))]
    with TestClient(create_app(tmp_path / "model")) as client:
        assert client.get("/info").json()["capabilities"] == ["read"]
        whole = client.post("/read", files=sent, data={"whole": "true", "beam": 2, "length": 5}).json()["pictures"]
        pages = client.post("/read", files=sent).json()["pictures"]
        wrong = client.post("/read", files=[("image", ("x.png", b"nothing", "image/png"))])
    wanted = model.read([line, blank], Captioning(beam=2, most=5), cut=False)
    assert [[row["text"] for row in page["lines"]] for page in whole] == [[row.text for row in page] for page in wanted]
    assert whole[0]["lines"][0]["box"] == [0, 0, *line.size]
    assert whole[0]["lines"][0]["log_prob"] == pytest.approx(wanted[0][0].log_prob, rel=1e-4)
    assert pages[1] == {"input": "b.png", "text": "", "lines": []}
    assert wrong.status_code == 422 and "cannot be read" in wrong.json()["error"]
