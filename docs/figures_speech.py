"""The table over all recognisers, from what ``benchmarks/an4.py`` recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parent.parent / "benchmarks" / "results" / "curves" / "an4.json"
TITLES = {
    "hmm": "Gaussian mixtures on tied triphones (`hmm`)",
    "hybrid-dnn": "deep network on its states (`hybrid-dnn`)",
    "hybrid-tdnn": "time-delay network (`hybrid-tdnn`)",
    "hybrid-lstm": "LSTM, both ways (`hybrid-lstm`)",
    "ctc": "CTC, separable convolutions (`ctc`)",
    "ctc-cnn": "CTC, time-delay network (`ctc-cnn`)",
    "ctc-lstm": "CTC, LSTM, both ways (`ctc-lstm`)",
    "ctc-conformer": "CTC, Conformer (`ctc-conformer`)",
    "ctc-streaming": "CTC while the sound arrives (`ctc-streaming`)",
}
"""In the order of the table; other recipes follow under their names."""


def tables() -> str:
    """Return the table of AN4 and that of FSDD."""
    if not RECORD.exists():
        return "Not measured yet.\n"
    data = json.loads(RECORD.read_text(encoding="utf-8"))
    return f"{words(data)}\n{digits(data)}\n{data['date']}, {data['hardware']}.\n"


def words(data: dict[str, Any]) -> str:
    """Return the table of word error rates."""
    head = ["", "greedy", "beam", "3-gram", "characters, 3-gram", "training, CPU s", "real-time factor, 3-gram"]
    text = _head(head)
    rows = data["rows"]
    for name in sorted(rows, key=lambda name: (_place(name), name)):
        row, searched = rows[name], rows[name]["method"] in ("hmm", "hybrid")
        cells = [
            "" if searched else _rate(row, ""),
            _rate(row, "" if searched else "beam_"),
            f"**{_rate(row, 'lm_')}**",
            _percent(row.get("lm_cer")),
            f"{row['train_cpu_seconds']:,.0f}",
            f"{row.get('lm_real_time_factor', float('nan')):.3f}",
        ]
        text += f"| {TITLES.get(name, f'`{name}`')} | {' | '.join(cells)} |\n"
    for row in data["known"]:
        cells = [_percent(row.get("wer")), "", _percent(row.get("lm_wer")), _percent(row.get("lm_cer"))]
        spent = f"{row['train_cpu_seconds']:,}" if "train_cpu_seconds" in row else ""
        text += f"| *{row['title']}* | {' | '.join(cells)} | {spent} | |\n"
    chance = next((row["chance_wer"] for row in rows.values()), None)
    return f"{text}| *always the same training transcript* | {_percent(chance)} | | | | | |\n"


def digits(data: dict[str, Any]) -> str:
    """Return the table of FSDD: the published rule, and the mean over left-out speakers."""
    text = _head(["spoken digits, right", "published rule", "left-out speakers, mean", "the hardest speaker"])
    left_out: dict[str, list[float]] = {}
    for name, row in data["left_out"].items():
        left_out.setdefault(name.rpartition(" ")[0], []).append(row["accuracy"])
    for name in sorted({*data["digits"], *left_out}):
        each = left_out.get(name, [])
        cells = [
            _percent(data["digits"].get(name, {}).get("accuracy")),
            _percent(sum(each) / len(each) if each else None),
            _percent(min(each, default=None)),
        ]
        text += f"| `{name}` | {' | '.join(cells)} |\n"
    for row in data["known_digits"]:
        text += f"| *{row['title']}* | {_percent(row['accuracy'])} | {_percent(row['left_out'])} | |\n"
    return text


def _head(names: list[str]) -> str:
    return f"| {' | '.join(names)} |\n|---{'|---:' * (len(names) - 1)}|\n"


def _place(name: str) -> int:
    return list(TITLES).index(name) if name in TITLES else len(TITLES)


def _rate(row: dict[str, Any], prefix: str) -> str:
    if f"{prefix}wer" not in row:
        return ""
    low, rate, high = (100 * row[f"{prefix}{name}"] for name in ("wer_low", "wer", "wer_high"))
    return f"{rate:.1f} ({low:.1f} to {high:.1f})"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
