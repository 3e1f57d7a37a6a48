from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from intermodal.core.errors import DataError
from intermodal.data.image_pairs import ImagePairSource
from intermodal.data.pictures import PictureSource
from intermodal.data.processors import ImageProcessor
from intermodal.data.transforms import ImageAugment
from intermodal.evaluate.views import auroc, evaluate_listed_pairs, evaluate_views, views_gallery

PROCESSOR = ImageProcessor(size=(16, 16))


class MeanColour:
    """Embeds a picture as the direction of its mean colour."""

    modalities = ("image",)

    def embed(self, modality, inputs):
        means = np.stack([np.asarray(p, np.float32).mean((0, 1)) + 1e-3 for p in inputs])
        return means / np.linalg.norm(means, axis=1, keepdims=True)


def quiet(what: str, share: float) -> None:
    pass


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.new("RGB", (18, 18), tuple(rng.integers(20, 255, 3).tolist())).save(tmp_path / f"{i:02d}.png")
    return tmp_path


def test_auroc_is_scikit_learns_with_ties():
    rng = np.random.default_rng(0)
    for size in (5, 40):
        scores = rng.integers(0, 8, size).astype(float)
        positive = np.arange(size) % 3 == 0
        assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))


def test_views_are_found_where_colour_tells_and_views_keep_it(folder):
    source = PictureSource(path=folder, validation_share=0.5)
    augment = ImageAugment(flip=0.5, crop=(0.3, 1.0), views=2)
    result = evaluate_views(MeanColour(), source, "validation", quiet, processor=PROCESSOR, augment=augment)
    count = len(source.open("validation"))
    assert result.metrics["view_r1"] == 1.0
    assert result.metrics["chance_view_r1"] == pytest.approx(1 / count)
    assert result.metrics["alignment"] == pytest.approx(0, abs=1e-4)
    assert result.headline is not None
    lost = augment.replace(grey=1.0, brightness=0.9)  # views that keep nothing of the colour's direction
    assert (
        evaluate_views(MeanColour(), source, "validation", quiet, processor=PROCESSOR, augment=lost).metrics["view_r1"]
        < 0.5
    )
    again = evaluate_views(MeanColour(), source, "validation", quiet, processor=PROCESSOR, augment=augment)
    assert again.metrics == result.metrics


def test_listed_pairs_are_judged_by_their_order(folder):
    rows = [f"{i:02d}.png,{i:02d}.png,1\n{i:02d}.png,{(i + 7) % 20:02d}.png,0" for i in range(20)]
    (folder / "pairs.csv").write_text("a,b,same\n" + "\n".join(rows) + "\n", encoding="utf-8")
    source = ImagePairSource(path=folder / "pairs.csv", validation_share=0.5)
    result = evaluate_listed_pairs(MeanColour(), source, "validation", quiet)
    assert result.metrics["auroc"] == 1.0
    assert result.metrics["chance_auroc"] == 0.5
    assert len(result.panels[0].rows) > 0
    (folder / "one.csv").write_text(
        "a,b,same,split\n00.png,01.png,1,train\n00.png,02.png,0,train\n03.png,04.png,1,val\n", encoding="utf-8"
    )
    with pytest.raises(DataError, match="of one kind"):
        evaluate_listed_pairs(MeanColour(), ImagePairSource(path=folder / "one.csv"), "validation", quiet)


def test_the_gallery_shows_a_picture_and_its_views(folder):
    source = PictureSource(path=folder).open("train")
    augment = ImageAugment(brightness=0.5, views=2)
    gallery = views_gallery(source, PROCESSOR, augment)
    query, items = gallery.rows[0]
    assert query.image.size == (16, 16)
    assert len(gallery.rows) == 8
    assert len(items) == 6
    shown = torch.stack([torch.from_numpy(np.array(item.image)).float().mean() for item in items])
    assert shown.std() > 1  # brighter and darker
    plain = views_gallery(source, PROCESSOR, None).rows[0]
    assert np.array_equal(np.array(plain[0].image), np.array(plain[1][0].image))
