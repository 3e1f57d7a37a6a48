"""Time and weigh contenders side by side: one run, interleaved, one thread, the minimum of repetitions.

Shared machines make wall time move by factors, so contenders take turns within one run and are quoted as ratios to
the first of them (ours), in process CPU time and wall time, with a 1024^3 float32 matrix product (the yardstick)
timed between them. Peak memory is measured in a fresh process for each contender, as growth above what imports and
inputs (the weights are among them) take, and whole. A benchmark is a module with a docstring and ``cases(quick: bool)
-> list[Case]``; ``run.py`` lists them.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import gc
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGES = (
    "torch",
    "numpy",
    "transformers",
    "diffusers",
    "open_clip_torch",
    "timm",
    "torchscale",
    "torchmetrics",
    "pytorch-metric-learning",
    "vector-quantize-pytorch",
    "lightly",
    "gensim",
    "numba",
    "pyctcdecode",
    "flashlight-text",
    "kenlm",
    "librosa",
    "kaldi-native-fbank",
    "intermodal",
)
Step = Callable[[], float | None]
NONE: tuple[int | None, int | None] = (None, None)


@dataclass(frozen=True)
class Contender:
    """One of those compared.

    Attributes:
        name: as the table shows it; the first contender of a case is ours.
        make: imports what it needs, builds its inputs and returns the step to time; a step may return a
            number (its loss), which the table shows so that one sees that all compute the same.
        install: how to install it, said where ``make`` raises ImportError.
    """

    name: str
    make: Callable[[], Step]
    install: str = ""


@dataclass(frozen=True)
class Case:
    """Contenders that do the same work.

    Attributes:
        title: what is done, with its sizes.
        contenders: ours first.
        repeats: times that each takes its turn.
    """

    title: str
    contenders: Sequence[Contender]
    repeats: int = 3


def run_benchmark(name: str, *, quick: bool, threads: int, memory: bool, out: Path) -> dict[str, Any]:
    """Run every case of a benchmark, print its tables, write ``out/NAME.json`` and return its data."""
    import torch

    torch.set_num_threads(threads)
    module = importlib.import_module(name)
    print(f"\n{name}: {(module.__doc__ or '').strip().splitlines()[0]}")
    print(f"{hardware()}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}")
    results = []
    for index, case in enumerate(module.cases(quick)):
        peaks = [_peak(name, index, i, quick, threads) if memory else NONE for i in range(len(case.contenders))]
        result = _time(case, peaks)
        results.append(result)
        print(table(result), flush=True)
    report = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "threads": threads,
        "quick": quick,
        "versions": {"python": platform.python_version(), **_versions()},
        "cases": results,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _time(case: Case, peaks: Sequence[tuple[int | None, int | None]]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    steps: list[Step | None] = []
    for contender, (peak, whole) in zip(case.contenders, peaks, strict=True):
        row: dict[str, Any] = {"name": contender.name, "status": "ok", "peak_bytes": peak, "whole_bytes": whole}
        try:
            steps.append(contender.make())
        except ImportError as error:
            steps.append(None)
            row["status"] = f"not installed ({error}): {contender.install}" if contender.install else f"{error}"
        rows.append(row)
    yardstick = _yardstick()
    measured: list[float] = []
    for _ in range(case.repeats):
        measured.append(_clock(yardstick)[1])
        for i, (row, step) in enumerate(zip(rows, steps, strict=True)):
            if step is None:
                continue
            gc.collect()
            try:
                wall, cpu, value = _clock(step)
            except (MemoryError, RuntimeError) as error:  # torch says RuntimeError when memory is short
                row["status"], steps[i] = f"failed: {str(error).splitlines()[0]}", None
                continue
            row["wall_s"] = min(wall, row.get("wall_s", wall))
            row["cpu_s"] = min(cpu, row.get("cpu_s", cpu))
            row["value"] = value
    measured += [_clock(yardstick)[1] for _ in range(5)]
    result = {
        "title": case.title,
        "repeats": case.repeats,
        "yardstick_cpu_s": min(measured),
        "contenders": rows,
    }
    ours = rows[0]
    for row in rows:
        row["ratios_to_ours"] = {
            key: row[key] / ours[key] for key in ("wall_s", "cpu_s", "peak_bytes") if row.get(key) and ours.get(key)
        }
    return result


def _clock(step: Step) -> tuple[float, float, float | None]:
    wall, cpu = time.perf_counter(), time.process_time()
    value = step()
    return time.perf_counter() - wall, time.process_time() - cpu, value


def _yardstick() -> Step:
    import torch

    a = torch.rand(1024, 1024)

    def multiply() -> None:
        torch.mm(a, a)

    multiply()
    return multiply


def _peak(name: str, case: int, contender: int, quick: bool, threads: int) -> tuple[int | None, int | None]:
    """Return by how many bytes a fresh process's memory grows in one step, and to how many; None where it cannot be had."""
    command = [sys.executable, __file__, name, str(case), str(contender), str(int(quick)), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return NONE
    grown, whole = map(int, done.stdout.split())
    return grown, whole


def _measure_peak(name: str, case: int, contender: int, quick: bool, threads: int) -> tuple[int, int]:
    import torch

    torch.set_num_threads(threads)
    step = importlib.import_module(name).cases(quick)[case].contenders[contender].make()
    _yardstick()()  # lets the matrix library take the memory that it keeps
    gc.collect()
    before = _memory_now()
    step()
    peak = _memory_peak()
    return peak - before, peak


def _memory_now() -> int:
    """Return the memory that is held now, and let the peak begin there; the peak so far where that cannot be had."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was given back, and is only kept for later
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except (AttributeError, OSError, TypeError):
        return _memory_peak()


def _memory_peak() -> int:
    # Not ru_maxrss where it can be avoided: on Linux a child process starts with its parent's.
    if Path("/proc/self/status").exists():
        return _status("VmHWM")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status(field: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines[field].split()[0]) * 1024


def table(result: dict[str, Any]) -> str:
    """Return one case's results as text."""
    width, yard = max(len(row["name"]) for row in result["contenders"]), result["yardstick_cpu_s"]
    lines = [
        f"\n  {result['title']} (minimum of {result['repeats']}; yardstick {yard * 1e3:.1f} CPU ms)",
        f"  {'':{width}}  {'wall s':>8} {'x':>6}  {'CPU s':>8} {'x':>6} {'yards':>7}  {'peak MB':>8} {'x':>6}  value",
    ]
    for row in result["contenders"]:
        if row["status"] != "ok":
            lines.append(f"  {row['name']:{width}}  {row['status']}")
            continue
        ratios, peak, value = row["ratios_to_ours"], row["peak_bytes"], row["value"]
        megabytes = "-" if peak is None else f"{peak / 1e6:.0f}"
        heavier = f"{ratios['peak_bytes']:.2f}" if "peak_bytes" in ratios else "-"
        lines.append(
            f"  {row['name']:{width}}  {row['wall_s']:8.3f} {ratios['wall_s']:6.2f}  {row['cpu_s']:8.3f} "
            f"{ratios['cpu_s']:6.2f} {row['cpu_s'] / yard:7.1f}  {megabytes:>8} {heavier:>6}  "
            f"{'' if value is None else f'{value:.6g}'}"
        )
    return "\n".join(lines)


def hardware() -> str:
    """Return the processor's name, the number of cores that this process may use, and the memory."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name}, {cores} cores, {memory:.0f} GB"


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


_kept: list[Any] = []


def import_beside_torchvision(name: str) -> Any:
    """Import a peer that needs torchvision, also where torchvision's compiled part does not fit this torch.

    Such a torchvision fails on import for want of two operators, of which no benchmark uses the code:
    declaring them is enough.

    Raises:
        ImportError: if the peer is not installed.
    """
    import torch

    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)
    for module in [m for m in sys.modules if m.partition(".")[0] in ("torchvision", name.partition(".")[0])]:
        del sys.modules[module]
    return importlib.import_module(name)


def parse(arguments: Sequence[str] | None, names: Iterable[str]) -> argparse.Namespace:
    """Parse the command line of ``run.py``."""
    names = list(names)
    parser = argparse.ArgumentParser(description="Compare the library with its peers, side by side.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"benchmarks to run, of: {', '.join(names)}; default: all"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: seconds instead of minutes")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    parser.add_argument("--no-memory", action="store_true", help="skip peak memory, which needs a process for each")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder for JSON (default: benchmarks/out)")
    options = parser.parse_args(arguments)
    unknown = [n for n in options.names if n not in names]
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are: {', '.join(names)}")
    options.names = options.names or names
    return options


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    benchmark, *numbers = sys.argv[1:]
    case_index, contender_index, is_quick, thread_count = map(int, numbers)
    print(*_measure_peak(benchmark, case_index, contender_index, bool(is_quick), thread_count))
