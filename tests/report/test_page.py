import shutil

import pytest

from intermodal.evaluate.result import Evaluation, Gallery, Headline, Item, Table, save
from intermodal.report.build import build_report

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    lines = [f'{{"kind": "train", "step": {s}, "loss": {9 / s}, "lr": 0.1}}\n' for s in range(1, 50)]
    (run / "metrics.jsonl").write_text("".join(lines))
    words = [Item(text="a text that is rather long, and then some", score=0.5, good=bool(i)) for i in range(12)]
    panels = [
        Gallery("From a picture", "", [(Item(text="q"), words)]),
        Table("t", "", [f"column {i}" for i in range(12)], [["a", *(i / 11 for i in range(11))]]),
    ]
    save(Evaluation("test", {"r10": 0.5}, panels, 1.0, Headline("50 %", "Half.")), run / "evaluation" / "test")
    return build_report(run)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize(("width", "height", "scheme"), [(390, 844, "dark"), (1280, 900, "light")])
def test_the_page_fits_speaks_when_hovered_and_fetches_nothing(browser, report, width, height, scheme):
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    chart = page.locator("figure.chart").first
    chart.locator("svg").hover()
    assert "step" in chart.locator(".tip").inner_text()
    before = chart.locator("path.line").last.get_attribute("d")
    chart.locator("input.log").check()
    chart.locator("select.smooth").select_option("0.9")
    assert chart.locator("path.line").last.get_attribute("d") != before
    chart.locator("svg").focus()
    page.keyboard.press("ArrowLeft")
    assert "step 49" in chart.locator(".tip").inner_text()
    assert said == [] and asked == [report.as_uri()]
    page.close()


def test_the_theme_follows_the_system_the_buttons_and_the_address(browser, report):
    page = browser.new_page(color_scheme="light")
    page.goto(report.as_uri())
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.get_by_role("button", name="Dark").click()
    dark = page.evaluate(paper)
    assert dark != light
    page.get_by_role("button", name="As the system").click()
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(paper) == dark
    page.get_by_role("button", name="Light").click()
    assert page.evaluate(paper) == light
    page.close()
    page = browser.new_page(color_scheme="light")
    page.goto(report.as_uri() + "#dark")
    assert page.evaluate(paper) == dark
    page.close()
