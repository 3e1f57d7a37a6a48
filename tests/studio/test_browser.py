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

import pytest

from intermodal.methods.contrastive.clip import CLIP

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


def test_a_person_searches(address: str, chromium: Any, pictures: Path, tmp_path: Path) -> None:
    shots = Path(os.environ.get("INTERMODAL_SCREENSHOTS", tmp_path))
    shots.mkdir(parents=True, exist_ok=True)
    requests: list[str] = []
    for name, ((width, height), scheme) in SIZES.items():
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        page = context.new_page()
        page.set_default_timeout(150_000)
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)

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
        context.close()
    outside = [url for url in requests if not url.startswith((address, "data:", "blob:"))]
    assert not outside, "nothing is fetched from elsewhere"


def test_a_person_draws(small_cfg: Any, chromium: Any, tmp_path: Path) -> None:
    shots = Path(os.environ.get("INTERMODAL_SCREENSHOTS", tmp_path))
    shots.mkdir(parents=True, exist_ok=True)
    # So long that it never ends before a slow browser has pressed the button that stops it.
    small_cfg.config = small_cfg.config.replace(drawing__steps=MANY, schedule__steps=MANY)
    with served(small_cfg, tmp_path) as address:
        for name, ((width, height), scheme) in SIZES.items():
            context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            page = context.new_page()
            page.set_default_timeout(150_000)
            page.goto(address)
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
            context.close()


def test_a_person_listens(tones: ModuleType, chromium: Any, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    shots = Path(os.environ.get("INTERMODAL_SCREENSHOTS", tmp_path))
    shots.mkdir(parents=True, exist_ok=True)
    soundfile.write(tmp_path / "a.wav", tones.spoken("GO TO THE SHED"), 8000)
    words = "".join(f"-0.6 {word}\n" for word in ("GO", "TO", "THE", "SHED"))
    head = "\\data\\\nngram 1=7\n\n\\1-grams:\n-2.0 <unk>\n-99 <s>\n-0.5 </s>\n"
    (tmp_path / "small.arpa").write_text(f"{head}{words}\n\\end\\\n")
    with served(tones.recogniser(deaf="E"), tmp_path, ("-c", TOYS, str(Path(__file__).parents[1]))) as address:
        for name, ((width, height), scheme) in SIZES.items():
            context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            page = context.new_page()
            page.set_default_timeout(150_000)
            page.goto(address)
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
            context.close()


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
