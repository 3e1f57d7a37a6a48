"""A run is a folder: the resolved recipe, the metrics, the checkpoints, the evaluation, the report."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from intermodal.core.config import Config
from intermodal.core.errors import CheckpointError, ConfigError
from intermodal.core.files import atomic_file, read_json, write_json, write_text
from intermodal.evaluate.result import Evaluation
from intermodal.evaluate.result import load as load_evaluation
from intermodal.hub.load import load as load_model
from intermodal.methods.base import Method
from intermodal.recipes.base import Recipe
from intermodal.train.state import load_tree, save_tree

_CHECKPOINT = re.compile(r"step-(\d+)")


class Run:
    """A run's folder, and what is in it.

    Args:
        path: the folder; it need not exist yet.

    ``recipe.json``, ``metrics.jsonl`` (one line per logged step), ``summary.json``, ``checkpoints/step-N/`` (all that
    resuming needs), ``model/`` (what :func:`intermodal.load` reads), ``evaluation/SPLIT/``, ``tensorboard/``,
    ``report.html``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def new(cls, name: str, root: str | Path = "runs") -> Run:
        """Return a run in a folder that does not exist yet: ``runs/NAME-DATE-TIME``."""
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        path = Path(root) / f"{name}-{stamp}"
        count = 1
        while path.exists():
            count += 1
            path = Path(root) / f"{name}-{stamp}-{count}"
        return cls(path)

    @property
    def model_path(self) -> Path:
        """The folder of the trained model."""
        return self.path / "model"

    @property
    def metrics_path(self) -> Path:
        """The file of metrics."""
        return self.path / "metrics.jsonl"

    def recipe(self) -> Recipe:
        """Read the resolved recipe."""
        path = self.path / "recipe.json"
        if not path.exists():
            raise ConfigError(f"{self.path} is no run: it has no recipe.json.")
        return Recipe.from_json(path.read_text(encoding="utf-8"))

    def start(self, recipe: Recipe) -> None:
        """Write the recipe, or check that the run's own is the same.

        Raises:
            ConfigError: if the folder belongs to a run of another recipe; the differing fields are named.
        """
        if not (self.path / "recipe.json").exists():
            write_text(self.path / "recipe.json", recipe.to_json())
            return
        before = self.recipe()
        if before != recipe:
            changed = ", ".join(differences(before, recipe))
            raise ConfigError(
                f"{self.path} holds a run of another recipe (different: {changed}): resume it with its own settings, or "
                "choose another folder."
            )

    def model(self, device: str = "cpu") -> Method:
        """Load the trained model."""
        return load_model(self.path, device=device)

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the lines of metrics, of one kind (``train``, ``eval``, ``health``, ``skipped``) or all."""
        if not self.metrics_path.exists():
            return []
        return [line for line in self._lines() if kind is None or line["kind"] == kind]

    def _lines(self) -> Iterator[dict[str, Any]]:
        for line in self.metrics_path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                return  # the last line of a run that was killed while it wrote

    def truncate_metrics(self, step: int) -> None:
        """Drop the lines after ``step``: a resumed run writes them again."""
        kept = [json.dumps(line) for line in self.metrics() if line["step"] <= step]
        write_text(self.metrics_path, "".join(f"{line}\n" for line in kept))

    def evaluation(self, split: str = "test") -> Evaluation:
        """Read a saved evaluation."""
        return load_evaluation(self.path / "evaluation" / split)

    def summary(self) -> dict[str, Any]:
        """Read the summary: what was trained, on what, how long, with which outcome."""
        return read_json(self.path / "summary.json", "run summary")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write the summary."""
        write_json(self.path / "summary.json", summary)

    def save_state(self, step: int, tree: dict[str, Any], keep: int) -> Path:
        """Write a checkpoint for resuming and remove all but the newest ``keep``."""
        path = self.path / "checkpoints" / f"step-{step:08d}"
        save_tree(path, tree)
        for old in self.checkpoints()[:-keep]:
            shutil.rmtree(old)
        return path

    def checkpoints(self) -> list[Path]:
        """Return the complete checkpoints, oldest first."""
        folder = self.path / "checkpoints"
        if not folder.is_dir():
            return []
        return sorted(p for p in folder.iterdir() if _CHECKPOINT.fullmatch(p.name))

    def latest_state(self) -> dict[str, Any] | None:
        """Read the newest checkpoint; None if there is none.

        Raises:
            CheckpointError: if it is damaged; the one before, if there is one, is named.
        """
        found = self.checkpoints()
        if not found:
            return None
        try:
            return load_tree(found[-1])
        except CheckpointError as error:
            hint = f" Remove it to resume from {found[-2].name}." if len(found) > 1 else ""
            raise CheckpointError(f"{error}{hint}") from error


class MetricsWriter:
    """Appends lines to a run's metrics, each synced to the disk before the next step, and mirrors them to TensorBoard."""

    def __init__(self, run: Run, tensorboard: bool = True) -> None:
        run.path.mkdir(parents=True, exist_ok=True)
        self._file = run.metrics_path.open("a", encoding="utf-8")
        self._board: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run.path / "tensorboard"))

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append one line."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Sync and close."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self._board is not None:
            self._board.close()


def differences(a: Config, b: Config, prefix: str = "") -> list[str]:
    """Return the dotted names of the fields in which two configurations differ."""
    if type(a) is not type(b):
        return [prefix.rstrip(".") or type(b).__name__]
    found: list[str] = []
    for name, value in vars(a).items():
        other = getattr(b, name)
        if isinstance(value, Config) and isinstance(other, Config):
            found += differences(value, other, f"{prefix}{name}.")
        elif value != other:
            found.append(prefix + name)
    return found


def save_batch(run: Run, step: int, tensors: dict[str, Any]) -> Path:
    """Write the tensors of a batch that broke the training; return the file."""
    from intermodal.core.checkpoint import write_tensors

    path = run.path / f"broken-batch-step-{step}.safetensors"
    with atomic_file(path) as temporary:
        write_tensors(temporary, tensors)
    return path
