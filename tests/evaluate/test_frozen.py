"""Frozen features judged: encoders whose answer is known, labelled folders of every awkward shape."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError, TrainingError
from intermodal.core.progress import silent
from intermodal.data.emoji import EmojiSource
from intermodal.data.folder import FolderSource
from intermodal.data.groups import GroupSource
from intermodal.evaluate.frozen import compare_frozen, evaluate_frozen, judge_frozen, random_twin
from intermodal.evaluate.frozen_data import mild_view, read_part
from intermodal.evaluate.invariance import TRANSFORMATIONS
from intermodal.evaluate.result import Bars, Gallery, Heatmap, Lines, Table, load, save
from intermodal.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class SmallConfig(Config):
    size: int = 8


class Small(Method):
    """A linear map of a thumbnail, with weights of its own."""

    id = "small"
    modalities = ("image",)

    def __init__(self, config=None, processors=None):
        super().__init__(config or SmallConfig(), processors or {})
        self.net = nn.Linear(3 * self.config.size**2, 12)
        self.seen = 0

    def embed(self, modality, inputs):
        self.seen += len(inputs)
        return self.rows(inputs)

    def rows(self, inputs):
        side = (self.config.size, self.config.size)
        small = np.stack([np.asarray(p.convert("RGB").resize(side), np.float32).ravel() for p in inputs]) / 255
        with torch.no_grad():
            return nn.functional.normalize(self.net(torch.from_numpy(small)), dim=1).numpy()


class Perfect(Small):
    """Reads the concept off an emoji's first pixel, and so its sub-group; what moves the pixel, it does not know."""

    id = "perfect"

    def rows(self, inputs):
        red, green = zip(*(p.getpixel((0, 0))[:2] for p in inputs), strict=True)
        return np.eye(4, dtype=np.float32)[(np.array(red) + 256 * np.array(green)) % 4]


class Constant(Small):
    id = "constant"

    def rows(self, inputs):
        return np.full((len(inputs), 5), 0.4, np.float32)


class Broken(Small):
    id = "broken"

    def rows(self, inputs):
        rows = super().rows(inputs)
        for row, picture in zip(rows, inputs, strict=True):
            if picture.getpixel((0, 0)) == (255, 0, 0):
                row[:] = np.nan
        return rows


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch):
    """The baseline of raw pixels is the slowest of all: make it small."""
    monkeypatch.setattr("intermodal.evaluate.frozen.PIXELS_SIDE", 4)


@pytest.fixture
def emoji(monkeypatch, small_set):
    monkeypatch.setattr("intermodal.data.emoji.emoji_table", lambda: small_set)
    return EmojiSource()


def class_folder(folder: Path, counts: dict[str, int], splits=("train", "validation")) -> FolderSource:
    """Write pictures of a colour a class, under sub-folders of splits and classes; a count of 0 leaves the class out."""
    for number, split in enumerate(splits):
        for place, (name, count) in enumerate(counts.items()):
            rng = np.random.default_rng([number, place])
            for i in range(count if split == "train" else min(count, 6)):
                array = np.full((20, 24, 3), (40 * place + 20, 255 - 60 * place, 128)) + rng.integers(
                    -15, 15, (20, 24, 3)
                )
                path = folder / split / name / f"{split}-{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array.clip(0, 255).astype(np.uint8)).save(path)
    return FolderSource(path=folder)


def test_an_encoder_that_knows_the_classes(emoji, progress, tmp_path):
    method = Perfect()
    result = evaluate_frozen(method, emoji, "test", progress)
    m = result.metrics
    assert next(iter(m)) == "knn"
    assert list(m)[:4] == ["knn", "probe", "style_knn", "style_probe"]
    for name in ("knn", "probe", "style_knn", "style_probe", "knn_top5", "knn_class", "probe_class", "knn_plain"):
        assert m[name] == 1.0, name
    assert m["alignment"] == pytest.approx(0, abs=1e-12) and m["effective_rank"] == pytest.approx(4, abs=0.05)
    assert m["classes"] == 4 and m["unseen_classes"] == 0 and m["chance_top1"] == 0.25
    for who in ("pixels", "random"):
        for name in ("knn", "probe", "style_knn", "uniformity", "invariance_rotation", "readout_flip"):
            assert math.isfinite(m[f"{who}_{name}"]), (who, name)
        assert m[f"{who}_knn"] < 1 or who == "random", "random weights of this encoder change nothing"
    assert result.headline.figure == "100\N{NO-BREAK SPACE}%" and "raw pixels" in result.headline.sentence
    kinds = {type(panel) for panel in result.panels}
    assert kinds == {Bars, Table, Gallery, Heatmap, Lines}
    mistakes = next(p for p in result.panels if isinstance(p, Gallery) and p.failures)
    assert mistakes.rows == []
    neighbours = next(p for p in result.panels if isinstance(p, Gallery) and not p.failures)
    assert all(len(items) == 5 and all(item.good for item in items) for _, items in neighbours.rows)
    save(result, tmp_path / "evaluation")
    back = load(tmp_path / "evaluation")
    assert back.metrics.keys() == m.keys() and len(back.panels) == len(result.panels)
    shares = [share for _, share in progress.told]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1
    # Each picture of each split goes through the encoder once, then the transformed ones.
    sizes = [len(EmojiSource(unit="picture").open(split)) for split in ("train", "test", "style")]
    assert method.seen == sum(sizes) + (1 + len(TRANSFORMATIONS)) * min(sizes[1], 400)


