"""Counting models and perplexity, written out by hand on a few words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from intermodal.core.errors import DataError
from intermodal.data.processors import TextProcessor
from intermodal.data.text import TextSource
from intermodal.data.tokenizers import special_ids, train_word_level
from intermodal.evaluate.language_model import DISCOUNT, Counts, encode_texts, evaluate_language_model, model_figures

VOCAB = 6  # 0 begins, 1 ends
TEXTS = [np.array(t) for t in ([0, 2, 3, 1], [0, 2, 4, 3, 1], [0, 3, 2, 3, 1])]


def test_unigram_is_the_share_of_each_word():
    counts = Counts.of(TEXTS, VOCAB)
    seen = Counter(w for t in TEXTS for w in t[1:].tolist())
    total = sum(seen.values()) + 2 * 0.5  # words 0 and 5 never occur
    expected = [math.log(max(seen[w], 0.5) / total) for w in range(VOCAB)]
    np.testing.assert_allclose(counts.unigram(np.arange(VOCAB)), expected)


def test_kneser_ney_is_the_formula_pair_by_pair():
    counts = Counts.of(TEXTS, VOCAB)
    pairs = Counter((a, b) for t in TEXTS for a, b in zip(t[:-1].tolist(), t[1:].tolist(), strict=True))
    endings = [max(len({a for a, b in pairs if b == w}), 0.5) for w in range(VOCAB)]
    for before in range(VOCAB):
        total = sum(n for (a, _), n in pairs.items() if a == before)
        kinds = sum(1 for a, _ in pairs if a == before)
        for word in range(VOCAB):
            lower = endings[word] / sum(endings)
            expected = lower
            if total:
                expected = max(pairs[before, word] - DISCOUNT, 0) / total + DISCOUNT * kinds / total * lower
            found = counts.kneser_ney(np.array([before]), np.array([word]))[0]
            assert found == pytest.approx(math.log(expected)), (before, word)


def test_kneser_ney_sums_to_one_after_every_word():
    counts = Counts.of(TEXTS, VOCAB)
    for before in range(VOCAB):
        shares = np.exp(counts.kneser_ney(np.full(VOCAB, before), np.arange(VOCAB)))
        assert shares.sum() == pytest.approx(1)


def test_no_text_is_a_sentence():
    with pytest.raises(DataError, match="no text to count"):
        Counts.of([np.array([0])], VOCAB)


class Uniform:
    """Gives every word the same probability; its scores sum to two."""

    device = torch.device("cpu")

    def __init__(self, processor):
        self.processors = {"text": processor}

    def eval(self):
        return self

    def log_probabilities(self, tokens):
        count = int((tokens[:, 1:] != self.processors["text"].pad_id).sum())
        vocab = self.processors["text"].vocab_size
        return torch.full((count,), -math.log(vocab)), torch.full((count,), math.log(2)), torch.zeros(count) > 1

    def generate(self, count, prompt=None, seed=0, steps=None):
        return [f"{prompt} and so on"] * count


@pytest.fixture
def book(tmp_path) -> Iterator[tuple[TextSource, Uniform]]:
    file = tmp_path / "book.txt"
    file.write_text("\n".join(f"the cat number {i % 7} sat on the mat" for i in range(400)))
    source = TextSource(path=file, unit="line")
    tokenizer = train_word_level(source.training_texts(), 100)
    pad, eos = special_ids(tokenizer)
    yield source, Uniform(TextProcessor(tokenizer, context_length=16, eos_id=eos, pad_id=pad))


def test_perplexity_of_a_model_that_knows_nothing_is_the_vocabulary(book, progress):
    source, model = book
    result = evaluate_language_model(model, source, "test", progress, full=True)
    vocab = model.processors["text"].vocab_size
    assert result.metrics["perplexity"] == pytest.approx(vocab)
    assert result.metrics["log_normaliser_mean"] == pytest.approx(math.log(2))
    assert 1 < result.metrics["bigram_perplexity"] < result.metrics["chance_perplexity"] < vocab
    assert next(iter(result.metrics)) == "log_likelihood" and "chance_log_likelihood" in result.metrics
    assert [type(p).__name__ for p in result.panels] == ["Bars", "Lines", "Gallery", "Table"]
    quick = evaluate_language_model(model, source, "validation", progress, full=False)
    assert quick.panels == [] and quick.metrics["perplexity"] == pytest.approx(vocab)


def test_texts_are_encoded_as_the_loader_does(book):
    _, model = book
    processor = model.processors["text"]
    texts = ["The  cat sat", "on the mat " * 20]
    for text, ids in zip(texts, encode_texts(texts, processor), strict=True):
        padded = processor.encode(text).tolist()
        assert padded[: len(ids)] == ids.tolist() and len(ids) <= 16
        assert set(padded[len(ids) :]) <= {processor.pad_id}


def test_figures_of_some_texts_only(book, progress):
    source, model = book
    found = model_figures(model, source.open("test"), progress, most=5)
    assert (found["words"] >= 5 * 9 and found["words"] < 9 * len(source.open("test"))) or len(source.open("test")) <= 64
