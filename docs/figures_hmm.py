"""Draw the pictures of the page on HMM-GMM: ``python docs/figures_hmm.py RUN`` (seconds; it needs INTERMODAL_DATA).

An utterance of AN4's validation speakers, aligned with its text, and the trellis of another by a trained run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from intermodal.data.speech import SpeechSource
from intermodal.evaluate.alignment_picture import draw_alignment
from intermodal.evaluate.trellis_picture import draw_trellis
from intermodal.hub.load import load

IMAGES = Path(__file__).parent / "images"
ROW = 6


def main() -> None:
    """Draw them."""
    model = load(sys.argv[1])
    sample = SpeechSource(path=Path("an4")).open("validation").sample(ROW)
    wave, text = sample["audio"], sample["text"]
    pictures = {"hmm-alignment": draw_alignment(wave, model.align(wave, text), text)}
    pictures["hmm-trellis"] = draw_trellis(model, wave, text)
    for name, image in pictures.items():
        image.convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
