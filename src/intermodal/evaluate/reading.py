"""The evaluation of what reads lines of text: characters and words that are wrong, beside baselines.

``cer`` and ``wer`` are errors over units as they are written: letters of either case and punctuation count. Beside them,
``chance_`` is the most frequent training line for every picture, ``ctc_`` what the encoder alone spells, where it was taught
to, and ``beam_`` what a beam finds (of encoder and decoder together, where the model joins them); ``beam_seconds`` a line.
"""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
from PIL import Image

from intermodal.core.captioning import Captioning
from intermodal.core.progress import Progress
from intermodal.data.source import SourceConfig
from intermodal.data.tokenizers import UNKNOWN
from intermodal.evaluate.encoding import Steps
from intermodal.evaluate.reading_picture import draw_reading
from intermodal.evaluate.result import Evaluation, Figure, Gallery, Headline, Item, Panel, Table
from intermodal.methods.vision_language.trocr import BEAM, TrOCR
from intermodal.methods.writer import GREEDY
from intermodal.metrics.speech import Errors, align, bootstrap, count, total

MOST, QUICK = 2000, 200
BATCH = 64
SHOWN, LOOKED = 12, 3
SEED = 0


def line_errors(references: list[str], hypotheses: list[str], unit: str) -> list[Errors]:
    """Return the errors of each line, characters as they are written; ``unit`` is ``word`` or ``character``."""
    return [
        count(align(said, read, "word" if unit == "word" else "character"))
        for said, read in zip(references, hypotheses, strict=True)
    ]


def rates(references: list[str], hypotheses: list[str], prefix: str = "") -> dict[str, float]:
    """Return ``cer``, ``wer`` and ``exact``, the share of lines read without an error."""
    characters, words = (line_errors(references, hypotheses, unit) for unit in ("character", "word"))
    exact = float(np.mean([said == read for said, read in zip(references, hypotheses, strict=True)]))
    return {f"{prefix}cer": total(characters).rate, f"{prefix}wer": total(words).rate, f"{prefix}exact": exact}


def evaluate_reading(
    reader: TrOCR, source: SourceConfig, split: str, progress: Progress, *, full: bool = True
) -> Evaluation:
    """Judge a reader on lines.

    Args:
        reader: reads them.
        source: yields ``image`` and ``text``.
        split: of it.
        progress: told what is done.
        full: up to 2,000 lines, with a beam, baselines and panels; else up to 200, greedily, the figures alone.

    Raises:
        DataError: if the split is not there or empty.
    """
    start = time.monotonic()
    opened = source.open(split)
    chosen = np.random.default_rng(SEED).permutation(len(opened))[: MOST if full else QUICK]
    samples = [opened.sample(int(i)) for i in sorted(chosen)]
    pictures, said = [s["image"] for s in samples], [str(s["text"]) for s in samples]
    steps = Steps(progress, {"Reading": 1.0, **({"Reading with a beam": 4.0, "Drawing": 1.0} if full else {})})
    begun = time.perf_counter()
    read, probability = _read(reader, pictures, GREEDY, steps, "Reading")
    seconds = (time.perf_counter() - begun) / len(pictures)
    metrics = rates(said, read)
    common = Counter(source.training_texts())
    most = max(common, key=lambda text: (common[text], text))
    metrics |= rates(said, [most] * len(said), "chance_")
    metrics["seconds"] = seconds
    unknown = reader.text.tokenizer.token_to_id(UNKNOWN)
    if unknown is not None:
        ids = [i for text in said for i in reader.text.tokenizer.encode(text, add_special_tokens=False).ids]
        metrics["unknown"] = ids.count(unknown) / max(len(ids), 1)
    if not full:
        return Evaluation(split, metrics, [], time.monotonic() - start)
    if reader.config.ctc_weight:
        spelled = [t for i in range(0, len(pictures), BATCH) for t in reader.spelled(pictures[i : i + BATCH])]
        metrics |= rates(said, spelled, "ctc_")
    if reader.config.ctc_weight < 1:
        begun = time.perf_counter()
        beam, _ = _read(reader, pictures, Captioning(beam=BEAM), steps, "Reading with a beam")
        metrics |= rates(said, beam, "beam_") | {"beam_seconds": (time.perf_counter() - begun) / len(pictures)}
    low, high = bootstrap(line_errors(said, read, "character"))
    metrics |= {"cer_low": low, "cer_high": high}
    steps("Drawing")
    about = f"{len(said):,} lines of {opened.name}."
    shown = _panels(reader, pictures, said, read, probability, metrics, about, most)
    sentence = (
        f"of the characters of {len(said):,} lines that it was not trained on are wrong, most of 95 % of resampled sets "
        f"between {low:.1%} and {high:.1%}. The most frequent line, said of every picture, gets {metrics['chance_cer']:.0%} "
        "wrong."
    )
    return Evaluation(split, metrics, shown, time.monotonic() - start, Headline(f"{metrics['cer']:.1%}", sentence))


