"""The recipe of lm-fusion: a trained CTC recogniser, an n-gram of its training transcripts, two weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.core.progress import Progress
from intermodal.data.processors import Processor
from intermodal.data.set_aside import SetAside
from intermodal.data.source import SourceConfig
from intermodal.data.speech import SpeechSource
from intermodal.data.transcripts import CharacterProcessor, normalise
from intermodal.decode.kneser_ney import estimate
from intermodal.evaluate.lm_fusion import evaluate_lm_fusion
from intermodal.evaluate.result import Evaluation
from intermodal.hub.load import load
from intermodal.methods.base import Method
from intermodal.methods.speech.ctc import CTC, CTCConfig, build_ctc
from intermodal.methods.speech.lm_fusion import LMFusion
from intermodal.nn.speech_encoders import CNNEncoderConfig
from intermodal.recipes.base import OptimConfig, Recipe, TrainConfig, reaches
from intermodal.recipes.speech import AN4, AN4_WORDS, SpeechRecipe

FIRST = "runs/ctc"


@dataclass(frozen=True, kw_only=True)
class FusionConfig(Config):
    """A recogniser and a language model to put together.

    Attributes:
        acoustic: a run or checkpoint of the method ctc. None takes an untrained one of a tiny network, which is good for
            nothing but trying things out.
        order: of the n-gram.
        beam: hypotheses that the search keeps.
        n_best: hypotheses over which errors are expected.
        lm_weight, word_bonus: from which learning begins.
    """

    acoustic: str | None = FIRST
    order: int = 3
    beam: int = 50
    n_best: int = 16
    lm_weight: float = 1.0
    word_bonus: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LMFusionRecipe(Recipe):
    """Weights of a language model in the search, learnt on speakers that are set aside.

    The recogniser was trained on the training speakers, less those set aside for validation; the n-gram is made of the same
    speakers' transcripts. The weights are learnt on half of the speakers set aside and watched on the other half.

    Attributes:
        source: the speakers set aside.
        model: recogniser, order of the n-gram, search.
    """

    method: str = "lm-fusion"
    source: SourceConfig
    model: FusionConfig

    def build(self) -> Method:
        """Load the recogniser, estimate the language model, and put them together.

        Raises:
            ConfigError: if there is no recogniser, or what is there is none.
        """
        texts = self.source.training_texts()
        acoustic = self._acoustic(texts)
        lm = estimate([normalise(text, acoustic.text.case) for text in texts], self.model.order).model
        return LMFusion.over(
            acoustic,
            lm,
            beam=self.model.beam,
            n_best=self.model.n_best,
            lm_weight=self.model.lm_weight,
            word_bonus=self.model.word_bonus,
        )

    def _acoustic(self, texts: list[str]) -> CTC:
        path = self.model.acoustic
        if path is None:
            tiny = SpeechRecipe(name=self.name, method="ctc", source=AN4)
            processors: dict[str, Processor] = {"audio": tiny.audio(), "text": CharacterProcessor.of(texts)}
            torch.manual_seed(self.train.seed)
            return build_ctc(
                CTCConfig(encoder=CNNEncoderConfig(width=32, depth=1, dropout=0.0), augment=None), processors
            )
        if path.startswith("runs/") and not Path(path).exists():
            raise ConfigError(
                f"The recipe {self.name!r} needs a trained recogniser, and there is none at {path}: run `intermodal train "
                f"ctc --run {path}` first, or name another with --model.acoustic."
            )
        found = load(path)
        if not isinstance(found, CTC):
            raise ConfigError(
                f"{path} holds the method {found.id!r}: name a run of the method ctc with --model.acoustic."
            )
        return found

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge by the words that are wrong, with the language model and without."""
        assert isinstance(method, LMFusion)
        return evaluate_lm_fusion(method, self.source, split, progress, full=split == self.final_split)

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other recordings: their validation speakers."""
        return super().on(SetAside(of=source) if isinstance(source, SpeechSource) else source)

    def on_named(self, data: str) -> Self:
        """Return the recipe on ``an4``, ``fsdd``, a Parquet file or a folder of recordings."""
        source = SpeechRecipe(name=self.name, method=self.method, source=AN4).on_named(data).source
        return self.on(source)

    def smoke(self) -> Self:
        """Return the same path with an untrained recogniser of a tiny network."""
        budget = self.train.replace(steps=4, batch_size=4, eval_every=0, log_every=1, checkpoint_every=2)
        model = self.model.replace(acoustic=None, beam=8, n_best=4)
        return self.replace(model=model, train=budget, expect=())


def lm_fusion() -> LMFusionRecipe:
    """A 3-gram of AN4's training transcripts in the search of the recipe ctc.

    ``intermodal train lm-fusion --model.acoustic RUN``, where RUN is a trained recogniser's (``runs/ctc`` by default);
    ``--data FOLDER`` takes your own recordings, those that the recogniser was trained on.
    """
    return LMFusionRecipe(
        name="lm-fusion",
        source=SetAside(of=AN4),
        model=FusionConfig(),
        optim=OptimConfig(lr=0.1, betas=(0.9, 0.99), weight_decay=0.0, warmup=0),
        train=TrainConfig(steps=120, batch_size=16, log_every=10, eval_every=60, checkpoint_every=60),
        expect=reaches("wer", 0.03, 0.07, AN4_WORDS, 1.3),
    )
