"""The page in a real browser: type, drop, see pictures with scores; nothing leaves this machine."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from intermodal.core.chat import Turn
from intermodal.data.ocr import draw_line
from intermodal.methods.contrastive.clip import CLIP
from intermodal.recipes import get_recipe
from toy_captioner import pictures as toy_pictures
from toy_llava import ASKED, FRUIT, learn, tiny

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
MANY = 5_000
SIZES = {"desk": ((1280, 900), "light"), "phone": ((390, 844), "dark")}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def address(small_clip: CLIP, tmp_path: Path) -> Iterator[str]:
    with served(small_clip, tmp_path) as found:
        yield found


TOYS = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import toy_recogniser
from intermodal.cli.main import main
from intermodal.core import config, registry
config.trust_package("toy_recogniser")
about = {"title": "A toy", "paper": "", "capabilities": ("transcribe",), "recipes": (), "reference": ""}
toy = registry.MethodCard(id="toy-recogniser", cls="ToyRecogniser", module="toy_recogniser", **about)
known = {**registry.cards(), toy.id: toy}
registry.cards = lambda: known
sys.exit(main())
"""
"""The command line that knows the toy recogniser; its first argument is the folder of the tests."""


@contextmanager
def served(model: Any, tmp_path: Path, program: tuple[str, ...] = ("-m", "intermodal")) -> Iterator[str]:
    model.save(tmp_path / "run" / "model")
    command = [sys.executable, *program, "studio", str(tmp_path / "run")]
    process = subprocess.Popen(
        [*command, "--port", str(free_port()), "--no-open"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # A proxy that answers nothing: the page must not need it.
        env={
            **os.environ,
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9"),
            "INTERMODAL_CACHE": str(tmp_path / "cache"),
            "OMP_NUM_THREADS": "1",
        },
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.fullmatch(r"Studio: (http://127\.0\.0\.1:\d+)/?\n", line)
        assert found, f"the studio said {line!r}"
        yield found[1]
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


@pytest.fixture
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def visits(chromium: Any, address: str, requests: list[str] | None = None) -> Iterator[tuple[str, Any]]:
    """Open the page at a desk and on a phone, one after the other; give each one's name, and note what it asks for."""
    for name, ((width, height), scheme) in SIZES.items():
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        page = context.new_page()
        page.set_default_timeout(150_000)
        if requests is not None:
            page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        yield name, page
        context.close()


def test_a_person_searches(address: str, chromium: Any, pictures: Path, tmp_path: Path) -> None:
    shots = Path(os.environ.get("INTERMODAL_SCREENSHOTS", tmp_path))
    shots.mkdir(parents=True, exist_ok=True)
    requests: list[str] = []
    for name, page in visits(chromium, address, requests):
        page.fill("#im-query input", "something cold to eat")
        page.keyboard.press("Enter")
        page.wait_for_selector(".im-grid li")
        assert page.locator(".im-grid img").count() == 18
        assert page.evaluate("[...document.querySelectorAll('.im-grid img')].every(i => i.naturalWidth > 0)")
        scores = [float(s) for s in page.locator(".im-grid data").all_inner_texts()]
        assert scores == sorted(scores, reverse=True) and len(scores) == 18
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
        page.wait_for_timeout(300)
        page.screenshot(path=str(shots / f"studio-{name}-text.png"), full_page=True)

        page.get_by_role("button", name="it flies").click()
        page.wait_for_function("document.querySelector('.im-caption').textContent.includes('it flies')")
        assert page.input_value("#im-query input") == "it flies"

        page.set_input_files("#im-picture input[type=file]", str(pictures / "003.png"))
        page.wait_for_function("document.querySelector('.im-caption').textContent.includes('The picture')")
        page.screenshot(path=str(shots / f"studio-{name}-picture.png"), full_page=True)

        page.get_by_label("My own pictures").check()
        page.wait_for_selector(".im-bad")  # no folder is named yet: a sentence says so
        page.fill("#im-folder input, #im-folder textarea", str(pictures))
        page.keyboard.press("Enter")
        page.wait_for_function("document.querySelector('.im-caption')?.textContent.includes('12 pictures')")
        assert "003.png" in page.locator(".im-grid li").first.inner_text()
        page.wait_for_timeout(300)
        page.screenshot(path=str(shots / f"studio-{name}-folder.png"), full_page=True)

        left = page.locator(".im-head").bounding_box()["x"]
        page.get_by_role("tab", name="Classify").click()
        page.locator("input[type=file]:visible, .tabitem:visible input[type=file]").last.set_input_files(
            str(pictures / "000.png")
        )
        page.wait_for_selector(".im-bars li")
        assert page.locator(".im-head").bounding_box()["x"] == left, "the page keeps its place"
        page.wait_for_timeout(300)
        page.screenshot(path=str(shots / f"studio-{name}-classify.png"), full_page=True)
    outside = [url for url in requests if not url.startswith((address, "data:", "blob:"))]
    assert not outside, "nothing is fetched from elsewhere"


def test_a_person_draws(small_cfg: Any, chromium: Any, tmp_path: Path) -> None:
    shots = Path(os.environ.get("INTERMODAL_SCREENSHOTS", tmp_path))
    shots.mkdir(parents=True, exist_ok=True)
    # So long that it never ends before a slow browser has pressed the button that stops it.
    small_cfg.config = small_cfg.config.replace(drawing__steps=MANY, schedule__steps=MANY)
    with served(small_cfg, tmp_path) as address:
        for name, page in visits(chromium, address):
            steps = page.locator("input[type=number]:visible").first
            assert steps.input_value() == str(MANY)
            steps.fill("4")
            page.get_by_label("Prompt").fill("a red square")
            page.keyboard.press("Enter")
            page.wait_for_selector(".im-save a")
            assert page.locator(".im-grid img").count() == 4
            assert page.evaluate("[...document.querySelectorAll('.im-grid img')].every(i => i.naturalWidth > 0)")
            ends = page.locator(".im-grid img").first.get_attribute("src")

            place = page.locator("#im-moment input[type=number]")
            assert place.input_value() == "5"
            place.fill("2")
            place.press("Enter")
            page.wait_for_function("document.querySelector('.im-caption').textContent.includes('Before step 2 of 4')")
            becomes = page.locator(".im-grid img").first.get_attribute("src")
            page.get_by_label("with its noise").check()
            page.wait_for_function(
                "old => document.querySelector('.im-grid img').getAttribute('src') !== old", arg=becomes
            )
            assert len({ends, becomes, page.locator(".im-grid img").first.get_attribute("src")}) == 3
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
            page.screenshot(path=str(shots / f"studio-{name}-draw.png"), full_page=True)

            steps.fill(str(MANY))
            page.get_by_role("button", name="Draw").click()
            page.locator(".im-caption", has_text=f"of {MANY}").wait_for()  # not before its first step
            page.get_by_role("button", name="Stop").click()
            page.locator(".im-caption", has_text="Stopped.").wait_for()

            page.get_by_label("Prompt").fill("зелёный")
            page.get_by_role("button", name="Draw").click()
            page.wait_for_selector(".im-bad")


@pytest.mark.parametrize("recipe", ["coca", "trocr"])
def test_a_person_has_a_picture_described_or_read(recipe: str, chromium: Any, tmp_path: Path) -> None:
    """The page shows what the model itself says of the picture, and that a blank page is blank."""
    shots = Path(os.environ.get("INTERMODAL_SCREENSHOTS", tmp_path))
    shots.mkdir(parents=True, exist_ok=True)
    model = get_recipe(recipe).smoke().build()
    picture = draw_line("TOTAL 7.85", np.random.default_rng(0)).convert("RGB")
    picture.save(tmp_path / "line.png")
    Image.new("RGB", (64, 64), "white").save(tmp_path / "blank.png")
    place = "#im-captions" if recipe == "coca" else "#im-read"
    said = model.caption([picture]) if recipe == "coca" else model.read([picture], cut=True)[0]
    assert said
    with served(model, tmp_path) as address:
        for name, page in visits(chromium, address):
            if recipe == "coca":
                page.get_by_role("tab", name="Caption").click()
            page.locator("input[type=file]").last.set_input_files(str(tmp_path / "line.png"))
            page.wait_for_selector(f"{place} .im-passages")
            shown = page.locator(f"{place} .im-passages").inner_text()
            assert all(" ".join((one.text or "(nothing)").split()) in " ".join(shown.split()) for one in said)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
            page.screenshot(path=str(shots / f"studio-{name}-{recipe}.png"), full_page=True)
            if recipe == "trocr":
                page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
                page.locator("input[type=file]").last.set_input_files(str(tmp_path / "blank.png"))
                page.locator(place, has_text="the page is blank").wait_for()


def test_a_person_asks(chromium: Any, tmp_path: Path) -> None:
    """Answers are seen while they are written, turns are remembered, a second picture joins, what is too long is refused."""
    shots = Path(os.environ.get("INTERMODAL_SCREENSHOTS", tmp_path))
    shots.mkdir(parents=True, exist_ok=True)
    model = learn(tiny(), 60)
    shown = toy_pictures()
    for number in (0, 2):
        shown[number].resize((64, 64)).save(tmp_path / f"{number}.png")
    first, second = ([Turn(ASKED, None, (shown[n],))] for n in (2, 0))
    said = [model.answer([chat])[0].text for chat in (first, second)]
    with served(model, tmp_path) as address:
        for name, page in visits(chromium, address):
            page.get_by_role("tab", name="Ask").click()
            panel = page.get_by_role("tabpanel").filter(has=page.get_by_label("A question"))
            panel.locator("input[type=file]").set_input_files(str(tmp_path / "2.png"))
            page.wait_for_timeout(1500)
            page.evaluate(WATCH)
            page.get_by_label("A question").fill(ASKED)
            page.keyboard.press("Enter")
            answers = page.locator("#im-answers")
            answers.filter(has_text=said[0]).wait_for()
            seen = page.evaluate("[...window.seen]")
            assert len([text for text in seen if ASKED in text]) > 1, f"word by word: {seen}"
            page.get_by_label("A question").fill(FRUIT)
            page.get_by_role("button", name="Ask", exact=True).click()
            answers.filter(has_text=FRUIT).wait_for()
            assert ASKED in answers.inner_text(), "the first turn stays"
            page.wait_for_timeout(500)
            page.screenshot(path=str(shots / f"studio-{name}-ask.png"), full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"

            page.get_by_role("button", name="New chat").click()
            answers.filter(has_text="Drop a picture").wait_for()
            page.get_by_label("Further pictures join the chat").check()
            page.get_by_label("A question").fill(ASKED)
            page.keyboard.press("Enter")
            answers.filter(has_text="[picture 1]").wait_for()
            panel.get_by_label("Remove Image").or_(panel.get_by_label("Clear")).first.click()
            panel.locator("input[type=file]").set_input_files(str(tmp_path / "0.png"))
            page.wait_for_timeout(1500)
            page.get_by_label("A question").fill(ASKED)
            page.keyboard.press("Enter")
            answers.filter(has_text="[picture 2]").wait_for()
            page.wait_for_timeout(1500)  # until it has been written to its end
            page.get_by_label("A question").fill("colour " * 99)
            page.keyboard.press("Enter")
            answers.filter(has_text="shorten the prompt").wait_for()


WATCH = """() => {
    window.seen = new Set();
    const place = document.querySelector("#im-answers");
    new MutationObserver(() => window.seen.add(place.innerText)).observe(
        place, {childList: true, subtree: true, characterData: true});
}"""
"""Notes every state of the answers."""


def test_a_person_listens(tones: ModuleType, chromium: Any, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    shots = Path(os.environ.get("INTERMODAL_SCREENSHOTS", tmp_path))
    shots.mkdir(parents=True, exist_ok=True)
    soundfile.write(tmp_path / "a.wav", tones.spoken("GO TO THE SHED"), 8000)
    words = "".join(f"-0.6 {word}\n" for word in ("GO", "TO", "THE", "SHED"))
    head = "\\data\\\nngram 1=7\n\n\\1-grams:\n-2.0 <unk>\n-99 <s>\n-0.5 </s>\n"
    (tmp_path / "small.arpa").write_text(f"{head}{words}\n\\end\\\n")
    with served(tones.recogniser(deaf="E"), tmp_path, ("-c", TOYS, str(Path(__file__).parents[1]))) as address:
        for name, page in visits(chromium, address):
            page.set_input_files("#im-audio input[type=file]", str(tmp_path / "a.wav"))
            page.wait_for_selector(".im-spoken")
            assert page.locator(".im-spoken").all_inner_texts() == ["GO TO THF SHFD"]
            assert page.evaluate("document.querySelector('.im-wide img').naturalWidth") == 1200
            page.set_input_files("#im-lm input[type=file]", str(tmp_path / "small.arpa"))
            page.wait_for_function("document.querySelectorAll('.im-spoken').length === 2")
            assert page.locator(".im-spoken").all_inner_texts() == ["GO TO THF SHFD", "GO TO THE SHED"]
            page.locator("summary").click()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
            page.wait_for_timeout(300)
            page.screenshot(path=str(shots / f"studio-{name}-listen.png"), full_page=True)
            with page.expect_download() as saved:
                page.get_by_text("Save as SRT").click()
            assert "GO TO THE SHED" in Path(saved.value.path()).read_text()


def test_a_person_speaks_into_the_microphone(tones: ModuleType, tmp_path: Path) -> None:
    """The browser plays a file, over and over, in the place of a microphone."""
    soundfile = pytest.importorskip("soundfile")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    soundfile.write(tmp_path / "spoken.wav", tones.spoken("GO TO THE SHED"), 8000)
    heard = [f"--use-file-for-fake-audio-capture={tmp_path / 'spoken.wav'}"]
    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", *heard]
    with (
        served(tones.recogniser(), tmp_path, ("-c", TOYS, str(Path(__file__).parents[1]))) as address,
        playwright.sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *fake])
        page = browser.new_page()
        page.set_default_timeout(150_000)
        page.goto(address)
        page.locator("#im-audio").get_by_label("Record audio").click()
        page.locator("#im-audio").get_by_role("button", name="Record", exact=True).click()
        page.wait_for_timeout(3000)
        page.locator("#im-audio").get_by_role("button", name="Stop").click()
        page.wait_for_selector(".im-spoken")
        assert "THE SHED" in page.locator(".im-spoken").inner_text()
        browser.close()
