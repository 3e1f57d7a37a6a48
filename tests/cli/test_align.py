"""``intermodal align``."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from intermodal.core.transcript import Alignment, Word
from intermodal.data.alignments import to_textgrid, written
from intermodal.evaluate.alignment_picture import draw_alignment
from toy_speech import RATE, said, trained, word_times

TEXT = "CAD AB"


@pytest.fixture(scope="module")
def hmm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hmm")
    trained(folder / "work").save(folder / "model")
    return folder / "model"


@pytest.fixture
def recording(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.wav", said(TEXT, 4).samples, RATE)
    return tmp_path / "a.wav"


def test_words_with_their_times(cli, hmm, recording):
    ran = cli("align", hmm, recording, TEXT)
    assert ran.code == 0
    rows = [line.split() for line in ran.out.splitlines()]
    assert [row[2] for row in rows] == TEXT.split()
    np.testing.assert_allclose([(float(r[0]), float(r[1])) for r in rows], word_times(TEXT), atol=0.05)


def test_files_of_every_kind(cli, hmm, recording, tmp_path):
    (tmp_path / "text.txt").write_text("CAD\nAB\n", encoding="utf-8")
    for name in ("a.TextGrid", "a.ctm", "a.json", "a.png"):
        ran = cli("align", hmm, recording, "--text-file", tmp_path / "text.txt", "-o", tmp_path / name)
        assert ran.code == 0 and "2 words" in ran.out
    grid = (tmp_path / "a.TextGrid").read_text(encoding="utf-8")
    assert 'name = "words"' in grid and 'name = "phones"' in grid and 'text = "CAD"' in grid
    assert [line.split()[4] for line in (tmp_path / "a.ctm").read_text().splitlines()] == ["CAD", "AB"]
    data = json.loads((tmp_path / "a.json").read_text())
    assert [w["text"] for w in data["words"]] == ["CAD", "AB"]
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 1000
    again = cli("align", hmm, recording, TEXT, "-o", tmp_path / "a.png")
    assert again.code != 0 and "exists already" in again.sentence
    assert cli("align", hmm, recording, TEXT, "--json").out.startswith("{")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["CAD NOPE"], "not in the lexicon: NOPE"),
        (["CAD " * 40], "too short"),
        ([" "], "no word in the text"),
        ([], "Give the text that is said"),
        (["CAD", "-o", "a.doc"], "not as a.doc"),
    ],
)
def test_what_cannot_be_aligned_is_one_sentence(cli, hmm, recording, words, what):
    ran = cli("align", hmm, recording, *words)
    assert ran.code != 0 and what in ran.sentence


def test_a_model_that_cannot_align_is_named(cli, model, recording):
    ran = cli("align", model, recording, "CAD")
    assert ran.code != 0 and "align" in ran.sentence


def test_intervals_of_a_textgrid_have_no_gaps():
    words = (Word("a", 0.1, 0.3), Word('say "x"', 0.3, 0.5), Word("b", 0.7, 0.9))
    text = to_textgrid(Alignment(words, seconds=1.0))
    starts = [float(line.split("=")[1]) for line in text.splitlines() if line.startswith("            xmin")]
    ends = [float(line.split("=")[1]) for line in text.splitlines() if line.startswith("            xmax")]
    assert starts[0] == 0 and ends[-1] == 1 and starts[1:] == ends[:-1] and len(starts) == 6
    assert '"say ""x"""' in text
    assert json.loads(written(Alignment(words, seconds=1.0), ".json", "r"))["file"] == "r"


def test_a_picture_without_phones_and_of_one_sample():
    from intermodal.data.audio import Waveform

    alignment = Alignment((Word("$x$", 0.1, 0.2), Word("untimed")), seconds=1.0)
    assert draw_alignment(said("AB"), alignment, "a $ sign").width > 1000
    assert draw_alignment(Waveform(np.zeros(1, np.float32), RATE), Alignment((), seconds=0.0)).width > 1000
