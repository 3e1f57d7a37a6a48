"""word2vec, words a second: ours beside gensim, one pass over the same file of text, same settings and threads.

Both read a file of words with spaces between, a paragraph a line. The vocabulary is counted beforehand; a step is the whole
training, our numbering of the text's words included (gensim looks words up while it trains). Words a second are the words
of the title divided by the wall time; words a processor second, divided by the time of all threads. gensim is measured in
both of its modes: ``corpus_file`` (each worker reads its part of the file) and ``sentences`` (one Python thread feeds the
workers). The value is Spearman's rho on WordSim-353 after that pass. Run it with ``--threads 2``: threads are the workers of
both.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import harness
from intermodal.core.progress import silent
from intermodal.data.catalog import find
from intermodal.data.text import TextSource
from intermodal.data.words import Vocabulary, split_words
from intermodal.evaluate.words_sets import Judged, read_pairs
from intermodal.methods.contrastive.word2vec import Word2Vec, Word2VecConfig

GENSIM = "pip install gensim"
DIM, WINDOW, NEGATIVES, MIN_COUNT, RATE = 100, 5, 5, 5, 0.025
LONGEST = 1000
_folder = tempfile.TemporaryDirectory(prefix="word2vec-")


def text_file(count: int) -> Path:
    """Write about ``count`` words of the text set, evenly over its documents, a paragraph (at most 1,000 words) a line."""
    path = Path(_folder.name) / f"{count}.txt"
    if path.exists():
        return path
    texts = TextSource(unit="paragraph", validation_share=0.01).open("train")
    stride = max(1, 18_000_000 // count)
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for start in itertools.count():
            for i in range(start, len(texts), stride):
                words = split_words(texts.text(i))
                for first in range(0, len(words), LONGEST):
                    file.write(" ".join(words[first : first + LONGEST]) + "\n")
                written += len(words)
                if written >= count:
                    return path
            if start + 1 >= stride:
                return path
    return path


def pieces(path: Path) -> Iterator[str]:
    """Yield a file in pieces of whole lines."""
    with path.open(encoding="utf-8") as file:
        while lines := file.readlines(1 << 20):
            yield "".join(lines)


def rho(words: Any, vectors: Any) -> float:
    """Return the correlation on WordSim-353; NaN where that set is not installed."""
    return Judged(words, vectors).pairs(read_pairs(find("wordsim353"))).rho if words else math.nan


def ours(count: int, skip_gram: bool) -> Callable[[], harness.Step]:
    """Return what makes a step of ours."""

    def make() -> harness.Step:
        path = text_file(count)
        vocabulary = Vocabulary.of(pieces(path), min_count=MIN_COUNT)
        config = Word2VecConfig(
            vocab_size=len(vocabulary),
            dim=DIM,
            window=WINDOW,
            negatives=NEGATIVES,
            algorithm="skip-gram" if skip_gram else "cbow",
        )

        def train(limit: int | None = None) -> float:
            torch.manual_seed(0)
            model = Word2Vec(config, {"text": vocabulary})
            engine = model.native(
                pieces=lambda: itertools.islice(pieces(path), limit),
                data="the text",
                break_at="line",
                folder=Path(_folder.name),
                steps=1,
                epochs=1,
                lr=RATE,
                threads=torch.get_num_threads(),
                seed=0,
                progress=silent,
            )
            engine.step(0)
            engine.close()
            return rho(model.words, model.word_vectors())

        train(limit=1)  # compiles
        return train

    return make


def gensim(count: int, skip_gram: bool, by_file: bool) -> Callable[[], harness.Step]:
    """Return what makes a step of gensim's."""

    def make() -> harness.Step:
        from gensim.models import Word2Vec as Peer
        from gensim.models.word2vec import LineSentence

        path = str(text_file(count))
        model = Peer(
            vector_size=DIM,
            window=WINDOW,
            negative=NEGATIVES,
            min_count=MIN_COUNT,
            alpha=RATE,
            sg=int(skip_gram),
            workers=torch.get_num_threads(),
            epochs=1,
            seed=1,
        )
        model.build_vocab(corpus_file=path)

        def train() -> float:
            model.init_weights()
            source = {"corpus_file": path} if by_file else {"corpus_iterable": LineSentence(path)}
            model.train(**source, total_words=model.corpus_total_words, total_examples=model.corpus_count, epochs=1)
            return rho(model.wv.index_to_key, model.wv.vectors)

        return train

    return make


def cases(quick: bool) -> list[harness.Case]:
    """Skip-gram and CBOW."""
    count = 200_000 if quick else 2_000_000
    return [
        harness.Case(
            f"{name}, one pass over about {count:,} words, {DIM} dimensions, window {WINDOW}, {NEGATIVES} negatives",
            [
                harness.Contender("intermodal", ours(count, skip_gram)),
                harness.Contender("gensim, corpus_file", gensim(count, skip_gram, True), GENSIM),
                harness.Contender("gensim, sentences", gensim(count, skip_gram, False), GENSIM),
            ],
        )
        for name, skip_gram in (("skip-gram", True), ("CBOW", False))
    ]
