"""What generators that draw pictures step by step share: prompts, seeds, settings, and who may watch.

A subclass says what its denoiser is, for the settings of a drawing; samplers, guidance and the schedule are parts of
:mod:`intermodal.diffusion`.

B pictures   C, H, W channels, height and width of a picture   L tokens of a text, E their width
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from intermodal.core.drawing import Drawing, Glimpse, Watcher
from intermodal.core.errors import ConfigError, DataError
from intermodal.diffusion.bound import Variance
from intermodal.diffusion.denoiser import Cond, Constrained, Denoiser, clip
from intermodal.diffusion.grids import Grid
from intermodal.diffusion.samplers import Step, Watch, start
from intermodal.diffusion.schedules import Schedule
from intermodal.diffusion.settings import grid_of, sample, start_scale
from intermodal.methods.base import check_generation
from intermodal.methods.image_generation.generator import PictureGenerator
from intermodal.methods.image_generation.text import check_seeds, checked_prompts
from intermodal.methods.image_tokenizers.tokenizer import evaluating


class StepwiseGenerator(PictureGenerator):
    """Base of the generators that draw in steps.

    A subclass sets :attr:`schedule` and has :meth:`guided`; where it is conditional, also :meth:`condition`.

    Attributes:
        schedule: of the noise.
        variance: of the steps back of ancestral sampling.
        guidable: whether the guidance of a drawing may differ from 1.
    """

    schedule: Schedule
    variance: Variance = "small"
    guidable: bool = False

    @property
    def drawing(self) -> Drawing:
        """The model's own settings."""
        raise NotImplementedError

    def guided(self, drawing: Drawing) -> Denoiser:
        """Return the network as a denoiser, with the guidance that the settings put around it."""
        raise NotImplementedError

    def denoiser(self, drawing: Drawing) -> Denoiser:
        """Return the guided network as a denoiser, kept to the range of pixels if the drawing says so."""
        found = self.guided(drawing)
        return Constrained(found, clip(), keep_eps=drawing.keep_noise) if drawing.clip else found

    def condition(self, texts: Sequence[str]) -> Cond:
        """Return what the denoiser is told of texts, one for each picture; None for a model without prompts."""
        del texts

    def checked(self, drawing: Drawing | None) -> Drawing:
        """Return settings, the model's own for None, having checked that the model can follow them.

        Raises:
            ConfigError: for guidance of a model that has none, or a negative prompt without guidance.
        """
        chosen = drawing or self.drawing
        if chosen.guidance != 1 and not self.guidable:
            why = (
                "without texts"
                if not self.takes_prompt
                else "with its texts always told; `cfg` drops them now and then"
            )
            raise ConfigError(f"There is no guidance {chosen.guidance:g} of this model: it was trained {why}.")
        if chosen.negative and chosen.guidance == 1:
            raise ConfigError("A negative prompt acts through guidance: choose one above 1.")
        return chosen

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[str | None],
        seeds: Sequence[int],
        drawing: Drawing | None = None,
        *,
        watch: Watcher | None = None,
    ) -> list[Image.Image]:
        """Return one picture for each prompt and seed, as PIL images.

        Args:
            prompts: what each is to show; None for nothing in particular.
            seeds: as many, at least 0: of each picture's noise. A picture does not depend on those drawn with it, but for
                rounding.
            drawing: steps, sampler and so on; the model's own by default.
            watch: called before each step of each batch of pictures.

        Raises:
            DataError: if a prompt is given to a model that takes none, or is too long, or a seed is negative.
            ConfigError: if the settings ask for what the model cannot do.
        """
        chosen, texts = self.checked(drawing), checked_prompts(prompts, takes=self.takes_prompt)
        check_seeds(seeds, texts)
        grid, found = grid_of(self.schedule, chosen), list[Image.Image]()
        with evaluating(self):
            for first in range(0, len(texts), self.chunk):
                part = slice(first, first + self.chunk)
                noise = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
                made = self.sampled(
                    self.noise(noise, grid, chosen), texts[part], grid, chosen, noise=noise, watch=watch
                )
                found += self._pictures(made)
        return found

    # --8<-- [start:sampled]
    def sampled(
        self,
        x_BCHW: Tensor,
        texts: Sequence[str],
        grid: Grid,
        drawing: Drawing,
        *,
        noise: list[torch.Generator],
        cond: Cond = None,
        watch: Watcher | None = None,
    ) -> Tensor:
        """Return pictures from noisy ones at the grid's first level; ``cond`` in place of what the texts say."""
        told = self.condition(texts) if cond is None else cond
        watching = None if watch is None else self._watching(watch)
        with torch.autocast(x_BCHW.device.type, torch.bfloat16, enabled=drawing.precision == "bf16"):
            return sample(
                self.denoiser(drawing),
                x_BCHW,
                grid,
                noise,
                drawing,
                variance=self.variance,
                cond=told,
                watch=watching,
            )

    # --8<-- [end:sampled]

    def generate(
        self, count: int, *, prompt: str | None = None, seed: int = 0, steps: int | None = None
    ) -> list[Image.Image]:
        """Return pictures of one prompt, drawn with the model's own settings, as PIL images.

        Args:
            count: how many, at least 1.
            prompt: what they are to show; None for nothing in particular.
            seed: of the first; the next has the next.
            steps: of the sampler; None for the model's own choice.

        Raises:
            DataError: if ``count`` or ``steps`` is below 1, or a prompt is given to a model that takes none.
            ConfigError: for more steps than the model was trained with.
        """
        check_generation(count, steps)
        chosen = self.drawing if steps is None else self.drawing.replace(steps=steps)
        return self.draw([prompt] * count, [seed + i for i in range(count)], chosen)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(C, H, W)`` of what is drawn."""
        return (3, *self.picture.size)

    def noise(self, generators: list[torch.Generator], grid: Grid, drawing: Drawing) -> Tensor:
        """Return the noise ``(B, C, H, W)`` that a drawing begins with, one picture from each generator."""
        scale = start_scale(grid, drawing)
        return start((len(generators), *self.shape), grid, generators, self._like(), scale=scale)

    def ends(self, first: object, second: object, count: int) -> tuple[bool, list[float]]:
        """Return whether the ends of an interpolation are pictures (or texts), and where between them to look.

        Raises:
            DataError: if they are of different kinds or of none that is known, or ``count`` is below 2.
        """
        if count < 2:
            raise DataError(f"From one to another there are at least 2 pictures, found {count}.")
        kinds = {bool(isinstance(end, Image.Image)) for end in (first, second)}
        if len(kinds) != 1 or not all(isinstance(end, Image.Image | str) for end in (first, second)):
            raise DataError("One goes from a picture to a picture, or from a text to a text.")
        return kinds.pop(), [i / (count - 1) for i in range(count)]

    def _like(self) -> Tensor:
        return next(self.parameters()).new_empty(())

    def _pictures(self, x_BCHW: Tensor) -> list[Image.Image]:
        return self.picture.decode(x_BCHW.float())

    def _watching(self, watch: Watcher) -> Watch:
        def seen(step: Step) -> None:
            noise = float((step.level.sigma**2 / (step.level.alpha**2 + step.level.sigma**2)).reshape(-1)[0])
            watch(
                Glimpse(
                    step.done,
                    step.steps,
                    noise,
                    pictures=lambda: self._pictures(step.x0),
                    noisy=lambda: self._pictures(step.x),
                    count=len(step.x),
                )
            )

        return seen