def test_an_encoder_that_knows_nothing(emoji):
    m = evaluate_frozen(Constant(), emoji, "test", silent).metrics
    assert m["knn"] == pytest.approx(m["majority_top1"], abs=1e-6) or m["knn"] == pytest.approx(0.25, abs=0.05)
    assert m["probe"] == pytest.approx(m["knn"], abs=0.05)
    assert m["effective_rank"] == pytest.approx(1) and m["uniformity"] == pytest.approx(0, abs=1e-6)
    assert math.isnan(m["invariance_rotation"]) and math.isnan(m["equivariance_scale"])


def test_the_quick_one_has_the_method_alone(emoji):
    result = evaluate_frozen(Perfect(), emoji, "validation", silent, full=False)
    assert result.panels == [] and result.headline is None and result.split == "validation"
    assert result.metrics["knn"] == result.metrics["probe"] == 1.0
    assert not any(name.startswith(("pixels_", "random_", "invariance_", "style_")) for name in result.metrics)


def test_groups_are_judged_picture_by_picture(emoji):
    one = evaluate_frozen(Perfect(), emoji, "validation", silent, full=False)
    two = evaluate_frozen(Perfect(), GroupSource(source=emoji, pictures=2), "validation", silent, full=False)
    assert one.metrics == two.metrics


def test_several_models_in_one_table(emoji):
    torch.manual_seed(3)
    models = {"a/run": Perfect(), "b": Small(), "c": Small()}
    result = compare_frozen(models, emoji, "test", silent)
    assert result.metrics["a/run/knn"] == 1.0 and result.metrics["b/knn"] != result.metrics["c/knn"]
    table = next(p for p in result.panels if isinstance(p, Table))
    # b and c are one network: before training they are the same.
    assert [row[0] for row in table.rows] == [
        *("a/run", "b", "c", "random weights (a/run)", "random weights (b)"),
        *("raw pixels", "most frequent class", "chance"),
    ]
    assert table.emphasis == 0 and result.headline.sentence.startswith("a/run gives 100")
    heat = next(p for p in result.panels if isinstance(p, Heatmap))
    assert len(heat.rows) == 6 and heat.values.min() >= 0 and heat.values.max() <= 1


def test_random_weights_are_seeded_and_leave_the_generator_alone():
    torch.manual_seed(5)
    method = Small()
    before = torch.get_rng_state()
    one, two = random_twin(method), random_twin(method)
    assert torch.equal(one.net.weight, two.net.weight) and not torch.equal(one.net.weight, method.net.weight)
    assert torch.equal(before, torch.get_rng_state()) and not one.training


def test_a_labelled_folder(tmp_path):
    source = class_folder(tmp_path, {"cat": 12, "dog": 9, "owl": 1})
    judgement = judge_frozen({"small": Small()}, source, "validation", silent)
    row = judgement.rows[0]
    assert judgement.classes == ["cat", "dog", "owl"] and len(judgement.train) == 22
    # One owl in training, one judged: 20 neighbours of 22 outvote it, a linear map finds it by its colour.
    assert row.figures["knn_class"] < 1 and row.figures["probe"] > 0.9
    assert 0 < row.figures["alignment"] < 4, "of two mild views: nothing is known of things"
    assert judgement.guesses["majority_top1"] == pytest.approx(6 / 13)


def test_a_class_that_is_not_in_training_is_always_wrong(tmp_path):
    class_folder(tmp_path, {"cat": 12, "dog": 9}, splits=("train",))
    source = class_folder(tmp_path, {"cat": 6, "fox": 6, "gnu": 6}, splits=("validation",))
    result = evaluate_frozen(Small(), source, "validation", silent)
    assert result.metrics["unseen_classes"] == 2 and result.metrics["classes"] == 2
    for name in ("knn", "knn_top5", "knn_class", "probe", "probe_top5", "probe_class"):
        assert 0 < result.metrics[name] <= 1 / 3, name
    assert result.metrics["chance_top1"] == pytest.approx(1 / 6)
    table = next(p for p in result.panels if isinstance(p, Table))
    assert "Judged classes that are not in training: 2" in table.about
    class_folder(tmp_path / "other", {"cat": 9, "dog": 9}, splits=("train",))
    alien = class_folder(tmp_path / "other", {"fox": 3, "gnu": 3}, splits=("validation",))
    assert evaluate_frozen(Small(), alien, "validation", silent, full=False).metrics["knn"] == 0


