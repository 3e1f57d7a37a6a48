"""Recipes of captioners from the joint space of a trained CLIP: ClipCap, DeCap, CapDec, and decoding that CLIP guides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

import torch

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.progress import Progress
from intermodal.data.caption_texts import CaptionTextSource
from intermodal.data.emoji import EmojiSource
from intermodal.data.flickr import Flickr8kSource
from intermodal.data.source import SourceConfig
from intermodal.data.transforms import ImageAugment
from intermodal.evaluate.captions import evaluate_captions
from intermodal.evaluate.decap import evaluate_decap
from intermodal.evaluate.result import Evaluation
from intermodal.hub.load import load
from intermodal.methods.base import Method
from intermodal.methods.captioning.clip_guided import ClipGuided
from intermodal.methods.captioning.clipcap import ClipCap
from intermodal.methods.captioning.decap import DeCap
from intermodal.methods.captioning.joint import check_clip
from intermodal.methods.captioning.language import LanguageConfig, LanguageDecoder, check_language
from intermodal.methods.contrastive.clip import CLIP
from intermodal.nn.causal import CausalConfig
from intermodal.recipes.base import OptimConfig, Recipe, TrainConfig, reaches
from intermodal.recipes.clip import DRAWN, CLIPRecipe, clip_small, clip_source
from intermodal.recipes.first import part
from intermodal.recipes.language import LanguageRecipe
from intermodal.recipes.nce import VocabularyConfig

CLIP_RUN = "runs/clip-small"
EMOJI = EmojiSource(unit="concept", single=0.0, part=0.0)
TEXTS = CaptionTextSource(of=EMOJI)
SMALL = LanguageConfig(network=CausalConfig(width=192, depth=2, heads=4, dropout=0.1))

Captioner = TypeVar("Captioner", ClipCap, DeCap, ClipGuided)


@dataclass(frozen=True, kw_only=True)
class JointRecipe(Recipe):
    """A captioner over a trained CLIP, which stays as it is, and a language decoder.

    Attributes:
        source: captioned pictures, or the texts of them (:class:`~intermodal.data.caption_texts.CaptionTextSource`).
        clip: a run, checkpoint, published folder or hub id of a CLIP. None trains a small one first, as
        ``first_clip`` says.
        first_clip: how; its source is the pictures of this recipe.
        language: a run, checkpoint, published folder or hub id of a language decoder. None takes ``first_language``'s.
        first_language: sizes, tokenizer, and for how many steps it learns the texts alone first (0: not at all, it then
            learns with the captioner).
        length: the longest caption in tokens, what frames it included.
        judge: a run or checkpoint of another model that embeds pictures and texts, for the CLIP score and the nearest
            picture; None for the CLIP inside.
    """

    clip: str | None = CLIP_RUN
    first_clip: CLIPRecipe
    language: str | None = None
    first_language: LanguageRecipe
    length: int = 24
    judge: str | None = None

    @property
    def pictures(self) -> SourceConfig:
        """The captioned pictures that captions are judged on."""
        return self.source.of if isinstance(self.source, CaptionTextSource) else self.source

    def parts(self) -> tuple[CLIP, LanguageDecoder]:
        """Return the CLIP and the language decoder, read or trained first.

        Raises:
            ConfigError: if one is not there, or is something else.
        """
        seeing = self.first_clip.replace(source=clip_source(self.pictures))
        clip = part(self.clip, seeing, self.name, "--clip", self.first_clip.name)
        writing = self.first_language.replace(source=CaptionTextSource(of=self.pictures))
        language = part(self.language, writing, self.name, "--language", "language")
        return check_clip(clip, self.clip), check_language(language, str(self.language))

    def built(self, cls: type[Captioner], **settings: Any) -> Captioner:
        """Return a captioner of this class over both parts."""
        clip, language = self.parts()
        torch.manual_seed(self.train.seed)
        return cls.over(clip, language, length=self.length, **settings)

    def judged_by(self, method: ClipCap | DeCap | ClipGuided) -> Any:
        """Return who embeds pictures and captions to judge them.

        Raises:
            ConfigError: if the judge does not.
        """
        if self.judge is None:
            return method.clip
        found = load(self.judge)
        if not hasattr(found, "embed"):
            raise ConfigError(
                f"{self.judge} holds the method {found.id!r}, which embeds nothing: name a clip as judge."
            )
        return found

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge captions beside their baselines."""
        assert isinstance(method, ClipCap | ClipGuided)
        judge, full = self.judged_by(method), split == self.final_split
        return evaluate_captions(method, self.pictures, split, progress, judge=judge, full=full)

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other captioned pictures: a CLIP of them is trained first, sentences are cut into pieces.

        Raises:
            DataError: if it is text without pictures: captions are judged on pictures.
        """
        if "image" not in source.open("train").fields:
            raise DataError(f"The recipe {self.name!r} is judged on captioned pictures, and this data has none.")
        return self.about(source)

    def about(self, source: SourceConfig) -> Self:
        """Return the recipe on other captioned pictures, which need not be there yet; else as :meth:`on`."""
        held = CaptionTextSource(of=source) if isinstance(self.source, CaptionTextSource) else source
        changed = self.replace(source=held, expect=())
        if isinstance(source, EmojiSource):
            return changed
        sentences = self.first_language.replace(whole_words=False, vocabulary__size=3000)
        first = self.first_clip.on(source)
        return changed.replace(clip=None, first_clip=first, first_language=sentences)

    def smoke(self) -> Self:
        """Return the same path with a CLIP, a language decoder and a budget that take seconds."""
        budget = self.train.replace(steps=6, batch_size=16, eval_every=0, log_every=1, checkpoint_every=3, workers=0)
        network = self.first_language.model.network.replace(width=32, depth=1, heads=2, dropout=0.0)
        first = self.first_language.replace(model__network=network, vocabulary__size=600)
        return self.replace(
            train=budget.replace(precision="fp32"),
            clip=None,
            first_clip=self.first_clip.smoke().replace(train__steps=2),
            language=None,
            first_language=first.replace(train=first.train.replace(steps=min(first.train.steps, 2), batch_size=16)),
            expect=(),
            judge=None,
        )


@dataclass(frozen=True, kw_only=True)
class PrefixConfig(Config):
    """ClipCap's own sizes; see :class:`~intermodal.methods.captioning.clipcap.ClipCapConfig`."""

    prefix: int = 4
    mapping: Literal["mlp", "transformer"] = "mlp"
    tuned: bool = True
    spread: int = 4
    depth: int = 2
    heads: int = 4


