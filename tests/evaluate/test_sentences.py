"""Retrieval of held-out texts, its baselines and panels; next-sentence judgements and theirs."""

import zlib

import numpy as np
import pytest
import torch

from intermodal.core.errors import DataError
from intermodal.data.sentence_pairs import NextSentenceSource, PairListSource
from intermodal.data.text import TextSource
from intermodal.evaluate import next_sentence
from intermodal.evaluate.next_sentence import Overlap, Pairs, evaluate_pretraining
from intermodal.evaluate.result import Gallery, Table, load, save
from intermodal.evaluate.sentences import TextPairs, WordMeans, evaluate_retrieval, figures, train_words

WORDS = ("apple", "river", "engine", "winter", "music", "garden", "letter", "harbour", "silver", "bread")


class Hashed:
    """Embeds a text as the bag of its words: retrieval by shared words alone."""

    id = "hashed"
    modalities = ("text",)

    def embed(self, modality, inputs):
        out = np.zeros((len(inputs), 509), np.float32)
        for row, text in zip(out, inputs, strict=True):
            for word in text.lower().split():
                row[zlib.crc32(word.strip(".").encode()) % 509] += 1
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)


def silent(what, share):
    pass


@pytest.fixture
def pair_list(tmp_path):
    rows = [
        f"{a} and {b} {i},{b} with {a} {i}" for i, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS if a < b)
    ]
    path = tmp_path / "pairs.csv"
    path.write_text("text,positive\n" + "\n".join(rows) + "\n")
    return PairListSource(path=path, validation_share=0.4)


