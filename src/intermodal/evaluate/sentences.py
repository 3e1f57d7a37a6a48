"""Judges anything that embeds texts by retrieval: given one text of a held-out pair, find the other among all of them.

A list of pairs and the dictionaries state their pairs: what WordNet says of a word has to find what GCIDE says of it.
Running text has them in its order: every second sentence has to find the one that follows it. Nothing of a held-out
pair was seen in training. Up to :data:`MOST` pairs are judged (spread evenly where there are more); equal texts are
one candidate, right for each text that it belongs to. Beside the model stand, under their names with a prefix:

- ``chance_``;
- ``words_``: the mean of word2vec vectors, of a given model that has read what the method has, or trained here on the
  method's training texts (skip-gram, 256 dimensions, 5 epochs);
- ``sif_``: the same vectors weighted by ``a / (a + p(word))`` with a = 1e-3, without their common direction, which is
  their first singular vector on training texts (Arora et al. 2017, algorithm 1);
- ``before_``: the model that training started from, by the mean over its tokens.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from intermodal.core.capabilities import Embeds
from intermodal.core.errors import CheckpointError, DataError
from intermodal.core.progress import Progress, silent
from intermodal.data.glosses import Glosses
from intermodal.data.sentence_pairs import PairList
from intermodal.data.source import Source, SourceConfig
from intermodal.data.text import Texts
from intermodal.data.words import Vocabulary, compiled
from intermodal.evaluate.encoding import Steps, embed_texts
from intermodal.evaluate.result import Bars, Evaluation, Gallery, Headline, Item, Panel, Table, in_percent
from intermodal.hub.load import load
from intermodal.methods.contrastive.word2vec import Word2Vec, Word2VecConfig
from intermodal.metrics.retrieval import chance, retrieval

MOST, QUICK = 5000, 1000
KS = (1, 5, 10)
DIM, EPOCHS, RATE, MIN_COUNT = 256, 5, 0.025, 2
SIF = 1e-3
COMMON_ON = 5000
SHOWN = 8
SEED = 0


@dataclass(frozen=True)
class TextPairs:
    """Held-out pairs.

    Attributes:
        queries: distinct texts.
        candidates: distinct texts.
        right: for each query the places of its candidates.
        about: what they are, in a sentence.
    """

    queries: list[str]
    candidates: list[str]
    right: list[list[int]]
    about: str

    @classmethod
    def of(cls, source: Source, most: int) -> TextPairs:
        """Return the pairs of a source.

        Raises:
            DataError: if it has no pairs, and no sentence that follows another.
        """
        pairs, kind = _pairs(source)
        if len(pairs) > most:
            pairs = [pairs[int(i)] for i in np.linspace(0, len(pairs) - 1, most)]
        candidates = list(dict.fromkeys(b for _, b in pairs))
        place = {text: i for i, text in enumerate(candidates)}
        right: dict[str, set[int]] = {}
        for query, answer in pairs:
            right.setdefault(query, set()).add(place[answer])
        about = f"{len(right):,} texts of {source.name}, each to find {kind} among {len(candidates):,}."
        return cls(list(right), candidates, [sorted(r) for r in right.values()], about)


def _pairs(source: Source) -> tuple[list[tuple[str, str]], str]:
    if isinstance(source, Glosses):
        return list(source.pairs), "the other dictionary's definition of the same word"
    if isinstance(source, PairList):
        rows = [source.sample(i) for i in range(len(source))]
        return [(row["text"], row["positive"]) for row in rows], "the one that belongs to it"
    if isinstance(source, Texts):
        starts = [i for document in source.documents for i in document[:-1:2]]  # no text is both query and candidate
        if not starts:
            raise DataError(f"{source.name} has no sentence that follows another: there is nothing to find.")
        return [(source.text(i), source.text(i + 1)) for i in starts], "the sentence that follows it"
    raise DataError(f"{source.name} has no pairs of texts to judge by.")


def evaluate_retrieval(
    method: Embeds,
    source_config: SourceConfig,
    split: str,
    progress: Progress,
    *,
    before: str | Path | None = None,
    words: str | Path | None = None,
    full: bool,
) -> Evaluation:
    """Judge a method on held-out pairs.

    Args:
        method: embeds ``"text"``.
        source_config: definitions, a list of pairs, or running text.
        split: which pairs to judge on.
        progress: told what is done.
        before: the model that training started from, judged beside it.
        words: the word2vec model to average; None trains one on the training texts.
        full: all pairs with baselines and panels; else up to 1,000, the figures alone.

    Raises:
        DataError: if there are no pairs.
    """
    start = time.monotonic()
    weights = {"Embedding texts": 2.0, **({"Word vectors": 6.0, "Before": 2.0} if full else {})}
    steps = Steps(progress, weights)
    pairs = TextPairs.of(source_config.open(split), MOST if full else QUICK)
    report = steps.of("Embedding texts")
    query = embed_texts(method, pairs.queries, lambda share: report(share / 2))
    candidate = embed_texts(method, pairs.candidates, lambda share: report(0.5 + share / 2))
    metrics = figures(query, candidate, pairs)
    by_chance = chance(pairs.right, len(pairs.queries), len(pairs.candidates), ks=KS)
    metrics |= {f"chance_{_short(k)}": v for k, v in by_chance.items()}
    if not full:
        return Evaluation(split, metrics, [], time.monotonic() - start)
    if words is not None or compiled():
        report = steps.of("Word vectors")
        texts = source_config.training_texts()
        model = train_words(texts, lambda _, share: report(share)) if words is None else read_words(words)
        mean, sif = WordMeans(model), WordMeans(model, SIF, texts)
        for name, embed in (("words_", mean), ("sif_", sif)):
            found = figures(embed(pairs.queries), embed(pairs.candidates), pairs)
            metrics |= {name + k: v for k, v in found.items()}
    if before is not None:
        report = steps.of("Before")
        first = load(before)
        assert isinstance(first, Embeds)
        query_before = embed_texts(first, pairs.queries, report)
        candidate_before = embed_texts(first, pairs.candidates, report)
        metrics |= {f"before_{k}": v for k, v in figures(query_before, candidate_before, pairs).items()}
    panels = _panels(str(getattr(method, "id", "model")), metrics, pairs, query @ candidate.T)
    return Evaluation(split, metrics, panels, time.monotonic() - start, _headline(metrics, pairs))


def figures(query: np.ndarray, candidate: np.ndarray, pairs: TextPairs) -> dict[str, float]:
    """Return ``r10``, ``r5``, ``r1``, the median rank and the mean reciprocal rank ``mrr`` (ties count as their middle)."""
    found = retrieval(torch.from_numpy(query), torch.from_numpy(candidate), pairs.right, ks=KS)
    out = {f"r{k}": found[f"R@{k}"] for k in reversed(KS)}
    similar = query.astype(np.float64) @ candidate.T.astype(np.float64)
    ranks = []
    for row, right in zip(similar, pairs.right, strict=True):
        best = row[right].max()
        ranks.append(1 + (row > best).sum() + max(int((row == best).sum()) - 1, 0) / 2)
    return out | {"mrr": float(np.mean(1 / np.array(ranks))), "median_rank": found["median_rank"]}


def _short(name: str) -> str:
    return name.replace("R@", "r")


def train_words(texts: Sequence[str], progress: Progress = silent) -> Word2Vec:
    """Return skip-gram vectors of texts, trained on one thread by the library's own word2vec, the same bits each time.

    A word that occurs once is left out, unless so few occur twice that all are kept.

    Raises:
        DataError: if there are fewer than two words.
        MissingExtraError: without numba.
    """
    try:
        vocabulary = Vocabulary.of((f"{t}\n" for t in texts), min_count=MIN_COUNT)
    except DataError:
        vocabulary = Vocabulary.of((f"{t}\n" for t in texts), min_count=1)
    torch.manual_seed(SEED)
    model = Word2Vec(Word2VecConfig(vocab_size=len(vocabulary), dim=DIM), {"text": vocabulary})
    with tempfile.TemporaryDirectory() as folder:
        engine = model.native(
            pieces=lambda: (f"{t}\n" for t in texts),
            data="the training texts",
            break_at="line",
            folder=Path(folder),
            steps=1,
            epochs=EPOCHS,
            lr=RATE,
            threads=1,
            seed=SEED,
            progress=progress,
        )
        engine.step(0)
        engine.close()
    return model


def read_words(path: str | Path) -> Word2Vec:
    """Load a word2vec model.

    Raises:
        CheckpointError: if there is none.
    """
    model = load(path)
    if not isinstance(model, Word2Vec):
        raise CheckpointError(
            f"{path} holds the method {model.id!r}, and word vectors to average are those of word2vec."
        )
    return model


class WordMeans:
    """Embeds texts as weighted means of word vectors.

    Args:
        model: the word vectors.
        smooth: a of the weights ``a / (a + p)``; None weighs every word alike.
        texts: on which the common direction is found that is then taken out; None leaves it in.
    """

    def __init__(self, model: Word2Vec, smooth: float | None = None, texts: Sequence[str] | None = None) -> None:
        self._vectors = model.word_vectors()
        self._vocabulary = model.vocabulary
        share = model.vocabulary.counts / model.vocabulary.counts.sum()
        self._weights = np.ones(len(share)) if smooth is None else smooth / (smooth + share)
        self._common = np.zeros((1, self._vectors.shape[1]), np.float32)
        if texts is not None:
            some = [texts[int(i)] for i in np.linspace(0, len(texts) - 1, min(COMMON_ON, len(texts)))]
            self._common = np.linalg.svd(self._means(some), full_matrices=False)[2][:1]

    def _means(self, texts: Sequence[str]) -> np.ndarray:
        out = np.zeros((len(texts), self._vectors.shape[1]), np.float32)
        for i, text in enumerate(texts):
            ids = self._vocabulary.numbers(text)
            if ids:
                out[i] = (self._weights[ids, None] * self._vectors[ids]).mean(0)
        return out

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 unit vectors, shape ``(len(texts), D)``; zeros for a text without a known word."""
        means = self._means(texts)
        means -= means @ self._common.T @ self._common
        return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)