def _read(
    reader: TrOCR, pictures: list[Image.Image], settings: Captioning, steps: Steps, what: str
) -> tuple[list[str], list[float]]:
    report = steps.of(what)
    pages = reader.read(pictures, settings, cut=False, watch=lambda _, share: report(share))
    lines = [page[0] for page in pages]
    return [line.text for line in lines], [line.log_prob or 0.0 for line in lines]


def _panels(  # noqa: PLR0917 - one call, from above
    reader: TrOCR,
    pictures: list[Image.Image],
    said: list[str],
    read: list[str],
    probability: list[float],
    metrics: dict[str, float],
    about: str,
    most: str,
) -> list[Panel]:
    rows: list[list[str | float | None]] = []
    joined = f"beam of {BEAM}" + (", with the encoder's spelling" if reader.config.joint else "")
    for prefix, name in (("", "greedy"), ("beam_", joined), ("ctc_", "encoder alone"), ("chance_", most)):
        if f"{prefix}cer" in metrics:
            rows.append([name, *(metrics[f"{prefix}{unit}"] for unit in ("cer", "wer", "exact"))])
    rng = np.random.default_rng(SEED)
    chosen = [int(i) for i in rng.permutation(len(said))[:SHOWN]]
    wrong = [e.rate if e.units else 0.0 for e in line_errors(said, read, "character")]
    worst = [int(i) for i in np.argsort([-w for w in wrong], kind="stable")[:SHOWN]]
    looks = [i for i in chosen if len(said[i]) > 5 and reader.config.ctc_weight < 1][:LOOKED]
    looked = [reader.looks_of(pictures[i]) for i in looks]
    drawn = [row for row in looked if row[1]]
    shown: list[Panel] = [
        Table(
            "Lines",
            f"{about} Less is better.",
            ["", "characters wrong", "words wrong", "lines right"],
            rows,
            emphasis=0,
        ),
        _gallery(pictures, said, read, probability, chosen, "What it reads", "Lines drawn at random."),
    ]
    if drawn:
        words = "Each token that is read, and the places of the line that the decoder looked at when it was chosen."
        shown.append(Figure("Where it looks", words, draw_reading(drawn), words))
    return [
        *shown,
        _gallery(pictures, said, read, probability, worst, "Read worst", "The highest error rates.", failures=True),
    ]


def _gallery(  # noqa: PLR0917 - two calls, from above
    pictures: list[Image.Image],
    said: list[str],
    read: list[str],
    probability: list[float],
    chosen: list[int],
    title: str,
    about: str,
    *,
    failures: bool = False,
) -> Gallery:
    rows = []
    for i in chosen:
        query = Item(image=pictures[i].convert("RGB"), text=said[i], note="what it says")
        rows.append((query, [Item(text=read[i] or "(nothing)", note=f"log probability {probability[i]:.1f}")]))
    return Gallery(title, about, rows, failures)
