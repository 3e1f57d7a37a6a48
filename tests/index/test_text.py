"""The index of a text: sentence by sentence, resumable, loyal to its model and to the files."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.text import TextSource
from intermodal.index import text as module
from intermodal.index.database import IndexMismatchError
from intermodal.index.held_out import held_out
from intermodal.index.session import Session
from intermodal.index.text import TextIndex
from intermodal.methods.contrastive.clip import CLIP


def changed(model: CLIP) -> CLIP:
    other = copy.deepcopy(model)
    other.text_projection.weight.data[0, 0] += 1e-3
    return other


SENTENCES = [
    f"The {thing} is {colour}." for thing in ("square", "circle", "cat") for colour in ("red", "blue", "green")
]


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(" ".join(SENTENCES))
    return path


def test_search_is_the_exact_cosine_order_over_every_sentence(small_clip: CLIP, book) -> None:
    index = TextIndex(book, small_clip)
    assert index.update().added == len(index) == 9
    vectors, query = small_clip.embed("text", SENTENCES), small_clip.embed("text", ["a green cat"])[0]
    best = np.argsort(-(vectors @ query))[:4]
    hits = index.search(query, 4)
    np.testing.assert_allclose([h.score for h in hits], (vectors @ query)[best], atol=1e-5)
    for hit in hits:  # not in the very order of NumPy: two sentences may be equally close
        row = SENTENCES.index(hit.caption)
        assert hit.score == pytest.approx(float(vectors[row] @ query), abs=1e-5)
        assert hit.picture is None and hit.path.endswith(f"book.txt, sentence {row + 1}")


def test_a_stopped_update_goes_on_and_a_finished_one_reads_nothing(small_clip, book, monkeypatch) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    calls: list[int] = []
    original = CLIP.embed

    def embed(self, modality, inputs):
        calls.append(len(inputs))
        if len(calls) == 3 and inputs:
            raise KeyboardInterrupt
        return original(self, modality, inputs)

    index = TextIndex(book, small_clip)
    monkeypatch.setattr(CLIP, "embed", embed)
    with pytest.raises(KeyboardInterrupt):
        index.update()
    assert len(index) == 4
    again = TextIndex(book, small_clip, made_by=index.stamp)
    assert again.update().added == 5 and len(again) == 9
    before = len(calls)
    assert again.update().added == 0 and len(calls) == before
    assert [h.caption for h in again.search(original(small_clip, "text", SENTENCES[3:4])[0], 1)] == [SENTENCES[3]]


def test_a_changed_text_is_indexed_anew_and_another_model_refused(small_clip, book) -> None:
    TextIndex(book, small_clip).update()
    book.write_text("Only this sentence stays. And this one.")
    index = TextIndex(book, small_clip)
    assert index.update().added == len(index) == 2
    with pytest.raises(IndexMismatchError, match="another model"):
        TextIndex(book, changed(small_clip))
    assert TextIndex(book, changed(small_clip), rebuild=True).update().added == 2


def test_a_session_tells_text_from_pictures(small_clip, book, pictures, tmp_path) -> None:
    small_clip.save(tmp_path / "model")
    session = Session(tmp_path / "model")
    found, update = session.folder(book)
    assert str(update).startswith("9 sentences") and len(found) == 9
    assert len(session.folder(pictures)[0]) == 12


class Words:
    """Embeds texts alone, by their letters."""

    id = "words"
    modalities = ("text",)

    def embed(self, modality, inputs):
        rows = np.array([[t.count(c) + 1e-3 for c in "abcdefgh"] for t in inputs], np.float32).reshape(-1, 8)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_held_out_texts_are_searched_where_a_model_knows_only_text(book) -> None:
    index = held_out(Words(), TextSource(path=book, validation_share=0.5), None, lambda what, share: None)
    assert 3 <= len(index) <= 6
    hit = index.search(Words().embed("text", [index.caption(1)])[0], 1)[0]
    assert hit.score == pytest.approx(1) and hit.picture is None and hit.caption.startswith("The ")


def test_what_cannot_be_searched_is_said(small_clip, tmp_path) -> None:
    with pytest.raises(DataError, match="no text"):
        TextIndex(tmp_path / "none.txt", small_clip)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="is empty"):
        TextIndex(tmp_path / "empty.txt", small_clip).update()

    class Pictures:
        id, modalities = "p", ("image",)
        embed = Words.embed

    with pytest.raises(ConfigError, match="embeds text"):
        TextIndex(tmp_path / "empty.txt", Pictures())
