"""The native way of training: resumed, ended by SIGTERM, on several threads, on text that cannot be learnt from."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from intermodal.core.errors import ConfigError, DataError, TrainingError
from intermodal.data.text import TextSource
from intermodal.recipes import get_recipe
from intermodal.recipes.word2vec import Word2VecRecipe
from intermodal.train import native
from intermodal.train.folder import Run
from intermodal.train.native import NativeTrainer
from intermodal.train.run import fit

pytest.importorskip("numba")


def recipe(**changes: object) -> Word2VecRecipe:
    smoke = get_recipe("word2vec").smoke()
    assert isinstance(smoke, Word2VecRecipe)
    return smoke.replace(**{"train__steps": 6, "train__checkpoint_every": 2, **changes})


def losses(run: Run) -> list[float]:
    return [line["loss"] for line in run.metrics("train")]


def train(path: Path, **changes: object) -> Run:
    return fit(recipe(**changes), path, evaluate=False, quiet=True)


def test_a_run_is_a_run_like_any_other(tmp_path):
    run = train(tmp_path / "run")
    lines = run.metrics("train")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["loss"] < lines[0]["loss"] < 6 * np.log(2) + 1e-6
    rates = [line["lr"] for line in lines]
    assert rates == sorted(rates, reverse=True) and rates[0] == 0.03 and rates[-1] < 0.03 / 4
    assert [line["epoch"] for line in lines] == [0, 0, 0, 1, 1, 1]
    summary = run.summary()
    assert summary["status"] == "finished" and summary["method"] == "word2vec"
    assert summary["samples"] == 2 * run.model().vocabulary.total
    assert len(run.checkpoints()) == 2 and not list(run.path.glob("*.int32")), "temporary files are gone"


def test_terminated_it_saves_and_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole")
    step = NativeTrainer._after_step

    def kill(self: NativeTrainer, values: dict[str, float], epoch: int) -> None:
        step(self, values, epoch)
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(native.NativeTrainer, "_after_step", kill)
    part = train(tmp_path / "part")
    assert part.summary()["status"] == "stopped" and part.summary()["steps"] == 3
    monkeypatch.undo()
    again = train(tmp_path / "part")
    assert losses(again) == losses(whole)
    assert (again.model().word_vectors() == whole.model().word_vectors()).all()


def test_another_seed_is_another_run(tmp_path):
    assert losses(train(tmp_path / "a")) != losses(train(tmp_path / "b", train__seed=1))


def test_several_threads_learn_the_same_work(tmp_path):
    one = losses(train(tmp_path / "one"))
    many = losses(train(tmp_path / "many", threads=3))
    assert many[-1] == pytest.approx(one[-1], rel=0.1) and many[-1] < many[0]


@pytest.mark.parametrize("algorithm", ["skip-gram", "cbow"])
def test_it_learns_what_stands_together(tmp_path, algorithm):
    rng = np.random.default_rng(0)
    groups = [[f"{g}{c}" for c in "bcdefghk"] for g in ("fruit", "metal", "river")]
    lines = [" ".join(rng.choice(groups[rng.integers(3)], 12)) for _ in range(3000)]
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    run = fit(
        recipe(
            source=TextSource(path=tmp_path / "text.txt", unit="line"),
            model__algorithm=algorithm,
            model__sample=0.0,
            epochs=20,
            optim__lr=0.05,
        ),
        tmp_path / "run",
        evaluate=False,
        quiet=True,
    )
    model = run.model()
    unit = model.word_vectors() / np.linalg.norm(model.word_vectors(), axis=1, keepdims=True)
    cosine = unit @ unit.T
    same = np.array([[a[:5] == b[:5] for b in model.words] for a in model.words]) & ~np.eye(24, dtype=bool)
    other = np.array([[a[:5] != b[:5] for b in model.words] for a in model.words])
    assert cosine[same].min() > cosine[other].max() + 0.1


def test_text_that_has_changed_is_not_gone_on_with(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one two three four five six seven\n\n" * 200, encoding="utf-8")
    source = TextSource(path=path, unit="paragraph")
    train(tmp_path / "run", source=source)
    newest = Run(tmp_path / "run").checkpoints()[-1]
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    path.write_text("one two three four five six seven\n\n" * 300, encoding="utf-8")
    with pytest.raises(ConfigError, match="has changed since the run began"):
        train(tmp_path / "run", source=source)
    assert not list((tmp_path / "run").glob("*.int32"))


@pytest.mark.parametrize(
    ("content", "changes", "error", "said"),
    [
        (b"", {}, DataError, "empty"),
        (b"  \n \n ", {}, DataError, "nothing to read|no words"),
        (b"12 34, 56.", {}, DataError, "holds no words"),
        (b"word " * 500, {}, DataError, "1 different words"),
        (b"all these words occur only once here", {"min_count": 5}, DataError, "at least 5 times"),
        ("caf\xe9 ol\xe9 ".encode("latin-1") * 90, {}, DataError, "not UTF-8"),
        ("some words ".encode("utf-16") * 90, {}, DataError, "not UTF-8"),
        (b"a b a b a b", {"train__steps": 1000}, ConfigError, "cannot be shared by 1000 steps"),
        (b"a b c " * 99, {"epochs": 0}, ConfigError, "epochs and steps of at least 1"),
        (b"a b c " * 99, {"source__unit": "sentence"}, ConfigError, "set source.unit"),
    ],
)
def test_what_cannot_be_trained_says_so_in_a_sentence(tmp_path, content, changes, error, said):
    path = tmp_path / "my.txt"
    path.write_bytes(content)
    source = TextSource(path=path, unit="paragraph")
    with pytest.raises(error, match=said) as caught:
        fit(recipe(source=source, min_count=2).replace(**changes), tmp_path / "run", evaluate=False, quiet=True)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.int32"))


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match=r"the last checkpoint stands.*lower optim\.lr"):
        train(tmp_path / "run", optim__lr=1e30)
    assert not (tmp_path / "run" / "model").exists()


def test_only_text_is_learnt_from():
    from intermodal.data.folder import FolderSource

    with pytest.raises(DataError, match="learns from text"):
        recipe().on(FolderSource(path=Path())).build()


@pytest.mark.parametrize("name", ["word2vec", "word2vec-cbow"])
def test_the_ordinary_loop_trains_the_same_method(tmp_path, name):
    chosen = get_recipe(name).smoke().replace(train__native=False, train__steps=25, optim__lr=1e-2)
    run = fit(chosen, tmp_path / "run", evaluate=False, quiet=True)
    assert losses(run)[-1] < losses(run)[0] - 0.3
    assert "grad_norm" in run.metrics("train")[0], "autograd was at work"


def test_several_processes_are_refused(tmp_path, monkeypatch):
    class Two:
        num_processes = 2

    monkeypatch.setattr(native, "PartialState", Two)
    with pytest.raises(ConfigError, match=r"start one process, or set train\.native=False"):
        train(tmp_path / "run")
