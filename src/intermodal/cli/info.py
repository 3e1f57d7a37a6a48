"""``intermodal info``: says what a run, a model or a folder of data is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from intermodal.cli.common import open_session, output, parse, print_json, print_metrics, progress
from intermodal.core.checkpoint import MANIFEST
from intermodal.core.errors import DataError
from intermodal.core.files import read_json

SPLITS = ("train", "validation", "test", "style")  # the last is the emoji set's alone
PUBLISHED = ("config.json", "open_clip_config.json")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Say what is at a path.

    Attributes:
        path: a run, a checkpoint, a published folder, a picture, a recording, data, a known set, or hub:owner/name.
        json: print JSON.
    """

    path: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PATH")]]
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "info")
    facts = describe(arguments.path)
    if arguments.json:
        print_json(facts)
        return 0
    evaluations = facts.pop("evaluation", {})
    for key, value in _flat(facts):
        output().print(f"{key:<22} {value}", markup=False)
    for split, metrics in evaluations.items():
        output().print(f"judged on {split}:", markup=False)
        print_metrics(metrics, most=4)
    return 0


def describe(path: str) -> dict[str, Any]:
    """Return the facts about what is at a path.

    Raises:
        CheckpointError: if it is a damaged model.
        DataError: if nothing is there, or it is neither a model nor data.
    """
    folder = Path(path)
    if (folder / "recipe.json").exists():
        return _run(folder)
    if (folder / MANIFEST).exists():
        return {"is": "a checkpoint", **_model(path)}
    if any((folder / name).exists() for name in PUBLISHED):
        return {"is": "a published model", **_model(path)}
    if folder.suffix.lower() in (".png", ".gif") and folder.is_file():
        from intermodal.data.picture_files import read_facts

        return {"is": "a picture", **read_facts(path)}
    from intermodal.data.speech_layouts import is_recording

    if folder.is_file() and is_recording(folder.name):
        return {"is": "a recording", **_recording(path)}
    return {"is": "data", **_data(path)}


def _recording(path: str) -> dict[str, Any]:
    """Return what a recording's head says, and what is odd about its first minute."""
    from intermodal.data.audio import audio_blocks, audio_info, notes_on

    found = audio_info(path)
    facts: dict[str, Any] = {
        "format": found.format,
        "rate": found.rate,
        "channels": found.channels,
        "seconds": round(found.seconds, 3),
    }
    notes = notes_on(next(audio_blocks(path, found.rate, 60.0)), found.rate)
    return {**facts, "notes": list(notes)} if notes else facts


def _run(folder: Path) -> dict[str, Any]:
    from intermodal.train.folder import Run

    run = Run(folder)
    recipe = run.recipe()
    facts: dict[str, Any] = {"is": "a run", "recipe": recipe.name}
    if (folder / "summary.json").exists():
        facts["summary"] = run.summary()
    if (run.model_path / MANIFEST).exists():
        facts |= _model(str(folder))
    else:
        facts["model"] = "not trained to the end yet: the same train command with --run goes on"
    judged = sorted((folder / "evaluation").glob("*/evaluation.json"))
    facts["evaluation"] = {file.parent.name: read_json(file, "evaluation")["metrics"] for file in judged}
    if (folder / "report.html").exists():
        facts["report"] = str(folder / "report.html")
    return facts


def _model(path: str) -> dict[str, Any]:
    with progress() as report:
        session = open_session(path, "cpu", report)
    return {
        "method": session.model.id,
        "title": session.card.title,
        "capabilities": list(session.capabilities),
        "parameters": session.parameters,
        "processors": {name: _processor(p) for name, p in session.model.processors.items()},
    }


def _processor(processor: Any) -> str:
    """Return the plain settings of a processor in one line."""
    settings = {k: v for k, v in vars(processor).items() if isinstance(v, (int, float, str, tuple))}
    return f"{type(processor).__name__}({', '.join(f'{k}={v}' for k, v in settings.items())})"


def _data(path: str) -> dict[str, Any]:
    with progress() as report:
        report(f"reading {path}", 0.0)
        from intermodal.data.named import source_named

        source = source_named(path)
        facts: dict[str, Any] = {"splits": {}, "fields": {}}
        problem: DataError | None = None
        for split in SPLITS:
            try:
                opened = source.open(split)
            except DataError as error:
                problem = problem or error
                continue
            facts["splits"][split] = len(opened)
            facts["fields"] = {name: f"{field}: {field.about}" for name, field in opened.fields.items()}
        if problem is not None and not facts["splits"]:
            raise problem
    return facts


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in facts.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            rows.append((prefix + key, ", ".join(map(str, value))))
        else:
            rows.append(
                (prefix + key, f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value)
            )
    return rows
