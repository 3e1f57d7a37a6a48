"""Draw the picture of the page on speech features: ``python docs/figures_mel.py`` (seconds; it needs INTERMODAL_DATA).

An utterance of AN4's training split, from wave to cepstra.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from intermodal.data.speech import SpeechSource
from intermodal.evaluate.feature_pictures import draw_features
from intermodal.nn.speech_features import FeatureConfig

IMAGES = Path(__file__).parent / "images"
ROW = 3


def main() -> None:
    """Draw it."""
    sample = SpeechSource(path=Path("an4")).open("train").sample(ROW)
    image = draw_features(
        sample["audio"],
        FeatureConfig(),
        f"\N{LEFT DOUBLE QUOTATION MARK}{sample['text']}\N{RIGHT DOUBLE QUOTATION MARK}",
    )
    image.convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(IMAGES / "mel-steps.png", optimize=True)


if __name__ == "__main__":
    main()
