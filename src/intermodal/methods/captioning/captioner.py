"""What every captioner is: a writer whose text describes the picture.

It is no method and has no card.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from intermodal.core.captioning import Caption, Captioning
from intermodal.core.progress import Progress
from intermodal.methods.writer import Writer


class Captioner(Writer):
    """Base of the captioners; see :class:`~intermodal.methods.writer.Writer` for what a subclass gives."""

    @torch.no_grad()
    def caption(
        self, images: Sequence[Image.Image], settings: Captioning | None = None, *, watch: Progress | None = None
    ) -> list[Caption]:
        """Return one caption for each picture.

        Args:
            images: PIL images of any size.
            settings: beam, temperature, length and so on; greedy by default.
            watch: told how far it is.
        """
        return self.write(images, settings, watch=watch)
