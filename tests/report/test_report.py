import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from intermodal.core.errors import IntermodalError
from intermodal.evaluate.result import Bars, Evaluation, Gallery, Headline, Heatmap, Item, Table, save
from intermodal.report.build import build_report
from intermodal.report.curves import MOST_POINTS, Series, chart, ticks
from intermodal.report.panels import draw, picture

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'"


class Reader(HTMLParser):
    """Collects elements, texts and links, and checks that what is opened is closed."""

    VOID = frozenset({"img", "input", "meta", "br", "hr", "path", "line"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def read(path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


def evaluation(word: str = "cat", value: float = 0.5) -> Evaluation:
    image = Image.new("RGB", (300, 200), "red")
    shown = Item(image, word, 0.25, True, word)
    return Evaluation(
        "test",
        {"r10": value, word: 0.1},
        [
            Gallery(word, word, [(Item(text=word), [shown, Item(image, good=False)])]),
            Gallery("sure", word, [(shown, [Item(text=word, score=0.9, good=False)])], failures=True),
            Gallery("none", "", []),
            Heatmap(word, word, np.array([[0.0, value], [1.0, 0.5]]), [shown, Item(text=word)], [shown, shown]),
            Table(word, word, ["", word], [[word, value], [word, None]], emphasis=0),
            Bars(word, word, [word, "b"], [value, 0.2], "%", baseline=[0.1, math.nan], baseline_name=word),
        ],
        2.0,
        Headline("50 %", word),
    )


def write_run(folder, word: str = "cat", value: float = 0.5, loss: float = 2.0):
    folder.mkdir(exist_ok=True)
    lines = [
        {"kind": "train", "step": s, "loss": loss / s, "lr": 0.1, word: s, "memory_mb": 900.0} for s in range(1, 40)
    ]
    lines += [{"kind": "eval", "step": s, "r10": value * s / 40, "rank": 40 - s} for s in (10, 20, 30)]
    lines += [{"kind": "health", "step": 3, "warning": word}]
    lines += [{"kind": "skipped", "step": 4, "files": [word]}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "recipe.json").write_text(json.dumps({"name": word, "method": "clip", "text": word}))
    summary = {"status": "finished", "method": word, "data": word, "samples": 10, "steps": 40, "seconds": 3.0}
    (folder / "summary.json").write_text(json.dumps({**summary, "hardware": word, "parameters": 1000}))
    save(evaluation(word, value), folder / "evaluation" / "test")
    save(Evaluation("validation", {"r10": 0.3}), folder / "evaluation" / "validation")
    return folder


def test_the_report_is_one_file_that_asks_for_nothing(tmp_path):
    path = build_report(write_run(tmp_path / "run"))
    page = read(path)
    assert path.name == "report.html" and path.stat().st_size < 5_000_000
    for tag, attributes in page.found:
        for name in ("src", "href", "data", "action", "poster", "srcset", "xlink:href"):
            value = attributes.get(name) or ""
            assert (
                value.startswith("data:image/") if tag == "img" and name == "src" else value in ("",) or value[0] == "#"
            )
    assert not page.all("link") and not page.all("iframe") and not page.all("object")
    assert "url(" not in path.read_text() and "@import" not in path.read_text()
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert (
        policy.startswith("default-src 'none'; img-src data:")
        and "'unsafe-inline'" not in policy.split("script-src")[1]
    )


def test_a_caption_cannot_break_out(tmp_path):
    path = build_report(write_run(tmp_path / "run", EVIL))
    page = read(path)
    assert EVIL in page.text
    assert len([a for a in page.all("script") if a.get("type") != "application/json"]) == 1
    assert not any(name.startswith("on") for _, attributes in page.found for name in attributes)
    assert not any(a.get("src") == "x" for a in page.all("img"))
    for block in re.findall(r'<script type="application/json">(.*?)</script>', path.read_text(), re.S):
        json.loads(block)


def test_what_a_reader_of_screens_needs_is_there(tmp_path):
    page = read(build_report(write_run(tmp_path / "run")))
    assert page.all("html")[0]["lang"] == "en"
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("scope") in ("row", "col") for a in page.all("th"))
    assert all(a.get("aria-label") for a in page.all("svg"))
    assert len(page.all("h1")) == 1
    ids = [a["id"] for _, a in page.found if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a")} <= set(ids)
    assert any(a.get("name") == "viewport" for a in page.all("meta"))


@pytest.mark.parametrize("missing", ["metrics.jsonl", "recipe.json", "summary.json", "evaluation"])
def test_any_piece_may_be_missing(tmp_path, missing):
    run = write_run(tmp_path / "run")
    (run / missing).rename(tmp_path / "away")
    page = read(build_report(run))
    assert ("Not judged yet" in page.text) == (missing == "evaluation")
    assert ("Loss while training" in page.text) == (missing != "metrics.jsonl")
    assert ("The run is unfinished" in page.text) == (missing == "summary.json")


def test_damaged_pieces_are_named(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "summary.json").write_text("[1]")
    (run / "recipe.json").write_text("{")
    (run / "evaluation" / "validation" / "evaluation.json").write_text("{}")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('3\n{"kind": "train", "step": "x"}\n{"step"\n{"kind"')
    text = read(build_report(run)).text
    assert "should hold a JSON object" in text and "is not valid JSON" in text and "is damaged" in text
    assert "2 lines of metrics.jsonl could not be read" in text


def test_a_run_killed_while_writing_is_no_reason_for_a_warning(tmp_path):
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tr')
    assert "could not be read" not in read(build_report(run)).text


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(IntermodalError, match="is no run"):
        build_report(tmp_path)
    with pytest.raises(IntermodalError, match="no run's folder"):
        build_report(tmp_path / "nowhere")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_figures_that_are_no_numbers_are_said_so(tmp_path, value):
    path = build_report(write_run(tmp_path / "run", value=value, loss=value))
    page = read(path)
    assert "not a number" in page.text
    for block in re.findall(r'<script type="application/json">(.*?)</script>', path.read_text(), re.S):
        assert "NaN" not in block and "Infinity" not in block
    assert "nan" not in " ".join(a.get("d") or "" for a in page.all("path"))


def test_an_old_or_nested_file_of_metrics_is_understood(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    lines = [
        {
            "kind": "train",
            "step": s,
            "loss": 1.0 / s,
            "parts": {"scale": s},
            "images_per_second": 10 + s,
            "data_wait": 0.5,
        }
        for s in (1, 2)
    ]
    lines += [
        {"kind": "eval", "step": 2, "metrics": {"r1": 0.25}},
        {"kind": "health", "warnings": ["one", "two"]},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = read(build_report(run)).text
    for said in ("Scale", "r1", "Pictures a second", "one", "two", "Training waited for data 50.0\N{NO-BREAK SPACE}%"):
        assert said in text


def test_pictures_are_shrunk_and_hold_their_own_data():
    made = picture(Image.new("RGBA", (400, 200), (255, 0, 0, 128)), 'a "red" one')
    assert 'alt="a &quot;red&quot; one"' in made and 'width="160" height="80"' in made
    data = base64.b64decode(re.search(r"base64,([^\"]+)", made).group(1))
    assert Image.open(io.BytesIO(data)).size == (160, 80)
    assert "<img" in picture(Image.new("1", (4, 4)), "bits")


def test_bars_start_at_nothing_and_end_at_the_largest():
    made = draw(Bars("b", "", ["x", "y", "z"], [2.0, 1.0, -1.0], "dB", emphasis=1))
    assert re.findall(r"width:([\d.]+)%", made) == ["100.0", "50.0", "0.0"]
    assert "1 dB" in made and made.count('class="own"') == 1


def test_a_constant_or_empty_heatmap_is_drawn():
    item = Item(text="a")
    assert "--v:0.000" in draw(Heatmap("h", "", np.array([[2.0]]), [item], [item]))
    assert "not a number" in draw(Heatmap("h", "", np.array([[np.nan]]), [item], [item]))


def test_a_chart_is_thinned_and_keeps_its_ends():
    points = [(float(i), float(i % 7)) for i in range(5000)]
    kept = Series("s", points).thinned()
    assert len(kept) == MOST_POINTS and kept[0] == points[0] and kept[-1] == points[-1]
    made = chart("t", [Series("s", points), Series("nothing", [(0.0, math.nan)])])
    assert "from 0 at step 0 to 1 at step 4,999" in made and "nothing" not in made
    assert chart("t", []) == ""


def test_a_gap_lifts_the_pen():
    made = chart("t", [Series("s", [(0, 1.0), (1, 2.0), (2, math.nan), (3, 1.5), (4, 1.0)])])
    assert re.search(r'd="(M[^"]*)"', made).group(1).count("M") == 2


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.001, 0.0013), (-5.0, 12345.0), (1e-9, 3e-9)])
def test_ticks_are_round_and_within(low, high):
    found = ticks(low, high, 4)
    assert 2 <= len(found) <= 6
    assert all(low <= t <= high for t in found)


def test_a_summary_with_other_types_is_no_crash(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "summary.json").write_text(json.dumps({"seconds": None, "parameters": "many", "method": 3, "data": [1]}))
    assert "The run is unfinished" in read(build_report(run)).text
