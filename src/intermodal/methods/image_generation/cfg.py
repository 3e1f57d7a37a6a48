"""Classifier-free guidance: one network that knows pictures with and without their text (Ho & Salimans 2021).

In training the text is dropped now and then: the network is told the empty text instead. In drawing it is asked twice, in
one batch, and the two predictions are extrapolated: ``unconditional + scale (conditional - unconditional)``. A negative
prompt takes the empty text's place.

B pictures   L tokens of a text
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from intermodal.core.drawing import Drawing
from intermodal.core.errors import ConfigError
from intermodal.core.registry import MethodCard
from intermodal.diffusion.denoiser import Cond, Denoiser
from intermodal.diffusion.guidance import ClassifierFree
from intermodal.methods.base import Batch
from intermodal.methods.image_generation.ddim import DDIM, DDIMConfig

CARD = MethodCard(
    id="cfg",
    title="Classifier-free guidance: text to image, the text followed more closely than it was learnt",
    paper="Ho & Salimans 2021; Lin et al. 2023; Kynkäänniemi et al. 2024",
    cls="CFG",
    capabilities=("generate", "draw", "interpolate"),
    recipes=("cfg",),
    reference="diffusers pipelines; exact on Gaussian mixtures",
)


@dataclass(frozen=True, kw_only=True)
class CFGConfig(DDIMConfig):
    """A text-to-image diffusion model with guidance; see :class:`~intermodal.methods.image_generation.ddpm.DDPMConfig`.

    Attributes:
        drop: the share of the training pictures whose text is not told, above 0.

    Raises:
        ConfigError: if there is no text to drop, or ``drop`` is out of range.
    """

    drop: float = 0.1
    drawing: Drawing = Drawing(steps=50, sampler="ddim", guidance=2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text is None:
            raise ConfigError("Classifier-free guidance needs a text encoder: without texts there is nothing to drop.")
        if not 0 < self.drop < 1:
            raise ConfigError(
                f"Classifier-free guidance drops a share of the texts between 0 and 1, found {self.drop}."
            )


class CFG(DDIM):
    """A text-to-image diffusion model that can be guided; see the module's text.

    Args:
        config: the networks, the process and the share of texts that are dropped.
        processors: ``image`` with values in -1..1, and ``text``.
    """

    id = "cfg"
    config: CFGConfig
    guidable = True

    # --8<-- [start:cfg]
    def told(self, batch: Batch, generator: torch.Generator) -> Cond:
        """Return what the network is told of a batch's texts in training: of some, the empty text."""
        assert self.text is not None
        return self.text(self.dropped(batch["text"], self.config.drop, generator))

    def guided(self, drawing: Drawing) -> Denoiser:
        """Return the network as a denoiser, with classifier-free guidance where the scale is not 1."""
        plain = self.plain_denoiser()
        if drawing.guidance == 1:
            return plain
        return ClassifierFree(
            plain,
            drawing.guidance,
            self.condition([drawing.negative]),
            rescale=drawing.rescale,
            rescale_kind=self.config.predicts,
            **({} if drawing.interval is None else {"interval": drawing.interval}),
        )

    # --8<-- [end:cfg]
