"""The recipe of modality experts, on the shipped emoji set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from intermodal.core.progress import Progress
from intermodal.data.emoji import EmojiSource
from intermodal.data.flickr import Flickr8kSource
from intermodal.data.processors import ImageProcessor, Resize
from intermodal.data.source import SourceConfig
from intermodal.data.transforms import ImageAugment
from intermodal.evaluate.experts import evaluate_experts
from intermodal.evaluate.result import Evaluation
from intermodal.methods.base import Method
from intermodal.methods.vision_language.experts import Experts, ExpertsMethodConfig
from intermodal.nn.experts import ExpertsConfig
from intermodal.recipes.base import OptimConfig, Recipe, TrainConfig, reaches
from intermodal.recipes.clip import DRAWN, TokenizerConfig, trained_processor

SENTENCES = TokenizerConfig()


@dataclass(frozen=True, kw_only=True)
class ExpertsRecipe(Recipe):
    """Modality experts on pairs of pictures and texts.

    Attributes:
        model: sizes. Vocabulary, context length and special ids are set from the tokenizer.
        tokenizer: trained on the source's training texts.
        resize: how a picture of another shape is fitted.
        code_pictures: training pictures whose patches the visual tokenizer is made of.
    """

    method: str = "experts"
    model: ExpertsMethodConfig
    tokenizer: TokenizerConfig = SENTENCES
    resize: Resize = "crop"
    code_pictures: int = 1000

    def build(self) -> Method:
        """Train the tokenizer, build the processors and the network."""
        text = trained_processor(self.tokenizer, self.source)
        network = self.model.network.replace(
            vocab_size=text.vocab_size, context_length=text.context_length, eos_id=text.eos_id, pad_id=text.pad_id
        )
        image = ImageProcessor(size=(network.image_size, network.image_size), resize=self.resize)
        torch.manual_seed(self.train.seed)
        method = Experts(self.model.replace(network=network), {"image": image, "text": text})
        if "codes" in self.model.heads:
            method.patch_codes.fit(self._pictures(image), torch.Generator().manual_seed(self.train.seed))
        return method

    def _pictures(self, processor: ImageProcessor) -> torch.Tensor:
        """Return training pictures, prepared, for the codes of patches."""
        source = self.source.open("train")
        chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(self.train.seed))[
            : self.code_pictures
        ]
        return processor([source.sample(i)["image"] for i in chosen.tolist()])

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge as dual encoder, as fusion encoder, and with experts exchanged."""
        assert isinstance(method, Experts)
        return evaluate_experts(method, self.source, split, progress, full=split == self.final_split)

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other data: a BPE for its sentences."""
        found = super().on(source)
        return found if isinstance(source, EmojiSource) else found.replace(tokenizer=SENTENCES)

    def smoke(self) -> Self:
        """Return the same path with a network and a budget that take seconds."""
        return self.replace(
            model__network=self.model.network.replace(
                image_size=32, patch_size=16, width=32, depth=2, heads=2, fusion_depth=1, apart=1, stem=()
            ),
            model__embed_dim=16,
            model__codes=16,
            model__first_apart=0.0,
            code_pictures=40,
            tokenizer__vocab_size=600,
            train__steps=8,
            train__batch_size=32,
            train__eval_every=0,
            train__log_every=1,
            expect=(),
        )


def experts() -> ExpertsRecipe:
    """Modality experts on the shipped emoji set: 4 blocks, the upper two with an expert for picture and text together.

    ``intermodal train experts``, 7 CPU minutes: R@10 0.28 over 300 unseen concepts by the dual encoder (chance 0.03); the
    fusion encoder orders its first answers no better, and holes are filled no better beside the other modality.
    """
    return ExpertsRecipe(
        name="experts",
        source=EmojiSource(unit="concept", single=0.0, part=0.2),
        model=ExpertsMethodConfig(
            network=ExpertsConfig(
                image_size=64,
                patch_size=16,
                stem=(24, 48, 96, 128),
                vocab_size=4096,
                context_length=16,
                pad_id=0,
                eos_id=1,
                width=128,
                depth=4,
                fusion_depth=2,
                apart=2,
                heads=4,
            ),
            embed_dim=128,
            masked_weight=0.25,
            first_apart=0.2,
        ),
        tokenizer=TokenizerConfig(kind="words", vocab_size=8192, context_length=16),
        augment=DRAWN,
        optim=OptimConfig(lr=1e-3, weight_decay=0.2, warmup=60, ema=0.99),
        train=TrainConfig(
            steps=900, batch_size=128, precision="bf16", workers=1, log_every=20, eval_every=150, checkpoint_every=100
        ),
        expect=reaches("r10", 0.18, 0.32, "300 pairs of unseen emoji concepts", 21.8),
    )


def experts_flickr() -> ExpertsRecipe:
    """The same on Flickr8k's photographs with five captions each (needs ``INTERMODAL_DATA``).

    ``intermodal train experts-flickr``, 40 CPU minutes: R@10 0.31 over 300 photographs (chance 0.03), and captions of CIDEr
    0.16, those of the nearest training photograph 0.09. Hidden words are told better beside their own photograph than
    beside another; hidden patches beside their text are not.
    """
    recipe = experts().on(Flickr8kSource())
    return recipe.replace(
        name="experts-flickr",
        expect=reaches("r10", 0.25, 0.38, "300 validation photographs", 40.1),
        train__eval_every=0,
        train__steps=2000,
        final_split="validation",
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=3000, context_length=28),
        augment=ImageAugment(flip=0.5, scale=(1.0, 1.3)),
        optim__lr=2e-3,
        model__masked=0.7,
        model__masked_weight=0.5,
    )
