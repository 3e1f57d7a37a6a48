"""The training loop: killed, terminated, broken by NaN, spread over processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from intermodal.core.errors import ConfigError, DataError, TrainingError
from intermodal.data.folder import FolderSource
from intermodal.methods.contrastive.clip import CLIP
from intermodal.recipes import get_recipe
from intermodal.train.folder import Run
from intermodal.train.run import fit


@pytest.fixture
def recipe(pictures):
    return (
        get_recipe("clip")
        .smoke()
        .on(FolderSource(path=pictures))
        .replace(train__steps=6, train__batch_size=4, train__checkpoint_every=2, train__log_every=1)
    )


def losses(path: Path) -> list[float]:
    return [line["loss"] for line in Run(path).metrics("train")]


def script(recipe_file: Path, run: Path, extra: str = "") -> list[str]:
    code = (
        "import sys, time, torch\n"
        "torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from intermodal.recipes.base import Recipe\n"
        "from intermodal.train.run import fit\n"
        f"{extra}\n"
        "fit(Recipe.from_json(Path(sys.argv[1]).read_text()), sys.argv[2], evaluate=False, quiet=True)\n"
    )
    return [sys.executable, "-c", code, str(recipe_file), str(run)]


SLOW = (
    "from intermodal.train import loop\n"
    "step = loop.Trainer._step\n"
    "def slow(self, batch):\n"
    "    time.sleep(0.3)\n"
    "    return step(self, batch)\n"
    "loop.Trainer._step = slow\n"
)


def wait_for_lines(path: Path, count: int, process: subprocess.Popen, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (path / "metrics.jsonl").exists() and len(losses(path)) >= count:
            return
        assert process.poll() is None, "training ended too early"
        time.sleep(0.05)
    raise AssertionError("training wrote no metrics in time")


def test_killed_in_mid_epoch_it_goes_on_with_the_same_bits(recipe, tmp_path):
    recipe = recipe.replace(train__steps=12, train__batch_size=3)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    whole = tmp_path / "whole"
    subprocess.run(script(tmp_path / "recipe.json", whole), check=True)
    killed = tmp_path / "killed"
    process = subprocess.Popen(script(tmp_path / "recipe.json", killed, SLOW))
    wait_for_lines(killed, 5, process)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 5 <= len(losses(killed)) < 12
    subprocess.run(script(tmp_path / "recipe.json", killed), check=True)
    assert len(losses(whole)) == 12
    assert losses(killed) == losses(whole)
    a, b = (safetensors.torch.load_file(p / "model" / "model.safetensors") for p in (whole, killed))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_sigterm_saves_and_ends_cleanly(recipe, tmp_path):
    recipe = recipe.replace(train__steps=200, train__checkpoint_every=1000)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    process = subprocess.Popen(script(tmp_path / "recipe.json", tmp_path / "run", SLOW))
    wait_for_lines(tmp_path / "run", 2, process)
    process.terminate()
    assert process.wait(timeout=60) == 0
    run = Run(tmp_path / "run")
    assert run.summary()["status"] == "stopped"
    assert run.latest_state()["step"] == run.summary()["steps"] == len(losses(run.path))
    assert isinstance(run.model(), CLIP)


def test_nan_stops_before_the_weights_and_saves_the_batch(recipe, tmp_path, monkeypatch):
    calls = []
    original = CLIP.loss

    def poisoned(self, batch):
        result = original(self, batch)
        calls.append(1)
        return type(result)(result.total * (float("nan") if len(calls) == 3 else 1.0), result.parts)

    monkeypatch.setattr(CLIP, "loss", poisoned)
    with pytest.raises(TrainingError, match="loss is nan at step 2"):
        fit(recipe, tmp_path / "run", evaluate=False, quiet=True)
    saved = safetensors.torch.load_file(next((tmp_path / "run").glob("broken-batch-*.safetensors")))
    assert saved["image"].shape[0] == 4
    run = Run(tmp_path / "run")
    assert len(losses(run.path)) == 2
    weights = run.latest_state()["model"]
    assert all(torch.isfinite(v).all() for v in weights.values() if v.is_floating_point())


# accelerate's launcher starts several processes with --multi_gpu alone; ACCELERATE_USE_CPU makes them CPU processes.
def spread(launcher: list[str], recipe_file: Path, run: Path) -> None:
    code = run.parent / "train.py"
    code.write_text(script(recipe_file, run)[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*launcher, str(code), str(recipe_file), str(run)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    "launcher",
    [
        ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29611"],
        ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no",
         "--dynamo_backend=no", "--main_process_port=29612"],
    ],
    ids=["torchrun", "accelerate"],
)  # fmt: skip
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_two_processes_give_the_same_curve_as_one(recipe, tmp_path, launcher, loss):
    if launcher[1].startswith("accelerate") and loss == "sigmoid":
        pytest.skip("one loss is enough for the second launcher")
    recipe = recipe.replace(train__steps=6, train__precision="fp32", model__loss=loss)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    fit(recipe, tmp_path / "one", evaluate=False, quiet=True)
    spread([sys.executable, *launcher], tmp_path / "recipe.json", tmp_path / "two")
    assert Run(tmp_path / "two").summary()["processes"] == 2
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=2e-5)


def test_accumulation_is_refused_where_it_would_change_the_loss(recipe, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.chunk_size"):
        fit(recipe.replace(train__accumulate=2), tmp_path / "run", quiet=True)


def test_a_source_without_the_field_is_refused_before_the_first_step(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(CLIP, "needs", {**CLIP.needs, "depth": CLIP.needs["image"]})
    with pytest.raises(DataError, match="depth .* is missing"):
        fit(recipe, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_another_recipe_in_the_same_folder_is_refused(recipe, tmp_path):
    fit(recipe.replace(train__steps=1), tmp_path / "run", evaluate=False, quiet=True)
    with pytest.raises(ConfigError, match=r"different: optim\.lr, train\.steps"):
        fit(recipe.replace(optim__lr=1.0), tmp_path / "run", evaluate=False, quiet=True)


def test_unreadable_pictures_are_reported_and_skipped_up_to_the_share(recipe, pictures, tmp_path):
    broken = pictures / "000.png"
    broken.write_bytes(broken.read_bytes()[:60])
    run = fit(recipe, tmp_path / "run", evaluate=False, quiet=True)
    names = [name for line in run.metrics("skipped") for name in line["files"]]
    assert names and all("000.png" in n for n in names)
    for picture in pictures.glob("*.png"):
        picture.write_bytes(picture.read_bytes()[:60])
    with pytest.raises(DataError, match="in a row are unreadable"):
        fit(recipe, tmp_path / "run2", evaluate=False, quiet=True)


def test_metrics_hold_the_cost_of_training(recipe, tmp_path):
    run = fit(recipe.replace(optim__ema=0.9), tmp_path / "run", evaluate=False, quiet=True)
    line = json.loads(run.metrics_path.read_text().splitlines()[0])
    for name in (
        "loss",
        "lr",
        "grad_norm",
        "samples_per_second",
        "data_wait",
        "memory_mb",
        "mfu",
        "logit_scale",
    ):
        assert line[name] >= 0, name
    assert 0 <= line["data_wait"] <= 1
    assert 0 < line["mfu"] < 1
    assert list((run.path / "tensorboard").iterdir())
    assert run.summary()["status"] == "finished"
    average = run.latest_state()["average"]
    saved = safetensors.torch.load_file(run.model_path / "model.safetensors")
    assert torch.equal(saved["logit_scale"], average["module.logit_scale"])
