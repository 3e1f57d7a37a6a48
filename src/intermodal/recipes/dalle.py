"""The recipe of DALL-E: texts and the codes of a trained tokenizer in one transformer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Self

from intermodal.core.config import Config
from intermodal.core.errors import DataError
from intermodal.core.progress import Progress
from intermodal.data.emoji import EmojiSource
from intermodal.data.source import SourceConfig
from intermodal.decode.sampling import Sampling
from intermodal.evaluate.dalle import headline, judge_codes
from intermodal.evaluate.generation import evaluate_generation
from intermodal.evaluate.result import Evaluation
from intermodal.methods.base import Method
from intermodal.methods.image_generation.dalle import ANY, DALLE
from intermodal.nn.causal import CausalConfig
from intermodal.recipes.base import OptimConfig, TrainConfig
from intermodal.recipes.clip import TokenizerConfig, trained_text
from intermodal.recipes.image_generation import BPE, OWN_TOWER, WORDS, GeneratorRecipe, expected
from intermodal.recipes.vqgan import FIRST, frozen_tokenizer


@dataclass(frozen=True, kw_only=True)
class DALLEModel(Config):
    """A DALL-E over the codes of a tokenizer.

    Attributes:
        tokenizer: a run or checkpoint whose latent is of codes (vqgan, vqvae, dvae), a published VQModel folder, or a hub
            id. None takes an untrained one of tiny networks, which is good for nothing but trying things out.
        words: the tokenizer of texts, trained on the data's texts.
        network: the transformer; what follows from texts and codes is set.
        text_weight: of the texts' cross entropy in the loss; the codes' has the rest.
        untold: the share of the training pictures whose text is not told.
        sampling: how a code is chosen when pictures are drawn.
        guidance: how strongly the text is followed when pictures are drawn.
    """

    tokenizer: str | None = FIRST
    words: TokenizerConfig = WORDS
    network: CausalConfig
    text_weight: float = 0.125
    untold: float = 0.1
    sampling: Sampling = ANY
    guidance: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DALLERecipe(GeneratorRecipe):
    """A transformer over texts and the codes of a trained tokenizer, which stays as it is.

    Pictures have the size that the tokenizer was trained on; ``size`` and ``resize`` are those of one that is not trained.

    Attributes:
        model: the tokenizer, the texts and the transformer.
    """

    method: str = "dalle"
    model: DALLEModel

    def build(self) -> Method:
        """Load the tokenizer, train that of the texts, and build the transformer.

        Raises:
            ConfigError: if there is no tokenizer, or what is there is none, or its latent is of real numbers.
            DataError: if the data has no texts.
        """
        model = self.model
        if "text" not in (source := self.source.open("train")).fields:
            raise DataError(f"The recipe {self.name!r} draws from texts, and {source.name} has none.")
        pictures = frozen_tokenizer(model.tokenizer, self.processor(), self.train.seed, self.name)
        words, _ = trained_text(model.words, self.source, OWN_TOWER)
        self.seeded()
        names = ("text_weight", "untold", "sampling", "guidance")
        return DALLE.over(pictures, words, model.network, **{name: getattr(model, name) for name in names})

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge by the bits of held-out pictures' codes with and without their texts, and in the end by what is drawn."""
        assert isinstance(method, DALLE)
        full = split == self.final_split
        start = time.monotonic()
        metrics, panels = judge_codes(method, self.source, split, progress, full=full)
        if not full:
            return Evaluation(split, metrics, [], time.monotonic() - start)
        drawn = evaluate_generation(method, self.source, split, progress, count=self.count, judge=self.judge)
        metrics, panels = {**metrics, **drawn.metrics}, [*drawn.panels, *panels]
        return Evaluation(split, metrics, panels, time.monotonic() - start, headline(metrics))

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other data, whose texts are cut into pieces of words."""
        changed = self.replace(source=source, expect=())
        return changed if isinstance(source, EmojiSource) else changed.replace(model__words=BPE)

    def smaller(self) -> dict[str, Any]:
        """Return a narrow transformer over the codes of an untrained tokenizer, and few words."""
        network = self.model.network.replace(width=32, depth=1, heads=2, dropout=0.0, attention_dropout=0.0)
        words = self.model.words.replace(vocab_size=600)
        return {"model": self.model.replace(tokenizer=None, network=network, words=words)}


def dalle() -> DALLERecipe:
    """Emoji for a text, code by code: a transformer over words and the codes of the recipe vqgan.

    ``intermodal train dalle --model.tokenizer RUN``, where RUN is a trained tokenizer's (``runs/vqgan`` by default), 11
    minutes of one CPU core: 353 bits a picture given its text (517 without context), Fréchet distance 1.47 at 64 x 64.
    """
    return DALLERecipe(
        name="dalle",
        model=DALLEModel(
            words=WORDS.replace(context_length=16),
            network=CausalConfig(width=192, depth=4, heads=6, dropout=0.1, attention_dropout=0.1),
            guidance=2.0,
        ),
        size=64,
        optim=OptimConfig(lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1, warmup=100, ema=0.995),
        train=TrainConfig(
            steps=2200, batch_size=32, precision="bf16", workers=1, log_every=50, eval_every=550, checkpoint_every=550
        ),
        expect=expected(1.47, 11),
    )
