"""All captioners on the same held-out pictures, in one table: ``python benchmarks/captioners.py CLIP JUDGE RUN...``.

CLIP is the run that the captioners stand on; it finds the nearest training picture. JUDGE is another, for the CLIP score;
each RUN is a captioner's. Writes ``results/curves/captioners.json``. Seconds are of the process, on one core.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from intermodal.core.files import read_json, write_json
from intermodal.data.emoji import EmojiSource
from intermodal.evaluate.captions import caption_figures
from intermodal.evaluate.encoding import embed_texts, image_encoder
from intermodal.evaluate.pairs import SEED, Pairs, embed_pairs
from intermodal.train.folder import Run

FILE = Path(__file__).parent / "results" / "curves" / "captioners.json"
TRAIN = 6000
BATCH = 50


def main() -> None:
    """Judge the runs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip")
    parser.add_argument("judge")
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--most", type=int, default=100, help="pictures that are judged")
    options = parser.parse_args()
    clip, judge = Run(options.clip).model(), Run(options.judge).model()
    source = EmojiSource(unit="concept", single=0.0, part=0.0)
    encoders = [image_encoder(clip), image_encoder(judge)]
    pairs, (seen, judged) = embed_pairs(source.open("test"), encoders, options.most, source, lambda _: None)
    train, (known,) = embed_pairs(source.open("train"), [image_encoder(clip)], TRAIN, source, lambda _: None)
    first = [captions[0] for captions in train.captions]
    common = Counter(first)
    most = max(common, key=lambda text: (common[text], text))
    drawn = np.random.default_rng(SEED).integers(len(first), size=len(seen))
    baselines = {
        "nearest training picture's caption": [first[i] for i in (seen @ known.T).argmax(1)],
        "most frequent caption": [most] * len(seen),
        "random training caption": [first[i] for i in drawn],
    }
    rows = []
    for folder in options.runs:
        run = Run(folder)
        summary = run.summary()
        said, seconds = written(run.model(), pairs)
        figures = caption_figures(said, pairs.captions, judged, embed_texts(judge, said))
        rows.append({"name": f"`{run.recipe().name}`", **figures, "seconds": seconds})
        rows[-1] |= {"cpu_minutes": summary["cpu_seconds"] / 60, "steps": summary["steps"]}
        print(rows[-1], flush=True)
    for name, said in baselines.items():
        rows.append({"name": name, **caption_figures(said, pairs.captions, judged, embed_texts(judge, said))})
    minutes = Run(options.clip).summary()["cpu_seconds"] / 60
    about = (
        f"{len(seen)} pictures of the emoji set's held-out concepts, one reference each; by each recipe's settings, "
        f"greedy where it decodes. The CLIP beneath cost {minutes:.1f} CPU minutes; another one judges"
    )
    hardware = Run(options.clip).summary()["hardware"]
    data = {"date": datetime.date.today().isoformat(), "hardware": hardware, "about": about, "rows": rows}
    write_json(FILE, {name: _rounded(value) for name, value in data.items()})
    print(read_json(FILE))


def written(captioner: Any, pairs: Pairs) -> tuple[list[str], float]:
    """Return a caption of each picture, and the CPU seconds of one."""
    found: list[str] = []
    spent = 0.0
    for at in range(0, len(pairs.indices), BATCH):
        pictures = [pairs.picture(i) for i in range(at, min(at + BATCH, len(pairs.indices)))]
        begun = time.process_time()
        found += [caption.text for caption in captioner.caption(pictures)]
        spent += time.process_time() - begun
    return found, spent / len(found)


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
