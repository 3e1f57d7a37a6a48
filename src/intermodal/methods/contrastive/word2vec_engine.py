"""The native engine of word2vec: a text of any size through compiled loops, on one thread or lock-free on several.

The text is read twice: once for the vocabulary (by the recipe) and once here, into a temporary file of word numbers (four
bytes a known word) beside the run; epochs read that file chunk by chunk. So the memory does not depend on the text's length,
and tokenisation is paid once, not in every epoch.

A chunk's learning rate and random numbers depend on the seed and on its place in the whole work alone. One thread therefore
gives the same bits every time, also when a run goes on after an interruption; several threads give the same work in an order
that the machine decides, and updates that meet at one row may be lost (Hogwild, Niu et al. 2011).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from intermodal.core.errors import ConfigError, DataError
from intermodal.core.progress import Progress
from intermodal.data.words import write_corpus
from intermodal.methods.contrastive import hogwild
from intermodal.methods.contrastive.word2vec import Word2Vec

CHUNK = 10_000
"""Word numbers that are trained on at a time, with one learning rate."""
LOWEST = 1e-4
"""The learning rate's last value, as a share of its first (word2vec.c)."""
FILE = "words.int32"


class Word2VecEngine:
    """Trains the tables of a :class:`Word2Vec` in place; its parameters become views of padded tables.

    Args:
        method: what is trained.
        pieces: returns the text anew, in pieces that cut no word; a window does not reach over their ends.
        data: what a person would call the text.
        break_at: where else a window ends: ``line``, ``paragraph`` (an empty line) or ``document`` (nowhere else).
        folder: where the temporary file of word numbers is written; it is removed by :meth:`close`.
        steps: into how many equal parts the work is divided.
        epochs: how often the text is gone through.
        lr: the learning rate at the start (word2vec.c: 0.025 for skip-gram, 0.05 for CBOW).
        threads: 0 for as many as torch uses (all cores, unless OMP_NUM_THREADS says otherwise); 1 gives the same bits
            every time.
        seed: of everything random.
        progress: told of the reading of the text.

    Raises:
        ConfigError: if there are more steps than words to share, or a setting is below its smallest value.
        DataError: if the text cannot be read or holds fewer than two known words.
        MissingExtraError: without numba.
    """

    def __init__(
        self,
        method: Word2Vec,
        *,
        pieces: Callable[[], Iterable[str]],
        data: str,
        break_at: str,
        folder: Path,
        steps: int,
        epochs: int,
        lr: float,
        threads: int,
        seed: int,
        progress: Progress,
    ) -> None:
        if epochs < 1 or threads < 0 or steps < 1:
            raise ConfigError(
                f"Expected epochs and steps of at least 1, and threads of at least 0, found {epochs}, {steps} and {threads}."
            )
        self.method, self.steps, self.epochs, self.lr, self.seed = method, steps, epochs, lr, seed
        self.threads = threads or torch.get_num_threads()
        vocabulary, config = method.vocabulary, method.config
        self.data = data
        self.samples = epochs * vocabulary.total
        self.path = folder / FILE
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self.length = self._encode(pieces, break_at, progress)
            self.chunk, self.chunks = self._divided()
        except BaseException:
            self.path.unlink(missing_ok=True)
            raise
        self.about = (
            f"{epochs} x {vocabulary.total:,} words of {data}, {len(vocabulary):,} different ones, on {self.threads} "
            f"thread{'s' * (self.threads > 1)}"
        )
        self._pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None
        self._draws = hogwild.draws(vocabulary.counts, config.sample, config.noise_power)
        self._sigmoid = hogwild.sigmoid_table()
        self._train: Any = hogwild.skip_gram if config.algorithm == "skip-gram" else hogwild.cbow
        self._tables = [self._adopt(layer) for layer in (method.centre, method.context)]
        self._lanes = hogwild.lanes(self._tables[0])
        self._loss = float(np.log(2) * (1 + config.negatives))  # of tables that know nothing

    def _encode(self, pieces: Callable[[], Iterable[str]], break_at: str, progress: Progress) -> int:
        letters = max(1, self.method.vocabulary.total * 6)  # about: a word and a space

        def said(read: int) -> None:
            progress("numbering the words", min(read / letters, 1.0))

        length = write_corpus(pieces(), self.method.vocabulary, self.path, break_at=break_at, said=said)
        if length < 2:
            raise DataError(
                f"{self.data} holds none of the vocabulary's words: it is not the text that they were counted in."
            )
        return length

    def _divided(self) -> tuple[int, int]:
        """Return how many numbers a chunk has, and how many chunks an epoch: enough of them for every step and thread."""
        chunk = min(CHUNK, max(2, self.length * self.epochs // (self.steps * self.threads)))
        chunks = -(-self.length // chunk)
        if chunks * self.epochs < self.steps:
            raise ConfigError(
                f"{self.epochs} times the {self.length:,} known words of {self.data} cannot be shared by {self.steps} "
                "steps: lower train.steps."
            )
        return chunk, chunks

    def _adopt(self, layer: torch.nn.Embedding) -> np.ndarray:
        """Copy a layer's weights into a padded table, and let the layer look into it from now on."""
        table = hogwild.padded(layer.weight.detach().float().cpu().numpy())
        layer.weight = torch.nn.Parameter(torch.from_numpy(table)[:, : layer.embedding_dim])
        return table

    def step(self, number: int) -> dict[str, float]:
        """Train on one of the equal parts and return its figures."""
        whole = self.chunks * self.epochs
        first, last = whole * number // self.steps, whole * (number + 1) // self.steps
        jobs = iter(range(first, last))
        if self._pool is None:
            found = [self._work(jobs)]
        else:
            found = [f.result() for f in [self._pool.submit(self._work, jobs) for _ in range(self.threads)]]
        taken, total = (sum(column) for column in zip(*found, strict=True))
        if taken:  # else the step was so short that no pair was left: the loss stands
            self._loss = float(total / taken)
        return {"loss": self._loss, "lr": self._rate(last - 1), "epoch": (last - 1) // self.chunks}

    def _work(self, jobs: Iterator[int]) -> tuple[int, float]:
        """Take chunks until none is left; several threads share one iterator."""
        taken, total, config = 0, 0.0, self.method.config
        for job in jobs:
            ids = self._read(job % self.chunks)
            seed = int(np.random.SeedSequence([self.seed, job]).generate_state(1, np.uint64)[0] >> np.uint64(1))
            counted, loss = self._train(
                ids,
                *self._tables,
                *self._draws,
                self._sigmoid,
                config.window,
                config.negatives,
                self._rate(job),
                seed,
                self._lanes,
            )
            taken, total = taken + counted, total + loss
        return taken, total

    def _rate(self, job: int) -> float:
        return self.lr * max(LOWEST, 1 - job / (self.chunks * self.epochs))

    def _read(self, number: int) -> np.ndarray:
        """Return a chunk of the text, from front to back in every epoch."""
        start = number * self.chunk
        return np.fromfile(self.path, np.int32, min(self.chunk, self.length - start), offset=4 * start)

    def state(self) -> dict[str, Any]:
        """Return the tables, and what the rest of the work depends on."""
        return {
            "centre": self.method.centre.weight.detach(),
            "context": self.method.context.weight.detach(),
            "length": self.length,
            "threads": self.threads if self.threads == 1 else 0,
            "loss": self._loss,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with saved tables.

        Raises:
            ConfigError: if the text is no longer the one that the run began with.
        """
        if state["length"] != self.length or state["centre"].shape != self.method.centre.weight.shape:
            raise ConfigError(
                f"{self.data} has changed since the run began ({state['length']:,} known words then, {self.length:,} now): "
                "start a new run."
            )
        with torch.no_grad():
            self.method.centre.weight.copy_(state["centre"])
            self.method.context.weight.copy_(state["context"])
        self._loss = state["loss"]

    def close(self) -> None:
        """End the threads and remove the temporary file."""
        if self._pool is not None:
            self._pool.shutdown()
        self.path.unlink(missing_ok=True)
