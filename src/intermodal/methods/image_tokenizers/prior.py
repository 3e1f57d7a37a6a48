"""The second stage of VQGAN: an autoregressive transformer over the codes of a tokenizer (Esser et al. 2021, section 3.2).

The tokenizer, trained before and frozen, turns a picture into a sequence of codes, row by row. The transformer learns
``p(s) = prod_i p(s_i | s_<i)``; sampled code by code and decoded, it makes pictures. It goes by the method
``vqgan`` but takes any tokenizer whose latent is of codes (``vqvae`` with its residual codes, ``dvae``).

Because it knows how likely codes are, it is a tokenizer too, of the same codes at a lower rate: an arithmetic coder that is
given these probabilities spends ``-log2 p(s)`` bits on a picture.

Shapes: B pictures, C, H, W channels, height and width in pixels; L codes of a picture, K codes of the codebook, P of them
given; ``...`` the shape of one latent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from intermodal.core.config import suggestion
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import SEED, Field
from intermodal.data.processors import LabelProcessor, Processor
from intermodal.decode.generate import generate
from intermodal.decode.sampling import Sampling
from intermodal.decode.stepper import TransformerStepper
from intermodal.methods.base import Batch, Losses, check_generation, generator_of
from intermodal.methods.image_tokenizers.over_codes import OverCodes, OverCodesConfig, codebook_of
from intermodal.methods.image_tokenizers.tokenizer import CHUNK, IMAGE, ImageTokenizer, evaluating
from intermodal.nn.causal import CausalConfig, CausalTransformer

LABEL = Field((), "str", "the class of the picture")
ANY = Sampling()
"""Codes are drawn with the probabilities that the model gives them."""


@dataclass(frozen=True, kw_only=True)
class CodePriorConfig(OverCodesConfig):
    """What a prior over codes is made of.

    Attributes:
        network: the transformer; ``outputs`` is K, ``context_length`` L, and ``vocab_size`` K plus what a sequence may
            start with: nothing, or one of the classes. :meth:`CodePrior.over` sets them.
        sampling: how :meth:`CodePrior.generate` chooses a code.
        unlabelled: with classes, the share of the training pictures whose class is not told, so that the model also knows
            pictures of no class in particular.

    Raises:
        ConfigError: if a number is out of range.
    """

    network: CausalConfig
    sampling: Sampling = ANY
    unlabelled: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.unlabelled <= 1:
            raise ConfigError(f"Prior: unlabelled must be in 0..1, found {self.unlabelled}.")


class CodePrior(OverCodes):
    """A frozen tokenizer and a transformer over its codes; see the module's text.

    Args:
        config: both.
        processors: ``image``, that of the tokenizer; ``label`` for a prior that takes a class.

    Raises:
        ConfigError: if the tokenizer's latent is not of codes, or the transformer's sizes are not those of the codes.
    """

    id = "vqgan"
    config: CodePriorConfig

    def __init__(self, config: CodePriorConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.needs = {"image": IMAGE}
        if "label" in processors:
            self.needs = {"image": IMAGE, "label": LABEL, "seed": SEED}
        wanted = self.sizes(self.tokenizer, processors)
        if any(getattr(config.network, name) != size for name, size in wanted.items()):
            found = {name: getattr(config.network, name) for name in wanted}
            raise ConfigError(f"Prior: this tokenizer's codes need a network of {wanted}, found {found}.")
        self.network = CausalTransformer(config.network)

    @classmethod
    def over(
        cls,
        tokenizer: ImageTokenizer,
        network: CausalConfig,
        *,
        labels: LabelProcessor | None = None,
        sampling: Sampling | None = None,
        unlabelled: float = 0.1,
    ) -> CodePrior:
        """Return an untrained prior over the codes of a trained tokenizer, whose weights are copied.

        Args:
            tokenizer: whose latent is of codes.
            network: width, depth and so on of the transformer; what follows from the codes is set.
            labels: the classes that it is to take; None for none.
            sampling: how codes are chosen; by the model's own probabilities by default.
            unlabelled: with classes, the share of the training pictures whose class is not told.

        Raises:
            ConfigError: if the tokenizer's latent is of real numbers.
        """
        processors: dict[str, Processor] = {"image": tokenizer.processors["image"]}
        if labels is not None:
            processors["label"] = labels
        config = CodePriorConfig(
            tokenizer=tokenizer.config,
            method=tokenizer.id,
            network=network.replace(**cls.sizes(tokenizer, processors)),
            sampling=sampling or Sampling(),
            unlabelled=unlabelled,
        )
        prior = cls(config, processors)
        prior.tokenizer.load_state_dict(tokenizer.state_dict())
        return prior

    @staticmethod
    def sizes(tokenizer: ImageTokenizer, processors: Mapping[str, Processor]) -> dict[str, int]:
        """Return the sizes of a network over a tokenizer's codes.

        Raises:
            ConfigError: if its latent is of real numbers.
        """
        label = processors.get("label")
        classes = len(label.names) if isinstance(label, LabelProcessor) else 0
        codes = codebook_of(tokenizer)
        return {
            "vocab_size": codes + 1 + classes,
            "outputs": codes,
            "context_length": math.prod(tokenizer.latent_shape()),
        }

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the mean ``-log p(s_i | s_<i)`` of the codes of prepared pictures, in nats."""
        codes_BL = self.codes(batch["image"])
        logits_BLK = self.network(self._shifted(codes_BL, self._starts(batch)))
        total = F.cross_entropy(logits_BLK.flatten(0, 1).float(), codes_BL.flatten())
        right = (logits_BLK.detach().argmax(-1) == codes_BL).float().mean()
        return Losses(total, {"bits": total.detach() * codes_BL.shape[1] / math.log(2), "right": right})

    @staticmethod
    def _shifted(codes_BL: Tensor, start_B: Tensor) -> Tensor:
        """Return what the network reads: the start, then each code but the last; logits at place i are of code i."""
        return torch.cat([start_B.unsqueeze(1), codes_BL[:, :-1]], 1)

    # --8<-- [end:loss]

    def _starts(self, batch: Batch) -> Tensor:
        """Return what the sequences begin with, ``(B,)``: K for no class, ``K + 1 + c`` for class c."""
        image_BCHW = batch["image"]
        if "label" not in batch:
            return torch.full((len(image_BCHW),), self.codebook_size, device=image_BCHW.device)
        number_B = batch["label"] + 1
        if self.training:
            drawn_B = torch.rand(len(number_B), generator=generator_of(batch)).to(number_B.device)
            number_B = torch.where(drawn_B < self.config.unlabelled, 0, number_B)
        return self.codebook_size + number_B

    # An image tokenizer: the codes of the one inside, at the rate that the prior gives them.

    def rate(self, image_BCHW: Tensor) -> Tensor:
        """Return ``-log2 p(s)`` of the codes of each prepared picture, ``(B,)``, no class being told."""
        codes_BL = self.codes(image_BCHW)
        return self.bits_of(codes_BL, self.logits(codes_BL)).sum(1)

    def logits(self, codes_BL: Tensor) -> Tensor:
        """Return logits ``(B, L, K)`` of every code of sequences given those before it, no class being told."""
        start_B = torch.full((len(codes_BL),), self.codebook_size, device=codes_BL.device)
        return self.network(self._shifted(codes_BL, start_B))

    # The capability: new pictures.

    def generate(self, count: int, *, prompt: str | None = None, seed: int = 0, steps: int | None = None) -> list[Any]:
        """Return new pictures, as PIL images.

        Args:
            count: how many, at least 1.
            prompt: the name of a class, where the model takes classes; None for a picture of none in particular.
            seed: same seed, same pictures.
            steps: has no meaning here: a picture takes as many steps as it has codes.

        Raises:
            DataError: if ``count`` or ``steps`` is below 1, or the prompt is no class of the model.
        """
        check_generation(count, steps)
        generator, found = torch.Generator().manual_seed(seed), []
        start = self._start_of(prompt)
        for first in range(0, count, CHUNK):
            given_B0 = torch.empty(min(CHUNK, count - first), 0, dtype=torch.int64, device=self.device)
            found += self.pictures(self.continued(given_B0, generator, start=start))
        return found

    # --8<-- [start:sample]
    @torch.no_grad()
    def continued(self, codes_BP: Tensor, generator: torch.Generator, *, start: int | None = None) -> Tensor:
        """Return whole sequences ``(B, L)`` that begin with the codes given ``(B, P)``, P from 0 to L.

        Args:
            codes_BP: on the model's device.
            generator: of the random numbers, on the CPU.
            start: what sequences begin with (K for no class, the default).
        """
        left = self.config.network.context_length - codes_BP.shape[1]
        if not left:
            return codes_BP
        start_B1 = codes_BP.new_full((len(codes_BP), 1), self.codebook_size if start is None else start)
        prompt_B = torch.cat([start_B1, codes_BP], 1)
        with evaluating(self):
            stepper = TransformerStepper(self.network)
            made_B = generate(stepper, prompt_B, left, sampling=self.config.sampling, generator=generator)
        return torch.cat([codes_BP, made_B], 1)

    # --8<-- [end:sample]

    def _start_of(self, prompt: str | None) -> int:
        if prompt is None:
            return self.codebook_size
        label = self.processors.get("label")
        if not isinstance(label, LabelProcessor):
            raise DataError(f"This model takes no prompt ({prompt!r} was given): it was trained without classes.")
        if prompt not in label.names:
            raise DataError(f"This model knows no class {prompt!r}{suggestion(prompt, label.names)}")
        return self.codebook_size + 1 + label.names.index(prompt)

    def train_flops(self, batch_size: int) -> float:
        """Return the transformer's operations of one step: forward once, backward twice as many; the tokenizer's not."""
        return 3.0 * batch_size * self.config.network.flops()