_ROWS = (
    ("", ""),
    ("before_", "before SimCSE, mean over tokens"),
    ("sif_", "word2vec, frequency-weighted mean (SIF)"),
    ("words_", "word2vec, mean"),
    ("chance_", "chance"),
)


def _headline(m: dict[str, float], pairs: TextPairs) -> Headline:
    figure = in_percent(m["r10"])
    words = max(m.get("words_r10", 0.0), m.get("sif_r10", 0.0))
    beside = f" Averaged word vectors reach {in_percent(words)}, guessing" if words else " Guessing reaches"
    sentence = f"{pairs.about} The right one is among the first ten {figure} of the time."
    sentence += f"{beside} {in_percent(m['chance_r10'])}."
    return Headline(figure, sentence)


def _panels(name: str, m: dict[str, float], pairs: TextPairs, similar: np.ndarray) -> list[Panel]:
    rows = [(prefix, said or name) for prefix, said in _ROWS if f"{prefix}r10" in m]
    table: list[list[str | float | None]] = [
        [said, *(m.get(prefix + k) for k in ("r1", "r10", "mrr", "median_rank"))] for prefix, said in rows
    ]
    about = (
        pairs.about if "words_r10" in m else f"{pairs.about} Word vectors are not beside it: numba is not installed."
    )
    rng = np.random.default_rng(SEED)
    shown = [_found(pairs, similar, int(i)) for i in rng.permutation(len(pairs.queries))[:SHOWN]]
    first = similar.argmax(1)
    wrong = [i for i in np.argsort(-similar.max(1)) if int(first[i]) not in pairs.right[i]][:SHOWN]
    return [
        Bars(
            "Found among the first ten", about, [s for _, s in rows], [m[f"{p}r10"] for p, _ in rows], "%", emphasis=0
        ),
        Table("Finding what belongs together", about, ["", "R@1", "R@10", "MRR", "median rank"], table, emphasis=0),
        Gallery("Found", "Texts drawn at random, and the three that they bring.", shown),
        Gallery(
            "Sure and wrong",
            "The texts whose first answer is wrong and most similar.",
            [_found(pairs, similar, int(i)) for i in wrong],
            failures=True,
        ),
    ]


def _found(pairs: TextPairs, similar: np.ndarray, i: int) -> tuple[Item, list[Item]]:
    right = pairs.right[i]
    rank = 1 + int((similar[i] > similar[i][right].max()).sum())
    items = [
        Item(text=pairs.candidates[j], score=float(similar[i, j]), good=j in right)
        for j in np.argsort(-similar[i])[:3].tolist()
    ]
    note = "" if rank <= 3 else f"right, at rank {rank:,}: {pairs.candidates[right[0]]}"
    return Item(text=pairs.queries[i], note=note), items