def test_figures_are_those_of_a_ranking_by_hand():
    """Ranks 1, 2 and 3 of three candidates."""
    pairs = TextPairs(["a", "b", "c"], ["x", "y", "z"], [[0], [0], [0]], "")
    candidate = np.eye(3, dtype=np.float32)
    query = np.array([[3, 2, 1], [2, 3, 1], [1, 3, 2]], np.float32)
    found = figures(query, candidate, pairs)
    assert found["r1"] == pytest.approx(1 / 3)
    assert found["r5"] == found["r10"] == 1
    assert found["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    constant = figures(np.ones_like(query), np.ones_like(candidate), pairs)
    assert constant["r1"] == pytest.approx(1 / 3)
    assert constant["mrr"] == pytest.approx(1 / 2)


def test_equal_texts_are_one_candidate_and_right_for_each(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("text,positive\nq one,same\nq two,same\nq one,other\nq three,last\n")
    source = PairListSource(path=path, validation_share=0.99).open("validation")
    pairs = TextPairs.of(source, 100)
    for query, right in zip(pairs.queries, pairs.right, strict=True):
        if query == "q one":
            assert {pairs.candidates[i] for i in right} == {"same", "other"}
    assert len(pairs.candidates) == len(set(pairs.candidates))


def test_a_full_judgement_has_its_baselines_and_survives_the_folder(pair_list, tmp_path):
    pytest.importorskip("numba", reason="word vectors are trained natively")
    result = evaluate_retrieval(Hashed(), pair_list, "validation", silent, full=True)
    m = result.metrics
    assert next(iter(m)) == "r10"
    assert m["r1"] > 0.9  # the words and the number are shared
    assert m["chance_r10"] == pytest.approx(10 / len(pair_list.open("validation")), rel=0.2)
    assert {"words_r10", "sif_r10", "mrr", "words_mrr"} <= set(m)
    table = next(p for p in result.panels if isinstance(p, Table))
    assert table.rows[0][0] == "hashed"
    save(result, tmp_path / "evaluation")
    assert load(tmp_path / "evaluation").metrics == pytest.approx(m, nan_ok=True)


def test_running_text_is_judged_by_what_follows(tmp_path):
    (tmp_path / "t.txt").write_text(" ".join(f"Line {i} of it. Then line {i} goes on." for i in range(60)))
    source = TextSource(path=tmp_path / "t.txt", unit="sentence", validation_share=0.5)
    result = evaluate_retrieval(Hashed(), source, "validation", silent, full=False)
    assert result.panels == []
    assert result.metrics["r1"] > 3 * result.metrics["chance_r1"]
    alone = TextSource(path=tmp_path / "t.txt", unit="document").open("validation")
    with pytest.raises(DataError, match="follows another"):
        TextPairs.of(alone, 10)


def test_word_means_are_the_formulas():
    """A mean of known words; with SIF, a / (a + p) each and the first singular direction taken out."""
    pytest.importorskip("numba", reason="word vectors are trained natively")
    texts = [f"{a} {b} the the" for a in WORDS for b in WORDS]
    words = train_words(texts)
    again = train_words(texts)
    assert np.array_equal(words.word_vectors(), again.word_vectors())
    vectors = dict(zip(words.words, words.word_vectors(), strict=True))
    mean = (vectors["apple"] + vectors["the"]) / 2
    assert np.allclose(WordMeans(words)(["Apple, the unknownword"])[0], mean / np.linalg.norm(mean), atol=1e-6)
    share = dict(zip(words.words, words.vocabulary.counts / words.vocabulary.counts.sum(), strict=True))
    weighted = sum(0.1 / (0.1 + share[w]) * vectors[w] for w in ("apple", "the")) / 2
    assert np.allclose(WordMeans(words, 0.1)(["apple the"])[0], weighted / np.linalg.norm(weighted), atol=1e-6)
    sif = WordMeans(words, 0.1, texts)
    found = sif(texts)
    assert np.abs(found @ sif._common[0]).max() < 1e-5
    assert not sif(["unknownword"]).any()


def test_the_overlap_finds_the_threshold_that_separates():
    texts = [("red fox runs", "the fox is red"), ("blue sea", "a sea so blue"), ("red fox", "blue sea")]
    pairs = Pairs(texts, np.array([0, 0, 1]))
    overlap = Overlap(["red fox", "blue sea", "the", "a", "is so"])
    overlap.fit(pairs)
    assert (overlap(pairs.texts) == (pairs.relation == 0)).all()
    assert overlap.similarity([("", "fox")])[0] == 0


def test_pretraining_is_judged_with_its_baselines(tmp_path):
    """A small untrained BERT on a person's own text: figures in range, examples, and a result that can be saved."""
    from intermodal.recipes import get_recipe

    for d in range(16):
        name = "name" + "abcdefghijklmnop"[d] * 3
        text = " ".join(f"The {name} of {WORDS[(d + s) % 10]} is here, said {name} once." for s in range(30))
        (tmp_path / f"{d}.txt").write_text(text)
    source = NextSentenceSource(text=TextSource(path=tmp_path, validation_share=0.4), words=20)
    method = get_recipe("bert").on(source).smoke().build()
    result = evaluate_pretraining(method, source, "validation", silent, full=True)
    m = result.metrics
    assert next(iter(m)) == "nsp_accuracy"
    assert all(0 <= m[k] <= 1 for k in m if k.endswith("accuracy"))
    assert m["overlap_nsp_accuracy"] > 0.8  # a book's word is in both passages, and a random one's is not
    assert m["mlm_loss"] > 0
    assert any(isinstance(p, Gallery) for p in result.panels)
    save(result, tmp_path / "evaluation")
    assert load(tmp_path / "evaluation").metrics == pytest.approx(m)
    quick = evaluate_pretraining(method, source, "validation", silent, full=False)
    assert quick.metrics["nsp_accuracy"] == m["nsp_accuracy"]


def test_accuracy_counts_both_kinds(monkeypatch):
    """A model that always says "next" is right exactly for real pairs."""
    pairs = Pairs([("a", "b")] * 4, np.array([0, 1, 1, 1]))
    assert next_sentence._accuracy(np.ones(4, bool), pairs) == 0.25
    assert next_sentence._accuracy(torch.zeros(4).bool().numpy(), pairs) == 0.75
