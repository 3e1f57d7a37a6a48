"""word2vec on running text: the shipped recipes, and a person's own text file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Self

import torch

from intermodal.core.errors import ConfigError, DataError
from intermodal.core.progress import Progress
from intermodal.data.source import SourceConfig
from intermodal.data.text import TextSource
from intermodal.data.words import Vocabulary
from intermodal.evaluate.result import Evaluation
from intermodal.evaluate.words import evaluate_words
from intermodal.methods.base import Method, NativeEngine
from intermodal.methods.contrastive.word2vec import Word2Vec, Word2VecConfig
from intermodal.recipes.base import Expect, OptimConfig, Recipe, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Word2VecRecipe(Recipe):
    """word2vec on text.

    ``optim.lr`` is the native engine's first learning rate, which falls in a line to 1e-4 of it; ``train.steps`` cuts the
    whole work (``epochs`` times the text) into equal steps. With ``train.native=False`` the ordinary loop takes
    ``train.steps`` steps of ``train.batch_size`` units of the text by AdamW instead (then ``optim.lr`` 2e-3 is sensible).

    Attributes:
        model: the architecture and what a pair is; ``vocab_size`` comes from the text.
        min_count: rarer words are left out.
        max_words: keep only so many of the most frequent words; None keeps all.
        context_length: words of a unit of text that the ordinary loop takes; the native engine takes all.
        epochs: how often the native engine goes through the text.
        threads: of the native engine; 0 for all cores, 1 for the same bits every time.
    """

    method: str = "word2vec"
    model: Word2VecConfig
    min_count: int = 5
    max_words: int | None = None
    context_length: int = 256
    epochs: int = 5
    threads: int = 0

    @property
    def text(self) -> TextSource:
        """The source, which must be text.

        Raises:
            DataError: if it is something else.
        """
        if not isinstance(self.source, TextSource):
            raise DataError(f"The recipe {self.name} learns from text: give a .txt file or a folder of .txt files.")
        return self.source

    def build(self) -> Method:
        """Count the words of the training text and build the tables."""
        text = self.text
        vocabulary = Vocabulary.of(
            text.stream("train"),
            min_count=self.min_count,
            max_words=self.max_words,
            context_length=self.context_length,
            name=text.title,
        )
        torch.manual_seed(self.train.seed)
        return Word2Vec(self.model.replace(vocab_size=len(vocabulary)), {"text": vocabulary})

    def engine(self, method: Method, folder: Path, progress: Progress) -> NativeEngine:
        """Return the engine over the training text.

        Raises:
            ConfigError: if ``source.unit`` is ``sentence``, which the stream of a text does not know.
        """
        assert isinstance(method, Word2Vec)
        text = self.text
        if text.unit == "sentence":
            raise ConfigError("word2vec's windows end with a line, a paragraph or a document: set source.unit to one.")

        def pieces() -> Iterator[str]:
            return text.stream("train")

        return method.native(
            pieces=pieces,
            data=f"{text.title} (train)",
            break_at=text.unit,
            folder=folder,
            steps=self.train.steps,
            epochs=self.epochs,
            lr=self.optim.lr,
            threads=self.threads,
            seed=self.train.seed,
            progress=progress,
        )

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge by word similarity, analogies, and the loss on held-out text."""
        assert isinstance(method, Word2Vec)
        return evaluate_words(method, self.text, split, progress, full=split == self.final_split)

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on another text: windows end with its paragraphs, a tenth of it is held out."""
        if isinstance(source, TextSource):
            source = source.replace(unit="paragraph")
        return super().on(source)

    def smoke(self) -> Self:
        """Return the same path on the licences that are shipped with the pictures: 18,000 words, seconds, one thread."""
        return self.replace(
            source=TextSource(path=shipped_text(), unit="paragraph"),
            model=self.model.replace(dim=16),
            min_count=2,
            context_length=64,
            epochs=2,
            threads=1,
            train__steps=8,
            train__batch_size=32,
            train__eval_every=0,
            train__log_every=1,
            expect=(),
        )


def shipped_text() -> Path:
    """Return the only English text in the package: a folder with the licences of the emoji pictures."""
    return Path(str(resources.files("intermodal.data") / "assets" / "emoji_licences"))


def word2vec() -> Word2VecRecipe:
    """Skip-gram on 18 million words in five passes (needs ``INTERMODAL_DATA``): 2.4 minutes of one core reach rho 0.68.

    ``intermodal train word2vec``; ``--data FILE.txt`` trains it on your own text. WordSim-353 0.68, SimLex-999 0.41, Google
    analogies 21.5 %. The learning rate begins at 0.03: its mean over the words is then what gensim's 0.025, which falls by
    sentences, comes to on this text.
    """
    return Word2VecRecipe(
        name="word2vec",
        source=TextSource(unit="paragraph", validation_share=0.01),
        model=Word2VecConfig(vocab_size=2),
        optim=OptimConfig(lr=0.03, weight_decay=0.0, warmup=0, schedule="constant", clip_norm=None),
        train=TrainConfig(steps=200, batch_size=256, log_every=2, checkpoint_every=50),
        expect=tuple(
            Expect(metric=name, low=low, high=high, on="text-15m", hardware="one CPU core", minutes=2.4)
            for name, low, high in (
                ("wordsim353_rho", 0.64, 0.71),
                ("simlex999_rho", 0.39, 0.44),
                ("analogies", 0.19, 0.24),
            )
        ),
    )


def word2vec_cbow() -> Word2VecRecipe:
    """CBOW on the same text (needs ``INTERMODAL_DATA``): 0.75 minutes of one core reach rho 0.65.

    ``intermodal train word2vec-cbow``; WordSim-353 0.65, SimLex-999 0.38, Google analogies 21.8 %.
    """
    expect = tuple(
        Expect(metric=name, low=low, high=high, on="text-15m", hardware="one CPU core", minutes=1.1)
        for name, low, high in (
            ("wordsim353_rho", 0.61, 0.69),
            ("simlex999_rho", 0.35, 0.41),
            ("analogies", 0.19, 0.24),
        )
    )
    return word2vec().replace(name="word2vec-cbow", model__algorithm="cbow", optim__lr=0.05, expect=expect)
