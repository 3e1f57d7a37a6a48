"""What writes a text for a picture: a method that hands pictures to a :class:`Stepper`, and the one way of writing on.

Captioners describe a picture, readers write down what stands in it; both derive from this. It is no method and has no
card. Shapes: B pictures, P tokens of a prompt, N tokens of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from intermodal.core.captioning import Caption, Captioning
from intermodal.core.progress import Progress
from intermodal.decode.beam import beam_search
from intermodal.decode.generate import generate_scored
from intermodal.decode.sampling import Sampling
from intermodal.decode.stepper import Stepper
from intermodal.methods.base import Method

BATCH = 64
"""Pictures that are written about at a time; beams count."""
PROBE = 32
"""Training pictures that are kept, to see whether their texts differ."""
GREEDY = Captioning()
FEW = 0.25
"""Below this share of distinct texts, health warns."""


class Writer(Method):
    """Base of what writes about pictures: a subclass gives :meth:`begun`, :attr:`room`, :attr:`end` and :meth:`words`.

    A subclass that calls :meth:`keep_probe` in its loss is warned by :meth:`repeating` when texts repeat.
    """

    called = "Captions"
    """What a warning calls the texts."""
    doing = "captioning"
    """What a progress bar calls the work."""
    _probe: Tensor | None = None

    def begun(self, image: Tensor) -> tuple[Stepper[Any], Tensor]:
        """Return what goes on with the texts of prepared pictures, and the prompts, (B, P) tokens or (B, P, D) vectors."""
        raise NotImplementedError

    @property
    def room(self) -> int:
        """The most tokens of a text that the model can hold, its end included."""
        raise NotImplementedError

    @property
    def end(self) -> int:
        """The token that ends a text."""
        raise NotImplementedError

    def words(self, tokens_N: Tensor) -> str:
        """Return the text of the tokens of one text, the end left out."""
        raise NotImplementedError

    def pictures(self, images: Sequence[Image.Image]) -> Tensor:
        """Return pictures as the network takes them, on its device and in its type."""
        prepared = self.processors["image"](images).to(self.device)
        return prepared.to(next(self.parameters()).dtype)

    @torch.no_grad()
    def write(
        self, images: Sequence[Image.Image], settings: Captioning | None = None, *, watch: Progress | None = None
    ) -> list[Caption]:
        """Return one text for each picture.

        Args:
            images: PIL images of any size.
            settings: beam, temperature, length and so on; greedy by default.
            watch: told how far it is.
        """
        settings = settings or GREEDY
        made = list[Caption]()
        with self.evaluating():
            size = max(1, BATCH // settings.beam)
            for first in range(0, len(images), size):
                batch = self.pictures(images[first : first + size])
                made += self.write_prepared(batch, settings.replace(seed=settings.seed + first))
                if watch is not None:
                    watch(self.doing, len(made) / len(images))
        return made

    @torch.no_grad()
    def write_prepared(self, image: Tensor, settings: Captioning = GREEDY) -> list[Caption]:
        """Return one text for each prepared picture; all at once."""
        return self.written(*self.begun(image), settings)

    def written(
        self,
        stepper: Stepper[Any],
        prompt: Tensor,
        settings: Captioning,
        *,
        beside: Stepper[Any] | None = None,
        weight: float = 0.0,
    ) -> list[Caption]:
        """Return what follows each prompt; a beam weighs a second opinion ``beside`` it (:func:`beam_search`)."""
        most = self.room if settings.most is None else min(settings.most, self.room)
        if settings.beam > 1:
            found = beam_search(
                stepper,
                prompt,
                most,
                beams=settings.beam,
                end=self.end,
                length_penalty=settings.length_penalty,
                beside=beside,
                weight=weight,
            )
            return [self._caption(beams[0].tokens, beams[0].log_prob) for beams in found]
        sampling = Sampling(temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p)
        generators = [torch.Generator().manual_seed(settings.seed + i) for i in range(len(prompt))]
        token_BN, score_BN = generate_scored(
            stepper, prompt, most, sampling=sampling, generator=generators, end=self.end
        )
        return [self._caption(row, float(score)) for row, score in zip(token_BN, score_BN.sum(1), strict=True)]

    def _caption(self, token_N: Tensor, log_prob: float) -> Caption:
        ends = (token_N == self.end).nonzero()
        ended = len(ends) > 0
        count = int(ends[0]) if ended else len(token_N)
        return Caption(self.words(token_N[:count]), log_prob, count + ended, ended)

    def keep_probe(self, image: Tensor) -> None:
        """Keep a few prepared pictures of a batch, for :meth:`repeating`."""
        self._probe = image[:PROBE].detach()

    def probed(self, kept: Tensor) -> list[Caption]:
        """Return the texts of what :meth:`keep_probe` kept."""
        return self.write_prepared(kept)

    @torch.no_grad()
    def repeating(self) -> list[str]:
        """Return a warning if the kept pictures get few distinct texts; nothing where none are kept."""
        if self._probe is None or len(self._probe) < PROBE // 2:
            return []
        with self.evaluating():
            texts = [caption.text for caption in self.probed(self._probe)]
        distinct = len(set(texts))
        if distinct / len(texts) >= FEW:
            return []
        common = max(set(texts), key=texts.count)
        return [
            f"{self.called} repeat: {len(texts)} pictures get {distinct} distinct ones, most often {common!r}. The decoder "
            "looks at the words before, not at the picture: train longer, or lower the learning rate."
        ]