def test_a_single_judged_picture(tmp_path):
    class_folder(tmp_path, {"cat": 9, "dog": 9}, splits=("train",))
    source = class_folder(tmp_path, {"cat": 1}, splits=("validation",))
    metrics = evaluate_frozen(Small(), source, "validation", silent, full=False).metrics
    assert (
        metrics["knn"] in (0.0, 1.0)
        and math.isnan(metrics["uniformity"])
        and metrics["effective_rank"] == pytest.approx(1)
    )
    result = evaluate_frozen(Small(), source, "validation", silent)
    assert "invariance_rotation" not in result.metrics, "too few pictures for it"
    assert not any(isinstance(panel, Lines) for panel in result.panels)


def test_bad_input(tmp_path, small_clip):
    class_folder(tmp_path / "same", {"cat": 8}, splits=("train",))
    same = class_folder(tmp_path / "same", {"cat": 8, "dog": 8}, splits=("validation",))
    with pytest.raises(DataError, match="are of the class 'cat': judging features takes at least two classes"):
        evaluate_frozen(Small(), same, "validation", silent)
    (tmp_path / "texts").mkdir()
    for i in range(20):
        Image.new("RGB", (8, 8)).save(tmp_path / "texts" / f"{i}.png")
        (tmp_path / "texts" / f"{i}.txt").write_text("words")
    with pytest.raises(DataError, match=r"has no field 'label' \(classes\); it offers .*one folder a class"):
        evaluate_frozen(Small(), FolderSource(path=tmp_path / "texts"), "validation", silent)
    good = class_folder(tmp_path / "good", {"cat": 9, "dog": 9})
    Image.new("RGB", (24, 20), (255, 0, 0)).save(tmp_path / "good" / "train" / "dog" / "train-0.png")
    with pytest.raises(TrainingError, match=r"The features of .*dog/train-0\.png are not finite"):
        evaluate_frozen(Broken(), good, "validation", silent)
    with pytest.raises(DataError, match="split"):
        evaluate_frozen(Small(), good, "elsewhere", silent)
    small_clip.modalities = ("text",)
    with pytest.raises(ConfigError, match=r"a model that embeds pictures; clip \(clip\) embeds text"):
        evaluate_frozen(small_clip, good, "validation", silent)


def test_unreadable_and_unlabelled_pictures_are_left_out_and_counted(tmp_path):
    source = class_folder(tmp_path, {"cat": 30, "dog": 30})
    (tmp_path / "train" / "cat" / "train-3.png").write_bytes(b"no picture")
    part, features = read_part(source, "train", [Small().rows], lambda share: None, None)
    assert part.unreadable == 1 and len(part) == len(part.labels) == len(features[0]) == 59
    assert part.name(0).endswith(".png") and part.picture(0).size == (24, 20)
    half, _ = read_part(source, "train", [], lambda share: None, 10)
    assert len(half) + half.unreadable == 10 and half.indices == sorted(half.indices)


def test_pairs_show_the_same_thing(emoji):
    part, _ = read_part(emoji, "test", [], lambda share: None, None)
    first, second = part.pairs()
    assert len(first) > 40 and (first != second).all()
    assert all(part.things[a] == part.things[b] for a, b in zip(first, second, strict=True))
    part.things = ["x", "y", "x", "", "z", "y", "y"]
    assert [tuple(p) for p in zip(*part.pairs(), strict=True)] == [(0, 2), (1, 5), (5, 6), (6, 1)]


def test_a_mild_view_is_seeded_and_mild():
    array = np.random.default_rng(0).integers(0, 256, (400, 300, 3), dtype=np.uint8)
    picture = Image.fromarray(array).resize((300, 400))
    assert mild_view(picture, 1).tobytes() == mild_view(picture, 1).tobytes() != mild_view(picture, 2).tobytes()
    assert max(mild_view(picture, 1).size) == 224 and picture.size == (300, 400)


def test_a_small_clip_goes_through(small_clip, tmp_path):
    source = class_folder(tmp_path, {"cat": 20, "dog": 20, "owl": 20})
    result = evaluate_frozen(small_clip, source, "validation", silent)
    assert result.metrics["probe"] > 0.8 and 0 <= result.metrics["random_probe"] <= 1
