"""Recipes of LLaVA: questions about the shipped emoji set, and about Flickr8k's photographs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch

from intermodal.core.config import Config
from intermodal.core.errors import DataError
from intermodal.core.progress import Progress
from intermodal.data.caption_texts import CaptionTextSource
from intermodal.data.emoji import EmojiSource
from intermodal.data.flickr import Flickr8kSource
from intermodal.data.questions import CAPTION_KINDS, QuestionSource
from intermodal.data.source import SourceConfig
from intermodal.data.transforms import ImageAugment
from intermodal.evaluate.questions import evaluate_questions
from intermodal.evaluate.result import Evaluation
from intermodal.methods.base import Method
from intermodal.methods.captioning.language import LanguageConfig, check_language
from intermodal.methods.contrastive.clip import CLIP
from intermodal.methods.vision_language.llava import LLaVA
from intermodal.nn.causal import llama
from intermodal.recipes.base import OptimConfig, Recipe, TrainConfig, reaches
from intermodal.recipes.clip import CLIPRecipe, clip_small, clip_source
from intermodal.recipes.first import loaded, part, trained_first
from intermodal.recipes.language import LanguageRecipe
from intermodal.recipes.nce import VocabularyConfig

CLIP_RUN = "runs/clip-small"
SENTENCES = VocabularyConfig(size=3000, context_length=192)


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig(Config):
    """LLaVA's own choices; see :class:`~intermodal.methods.vision_language.llava.LLaVAConfig`."""

    layers: tuple[int, ...] = (-2,)
    projector: Literal["linear", "mlp"] = "mlp"
    tuned: bool = False
    describe: str = "what is this?"


@dataclass(frozen=True, kw_only=True)
class LLaVARecipe(Recipe):
    """LLaVA on questions and answers, in both stages one after the other.

    Attributes:
        source: the questions.
        model: the places and the projector.
        clip: a run, checkpoint, published folder or hub id of a CLIP. None trains one first, as ``first_clip`` says.
        first_clip: how; its source is the pictures of this recipe.
        language: a run, checkpoint, published folder or hub id of a language decoder. None trains one on the texts of the
            chats, as ``first_language`` says.
        first_language: its sizes and tokenizer, and for how many steps it learns the chats without their pictures; its
            source is the texts of this recipe's chats.
        stage: 1 trains the projector alone; 2, the whole recipe, begins with stage 1.
        first_kinds: of questions, in stage 1: what a picture shows; one in each chat.
        first_steps: of stage 1.
        length: the longest chat in tokens, those of the picture included.
        text_only: a run of the recipe llava-text, or another LLaVA that learnt from the questions alone, to stand beside in
            the evaluation; None for none.
    """

    method: str = "llava"
    source: QuestionSource
    model: ProjectorConfig = ProjectorConfig()
    clip: str | None = CLIP_RUN
    first_clip: CLIPRecipe
    language: str | None = None
    first_language: LanguageRecipe
    stage: Literal[1, 2] = 2
    first_kinds: tuple[str, ...] = ("group", "style", "colour", "keyword")
    first_steps: int = 60
    length: int = 96
    text_only: str | None = None

    def build(self) -> Method:
        """Read or train the parts, and for stage 2 train stage 1."""
        self._blind()
        if self.stage == 1 or not self.first_steps:
            return self._over(stage=self.stage)
        budget = self.train.replace(steps=self.first_steps)
        first = self.replace(stage=1, source__kinds=self.first_kinds, source__turns=1, train=budget)
        aligned = trained_first(first)
        assert isinstance(aligned, LLaVA)
        method = LLaVA(aligned.config.replace(stage=2), aligned.processors)
        method.load_state_dict(aligned.state_dict())
        return method

    def _over(self, **settings: Any) -> LLaVA:
        seeing = self.first_clip.replace(source=clip_source(self.source.of))
        clip = part(self.clip, seeing, self.name, "--clip", "clip-small")
        if not isinstance(clip, CLIP):
            raise DataError(f"{self.clip} holds the method {clip.id!r}: LLaVA sees through the tower of a clip.")
        language = part(self.language, self.first_language, self.name, "--language", "language-llama")
        torch.manual_seed(self.train.seed)
        found = check_language(language, str(self.language))
        return LLaVA.over(clip, found, length=self.length, **vars(self.model), **settings)

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge answers by exact match, beside the same network without the picture."""
        assert isinstance(method, LLaVA)
        full = split == self.final_split
        other = self._blind() if full else None
        return evaluate_questions(method, self.source, split, progress, full=full, text_only=other)

    def _blind(self) -> LLaVA | None:
        if self.text_only is None:
            return None
        found = loaded(self.text_only, self.name, "--text-only", "llava-text")
        if not isinstance(found, LLaVA):
            raise DataError(f"{self.text_only} holds the method {found.id!r}: what stands beside a llava is a llava.")
        return found

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other captioned pictures: questions are made from their captions, a CLIP of them first.

        Raises:
            DataError: if the data has no captioned pictures.
        """
        if isinstance(source, QuestionSource):
            return self._asking(source)
        if not {"image", "text"} <= set(source.open("train").fields):
            raise DataError(f"The recipe {self.name!r} asks about captioned pictures, and this data has none.")
        return self.about(source)

    def about(self, source: SourceConfig) -> Self:
        """Return the recipe on other captioned pictures, which need not be there yet; else as :meth:`on`."""
        asked = self.source.replace(of=source)
        if isinstance(source, EmojiSource):
            return self._asking(asked)
        return self._asking(asked.replace(kinds=CAPTION_KINDS)).replace(
            first_kinds=("caption", "keyword"),
            clip=None,
            first_clip=self.first_clip.on(source),
            first_language__whole_words=False,
            first_language__vocabulary=SENTENCES,
            length=128,
            text_only=None,
        )

    def _asking(self, source: QuestionSource) -> Self:
        return self.replace(source=source, first_language__source=CaptionTextSource(of=source), expect=())

    def smoke(self) -> Self:
        """Return the same path with a CLIP, a decoder and a budget that take seconds."""
        budget = self.train.replace(steps=6, batch_size=16, eval_every=0, log_every=1, checkpoint_every=3, workers=0)
        network = self.first_language.model.network.replace(width=32, depth=1, heads=2, kv_heads=None, mlp_width=64)
        first = self.first_language.replace(model__network=network, train__steps=2, train__batch_size=16)
        return self.replace(
            train=budget.replace(precision="fp32"),
            clip=None,
            first_clip=self.first_clip.smoke().replace(train__steps=2),
            language=None,
            first_language=first,
            first_steps=min(self.first_steps, 2),
            text_only=None,
            expect=(),
        )


