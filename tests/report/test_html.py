import pytest
from hypothesis import given
from hypothesis import strategies as st

from intermodal.report.html import Html, clean, el, join
from intermodal.report.words import count, duration, megabytes, number, percent, spell


def test_text_and_attributes_are_escaped_and_html_is_kept():
    made = el("p", "<b>&", Html("<i>x</i>"), None, ["a", el("br")], title='"><script>', hidden=True, lang=None)
    assert made == ('<p title="&quot;&gt;&lt;script&gt;" hidden>&lt;b&gt;&amp;<i>x</i>a<br></p>')


def test_names_of_attributes():
    assert el("div", class_="c", aria_label="l", data_x=1) == '<div class="c" aria-label="l" data-x="1"></div>'
    assert el("path", d="M0 0") == '<path d="M0 0"/>'


@given(st.text())
def test_no_text_opens_a_tag(text):
    assert "<" not in join(text) and ">" not in join(text)
    assert '"' not in el("a", title=text)[len('<a title="') : -len('"></a>')]


@given(st.text())
def test_no_control_character_is_left(text):
    assert all(c >= " " or c in "\n\t" for c in clean(text))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"),
        (float("nan"), "not a number"),
        (float("inf"), "∞"),
        (3, "3"),
        (12345, "12,345"),
        (3.0, "3"),
        (1234.5, "1,234"),
        (123.4, "123.4"),
        (0.25, "0.250"),
        (0.00052, "0.00052"),
        (0.0000052, "5.2e-06"),
        (-1.5, "-1.50"),
    ],
)
def test_numbers(value, said):
    assert number(value) == said


def test_units():
    shares = {0.525: "52.5 %", 0: "0 %", 1.0: "100 %", 0.0005: "0.05 %"}
    for share, said in shares.items():
        assert percent(share) == said.replace(" ", "\N{NO-BREAK SPACE}")
    assert percent(None) == "–" and percent(float("nan")) == "not a number"
    assert [duration(s) for s in (0.2, 5.04, 59.7, 383, 3600, 200000)] == [
        "200 ms",
        "5.0 s",
        "60 s",
        "6 min 23 s",
        "1 h 0 min",
        "2 days 7 h",
    ]
    assert megabytes(512) == "512 MB" and megabytes(2048) == "2.0 GB"
    assert count(4312345) == "4.31 million" and count(999) == "999" and count(7e9) == "7.00 billion"
    assert spell("concept_r10") == "concept r10"
