"""The recipes of HMM-GMM: spelled English with a dictionary, and single digits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from intermodal.core.progress import Progress
from intermodal.data.catalog import CATALOG, find
from intermodal.data.lexicon import Lexicon, WordProcessor
from intermodal.data.source import SourceConfig
from intermodal.decode.graph import GraphConfig
from intermodal.evaluate.energy import spread_out
from intermodal.evaluate.result import Evaluation
from intermodal.evaluate.speech import evaluate_recogniser
from intermodal.methods.base import Method, NativeEngine
from intermodal.methods.speech.hmm import Hmm, HmmConfig, cepstra
from intermodal.methods.speech.hmm_engine import HmmPlan
from intermodal.nn.speech_features import FeatureConfig
from intermodal.nn.topology import Topology
from intermodal.recipes.base import TrainConfig, reaches
from intermodal.recipes.speech import AN4, AN4_WORDS, FSDD, FSDD_RULE, SpeechRecipe

GLANCE = 64
"""Recordings whose moments the densities begin with; the engine takes those of all."""


@dataclass(frozen=True, kw_only=True)
class HmmRecipe(SpeechRecipe):
    """HMM-GMM on recordings with transcripts.

    Trained natively (``train.native``, the default), the budget is :attr:`plan` and ``train.steps`` only divides it into
    equal steps; ``optim`` is not used. With ``train.native=False`` the ordinary loop takes ``train.steps`` steps of AdamW
    instead.

    Attributes:
        features: what is heard.
        states, silence_states: of a phone, and of silence.
        lexicon: a pronunciation dictionary: a file, or a name of the catalogue (``an4-lexicon``); None lets ``pronounce``
            say.
        pronounce: without a dictionary: ``letters`` stand for phones, or ``words`` have states of their own.
        mixtures: components at the start of the ordinary loop; the engine begins with one.
        search: how it is decoded.
        plan: of the engine.
    """

    method: str = "hmm"
    features: FeatureConfig = field(default_factory=cepstra)
    states: int = 3
    silence_states: int = 3
    lexicon: Path | None = None
    pronounce: Literal["letters", "words"] = "letters"
    mixtures: int = 2
    search: GraphConfig = field(default_factory=GraphConfig)
    plan: HmmPlan = field(default_factory=HmmPlan)

    def words(self) -> Lexicon:
        """Return the lexicon.

        Raises:
            DataError: if the dictionary is not there, or misses words of the training transcripts (all are named).
        """
        texts = self.source.training_texts()
        if self.lexicon is not None:
            named = str(self.lexicon) in CATALOG and not self.lexicon.exists()
            lexicon = Lexicon.read(find(str(self.lexicon)) if named else self.lexicon, self.case)
            lexicon.check(texts)
            return lexicon
        return (Lexicon.spelling if self.pronounce == "letters" else Lexicon.whole_words)(texts, case=self.case)

    def build(self) -> Method:
        """Read the lexicon and build the model, with global normalisation fitted where the features ask for it."""
        lexicon = self.words()
        torch.manual_seed(self.train.seed)
        config = HmmConfig(
            topology=Topology(phones=lexicon.phones, states=self.states, silence_states=self.silence_states),
            features=self.features.replace(rate=self.rate),
            mixtures=self.mixtures,
            silence=self.search.silence,
            search=self.search,
        )
        method = Hmm(config, {"audio": self.audio(), "text": WordProcessor(lexicon=lexicon)})
        source, audio = self.source.open("train"), self.audio()

        def waves(most: int) -> Iterator[Tensor]:
            for row in spread_out(len(source), most):
                yield audio.encode(source.sample(row)["audio"])[None]

        self.fit(method.features, len(source))
        method.begin(waves(GLANCE))
        return method

    def engine(self, method: Method, folder: Path, progress: Progress) -> NativeEngine:
        """Return the engine over the training recordings."""
        assert isinstance(method, Hmm)
        return method.native(
            source=self.source.open("train"),
            plan=self.plan,
            folder=folder,
            steps=self.train.steps,
            progress=progress,
            speeds=self.source.speeds,
            max_unreadable=self.source.max_unreadable,
        )

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge by word errors, with and without a language model of the training transcripts."""
        return evaluate_recogniser(method, self.source, split, progress, full=split == self.final_split)

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other recordings: letters stand for phones, unless ``lexicon`` is then set.

        What is heard ends at the highest frequency that their rate allows.
        """
        return super().on(source).replace(lexicon=None, features=self.features.replace(high=None))

    def smoke(self) -> Self:
        """Return the same path on single Gaussians and a handful of passes, seconds."""
        return self.replace(
            plan=self.plan.replace(
                passes=1, splits=0, tied_states=min(self.plan.tied_states, 120), tied_splits=1, last_passes=0
            ),
            train__steps=8,
            train__batch_size=4,
            train__eval_every=0,
            train__log_every=1,
            expect=(),
        )


def hmm() -> HmmRecipe:
    """Triphones with Gaussian mixtures on AN4 (needs ``INTERMODAL_DATA``).

    ``intermodal train hmm``; ``--data FOLDER`` trains it on your own recordings, with letters for phones or with a
    dictionary (``lexicon=words.dic``).
    """
    return HmmRecipe(
        name="hmm",
        source=AN4,
        lexicon=Path("an4-lexicon"),
        features=cepstra().replace(bins=40, high=7600.0),
        silence_states=5,
        search=GraphConfig(lm_weight=14.0, word_bonus=-20.0, bonus_alone=-80.0),
        plan=HmmPlan(passes=4, splits=2, tied_states=250, tied_splits=2, last_passes=2),
        train=TrainConfig(steps=100, batch_size=16, log_every=1, checkpoint_every=25),
        expect=reaches("wer", 0.08, 0.14, AN4_WORDS, 0.7),
    )


def hmm_digits() -> HmmRecipe:
    """Whole-word models of ten digits on FSDD (needs ``INTERMODAL_DATA``), one word a recording.

    ``intermodal train hmm-digits``.
    """
    return HmmRecipe(
        name="hmm-digits",
        source=FSDD.replace(validation_share=0.0),  # the published rule tests the speakers that it trains
        rate=8000,
        case="lower",
        pronounce="words",
        features=cepstra().replace(log="db", floor=1e-10, top_db=30.0),  # what is softer is the room, not the voice
        states=8,
        silence_states=1,
        search=GraphConfig(grammar="single"),
        plan=HmmPlan(passes=4, splits=1, last_passes=2),
        train=TrainConfig(steps=20, batch_size=32, log_every=1, checkpoint_every=10),
        expect=reaches("wer", 0.0, 0.02, FSDD_RULE, 0.1),
    )