@dataclass(frozen=True, kw_only=True)
class ClipCapRecipe(JointRecipe):
    """ClipCap on captioned pictures.

    Attributes:
        model: the mapping network, and whether the language decoder learns too.
    """

    method: str = "clipcap"
    model: PrefixConfig = PrefixConfig()

    def build(self) -> Method:
        """Read or train the parts, and build the mapping network."""
        return self.built(ClipCap, **vars(self.model))


@dataclass(frozen=True, kw_only=True)
class DeCapRecipe(JointRecipe):
    """DeCap or CapDec on captions alone.

    Attributes:
        memory: texts of the memory at most, spread evenly over the training texts; 0 for none (CapDec).
        temperature: of the projection.
        noise: of the texts' vectors in training.
        prefix: vectors before a caption.
    """

    method: str = "decap"
    source: SourceConfig = TEXTS
    memory: int = 4096
    temperature: float = 1 / 150
    noise: float = 0.0
    prefix: int = 1

    def build(self) -> Method:
        """Read or train the parts, and fill the memory with the training texts."""
        texts = list(dict.fromkeys(self.source.training_texts()))
        kept = [texts[i * len(texts) // self.memory] for i in range(self.memory)] if self.memory < len(texts) else texts
        kept = kept if self.memory else []
        settings = {"temperature": self.temperature, "noise": self.noise, "prefix": self.prefix}
        method = self.built(DeCap, memory=len(kept), **settings)
        method.remember(kept)
        return method

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge captions beside their baselines, and the gap between pictures and texts."""
        assert isinstance(method, DeCap)
        full = split == self.final_split
        return evaluate_decap(method, self.pictures, split, progress, judge=self.judged_by(method), full=full)


@dataclass(frozen=True, kw_only=True)
class GuideConfig(Config):
    """How CLIP guides; see :class:`~intermodal.methods.captioning.clip_guided.ClipGuidedConfig`."""

    match: float = 1.0
    fluency: float = 0.1
    beams: int = 4
    candidates: int = 8
    sweeps: int = 2


@dataclass(frozen=True, kw_only=True)
class ClipGuidedRecipe(JointRecipe):
    """Decoding that CLIP guides; its training tells the language decoder how captions read, and nothing else.

    Attributes:
        model: how it guides.
    """

    method: str = "clip-guided"
    source: SourceConfig = TEXTS
    model: GuideConfig = GuideConfig()

    def build(self) -> Method:
        """Read or train the parts."""
        return self.built(ClipGuided, **vars(self.model))


def _first_language(steps: int = 0) -> LanguageRecipe:
    """Return a small decoder of whole words, and how long it learns the texts alone first."""
    return LanguageRecipe(
        name="captions",
        source=CaptionTextSource(of=EMOJI),
        model=SMALL,
        vocabulary=VocabularyConfig(size=8192, context_length=32),
        whole_words=True,
        optim=OptimConfig(lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1, warmup=20),
        train=TrainConfig(steps=steps, batch_size=64, precision="bf16"),
    )


OPTIM = OptimConfig(lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, warmup=30, ema=0.98)
BUDGET = TrainConfig(steps=1200, batch_size=64, precision="bf16", log_every=20, checkpoint_every=200)


def clipcap() -> ClipCapRecipe:
    """ClipCap on the shipped emoji set: an MLP from a CLIP's vector to four vectors, the language decoder learns with it.

    ``intermodal train clip-small --run runs/clip-small``, then ``intermodal train clipcap``; ``--clip None`` trains that
    CLIP first.
    """
    return ClipCapRecipe(
        name="clipcap",
        source=EMOJI,
        first_clip=clip_small(),
        first_language=_first_language(),
        augment=DRAWN,
        optim=OPTIM.replace(lr=3e-3, warmup=100),
        train=BUDGET.replace(steps=2400),
    )


def clipcap_frozen() -> ClipCapRecipe:
    """ClipCap with a transformer that steers a language decoder which has learnt the texts first and stays as it is.

    ``intermodal train clipcap-frozen``
    """
    model = PrefixConfig(mapping="transformer", tuned=False)
    return clipcap().replace(name="clipcap-frozen", model=model, first_language=_first_language(150))


def clipcap_flickr() -> ClipCapRecipe:
    """ClipCap on Flickr8k's photographs with five captions each (needs ``INTERMODAL_DATA``).

    ``intermodal train clip-photos --run runs/clip-photos``, then ``intermodal train clipcap-flickr``: 3 CPU minutes behind
    that CLIP's 7. CIDEr 0.19, the nearest photograph's caption 0.11, chance 0.03.
    """
    changed = ImageAugment(flip=0.5, scale=(1.0, 1.3))
    expect = reaches("cider", 0.15, 0.23, "742 validation photographs", 3.1)
    return _on_photographs(clipcap(), "clipcap-flickr").replace(augment=changed, train=BUDGET, expect=expect)


def decap() -> DeCapRecipe:
    """DeCap on the emoji set's texts: no picture is seen in training; a memory of the texts leads across the gap.

    ``intermodal train clip-small --run runs/clip-small``, then ``intermodal train decap``; ``--clip None`` trains that
    CLIP first. Two CPU minutes: CIDEr 0.25, chance 0.01, the nearest picture's caption 0.36.
    """
    expect = reaches("cider", 0.17, 0.35, "300 pictures of unseen emoji concepts", 9.38)
    return DeCapRecipe(
        name="decap",
        first_clip=clip_small(),
        first_language=_first_language(),
        optim=OPTIM,
        train=BUDGET,
        expect=expect,
    )


def capdec() -> DeCapRecipe:
    """CapDec on the emoji set's texts: noise in training instead of a memory.

    ``intermodal train capdec``
    """
    return decap().replace(name="capdec", memory=0, noise=0.05, expect=())


def decap_flickr() -> DeCapRecipe:
    """DeCap on the captions of Flickr8k: no photograph is seen in training (needs ``INTERMODAL_DATA``).

    ``intermodal train clip-photos --run runs/clip-photos``, then ``intermodal train decap-flickr``: 2 CPU minutes behind
    that CLIP's 7. CIDEr 0.23, the nearest photograph's caption 0.11, chance 0.03.
    """
    expect = reaches("cider", 0.18, 0.28, "742 validation photographs", 2.0)
    return _on_photographs(decap(), "decap-flickr").replace(expect=expect)


def clip_guided() -> ClipGuidedRecipe:
    """Captions that CLIP guides word by word; training tells the language decoder how the emoji set's texts read.

    ``intermodal train clip-small --run runs/clip-small``, then ``intermodal train clip-guided``; ``--language RUN`` takes
    a decoder that is trained.
    """
    return ClipGuidedRecipe(
        name="clip-guided",
        first_clip=clip_small(),
        first_language=_first_language(),
        optim=OPTIM,
        train=BUDGET.replace(steps=600),
    )


def clip_guided_flickr() -> ClipGuidedRecipe:
    """The same with the captions of Flickr8k (needs ``INTERMODAL_DATA``).

    ``intermodal train clip-photos --run runs/clip-photos``, then ``intermodal train clip-guided-flickr``: 1.3 CPU minutes
    behind that, and most of a second a caption; CIDEr 0.10, the nearest photograph's caption 0.11.
    """
    expect = reaches("cider", 0.07, 0.13, "742 validation photographs", 1.3)
    return _on_photographs(clip_guided(), "clip-guided-flickr").replace(expect=expect)


Photographs = TypeVar("Photographs", bound=JointRecipe)


def _on_photographs(recipe: Photographs, name: str) -> Photographs:
    return recipe.about(Flickr8kSource()).replace(name=name, clip="runs/clip-photos", final_split="validation")
