"""The sections of a run's report: each takes the record and returns HTML, or nothing."""

from __future__ import annotations

import json
import math
from typing import Any

from intermodal.core.errors import ConfigError
from intermodal.core.registry import card
from intermodal.evaluate.result import Bars, Evaluation, Table
from intermodal.report.curves import COLOURS, Series, chart
from intermodal.report.html import Child, Html, el, join
from intermodal.report.panels import draw
from intermodal.report.record import Record
from intermodal.report.words import count, duration, megabytes, number, percent, spell

_COST = ("samples_per_second", "images_per_second", "tokens_per_second", "data_wait", "memory_mb", "mfu")
_CLOCKS = ("seconds", "cpu_seconds", "epoch")
_TITLES = {
    "lr": "Learning rate",
    "grad_norm": "Norm of the gradient",
    "samples_per_second": "Samples a second",
    "images_per_second": "Pictures a second",
    "data_wait": "Share of the time that waits for data",
    "memory_mb": "Memory (MB)",
    "mfu": "Share of the machine's matrix speed that is used",
}


def title(record: Record) -> str:
    """Return the page's title: the method, and what it was trained on."""
    method = str(record.summary.get("method") or record.recipe.get("method") or "A run")
    data = str(record.summary.get("data") or "").removesuffix(" (train)")
    return f"{method} on {data}" if data else method


def headline(record: Record) -> Html:
    """Say what was trained on what, and what came of it, in words."""
    result = record.main
    parts: list[Child] = [el("h1", title(record)), el("p", _about_method(record), class_="lead")]
    if result is not None:
        parts.append(result_in_words(result))
    else:
        parts.append(el("p", "Not judged yet: there is no evaluation in the run's folder.", class_="empty"))
    return el("header", parts, class_="headline")


def _about_method(record: Record) -> Child:
    summary = record.summary
    method = str(summary.get("method") or record.recipe.get("method") or "")
    try:
        name = card(method).title
    except ConfigError:
        name = method or "An unknown method"
    said: list[str] = []
    parameters, samples, seconds = (record.number(n) for n in ("parameters", "samples", "seconds"))
    batch_size, steps = record.number("batch_size"), record.number("steps") or record.last_step
    if parameters is not None:
        said.append(f"{count(parameters)} parameters")
    if samples is not None and "data" in summary:
        said.append(f"trained on {count(samples)} samples of {summary['data']}")
    if steps:
        said.append(f"{number(steps)} steps" + (f" of {number(batch_size)}" if batch_size is not None else ""))
    if seconds is not None:
        said.append(f"in {duration(seconds)}")
    status = summary.get("status", "unfinished")
    state = None if status == "finished" else el("strong", f" The run is {status}.")
    return [f"{name}. ", ", ".join(said) + "." if said else "", state]


def result_in_words(result: Evaluation) -> Html:
    """Return the headline figure and its sentence; of an evaluation without one, its first figure."""
    if result.headline is not None:
        figure, sentence = result.headline.figure, result.headline.sentence
    elif result.metrics:
        name, value = next(iter(result.metrics.items()))
        figure, sentence = number(value), f"{spell(name)}, on the {result.split} split."
    else:
        return el("p", f"The evaluation on the {result.split} split holds no figure.", class_="empty")
    return el("div", el("p", figure, class_="figure"), el("p", sentence, class_="sentence"), class_="result")


def reaches(record: Record) -> Html:
    """Return tables and bars of the main evaluation, and the plain list of its figures."""
    result = record.main
    if result is None:
        return Html("")
    panels = [draw(p) for p in result.panels if isinstance(p, Table | Bars)]
    rows = [
        el("tr", el("th", el("code", k), scope="row"), el("td", number(v), class_="n"))
        for k, v in result.metrics.items()
    ]
    listed = el(
        "div",
        el("table", el("tbody", rows)),
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label="All figures",
    )
    took = f", judged in {duration(result.seconds)}" if result.seconds else ""
    everything = el(
        "details",
        el("summary", f"All {len(rows)} figures by name ({result.split} split{took})"),
        listed,
        open=not panels,
    )
    return join([el("div", panels, class_="panels"), everything if rows else None, _other_splits(record)])


def _other_splits(record: Record) -> list[Html]:
    out = []
    for split, result in list(record.evaluations.items())[1:]:
        rows = [
            el("tr", el("th", spell(k), scope="row"), el("td", number(v), class_="n"))
            for k, v in result.metrics.items()
        ]
        panels = [draw(p) for p in result.panels]
        out.append(el("details", el("summary", f"On the {split} split"), el("table", el("tbody", rows)), panels))
    return out


def pictures(record: Record) -> Html:
    """Return galleries, heatmaps, curves and maps."""
    if record.main is None:
        return Html("")
    elsewhere = (Table, Bars)
    shown = [p for p in record.main.panels if not isinstance(p, elsewhere) and not getattr(p, "failures", False)]
    return join([draw(p) for p in shown])


def failures(record: Record) -> Html:
    """Return the panels of mistakes."""
    if record.main is None:
        return Html("")
    return join([draw(p) for p in record.main.panels if getattr(p, "failures", False)])


def curves(record: Record) -> Html:
    """Return the loss, the figures on the validation split, the parts of the loss, and what a step cost."""
    train, judged = record.series("train"), record.series("eval")
    known = {"loss", *_COST, *_CLOCKS}
    main = [chart("Loss while training", [train["loss"]], smooth=True)] if "loss" in train else []
    if "loss" in judged:
        main.append(chart("Loss on the validation split", [judged.pop("loss")]))
    changing = [s for s in judged.values() if s.changes]
    shares = [s for s in changing if all(0 <= v <= 1 for _, v in s.points if math.isfinite(v))]
    if shares:
        chosen = [Series(spell(s.name), s.points) for s in shares[:COLOURS]]
        main.append(chart("On the validation split", chosen))
    small = [_small(s) for name, s in train.items() if name not in known]
    small += [_small(s, " (validation)") for s in changing if s not in shares]
    cost = [_small(train[n]) for n in _COST if n in train]
    return join(
        [
            el("div", main, class_="charts") if main else None,
            el("div", small, class_="small-charts") if small else None,
            [el("h3", "What a step costs"), el("div", cost, class_="small-charts")] if cost else None,
        ]
    )


