"""DDIM: the same network in fewer steps and without chance, so that pictures can be turned into noise (Song et al. 2021).

Training is DDPM's: the objective depends on the marginals ``q(x_t | x_0)`` alone, and many forward processes share them. For
each there is a reverse process; the one without noise is an ordinary differential equation in disguise. It takes any subset
of the steps, it can be solved by better methods than Euler's (Heun, DPM-Solver++), and it runs backwards: every picture has
its noise, and between two noises lie pictures.

B pictures   C, H, W channels, height and width of a picture
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from intermodal.core.drawing import Drawing
from intermodal.core.errors import DataError
from intermodal.core.registry import MethodCard
from intermodal.diffusion.denoiser import Cond
from intermodal.diffusion.predictions import Kind
from intermodal.diffusion.samplers import ddim_inversion, slerp
from intermodal.diffusion.settings import grid_of
from intermodal.methods.image_generation.ddpm import DDPM, DDPMConfig
from intermodal.methods.image_tokenizers.tokenizer import evaluating

CARD = MethodCard(
    id="ddim",
    title="DDIM: deterministic drawing in few steps, inversion and interpolation",
    paper="Song et al. 2021; Lu et al. 2022",
    cls="DDIM",
    capabilities=("generate", "draw", "interpolate"),
    recipes=("ddim",),
    reference="diffusers DDIMPipeline, DDIMScheduler, DDIMInverseScheduler, DPMSolverMultistepScheduler",
)
REFINE = 3
"""How often a step of the inversion is repeated: the deviation then is that of rounding."""


@dataclass(frozen=True, kw_only=True)
class DDIMConfig(DDPMConfig):
    """A diffusion model that draws without chance; see :class:`~intermodal.methods.image_generation.ddpm.DDPMConfig`."""

    predicts: Kind = "v"
    min_snr: float | None = 5.0
    drawing: Drawing = Drawing(steps=50, sampler="ddim")


class DDIM(DDPM):
    """DDPM's network, drawn without chance; see the module's text.

    Args:
        config: the networks and the process.
        processors: ``image`` with values in -1..1, and ``text`` where there is an encoder.
    """

    id = "ddim"

    # --8<-- [start:invert]
    @torch.no_grad()
    def invert(
        self,
        image_BCHW: Tensor,
        *,
        texts: Sequence[str] = (),
        drawing: Drawing | None = None,
        refine: int = REFINE,
    ) -> Tensor:
        """Return the noise ``(B, C, H, W)`` from which DDIM draws prepared pictures.

        Args:
            image_BCHW: values in -1..1.
            texts: what the pictures show, one for each, for a model that takes texts; by default nothing is said.
            drawing: of whose steps it is the inverse; the sampler is DDIM without noise whatever it names, nothing is kept
                to the range of pixels and there is no guidance: neither can be undone.
            refine: repetitions of each step, see :func:`~intermodal.diffusion.samplers.ddim_inversion`.
        """
        chosen = plain(drawing or self.drawing)
        cond: Cond = self.condition(texts or [""] * len(image_BCHW))
        with evaluating(self):
            grid = grid_of(self.schedule, chosen)
            return ddim_inversion(self.plain_denoiser(), image_BCHW, grid, refine=refine, cond=cond)

    @torch.no_grad()
    def restore(self, noise_BCHW: Tensor, *, texts: Sequence[str] = (), drawing: Drawing | None = None) -> Tensor:
        """Return the pictures ``(B, C, H, W)`` of :meth:`invert`'s noise, by the same steps."""
        chosen = plain(drawing or self.drawing)
        with evaluating(self):
            grid = grid_of(self.schedule, chosen)
            return self.sampled(noise_BCHW, texts or [""] * len(noise_BCHW), grid, chosen, noise=[])

    # --8<-- [end:invert]

    # --8<-- [start:interpolate]
    @torch.no_grad()
    def interpolate(
        self, first: Any, second: Any, count: int, *, seed: int = 0, drawing: Drawing | None = None, depth: float = 1.0
    ) -> list[Image.Image]:
        """Return pictures between two pictures, or between two texts, as PIL images.

        The noise of the two pictures is interpolated on a circle (Song et al. 2021, section 5.3) and drawn. The ends come
        back as they were, but for the error of the inversion. Texts are mixed as the network is told them, with one noise.

        Args:
            first: a PIL image, or a text.
            second: another, of the same kind.
            count: how many, at least 2.
            seed: of the noise, for texts.
            drawing: steps and so on; the model's own by default.
            depth: must be 1: pictures are turned into noise altogether.

        Raises:
            DataError: if the two are of different kinds, or texts for a model that takes none, ``count`` is below 2, or
                ``depth`` is not 1.
        """
        if depth != 1:
            raise DataError(f"DDIM turns pictures into noise altogether: depth is 1, found {depth}.")
        chosen = self.checked(drawing)
        pictures, shares = self.ends(first, second, count)
        if not pictures:
            with evaluating(self):
                return self.between_texts(first, second, shares, seed, chosen)
        noise_2CHW = self.invert(self.picture([first, second]).to(self._like()), drawing=chosen)
        between_BCHW = torch.cat([slerp(noise_2CHW[:1], noise_2CHW[1:], share) for share in shares])
        return self._pictures(self.restore(between_BCHW, drawing=chosen))

    # --8<-- [end:interpolate]


def plain(drawing: Drawing) -> Drawing:
    """Return settings that can be undone: DDIM without noise, guidance or a bound on what is said."""
    return drawing.replace(
        sampler="ddim", eta=0.0, guidance=1.0, negative="", clip=False, precision="fp32", interval=None, rescale=0.0
    )
