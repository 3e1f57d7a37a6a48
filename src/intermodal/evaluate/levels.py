"""What each level of a residual quantizer brings: held-out pictures from the first code of every place, the first two, all.

Shapes: N pictures, h, w places of the latent, Q codes at each.
"""

from __future__ import annotations

import numpy as np

from intermodal.core.progress import Progress
from intermodal.data.source import SourceConfig
from intermodal.evaluate.energy import spread_out
from intermodal.evaluate.result import Gallery, Item, Panel
from intermodal.evaluate.tokenizers import decibels, encoded
from intermodal.methods.image_tokenizers.tokenizer import ImageTokenizer

PICTURES, SHOWN = 128, 10


def by_level(
    method: ImageTokenizer, source: SourceConfig, split: str, progress: Progress, *, full: bool
) -> tuple[dict[str, float], list[Panel]]:
    """Return ``psnr_1`` to ``psnr_Q``, means over held-out pictures, and with ``full`` a panel; nothing of a single level.

    Args:
        method: the model.
        source: pictures.
        split: which of them.
        progress: told what is done.
        full: 128 pictures and a panel; else 10.
    """
    if method.levels == 1:
        return {}, []
    progress("Level by level", 0.0)
    pictures = source.open(split)
    places = spread_out(len(pictures), PICTURES if full else SHOWN)
    images = [method.picture.fitted(pictures.sample(i)["image"]) for i in places]
    codes_NhwQ = encoded(method, images)
    bits = method.bits(images[:1]) / method.levels / np.prod(images[0].size)
    metrics, rows = {}, [(Item(text="original"), [Item(image=image) for image in images[:SHOWN]])]
    for q in range(1, method.levels + 1):
        made = method.decode(codes_NhwQ[..., :q])
        found = decibels(images, made)
        metrics[f"psnr_{q}"] = float(np.mean(found))
        shown = [Item(image=image, note=f"{value:.1f} dB") for image, value in zip(made[:SHOWN], found, strict=False)]
        said = f"{q} of {method.levels} codes a place, {q * bits.item():.2f} bits a pixel"
        rows.append((Item(text=said), shown))
        progress("Level by level", q / method.levels)
    about = (
        "The same codes, cut short: each level's code says what the levels before left over. Only all together are trained "
        "for, so the first few alone give what the decoder makes of unfinished vectors."
    )
    return metrics, [Gallery("What each level adds", about, rows)] if full else []
