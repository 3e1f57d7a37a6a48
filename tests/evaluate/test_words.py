"""Word vectors judged: equal to gensim on the same vectors, and what is said where test sets are missing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from intermodal.core.errors import DataError
from intermodal.core.progress import silent
from intermodal.data import catalog
from intermodal.data.words import Vocabulary
from intermodal.evaluate.result import Bars, Gallery, Scatter, Table, load, save
from intermodal.evaluate.words import evaluate_words
from intermodal.evaluate.words_sets import Judged, kind_of, read_analogies, read_pairs
from intermodal.methods.contrastive.word2vec import Word2Vec, Word2VecConfig
from intermodal.recipes import get_recipe

models = pytest.importorskip("gensim.models")
from gensim.test.utils import datapath  # noqa: E402 - needs gensim

SETS = {"wordsim353": "wordsim353.tsv", "simlex999": "simlex999.txt", "google-analogies": "questions-words.txt"}


def vectors(seed: int = 0, dim: int = 25) -> tuple[list[str], np.ndarray]:
    """Return 2,500 words of the test sets, in several cases, with vectors in which some analogies come out right."""
    words: dict[str, None] = {}
    for name in ("wordsim353", "simlex999"):
        for a, b, _ in read_pairs(Path(datapath(SETS[name]))):
            words |= {a: None, b.lower(): None}
    for _, *four in read_analogies(Path(datapath(SETS["google-analogies"]))):
        words |= dict.fromkeys(four)
    rng = np.random.default_rng(seed)
    chosen = [w for w in words if rng.random() < 0.9]
    chosen += [w.upper() for w in chosen[::9]] + [f"other{i}" for i in range(400)]
    table = {w: rng.standard_normal(dim) for w in chosen}
    shift = rng.standard_normal(dim)
    for section, a, b, c, d in read_analogies(Path(datapath(SETS["google-analogies"]))):
        if section == "gram8-plural" and {a, b, c, d} <= table.keys():
            table[b], table[d] = table[a] + shift, table[c] + shift
    order = rng.permutation(len(chosen))
    names = list(dict.fromkeys(chosen[i] for i in order))
    return names, np.array([table[w] for w in names], np.float32)


@pytest.fixture(scope="module")
def both():
    names, table = vectors()
    theirs = models.KeyedVectors(table.shape[1])
    theirs.add_vectors(names, table)
    return Judged(names, table), theirs


@pytest.mark.parametrize("name", ["wordsim353", "simlex999"])
def test_similarity_is_gensims(both, name):
    ours, theirs = both
    path = datapath(SETS[name])
    _, spearman, unknown = theirs.evaluate_word_pairs(path)
    score = ours.pairs(read_pairs(Path(path)))
    assert score.rho == pytest.approx(spearman[0], abs=1e-6)
    assert 100 * score.unknown == pytest.approx(unknown) and score.unknown > 0
    assert score.pairs == int(name[-3:])


def test_analogies_are_gensims(both, tmp_path):
    ours, theirs = both
    lines = Path(datapath(SETS["google-analogies"])).read_text().splitlines()
    few = [line for i, line in enumerate(lines) if line.startswith(":") or i % 11 == 0]
    path = tmp_path / "few.txt"
    path.write_text("\n".join(few) + "\n")
    accuracy, sections = theirs.evaluate_word_analogies(str(path))
    score = ours.analogies(read_analogies(path))
    assert score.accuracy() == pytest.approx(accuracy, abs=1e-12) and 0 < accuracy < 1
    for section in sections[:-1]:
        right = {tuple(q) for q in section["correct"]}
        name = section["section"]
        assert right == {
            tuple(w.upper() for w in (o.a, o.b, o.c, o.expected))
            for o in score.answered
            if o.right and o.section == name
        }
    kinds = [score.accuracy("semantic"), score.accuracy("syntactic")]
    total = sum(len(s["correct"]) + len(s["incorrect"]) for s in sections[:-1])
    assert len(score.answered) == total and score.unknown == pytest.approx(1 - total / score.asked)
    assert min(kinds) < score.accuracy() < max(kinds)


def test_the_kinds_of_the_google_set():
    score = read_analogies(Path(datapath(SETS["google-analogies"])))
    kinds = [kind_of(section) for section, *_ in score]
    assert len(score) == 19_544 and kinds.count("semantic") == 8_869 and kinds.count("syntactic") == 10_675


def test_sets_that_hold_nothing(tmp_path):
    (tmp_path / "x").write_text("# nothing\na\tb\tc\n")
    with pytest.raises(DataError, match="holds no pair"):
        read_pairs(tmp_path / "x")
    with pytest.raises(DataError, match="holds no analogy"):
        read_analogies(tmp_path / "x")


@pytest.fixture
def model():
    names, _ = vectors()
    low = list(dict.fromkeys(w.lower() for w in names))
    method = Word2Vec(
        Word2VecConfig(vocab_size=len(low), dim=25), {"text": Vocabulary(low, range(len(low), 0, -1), total=10**8)}
    )
    method.centre.weight.data.normal_()
    return method


def test_everything_is_shown(model, tmp_path, monkeypatch):
    questions = Path(datapath(SETS["google-analogies"])).read_text().splitlines()
    for name in ("wordsim353", "simlex999"):
        (tmp_path / SETS[name]).write_bytes(Path(datapath(SETS[name])).read_bytes())
    few = [line for i, line in enumerate(questions) if line.startswith(":") or i % 150 == 0]
    (tmp_path / SETS["google-analogies"]).write_text("\n".join(few))
    monkeypatch.setenv("INTERMODAL_DATA", str(tmp_path))
    result = evaluate_words(model, get_recipe("word2vec").smoke().text, "test", silent, full=True)
    names = list(result.metrics)
    assert names[0] == "wordsim353_rho" and "chance_wordsim353_rho" in names
    assert abs(result.metrics["wordsim353_rho"]) < 0.3 and abs(result.metrics["chance_wordsim353_rho"]) < 0.3
    assert result.metrics["chance_loss"] == pytest.approx(6 * math.log(2)) and result.metrics["loss"] > 1
    assert {type(p) for p in result.panels} == {Table, Gallery, Bars, Scatter}
    assert "correlation" in result.headline.sentence
    save(result, tmp_path / "evaluation")
    assert load(tmp_path / "evaluation").metrics.keys() == result.metrics.keys()


def test_without_the_sets_the_rest_is_judged_and_it_is_said(model, monkeypatch, tmp_path):
    monkeypatch.delenv("INTERMODAL_DATA", raising=False)
    monkeypatch.setenv("INTERMODAL_CACHE", str(tmp_path))
    monkeypatch.setattr(catalog, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"wordsim353\.tsv"):
        catalog.find("wordsim353")
    result = evaluate_words(model, get_recipe("word2vec").smoke().text, "test", silent, full=True)
    assert next(iter(result.metrics)) == "loss" and "loss" in result.headline.sentence
    table = next(p for p in result.panels if isinstance(p, Table))
    assert all(file in table.about for file in SETS.values())
    quick = evaluate_words(model, get_recipe("word2vec").smoke().text, "validation", silent, full=False)
    assert list(quick.metrics) == ["loss"]
