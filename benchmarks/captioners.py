"""All captioners on the same held-out pictures, in one table: ``python benchmarks/captioners.py CLIP JUDGE RUN...``.

CLIP is the run that the captioners stand on: its recipe says which pictures are judged (the held-out concepts of the emoji
set, or the validation photographs of Flickr8k), and it finds the nearest training picture. JUDGE is another CLIP, for the
CLIP score; each RUN is a captioner. Writes the table of these pictures into ``results/curves/captioners.json``. Seconds
are of the process, on one core.
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
from intermodal.metrics.captions import meteor
from intermodal.train.folder import Run

FILE = Path(__file__).parent / "results" / "curves" / "captioners.json"
TRAIN = 10_000
BATCH = 50
EMOJI = EmojiSource(unit="concept", single=0.0, part=0.0)


def main() -> None:
    """Judge the runs and write their table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip")
    parser.add_argument("judge")
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--most", type=int, default=1000, help="pictures that are judged")
    options = parser.parse_args()
    below = Run(options.clip)
    recipe, clip, judge = below.recipe(), below.model(), Run(options.judge).model()
    drawn = isinstance(recipe.source, EmojiSource)
    source = EMOJI if drawn else recipe.source
    encoders = [image_encoder(clip), image_encoder(judge)]
    pairs, (seen, judged) = embed_pairs(source.open(recipe.final_split), encoders, options.most, source, lambda _: None)
    train, (known,) = embed_pairs(source.open("train"), [image_encoder(clip)], TRAIN, source, lambda _: None)
    first = [captions[0] for captions in train.captions]
    common = Counter(text for captions in train.captions for text in captions)
    most = max(common, key=lambda text: (common[text], text))
    chosen = np.random.default_rng(SEED).integers(len(first), size=len(seen))

    def figures(said: list[str]) -> dict[str, float]:
        found = caption_figures(said, pairs.captions, judged, embed_texts(judge, said))
        return found | {"meteor": float(np.mean(meteor(said, pairs.captions)))}

    rows: list[dict[str, Any]] = []
    for folder in options.runs:
        run = Run(folder)
        summary = run.summary()
        said, seconds = written(run.model(), pairs)
        rows.append({"name": f"`{run.recipe().name}`", **figures(said), "seconds": seconds})
        rows[-1] |= {"cpu_minutes": summary["cpu_seconds"] / 60, "steps": summary["steps"]}
        print(rows[-1], flush=True)
    for name, said in {
        "nearest training picture's caption": [first[i] for i in (seen @ known.T).argmax(1)],
        "most frequent caption": [most] * len(seen),
        "random training caption": [first[i] for i in chosen],
    }.items():
        rows.append({"name": name, **figures(said)})
        print(rows[-1], flush=True)
    name = "The emoji set's held-out concepts" if drawn else f"Photographs of {pairs.source.name}"
    references = float(np.mean([len(captions) for captions in pairs.captions]))
    summary = below.summary()
    about = (
        f"{len(seen)} pictures, {references:.0f} reference{'s' * (references > 1)} each; by each recipe's settings, greedy "
        f"where it decodes. `{recipe.name}`, the CLIP beneath, cost {summary['cpu_seconds'] / 60:.1f} CPU minutes; another "
        "one judges"
    )
    data = {"date": datetime.date.today().isoformat(), "hardware": summary["hardware"], "about": about, "rows": rows}
    tables = read_json(FILE) if FILE.is_file() else {}
    write_json(FILE, tables | {name: _rounded(data)})


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
