"""Draw the picture of the page on wav2vec 2.0: ``python docs/figures_wav2vec2.py RUN`` (seconds; it needs INTERMODAL_DATA).

What a pre-trained model of the recipe ``wav2vec2`` makes of one of AN4's test recordings, which it has not heard.
"""

from __future__ import annotations

import sys
from pathlib import Path

from intermodal.data.speech import SpeechSource
from intermodal.evaluate.wav2vec2_picture import draw_told_apart
from intermodal.hub.load import load
from intermodal.methods.speech.wav2vec2 import Wav2Vec2

IMAGES = Path(__file__).parent / "images"
ROW = 5


def main(run: str) -> None:
    """Draw it."""
    method = load(run)
    assert isinstance(method, Wav2Vec2)
    sample = SpeechSource(path=Path("an4")).open("test").sample(ROW)
    said = f"\N{LEFT DOUBLE QUOTATION MARK}{sample['text']}\N{RIGHT DOUBLE QUOTATION MARK}"
    image = draw_told_apart(method, sample["audio"], said)
    image.convert("RGB").save(IMAGES / "wav2vec2.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
