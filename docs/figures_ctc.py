"""Draw the lattices of the page on CTC's decoding: ``python docs/figures_ctc.py`` (two minutes; it needs INTERMODAL_DATA).

The network is the small one that the benchmarks of decoding train; before training all symbols are as likely.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from intermodal.core.transcript import Emissions
from intermodal.evaluate.ctc_lattice import draw_lattice

IMAGES = Path(__file__).parent / "images"
ROW = 1


def main() -> None:
    """Draw them."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
    from ctc_emissions import emissions

    found = emissions()
    log_probs, text = found.log_probs[ROW].astype(np.float32), found.texts[ROW]
    numbers = [found.symbols.index(letter) for letter in text]
    nothing = np.full_like(log_probs, -np.log(len(found.symbols)))
    for name, each, title in (
        ("ctc-lattice-before", nothing, f"{text}: all symbols are as likely"),
        ("ctc-lattice", log_probs, f"{text}: after two minutes of training"),
    ):
        image = draw_lattice(Emissions(each, tuple(found.symbols), 0, 0.03), numbers, title=title)
        image.convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
