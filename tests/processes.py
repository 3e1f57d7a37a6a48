"""Several processes of this machine that talk over gloo, for the tests of what is distributed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def together(work: Callable[..., None], world: int, folder: Path) -> None:
    """Run ``work(rank, world, folder)`` in each of ``world`` processes, which know each other; raise what one raises."""
    mp.spawn(_begin, args=(work, world, str(folder)), nprocs=world)


def _begin(rank: int, work: Callable[..., None], world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    try:
        work(rank, world, Path(folder))
    finally:
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # torch's threads and the end of the interpreter race: a process that did its work may still be aborted
