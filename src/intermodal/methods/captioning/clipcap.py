"""ClipCap: a picture's CLIP vector becomes a few vectors that a language model reads like words (Mokady et al. 2021).

CLIP stays as it is, and the language model may. What is learnt is the mapping network between them: an MLP, which
suffices where the language model learns too, or a transformer with learnt constants, which steers one that is frozen.

Shapes: B pairs, D the joint space, P vectors of a prefix, E the decoder's width, L tokens of a caption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.core.fields import Field
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.decode.stepper import TransformerStepper
from intermodal.methods.base import Batch, Losses
from intermodal.methods.captioning.joint import JointCaptioner, JointConfig
from intermodal.nn.prefix import PrefixMLP, PrefixTransformer

CARD = MethodCard(
    id="clipcap",
    title="ClipCap: a CLIP vector as the first words of a language model",
    paper="Mokady et al. 2021",
    cls="ClipCap",
    capabilities=("caption",),
    recipes=("clipcap", "clipcap-frozen", "clipcap-flickr"),
    reference="transformers GPT2LMHeadModel with inputs_embeds",
)


@dataclass(frozen=True, kw_only=True)
class ClipCapConfig(JointConfig):
    """What a ClipCap is made of.

    Attributes:
        prefix: P, the vectors that stand before a caption.
        mapping: the network from a picture's vector to them.
        tuned: the language model learns too; otherwise it stays as it was trained.
        spread: ``transformer``: over so many places the picture's vector is spread.
        depth: ``transformer``: its blocks.
        heads: ``transformer``: its attention heads.

    Raises:
        ConfigError: if a number is below 1.
    """

    prefix: int = 10
    mapping: Literal["mlp", "transformer"] = "mlp"
    tuned: bool = True
    spread: int = 10
    depth: int = 8
    heads: int = 8

    def __post_init__(self) -> None:
        if min(self.prefix, self.spread, self.depth, self.heads) < 1:
            raise ConfigError("ClipCap: prefix, spread, depth and heads must be at least 1.")


class ClipCap(JointCaptioner):
    """A frozen CLIP, a mapping network and a language decoder; see the module's text.

    Args:
        config: sizes and choices.
        processors: ``image`` and ``read`` of the CLIP, ``text`` of the decoder.
    """

    id = "clipcap"
    needs: Mapping[str, Field] = {
        "image": Field((), "image", "a picture"),
        "text": Field((), "str", "a caption of it"),
    }
    config: ClipCapConfig

    def __init__(self, config: ClipCapConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.frozen = ("clip",) if config.tuned else ("clip", "language")
        dim, width = config.clip.embed_dim, config.language.network.width
        self.mapping: PrefixMLP | PrefixTransformer
        if config.mapping == "mlp":
            self.mapping = PrefixMLP(dim, config.prefix, width)
        else:
            self.mapping = PrefixTransformer(
                dim, config.prefix, width, spread=config.spread, depth=config.depth, heads=config.heads
            )
        self.requires_grad_(True)

    @classmethod
    def configuration(cls, **settings: Any) -> ClipCapConfig:
        """Return the configuration of these settings."""
        return ClipCapConfig(**settings)

    @property
    def before(self) -> int:
        """P."""
        return self.config.prefix

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the mean of ``-log p(token | prefix of the picture, tokens before)``, in nats (Mokady 2021, section 3)."""
        if self.training:
            self.keep_probe(batch["image"])
        prefix_BPE = self.mapping(self.see(batch["image"]))
        return Losses(self.nats(prefix_BPE, batch["text"]))

    # --8<-- [end:loss]

    def begun(self, image: Tensor) -> tuple[TransformerStepper, Tensor]:
        """Return what goes on with captions of prepared pictures, and their prefixes."""
        return self.after(self.mapping(self.see(image)))

    @torch.no_grad()
    def nearest_words(self, image: Tensor) -> list[list[str]]:
        """Return for each prepared picture the token whose embedding is nearest to each vector of its prefix, by cosine.

        What the network writes into the prefix need not be words (Mokady 2021, section 4.2).
        """
        table = torch.nn.functional.normalize(self.language.network.token_embedding.weight, dim=1)
        near_BP = (torch.nn.functional.normalize(self.mapping(self.see(image)), dim=-1) @ table.T).argmax(-1)
        return [[self.writes.tokenizer.decode([token]) for token in row] for row in near_BP.tolist()]