def _small(series: Series, what: str = "") -> Html:
    return chart(_TITLES.get(series.name, spell(series.name).capitalize()) + what, [series])


def health(record: Record) -> Html:
    """Return the warnings that training gave, what was skipped, and what this report could not read."""
    said: list[Child] = []
    for line in record.of_kind("health"):
        warnings = line.get("warning") or line.get("warnings") or line.get("message") or "a warning without words"
        for warning in warnings if isinstance(warnings, list) else [warnings]:
            said.append(el("li", el("span", f"step {line.get('step', '?')}: ", class_="faint"), str(warning)))
    skipped = [str(f) for line in record.of_kind("skipped") for f in line.get("files") or []]
    if skipped:
        files = el("ul", [el("li", f) for f in skipped[:50]], el("li", "...") if len(skipped) > 50 else None)
        said.append(
            el(
                "li",
                el("details", el("summary", f"Unreadable samples that were skipped: {len(skipped)}."), files),
            )
        )
    if any(not math.isfinite(v) for v in record.values("loss")):
        said.append(el("li", "The loss was not a number at some steps: the weights after them are not to be trusted."))
    wait = record.typical("data_wait")
    if wait is not None and wait > 0.2:
        said.append(
            el(
                "li",
                f"Training waited for data {percent(wait)} of the time: more train.workers would speed it up.",
            )
        )
    said += [el("li", note) for note in record.notes]
    return el("ul", said, class_="warnings") if said else el("p", "Nothing to warn of.", class_="fine")


def cost(record: Record) -> Html:
    """Return what the run took: time, machine, memory, throughput."""
    s = record.summary
    memory = [v for v in record.values("memory_mb") if math.isfinite(v)]
    speed = next((v for n in _COST[:3] if (v := record.typical(n)) is not None), None)
    wait, mfu = record.typical("data_wait"), record.typical("mfu")
    seconds, cpu_seconds = record.number("seconds"), record.number("cpu_seconds")
    processes = record.number("processes")
    judging = sum(result.seconds for result in record.evaluations.values())
    facts: list[tuple[str, str | None]] = [
        ("Training took", duration(seconds) if seconds is not None else None),
        ("Processor time", duration(cpu_seconds) if cpu_seconds is not None else None),
        ("Judging took", duration(judging) if judging else None),
        ("Machine", _text(s.get("hardware"))),
        ("Processes", number(processes) if processes not in (None, 1) else None),
        ("Precision", _text(s.get("precision"))),
        ("Most memory", megabytes(max(memory)) if memory else None),
        ("Throughput", f"{number(round(speed))} samples a second" if speed is not None else None),
        ("Waiting for data", f"{percent(wait)} of the time" if wait is not None else None),
        (
            "Use of the machine",
            f"{percent(mfu)} of its speed in matrix products" if mfu is not None else None,
        ),
        ("Date", _text(s.get("date"))),
        ("Versions", ", ".join(_versions(s)) or None),
    ]
    rows = [el("div", el("dt", name), el("dd", value)) for name, value in facts if value is not None]
    return el("dl", rows, class_="facts") if rows else Html("")


def _text(value: Any) -> str | None:
    return None if value in (None, "") else str(value)


def _versions(summary: dict[str, Any]) -> list[str]:
    nested = summary.get("versions")
    found = dict(nested) if isinstance(nested, dict) else {}
    found.update({k: summary[k] for k in ("intermodal", "torch") if k in summary})
    return [f"{name} {version}" for name, version in found.items()]


def recipe(record: Record) -> Html:
    """Return the resolved recipe, folded, and the command that runs it again."""
    if not record.recipe:
        return Html("")
    again = f"intermodal train {_quote(str(record.path / 'recipe.json'))}"
    text = json.dumps(record.recipe, indent=2, ensure_ascii=False)
    return join(
        [
            el(
                "p",
                "Everything that the result depends on, settings from the command line included. To run it again:",
            ),
            command(again),
            el("details", el("summary", "The resolved recipe"), el("pre", el("code", text), tabindex=0)),
        ]
    )


def use(record: Record) -> Html:
    """Say where the model is, and how to use it."""
    model = record.path / "model"
    if not model.is_dir():
        return el("p", "There is no model in the run's folder.", class_="empty")
    run = str(record.path)
    lines = [f'intermodal search {_quote(run)} "something cold to eat"', f"intermodal studio {_quote(run)}"]
    python = f"import intermodal\n\nmodel = intermodal.load({run!r})"
    try:
        abilities = card(str(record.recipe.get("method", ""))).capabilities
    except ConfigError:
        abilities = ()
    if "embed" in abilities:
        python += '\nvectors = model.embed("text", ["something cold to eat"])'
    else:
        lines = lines[1:]
    return join(
        [
            el(
                "p",
                "The trained model is in ",
                el("code", str(model)),
                ". From the command line and from Python:",
            ),
            [command(line) for line in lines],
            command(python),
        ]
    )


def command(text: str) -> Html:
    """Return a line to copy."""
    button = el("button", "copy", class_="copy", type="button", hidden=True)
    return el("div", el("pre", el("code", text), tabindex=0), button, class_="command")


def _quote(text: str) -> str:
    import shlex

    return shlex.quote(text)