def llava() -> LLaVARecipe:
    """LLaVA on the shipped emoji set: half of the questions about unseen concepts (0.50; learnt without pictures 0.29).

    A CLIP's places, two layers, a small Llama; all three learn in the second stage, the tower at a fifth of the rate.

    ``intermodal train clip-small --run runs/clip-small``, then ``intermodal train llava``: 4.3 CPU minutes; ``--clip None``
    trains both.
    """
    return LLaVARecipe(
        name="llava",
        source=QuestionSource(turns=4),
        model=ProjectorConfig(tuned=True),
        first_clip=clip_small(),
        first_language=LanguageRecipe(
            name="chats",
            source=CaptionTextSource(of=QuestionSource()),
            model=LanguageConfig(network=llama(width=128, depth=3, heads=4, kv_heads=2, mlp_width=352)),
            vocabulary=VocabularyConfig(size=4096, context_length=96),
            whole_words=True,
            optim=OptimConfig(lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1, warmup=20),
            train=TrainConfig(steps=200, batch_size=64, precision="bf16"),
        ),
        augment=ImageAugment(
            rotate=8, scale=(0.85, 1.1), translate=0.05, brightness=0.08, contrast=0.12, saturation=0.1
        ),
        optim=OptimConfig(lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1, warmup=50, layer_decay=0.2, ema=0.99),
        train=TrainConfig(steps=2500, batch_size=32, precision="bf16", log_every=50, checkpoint_every=250),
        expect=reaches("exact", 0.46, 0.54, "2,419 questions about 300 unseen concepts", 4.3, "one CPU core"),
    )


def llava_text() -> LLaVARecipe:
    """The same network and budget on the same questions without any picture: what the questions tell by themselves.

    ``intermodal train llava-text``, 2.7 CPU minutes, 0.29; then ``intermodal train llava --text-only RUN`` has it beside.
    """
    return llava().replace(
        name="llava-text", source__shown=False, model__tuned=False, first_steps=0, augment=None, expect=()
    )


def llava_flickr() -> LLaVARecipe:
    """The same on Flickr8k's photographs: descriptions, words, and what no picture shows (needs ``INTERMODAL_DATA``).

    ``intermodal train clip-photos --run runs/clip-photos``, then ``intermodal train llava-flickr``: 13.5 CPU minutes,
    58 % of the questions (the most frequent answers 45 %, without pictures 25 %), descriptions of CIDEr 0.18.
    """
    recipe = llava().about(Flickr8kSource())
    return recipe.replace(
        name="llava-flickr",
        clip="runs/clip-photos",
        final_split="validation",
        first_steps=40,
        augment=ImageAugment(flip=0.5, scale=(1.0, 1.3)),
        expect=reaches("exact", 0.53, 0.63, "1,367 questions about 300 validation photographs", 13.5),
    )
