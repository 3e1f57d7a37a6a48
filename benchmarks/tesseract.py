"""Tesseract's errors on SROIE's validation lines: what a person would otherwise use, beside the recipe ``trocr``.

    INTERMODAL_DATA=... python benchmarks/tesseract.py [lines]

Needs the program ``tesseract`` (any 5.x) with its English model; the library never calls it. Lines get a margin of
paper, as its manual asks, and are read as single lines (``--psm 7``), all by one process. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import ImageOps

from intermodal.data.ocr import ReceiptLines
from intermodal.evaluate.reading import SEED, rates

MARGIN = 10


def main(most: int = 2000) -> int:
    """Read the lines that the recipe is judged on, and print the error rates."""
    if shutil.which("tesseract") is None:
        print("tesseract is not installed: nothing to compare with.", file=sys.stderr)
        return 2
    source = ReceiptLines().open("validation")
    chosen = sorted(int(i) for i in np.random.default_rng(SEED).permutation(len(source))[:most])
    said = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, i in enumerate(chosen):
            sample = source.sample(i)
            picture = sample["image"].convert("L")
            paper = int(np.percentile(np.asarray(picture), 75))
            ImageOps.expand(picture, MARGIN, paper).save(folder / f"{number:05d}.png")
            said.append(sample["text"])
        (folder / "list.txt").write_text("".join(f"{p}\n" for p in sorted(folder.glob("*.png"))), encoding="utf-8")
        command = ["tesseract", str(folder / "list.txt"), str(folder / "out"), "--psm", "7", "--dpi", "150"]
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_THREAD_LIMIT": "1"})
        seconds = time.perf_counter() - begun
        pages = (folder / "out.txt").read_text(encoding="utf-8").split("\f")[: len(said)]
    read = [" ".join(page.split()) for page in pages]
    capitals = rates(
        said, [text.upper() for text in read], "capitals_"
    )  # SROIE writes capitals whatever the picture has
    version = subprocess.run(["tesseract", "--version"], check=True, capture_output=True, text=True).stdout.split("\n")[
        0
    ]
    found = {"what": version, "lines": len(said), **rates(said, read), **capitals, "seconds": seconds / len(said)}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(*(int(word) for word in sys.argv[1:])))
