"""Estimation against Chen & Goodman's equations, written with dictionaries and nothing else."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.core.errors import ConfigError, DataError
from intermodal.decode.kneser_ney import FALL_BACK, discounts_of, estimate
from intermodal.decode.ngram import NGram
from intermodal.decode.ngram_prune import entropy_changes, prune
from intermodal.decode.ngram_tree import Tree

Gram = tuple[str, ...]
TEXT = """a b a b c a b
b a c a b b d
a a b c d
c a b
e
a b a d c a c c
b b b c e a b f"""


class Exact:
    """Interpolated modified Kneser-Ney, as the paper has it: equations 21 to 26, with lower orders by continuation counts.

    Sequences that begin with ``<s>`` keep their counts at lower orders, since nothing precedes them.
    """

    def __init__(self, lines: Sequence[str], order: int, prune: int = 0) -> None:
        self.order = order
        sentences = [("<s>", *line.split(), "</s>") for line in lines if line.split()]
        occurs = [Counter[Gram]() for _ in range(order + 1)]
        for words in sentences:
            for n in range(1, order + 1):
                occurs[n].update(words[i : i + n] for i in range(len(words) - n + 1))
        every = {w for words in sentences for w in words} | {"<unk>"}
        self.words = sorted(every - {"<s>"})
        self.counts = [Counter[Gram]() for _ in range(order + 1)]
        for n in range(1, order + 1):
            for gram, count in occurs[n].items():
                if n == order or gram[0] == "<s>":
                    self.counts[n][gram] = count
                else:
                    self.counts[n][gram] = len({longer[0] for longer in occurs[n + 1] if longer[1:] == gram})
        del self.counts[1]["<s>",]
        self.kept = [{g for g, c in occurs[n].items() if n == 1 or c > prune} for n in range(order + 1)]
        self.discounts = [self._discounts(self.counts[n]) for n in range(order + 1)]
        self.follows: list[dict[Gram, list[str]]] = [defaultdict(list) for _ in range(order + 1)]
        for n in range(1, order + 1):
            for gram in self.counts[n]:
                self.follows[n][gram[:-1]].append(gram[-1])

    @staticmethod
    def _discounts(counts: Counter[Gram]) -> tuple[float, ...]:
        t = [0, *(sum(c == k for c in counts.values()) for k in (1, 2, 3, 4))]
        if min(t[1:4]) == 0:
            return (0.0, *FALL_BACK)
        y = t[1] / (t[1] + 2 * t[2])
        found = (0.0, 1 - 2 * y * t[2] / t[1], 2 - 3 * y * t[3] / t[2], 3 - 4 * y * t[4] / t[3])
        return found if all(0 < d <= k for k, d in enumerate(found) if k) else (0.0, *FALL_BACK)

    def p(self, word: str, context: Gram) -> float:
        n = len(context) + 1
        counts, kept = self.counts[n], self.kept[n]
        shorter = self.p(word, context[1:]) if context else 1 / len(self.words)
        total = sum(counts[*context, w] for w in self.follows[n][context])
        if total == 0:
            return shorter
        discount = self.discounts[n]
        gram = (*context, word)
        own = counts[gram] - discount[min(counts[gram], 3)] if gram in kept else 0.0
        left = sum(
            discount[min(counts[*context, w], 3)] if (*context, w) in kept else counts[*context, w]
            for w in self.follows[n][context]
        )
        return own / total + left / total * shorter


def probability(model: NGram, word: str, context: Gram) -> float:
    state = 0
    for before in context:
        state = model.advance(state, model.number(before))[0]
    return math.exp(model.advance(state, model.number(word))[1])


def check(lines: Sequence[str], order: int, limit: int = 0) -> None:
    exact = Exact(lines, order, limit)
    model = estimate(lines, order, prune=(limit,) if order > 1 else ()).model
    assert set(model.words) == {*exact.words, "<s>"}
    contexts: set[Gram] = {()}
    for n in range(2, order + 1):
        contexts |= set(exact.follows[n])
    contexts |= {("nowhere",) * (order - 1), ("a", "nowhere")[: order - 1]}
    for context in contexts:
        exact_context = tuple("<unk>" if w == "nowhere" else w for w in context)
        found = [probability(model, word, context) for word in exact.words]
        assert sum(found) == pytest.approx(1, abs=2e-6)
        assert found == pytest.approx([exact.p(w, exact_context) for w in exact.words], rel=2e-6)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_equals_the_equations(order: int) -> None:
    check(TEXT.splitlines(), order)


@pytest.mark.parametrize("limit", [1, 2])
def test_sequences_left_out_by_count(limit: int) -> None:
    check(TEXT.splitlines(), 3, limit)
    whole, some = estimate(TEXT.splitlines(), 3).model, estimate(TEXT.splitlines(), 3, prune=(limit,)).model
    assert some.counts[0] == whole.counts[0] and some.counts[1] < whole.counts[1] and some.counts[2] < whole.counts[2]


def test_estimated_discounts_are_used_on_a_larger_text() -> None:
    rng = np.random.default_rng(0)
    lines = [" ".join(f"w{int(k)}" for k in rng.zipf(1.5, 8) if k < 40) for _ in range(150)]
    assert not any(d.fallen_back for d in estimate(lines, 3).discounts)
    check(lines, 3)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcde"), max_size=7).map(" ".join), min_size=1, max_size=12).filter("".join),
    st.integers(1, 4),
)
def test_every_text(lines: list[str], order: int) -> None:
    check(lines, order)


def test_discounts() -> None:
    found = discounts_of(np.repeat([1, 2, 3, 4], [8, 4, 2, 1]), 2)
    assert not found.fallen_back and found.counts_of_counts == (8, 4, 2, 1)
    assert found.values == pytest.approx((1 - 2 * 0.5 * 4 / 8, 2 - 3 * 0.5 * 2 / 4, 3 - 4 * 0.5 * 1 / 2))
    assert discounts_of(np.array([1, 1, 2]), 1).values == FALL_BACK
    steep = discounts_of(np.repeat([1, 2, 3, 4], [10, 1, 5, 9]), 1)  # D2 would be 2 - 3 y 5 / 1, below zero
    assert steep.fallen_back and steep.values == FALL_BACK


def test_what_is_said_about_a_small_text() -> None:
    found = estimate(["a b"], 2)
    assert (found.words, found.sentences) == (2, 1)
    assert all(d.fallen_back for d in found.discounts) and "so little text" in found.notes[0]


def test_rare_words_count_as_unknown() -> None:
    found = estimate(["a b c", "a b d", "a <unk>"], 2, min_count=2)
    assert set(found.model.words) == {"<unk>", "<s>", "</s>", "a", "b"} and "2 of 4 different words" in found.notes[0]
    same = estimate(["a b <unk>", "a b <unk>", "a <unk>"], 2)
    assert found.model.score("a b zebra") == pytest.approx(same.model.score("a b c"))


@pytest.mark.parametrize(
    ("lines", "settings", "error", "said"),
    [
        ([], {}, DataError, "no words"),
        (["", "  \n\t"], {}, DataError, "no words"),
        (["a <s> b"], {}, DataError, "<s> as a word"),
        (["a </s>"], {}, DataError, "</s> as a word"),
        (["a"], {"order": 0}, ConfigError, "1 to 12"),
        (["a"], {"order": 13}, ConfigError, "1 to 12"),
        (["a"], {"min_count": 0}, ConfigError, "at least 1"),
        (["a"], {"min_count": 2}, DataError, "lower min_count"),
        (["a"], {"prune": (2, 1)}, ConfigError, "not fall"),
        (["a"], {"prune": (-1,)}, ConfigError, "negative"),
        (["a"], {"order": 2, "prune": (1, 1)}, ConfigError, "at most 1 counts"),
    ],
)
def test_bad_input(lines: list[str], settings: dict[str, object], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        estimate(lines, **settings)  # type: ignore[arg-type]


def test_lines_and_pieces_are_the_same_text() -> None:
    lines = TEXT.splitlines()
    one, other = estimate(lines, 3).model, estimate([TEXT.replace("\n", "\r\n") + "\n\n"], 3).model
    assert one.words == other.words
    assert all((a == b).all() for a, b in zip(one.tables, other.tables, strict=True))


def test_pruning_costs_what_the_two_distributions_differ_by() -> None:
    """Equation 4 against the sum over all words that it shortens: sum_w p(h, w) ln(p(w|h) / p'(w|h)), in float64."""
    model = estimate(TEXT.splitlines(), 3).model
    tree = Tree.of(model)
    names = [w for w in model.words if w != "<s>"]
    for n, grams in enumerate(model.grams(), 1):
        if n == 1:
            continue
        changes = entropy_changes(tree, n, model.start)
        rows = [tuple(model.words[k] for k in row) for row in grams.words]
        for change, gram in zip(changes, rows, strict=True):
            history, word = gram[:-1], gram[-1]
            before = {w: probability(model, w, history) for w in names}
            shorter = {w: probability(model, w, history[1:]) for w in names}
            listed = {row[-1] for row in rows if row[:-1] == history} - {word}
            alpha = (1 - sum(before[w] for w in listed)) / (1 - sum(shorter[w] for w in listed))
            after = {w: before[w] if w in listed else alpha * shorter[w] for w in names}
            assert sum(after.values()) == pytest.approx(1, abs=1e-6)
            p = 1.0
            for i, w in enumerate(history):
                p *= 1.0 if w == "<s>" else probability(model, w, history[:i])
            wanted = p * sum(before[w] * math.log(before[w] / after[w]) for w in names)
            assert change == pytest.approx(wanted, rel=1e-3, abs=3e-8)


def test_pruning_by_relative_entropy() -> None:
    rng = np.random.default_rng(1)
    lines = [" ".join(f"w{int(k)}" for k in rng.zipf(1.4, 8) if k < 60) for _ in range(300)]
    model = estimate(lines, 3).model
    same = prune(model, 0.0)
    assert same.counts == model.counts and same.scores(lines) == pytest.approx(model.scores(lines), abs=1e-4)
    sizes, worse = [sum(model.counts)], [model.perplexity(lines).perplexity]
    for threshold in (1e-5, 1e-4, 1e-3):
        smaller = prune(model, threshold)
        sizes.append(sum(smaller.counts))
        worse.append(smaller.perplexity(lines).perplexity)
        for context in [(), ("<s>",), ("w1",), ("w1", "w2"), ("<s>", "w1")]:
            total = sum(probability(smaller, w, context) for w in smaller.words if w != "<s>")
            assert total == pytest.approx(1, abs=1e-5)
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] and worse == sorted(worse)
    assert prune(model, 10.0).order == 1
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="at least 0"):
            prune(model, bad)
