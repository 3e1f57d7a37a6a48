"""Judges a pre-trained BERT on documents that it never saw: next sentences, hidden tokens, and what it gets wrong.

Next-sentence prediction is a binary contrastive task, so half of the answers are right by chance. Beside the model
stands the overlap of words: the cosine of the two passages' tf-idf vectors, with the threshold that is best on training
pairs. The harder variant draws the random passage from the same document, where topic and style say nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from intermodal.core.errors import DataError
from intermodal.core.progress import Progress
from intermodal.data.sentence_pairs import NextSentenceSource, SentencePairs
from intermodal.data.source import Source
from intermodal.data.words import split_words
from intermodal.evaluate.encoding import Steps
from intermodal.evaluate.result import Bars, Evaluation, Gallery, Headline, Item, Panel, Table, in_percent
from intermodal.methods.contrastive.bert import BERT, IGNORED, RELATIONS, mask_tokens

MOST, QUICK = 2000, 500
FITTED_ON = 2000
BATCH = 50
SEED = 0
SHOWN = 6


@dataclass(frozen=True)
class Pairs:
    """Pairs of passages, and whether each is real: relation 0 where the second follows, 1 where it is random."""

    texts: list[tuple[str, str]]
    relation: np.ndarray

    @classmethod
    def of(cls, source: Source, most: int) -> Pairs:
        """Read up to so many pairs, spread evenly over the source."""
        indices = np.linspace(0, len(source) - 1, min(most, len(source))).astype(int)
        samples = [source.sample(int(i)) for i in indices]
        texts = [(s["pair"][0], s["pair"][1]) for s in samples]
        return cls(texts, np.array([RELATIONS.index(s["relation"]) for s in samples]))


def evaluate_pretraining(
    method: BERT, config: NextSentenceSource, split: str, progress: Progress, *, full: bool
) -> Evaluation:
    """Judge a BERT.

    Args:
        method: with the next-sentence head, and perhaps the masked language model's.
        config: the text; its pairs are drawn as it says, and once more with negatives of the same document.
        split: which documents to judge on.
        progress: told what is done.
        full: 2,000 pairs with baselines and panels; else 500, the figures alone.

    Raises:
        DataError: if the split has no document of two sentences.
    """
    start = time.monotonic()
    steps = Steps(progress, {"Next sentences": 5.0, "Hidden words": 3.0, **({"Baselines": 3.0} if full else {})})
    most = MOST if full else QUICK
    source = config.open(split)
    pairs = Pairs.of(source, most)
    probability = _next_sentence(method, pairs.texts, steps.of("Next sentences"))
    metrics = {"nsp_accuracy": _accuracy(probability > 0.5, pairs), "chance_nsp_accuracy": 0.5}
    harder = _same_document(config, split, most)
    if harder is not None:
        metrics["same_nsp_accuracy"] = _accuracy(_next_sentence(method, harder.texts) > 0.5, harder)
    if method.mlm is not None:
        metrics |= _hidden_tokens(method, pairs, steps.of("Hidden words"))
    if not full:
        return Evaluation(split, metrics, [], time.monotonic() - start)
    steps("Baselines")
    overlap = Overlap(config.training_texts())
    train = Pairs.of(config.open("train"), FITTED_ON)
    overlap.fit(train)
    metrics["overlap_nsp_accuracy"] = _accuracy(overlap(pairs.texts), pairs)
    if harder is not None:
        overlap.fit(_same_document(config, "train", FITTED_ON) or train)
        metrics["overlap_same_nsp_accuracy"] = _accuracy(overlap(harder.texts), harder)
    about = f"{len(pairs.texts):,} pairs of passages of {len(source.sentences.documents)} documents that training never saw."
    panels = _panels(method, metrics, pairs, probability, about)
    return Evaluation(split, metrics, panels, time.monotonic() - start, _headline(metrics, about))


def _same_document(config: NextSentenceSource, split: str, most: int) -> Pairs | None:
    """Return pairs whose negatives are of the same document, or None where no document is long enough."""
    try:
        source: SentencePairs = config.replace(negatives="same").open(split)
    except DataError:
        return None
    return Pairs.of(source, most)


def _next_sentence(method: BERT, texts: Sequence[tuple[str, str]], report: object = None) -> np.ndarray:
    found = []
    for first in range(0, len(texts), BATCH):
        found.append(method.next_sentence(texts[first : first + BATCH]))
        if callable(report):
            report(min(first + BATCH, len(texts)) / len(texts))
    return np.concatenate(found)


def _accuracy(says_next: np.ndarray, pairs: Pairs) -> float:
    return float((says_next == (pairs.relation == 0)).mean())


@torch.inference_mode()
def _hidden_tokens(method: BERT, pairs: Pairs, report: object = None) -> dict[str, float]:
    """Return the cross entropy and the accuracy of tokens hidden by a fixed seed."""
    config = method.config
    generator = torch.Generator().manual_seed(SEED)
    loss, right, count = 0.0, 0, 0
    used = pairs.texts[: max(len(pairs.texts) // 4, 1)]
    for first in range(0, len(used), BATCH):
        batch = method.processors["pair"](used[first : first + BATCH])
        tokens_BL, segments_BL = batch.unbind(1)
        hidden_BL, targets_BL = mask_tokens(
            tokens_BL,
            mask_id=config.mask_id or 0,
            kept_ids=(config.encoder.pad_id, *config.special_ids),
            vocab_size=config.encoder.vocab_size,
            share=config.mask_share,
            generator=generator,
        )
        chosen_BL = (targets_BL != IGNORED).to(method.device)
        x_BLD = method.encoder(hidden_BL.to(method.device), segments_BL.to(method.device))
        logits_NV = method.token_logits(x_BLD[chosen_BL]).float()
        target_N = targets_BL.to(method.device)[chosen_BL]
        loss += float(F.cross_entropy(logits_NV, target_N, reduction="sum"))
        right += int((logits_NV.argmax(-1) == target_N).sum())
        count += len(target_N)
        if callable(report):
            report(min(first + BATCH, len(used)) / len(used))
    return {"mlm_loss": loss / max(count, 1), "mlm_accuracy": right / max(count, 1)}


class Overlap:
    """Says "next" where the cosine of two passages' tf-idf vectors is above a threshold.

    Args:
        texts: what inverse document frequencies are counted on.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        counts = Counter(word for text in texts for word in set(split_words(text)))
        self._idf = {word: float(np.log(len(texts) / n)) for word, n in counts.items()}
        self._unseen = float(np.log(max(len(texts), 2)))
        self.threshold = 0.0

    def similarity(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return the cosines, shape ``(len(pairs),)``."""
        return np.array([self._cosine(self._vector(a), self._vector(b)) for a, b in pairs])

    def _vector(self, text: str) -> dict[str, float]:
        counts = Counter(split_words(text))
        return {w: float(np.log1p(n)) * self._idf.get(w, self._unseen) for w, n in counts.items()}

    @staticmethod
    def _cosine(a: dict[str, float], b: dict[str, float]) -> float:
        lengths = np.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
        return sum(v * b[w] for w, v in a.items() if w in b) / lengths if lengths else 0.0

    def fit(self, pairs: Pairs) -> None:
        """Choose the threshold that is right most often."""
        similar = self.similarity(pairs.texts)
        places = np.quantile(similar, np.linspace(0, 1, 201))
        self.threshold = float(max(places, key=lambda t: _accuracy(similar > t, pairs)))

    def __call__(self, texts: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return whether each pair is said to be real."""
        return self.similarity(texts) > self.threshold


def _headline(m: dict[str, float], about: str) -> Headline:
    figure = in_percent(m["nsp_accuracy"])
    sentence = (
        f"Shown two passages, the model says rightly whether the second follows the first {figure} of the time "
        f"({about.rstrip('.')}). Guessing is right half of the time, the overlap of words "
        f"{in_percent(m['overlap_nsp_accuracy'])}."
    )
    return Headline(figure, sentence)


def _panels(method: BERT, m: dict[str, float], pairs: Pairs, probability: np.ndarray, about: str) -> list[Panel]:
    rows: list[list[str | float | None]] = [
        [method.id, m["nsp_accuracy"], m.get("same_nsp_accuracy")],
        ["overlap of words", m["overlap_nsp_accuracy"], m.get("overlap_same_nsp_accuracy")],
        ["chance", 0.5, 0.5],
    ]
    columns = ["accuracy", "random passage from another document", "from the same document"]
    shown: list[Panel] = [
        Bars("Does it follow?", about, [str(r[0]) for r in rows], [float(r[1] or 0) for r in rows], "%", emphasis=0),
        Table("Next-sentence prediction", f"A binary contrastive task. {about}", columns, rows, emphasis=0),
    ]
    says_next = probability > 0.5
    is_right = says_next == (pairs.relation == 0)
    sure = np.abs(probability - 0.5)
    rng = np.random.default_rng(SEED)
    drawn = [int(i) for i in rng.permutation(np.flatnonzero(is_right))[:SHOWN]]
    wrong = [int(i) for i in np.argsort(-np.where(is_right, -1.0, sure))[:SHOWN] if not is_right[i]]
    if drawn:
        shown.append(Gallery("Rightly judged", "Pairs drawn at random.", [_row(pairs, probability, i) for i in drawn]))
    if method.mlm is not None:
        shown.append(_fill_in(method, pairs, m, rng))
    if wrong:
        title = "The pairs on which the model is wrong and most sure."
        shown.append(Gallery("Sure and wrong", title, [_row(pairs, probability, i) for i in wrong], failures=True))
    return shown


def _row(pairs: Pairs, probability: np.ndarray, i: int) -> tuple[Item, list[Item]]:
    truth = "it follows" if pairs.relation[i] == 0 else "random"
    says = "it follows" if probability[i] > 0.5 else "random"
    answer = Item(
        text=pairs.texts[i][1], score=float(probability[i]), good=truth == says, note=f"{truth}; judged: {says}"
    )
    return Item(text=pairs.texts[i][0]), [answer]


def _fill_in(method: BERT, pairs: Pairs, m: dict[str, float], rng: np.random.Generator) -> Gallery:
    """Hide one word of a passage and show what the model puts there."""
    rows = []
    for i in rng.permutation(len(pairs.texts)):
        words = pairs.texts[int(i)][0].split()[:20]
        long = [k for k, word in enumerate(words) if len(word) > 3 and word.isalpha()]
        if not long:
            continue
        at = int(rng.choice(long))
        text = " ".join([*words[:at], "[MASK]", *words[at + 1 :]])
        truth = words[at].lower()
        try:
            answers = method.fill(text)[0]
        except DataError:  # the model reads less than this
            continue
        rows.append(
            (Item(text=text, note=f"hidden: {truth}"), [Item(text=t, score=p, good=t == truth) for t, p in answers])
        )
        if len(rows) == SHOWN:
            break
    about = (
        f"One word hidden, and the likeliest tokens in its place. Over all hidden tokens the right one is first "
        f"{in_percent(m['mlm_accuracy'])} of the time."
    )
    return Gallery("Filling in", about, rows)
