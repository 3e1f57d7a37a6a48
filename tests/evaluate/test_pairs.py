from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from intermodal.core.errors import DataError
from intermodal.core.fields import Field
from intermodal.data.source import Source, SourceConfig
from intermodal.evaluate import pairs
from intermodal.evaluate.pairs import evaluate_on_pairs
from intermodal.evaluate.result import Gallery, load, save

KINDS = ("cat", "dog", "hen")


class Pictures(Source):
    def __init__(self, config: "PicturesConfig", split: str) -> None:
        self.name, self.config = f"made up ({split})", config
        self.fields = {"image": Field((), "image"), "text": Field((), "str")}
        self.start, self.size = (0, 60) if split == "train" else (100, config.size)

    def __len__(self) -> int:
        return self.size

    def sample(self, index, rng=None):
        if index < self.config.broken:
            raise DataError(f"picture {index} cannot be read.")
        number = self.start + index
        noise = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        noise[:6, :6] = (number % 256, number // 256, 0)
        texts = [f"number {number} {word}" for word in ("walks", "sits", "runs")[: self.config.captions]]
        sample = {"image": Image.fromarray(noise), "text": texts[0], "captions": texts}
        if self.config.labelled:
            sample["label"] = KINDS[number % 3]
        return sample


@dataclass(frozen=True, kw_only=True)
class PicturesConfig(SourceConfig):
    size: int = 40
    captions: int = 1
    labelled: bool = False
    broken: int = 0

    def open(self, split: str) -> Source:
        return Pictures(self, split)


class Knows:
    id = "knows"
    modalities = ("image", "text")

    def embed(self, modality, inputs):
        out = np.zeros((len(inputs), 403), np.float32)
        for row, value in zip(out, inputs, strict=True):
            if modality == "image":
                red, green, _ = value.getpixel((0, 0))
                row[red + 256 * green], row[400 + (red + 256 * green) % 3] = 0.8, 0.6
            elif any(kind in value for kind in KINDS):
                row[400 + next(i for i, kind in enumerate(KINDS) if kind in value)] = 1
            else:
                row[int(value.split()[1])] = 1
        return out


@pytest.mark.parametrize("captions", [1, 3])
def test_a_perfect_embedder_is_always_right(captions, progress):
    m = evaluate_on_pairs(Knows(), PicturesConfig(captions=captions), "test", progress).metrics
    assert next(iter(m)) == "r10"
    assert m["r1"] == m["t2i_r1"] == m["i2t_r1"] == 1.0
    assert m["t2i_median_rank"] == m["i2t_median_rank"] == 1
    assert "top1" not in m
    shares = [share for _, share in progress.told]
    assert shares == sorted(shares) and len(shares) > 6


@pytest.mark.parametrize("captions", [1, 3])
def test_a_constant_embedder_is_chance(captions, embedders, progress):
    m = evaluate_on_pairs(embedders["constant"], PicturesConfig(captions=captions), "test", progress).metrics
    for name in ("r10", "r1", "t2i_r5", "i2t_r5", "t2i_median_rank", "i2t_median_rank"):
        assert m[name] == pytest.approx(m[f"chance_{name}"]), name
    assert m["chance_t2i_r10"] == pytest.approx(10 / 40)
    assert m["chance_i2t_r1"] == pytest.approx(captions / (captions * 40))


def test_classes_are_named_with_their_baselines(progress, tmp_path):
    result = evaluate_on_pairs(Knows(), PicturesConfig(labelled=True), "test", progress)
    m = result.metrics
    assert m["top1"] == 1.0 and m["chance_top1"] == pytest.approx(1 / 3) and m["chance_top5"] == 1.0
    assert m["majority_top1"] == pytest.approx(np.mean([(100 + i) % 3 == 0 for i in range(40)]))
    assert 0 <= m["pixels_top1"] <= 1 and 0 <= m["colours_top1"] <= 1
    save(result, tmp_path / "test")
    assert [p.title for p in load(tmp_path / "test").panels] == [p.title for p in result.panels]
    failures = next(p for p in result.panels if isinstance(p, Gallery) and p.failures)
    assert failures.rows == []


def test_pictures_with_the_same_words_share_a_text(monkeypatch, progress):
    sample = Pictures.sample
    monkeypatch.setattr(Pictures, "sample", lambda self, i, rng=None: {**sample(self, i), "captions": ["number 100"]})
    m = evaluate_on_pairs(Knows(), PicturesConfig(), "validation", progress).metrics
    assert m["i2t_r1"] == m["t2i_r1"] == 1.0


def test_a_large_split_is_sampled_and_says_so(monkeypatch, progress):
    monkeypatch.setattr(pairs, "MOST", 15)
    result = evaluate_on_pairs(Knows(), PicturesConfig(), "test", progress)
    table = next(p for p in result.panels if p.title == "Retrieval")
    assert "15 pictures and 15 texts of the test split, drawn at random (seed 0) from its 40." in table.about
    assert result.metrics["chance_t2i_r10"] == pytest.approx(10 / 15)


def test_the_quick_one_has_figures_alone_unless_asked(progress):
    quick = evaluate_on_pairs(Knows(), PicturesConfig(), "validation", progress)
    assert quick.panels == [] and quick.headline is None and "pixels_r10" not in quick.metrics
    full = evaluate_on_pairs(Knows(), PicturesConfig(), "validation", progress, full=True)
    assert full.split == "validation" and full.panels and "pixels_r10" in full.metrics


def test_a_few_unreadable_pictures_are_left_out_and_counted(progress):
    config = PicturesConfig(broken=2)
    result = evaluate_on_pairs(Knows(), config, "test", progress)
    assert "38 pictures" in next(p for p in result.panels if p.title == "Retrieval").about
    assert "2 unreadable pictures were left out" in next(p for p in result.panels if p.title == "Retrieval").about


def test_too_many_unreadable_pictures_are_an_error(progress):
    with pytest.raises(DataError, match="could not be read"):
        evaluate_on_pairs(Knows(), PicturesConfig(size=100, broken=60), "test", progress)
