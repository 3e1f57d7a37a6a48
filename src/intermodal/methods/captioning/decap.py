"""DeCap and CapDec: a captioner that has read captions alone, and never saw a picture (Li et al. 2023; Nukrai et al. 2022).

A decoder learns to write a text again from its CLIP vector. A picture's vector lies in the same space, but elsewhere:
between the texts and the pictures of a joint space there is a gap (Liang et al. 2022). Two ways lead across. DeCap
projects a picture's vector onto a memory of texts' vectors, as their mean weighted by likeness. CapDec adds noise to
the texts' vectors in training, so that the decoder learns to write from a whole neighbourhood, the pictures' vectors
included.

Shapes: B texts or pictures, D the joint space, M texts of the memory, P vectors of a prefix, E the decoder's width, L
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermodal.core.captioning import Caption
from intermodal.core.errors import ConfigError
from intermodal.core.fields import SEED, Field
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.decode.stepper import TransformerStepper
from intermodal.methods.base import Batch, Losses, generator_of
from intermodal.methods.captioning.joint import JointCaptioner, JointConfig
from intermodal.methods.writer import GREEDY

CARD = MethodCard(
    id="decap",
    title="DeCap and CapDec: a captioner trained on text alone, across the gap between texts and pictures",
    paper="Li et al. 2023; Nukrai et al. 2022",
    cls="DeCap",
    capabilities=("caption",),
    recipes=("decap", "capdec", "decap-flickr"),
    reference="exact",
)
BATCH = 256


@dataclass(frozen=True, kw_only=True)
class DeCapConfig(JointConfig):
    """What a DeCap is made of.

    Attributes:
        memory: M, the texts that pictures are projected onto; 0 takes a picture's vector as it is (CapDec).
        temperature: of the projection's weights (DeCap: 1/150).
        noise: standard deviation, in each dimension, of what is added to a text's vector in training (CapDec: a variance of
            0.016).
        prefix: P.

    Raises:
        ConfigError: if a number is out of range.
    """

    memory: int = 0
    temperature: float = 1 / 150
    noise: float = 0.0
    prefix: int = 1

    def __post_init__(self) -> None:
        if self.memory < 0 or self.temperature <= 0 or self.noise < 0 or self.prefix < 1:
            raise ConfigError(
                "DeCap: memory and noise must be at least 0, temperature above 0 and prefix at least 1, found "
                f"{self.memory}, {self.noise}, {self.temperature} and {self.prefix}."
            )


class DeCap(JointCaptioner):
    """A frozen CLIP, a decoder of its texts' vectors, and a memory of such vectors; see the module's text.

    Args:
        config: sizes and choices.
        processors: ``image`` and ``read`` of the CLIP, ``text`` of the decoder.
    """

    id = "decap"
    config: DeCapConfig

    def __init__(self, config: DeCapConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.needs = {"text": Field((), "str", "a caption"), "read": Field((), "str", "the same caption")}
        if config.noise:
            self.needs["seed"] = SEED
        self.mapping = nn.Linear(config.clip.embed_dim, config.prefix * config.language.network.width)
        self.register_buffer("memory_MD", torch.zeros(config.memory, config.clip.embed_dim))
        self.memory_MD: Tensor
        self.requires_grad_(True)

    @classmethod
    def configuration(cls, **settings: Any) -> DeCapConfig:
        """Return the configuration of these settings."""
        return DeCapConfig(**settings)

    @property
    def before(self) -> int:
        """P."""
        return self.config.prefix

    @torch.no_grad()
    def remember(self, texts: Sequence[str]) -> None:
        """Fill the memory with the vectors of texts.

        Raises:
            ConfigError: if there are not as many as the memory holds.
        """
        if len(texts) != self.config.memory:
            raise ConfigError(f"The memory holds {self.config.memory} texts, found {len(texts)}.")
        for first in range(0, len(texts), BATCH):
            found = torch.from_numpy(self.clip.embed("text", texts[first : first + BATCH]))
            self.memory_MD[first : first + BATCH] = found.to(self.memory_MD)

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the mean of ``-log p(token | vector of the text, tokens before)``, in nats (Li 2023, section 3.1).

        With noise, the text's vector is ``v + sigma z``, scaled to length one (Nukrai 2022, section 3).
        """
        with torch.no_grad():
            vector_BD = self.clip.encode_text(batch["read"])
        if self.training and self.config.noise:
            noise_BD = torch.randn(vector_BD.shape, generator=generator_of(batch)).to(vector_BD)
            vector_BD = F.normalize(vector_BD + self.config.noise * noise_BD, dim=-1)
        if self.training:
            self.keep_probe(vector_BD.to(self.mapping.weight.dtype))  # autocast ends before health is asked
        return Losses(self.nats(self.prefix(vector_BD), batch["text"]))

    # --8<-- [end:loss]

    def prefix(self, vector_BD: Tensor) -> Tensor:
        """Return prefixes ``(B, P, E)`` of vectors of the joint space."""
        return self.mapping(vector_BD).unflatten(1, (self.config.prefix, -1))

    # --8<-- [start:project]
    def project(self, vector_BD: Tensor) -> Tensor:
        """Return vectors as means of the memory's, weighted by ``softmax(cos / temperature)``, of length one (Li 2023)."""
        if not self.config.memory:
            return vector_BD
        weight_BM = (vector_BD @ self.memory_MD.T.to(vector_BD) / self.config.temperature).softmax(-1)
        return F.normalize(weight_BM @ self.memory_MD.to(vector_BD), dim=-1)

    # --8<-- [end:project]

    def begun(self, image: Tensor) -> tuple[TransformerStepper, Tensor]:
        """Return what goes on with captions of prepared pictures, and the prefixes of their projections."""
        return self.after(self.prefix(self.project(self.see(image))))

    def probed(self, kept: Tensor) -> list[Caption]:
        """Return captions of the texts' vectors that were kept: there are no pictures in training."""
        return self.written(*self.after(self.prefix(kept)), GREEDY)
