"""What a step costs: throughput, waiting for data, memory, and the share of the machine's speed that is used."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import psutil
import torch

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def matmul_speed(device: torch.device, precision: str, size: int = 1024) -> float:
    """Return the floating-point operations a second of a square matrix product, measured now (about 0.1 s).

    It is what model FLOPs utilisation is a share of: what this machine does at its best, in this precision, not what a
    data sheet promises.
    """
    size = size if device.type == "cpu" else 8 * size
    generator = torch.Generator().manual_seed(0)  # not the global one: a measurement must not change the training
    a = torch.randn(size, size, generator=generator).to(device, _DTYPES[precision])
    best = float("inf")
    a @ a
    for _ in range(4):
        _wait(device)
        start = time.perf_counter()
        a @ a
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_mb(device: torch.device) -> float:
    """Return the memory in use: of the device for an accelerator, of the process for a CPU, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return psutil.Process().memory_info().rss / 1e6


def hardware(device: torch.device) -> str:
    """Return the machine in words: the accelerator's name, or the processor's with its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except FileNotFoundError:
        pass  # not Linux: the platform's own name stands
    return f"{name}, {torch.get_num_threads()} threads"


class Meter:
    """Counts samples and seconds between two lines of metrics.

    Args:
        flops_per_step: operations of one step, 0 when unknown.
        peak: operations a second of the machine, from :func:`matmul_speed`.
    """

    def __init__(self, flops_per_step: float, peak: float) -> None:
        self.flops_per_step, self.peak = flops_per_step, peak
        self.reset()

    def reset(self) -> None:
        """Start counting anew."""
        self._start = time.perf_counter()
        self._waited = 0.0
        self._samples = self._steps = 0

    def waited(self, seconds: float) -> None:
        """Note that a step waited this long for its data."""
        self._waited += seconds

    def step(self, samples: int) -> None:
        """Note a step over this many samples."""
        self._samples += samples
        self._steps += 1

    def read(self, device: torch.device) -> dict[str, float]:
        """Return the figures since the last call and start anew."""
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        figures = {
            "samples_per_second": self._samples / elapsed,
            "data_wait": self._waited / elapsed,
            "memory_mb": memory_mb(device),
        }
        if self.flops_per_step and self.peak:
            figures["mfu"] = self.flops_per_step * self._steps / elapsed / self.peak
        self.reset()
        return figures
