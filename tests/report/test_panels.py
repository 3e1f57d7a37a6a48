"""Curves over any axis, and maps."""

from __future__ import annotations

import math
import re

import pytest
from PIL import Image

from intermodal.evaluate.result import Aligned, Evaluation, Figure, Line, Lines, Scatter, Table, load, save
from intermodal.report.curves import HEIGHT, LEFT, RIGHT, WIDTH, Axes, Series, chart, log_ticks
from intermodal.report.panels import draw


def example(**options) -> Lines:
    lines = [Line("a", [1.0, 10.0, 100.0], [1.0, math.nan, 0.01]), Line("b", [1.0, 100.0], [0.1, 1.0])]
    return Lines("Curves", "About them.", "angle", "energy", lines, **options)


def test_curves_and_maps_come_back_as_they_were_saved(tmp_path):
    scatter = Scatter("Map", "", [(0.0, 1.0), (2.5, -1.0)], ["one", ""], ["g", "h"])
    save(Evaluation("test", {"m": 1.0}, [example(log_x=True), scatter]), tmp_path / "e")
    lines, again = load(tmp_path / "e").panels
    assert isinstance(lines, Lines) and lines.log_x and not lines.log_y and again == scatter
    assert lines.series[1] == example().series[1]
    assert math.isnan(lines.series[0].y[1]) and lines.series[0].y[::2] == [1.0, 0.01]


def places(page: str, line: int) -> list[tuple[float, float]]:
    drawn = re.findall(r'<path d="([^"]+)"', page)[line]
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", drawn)]


def test_a_logarithmic_axis_puts_equal_ratios_at_equal_distances():
    points = [(x, float(x)) for x in (1, 10, 100)]
    for axes, middle in ((Axes(log_x=True), 0.5), (Axes(), 9 / 99)):
        (first, _), (second, _), (third, _) = places(str(chart("t", [Series("s", points)], axes=axes)), 0)
        assert (first, third) == (LEFT, WIDTH - RIGHT)
        assert (second - first) / (third - first) == pytest.approx(middle, abs=1e-3)
    heights = [y for _, y in places(str(chart("t", [Series("s", points)], axes=Axes(log_y=True))), 0)]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.11)
    assert all(0 < y < HEIGHT for y in heights)


def test_axes_are_named_in_words_and_to_readers_of_screens():
    page = str(draw(example()))
    assert "Across: angle. Up: energy." in page and 'data-x="angle"' in page
    assert "a from 1 at angle 1 to 0.01" in page and "data-logx" not in page
    assert "data-logx" in str(draw(example(log_x=True)))


def test_what_a_logarithm_does_not_have_is_left_out():
    series = [Series("s", [(0.0, 1.0), (1.0, 0.0), (10.0, 5.0), (100.0, 2.0)])]
    page = str(chart("t", series, axes=Axes(log_x=True, log_y=True)))
    assert len(places(page, 0)) == 2
    assert str(chart("t", [Series("s", [(0.0, -1.0)])], axes=Axes(log_y=True))) == ""


@pytest.mark.parametrize(("low", "high"), [(0.0, 2.0), (-3.0, 3.0), (0.1, 0.2), (1.99, 2.01), (-6.2, -5.9)])
def test_logarithmic_ticks_are_round_and_within(low, high):
    found = log_ticks(low, high)
    assert len(found) > 1 and found == sorted(found)
    assert all(low - 1e-6 <= math.log10(t) <= high + 1e-6 for t in found)


def test_a_map_shows_every_point_and_no_two_names_over_one_another():
    points = [(0.0, 0.0), (0.001, 0.0), (5.0, 5.0), (math.nan, 1.0), (0.002, 0.0)]
    panel = Scatter("Map", "", points, ["first", "second", "third", "lost", "fourth <b>"], ["a", "b", "a", "a", "b"])
    page = str(draw(panel))
    assert page.count("<circle") == 4 and "lost" not in page
    assert "<title>fourth &lt;b" in page and "<b>" not in page  # found no room: shown when pointed at
    names = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]+)', page)
    assert {n[3] for n in names} == {"first", "third"} or {n[3] for n in names} == {"first", "second", "third"}
    assert page.count("<li>") == 2  # a legend of the two groups
    assert "Nothing to show" in str(draw(Scatter("Map", "", [], [], [])))


def test_a_picture_has_the_whole_width() -> None:
    drawn = str(draw(Figure("Sound", "", Image.new("RGB", (3000, 30), "red"), "a <tone>")))
    assert 'width="2000"' in drawn and "a &lt;tone&gt;" in drawn and 'class="panel drawn"' in drawn


def test_texts_word_by_word_mark_what_differs() -> None:
    rows = [("a.wav", [("go", "go"), ("to", "two"), ("the", ""), ("", "<b>")]), ("b.wav", [])]
    drawn = str(draw(Aligned("Worst", "", rows, failures=True)))
    assert drawn.count('class="place"') == 1 and drawn.count('class="made"') == 3
    for kind in ("wrong", "missed", "added"):
        assert f'class="place {kind}"' in drawn
    assert "<b>" not in drawn and "(nothing)" in drawn and "Nothing to show" in str(draw(Aligned("None", "", [])))


def test_written_figures_take_no_more_room_than_numbers():
    rows = [["a", "5.4\N{NO-BREAK SPACE}%", "3.4 % to 7.7 %", "12 words", 3], ["b", "96.4 %", "", "-", None]]
    html = str(draw(Table("T", "", ["way", "wrong", "interval", "what", "n"], rows)))
    heads = html.partition("</thead>")[0]
    assert [name in heads for name in ('class="n">wrong', 'class="n">interval', 'class="n">n<')] == [True] * 3
    assert 'class="n">what' not in heads
