"""``intermodal doctor``: what is installed, what the machine has, and what data is there."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intermodal.cli.common import output, parse, print_json, progress

PARTS = (
    *(
        "torch",
        "numpy",
        "accelerate",
        "torchdata",
        "safetensors",
        "tokenizers",
        "huggingface_hub",
        "datasets",
    ),
    *("pyarrow", "pillow", "lancedb", "tyro", "rich"),
)
EXTRAS: dict[str, tuple[str, ...]] = {
    "studio": ("gradio",),
    "api": ("fastapi", "uvicorn", "python-multipart"),
    "emoji": ("resvg-py",),
    "text": ("numba",),
    "speech": ("soundfile", "soxr", "numba", "jiwer"),
    "captions": ("nltk",),
    "docs": ("mkdocs-material",),
}
"""What each extra of pyproject.toml brings (a test compares them)."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Check the installation; nothing is changed.

    Attributes:
        json: print JSON.
    """

    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "doctor")
    with progress() as report:
        report("looking at the installation", 0.0)
        facts = {"versions": versions(), "extras": extras()}
        report("looking at the machine", 0.3)
        facts["machine"] = machine()
        report("looking at the data", 0.5)
        facts["data"] = data()
        report("measuring the speed", 0.7)
        facts["speed"] = speed()
    if arguments.json:
        print_json(facts)
        return 0
    out = output()
    for section, rows in facts.items():
        out.print(f"[bold]{section}[/bold]")
        for key, value in rows.items():
            out.print(f"  {key:<18} {value}", markup=False)
    return 0


def versions() -> dict[str, str]:
    """Return the versions of Python, of this library and of its parts."""
    from intermodal.core.version import __version__

    found = {"python": platform.python_version(), "intermodal": __version__}
    return found | {part: _version(part) or "MISSING: reinstall intermodal" for part in PARTS}


def extras() -> dict[str, str]:
    """Return for each extra what of it is installed, or how to install it."""
    found = {}
    for extra, parts in EXTRAS.items():
        missing = [part for part in parts if _version(part) is None]
        have = ", ".join(f"{part} {_version(part)}" for part in parts if part not in missing)
        how = f'not installed: pip install "intermodal[{extra}]"'
        found[extra] = have if not missing else f"{how} (missing: {', '.join(missing)})"
    return found


def machine() -> dict[str, str]:
    """Return processors, memory, disk and devices."""
    import psutil
    import torch

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": f"{usable} usable of {os.cpu_count()}",
        "threads": f"{torch.get_num_threads()} (torch; set OMP_NUM_THREADS to change)",
        "memory": f"{memory.available / 1e9:.1f} GB free of {memory.total / 1e9:.1f} GB",
        "disk": f"{disk.free / 1e9:.1f} GB free here",
        "bf16 on cpu": _cpu_bf16(),
    }
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    facts["accelerator"] = "none: everything runs on the processor" if accelerator is None else str(accelerator)
    if accelerator is not None and accelerator.type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts["accelerator"] += f" ({properties.name}, {properties.total_memory / 1e9:.0f} GB)"
        facts["bf16 on device"] = "yes" if torch.cuda.is_bf16_supported() else "no"
    return facts


def data() -> dict[str, str]:
    """Return which known sets are there, and the shipped emoji set."""
    from intermodal.core.errors import DataError
    from intermodal.data import catalog
    from intermodal.data.emoji import EmojiSource

    folder = os.environ.get(catalog.DATA_VARIABLE)
    facts = {catalog.DATA_VARIABLE: folder or "not set"}
    if folder and not Path(folder).is_dir():
        facts[catalog.DATA_VARIABLE] += " (no such folder)"
    try:
        pictures = {split: len(EmojiSource(unit="picture").open(split)) for split in ("train", "test")}
        facts["emoji"] = f"shipped: {pictures['train']:,} training pictures, {pictures['test']:,} held out"
    except DataError as error:
        facts["emoji"] = str(error)
    for name, entry in catalog.CATALOG.items():
        places = [Path(folder) / entry.file] if folder else []
        place = next((p for p in [*places, catalog.cache_folder() / entry.file] if p.is_file()), None)
        absent = "not here" + (", fetched when needed" if entry.url else "")
        facts[name] = absent if place is None else f"{place} ({place.stat().st_size / 1e6:.0f} MB)"
    return facts


def speed(seconds: float = 0.3, size: int = 768) -> dict[str, str]:
    """Return how fast this machine multiplies matrices and copies memory right now."""
    import torch

    a = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    big = torch.zeros(8_000_000)
    multiply = _rate(lambda: a @ a, seconds) * 2 * size**3 / 1e9
    copy = _rate(big.clone, seconds) * 2 * big.numel() * 4 / 1e9
    return {
        "matrix product": f"{multiply:.0f} GFLOP/s in float32 (what a training step is made of)",
        "memory": f"{copy:.1f} GB/s",
    }


def _rate(work: Any, seconds: float) -> float:
    """Return how often a piece of work runs in a second."""
    work()
    start, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds or count == 0:
        work()
        count += 1
    return count / passed


def _cpu_bf16() -> str:
    """Say what the processor's instructions make of bfloat16."""
    import torch

    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "slow: emulated, use fp32"
    if torch.cpu._is_amx_tile_supported():
        return "fast (AMX)"
    return "fast (AVX-512 BF16)" if torch.cpu._is_avx512_bf16_supported() else "works (AVX-512, no BF16 instructions)"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
