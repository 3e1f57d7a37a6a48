from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from intermodal.core.errors import DataError
from intermodal.data.folder import FolderSource
from intermodal.data.groups import GroupSource
from intermodal.data.image_pairs import ImagePairSource
from intermodal.data.pictures import PictureSource
from intermodal.recipes import get_recipe
from intermodal.train.run import fit

NAMES = ("simclr", "vicreg", "e-ssl", "siamese", "supcon", "supervised", "triplet")
FREE = ("simclr", "vicreg", "e-ssl")


def save(path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(level)
    Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def labelled(tmp_path):
    for i in range(60):
        save(tmp_path / "labelled" / "abc"[i % 3] / f"{i}.png", i)
    return tmp_path / "labelled"


@pytest.fixture
def bare(tmp_path):
    for i in range(24):
        save(tmp_path / "bare" / f"{i}.png", i)
    return tmp_path / "bare"


def test_all_seven_share_tower_budget_and_pictures_a_step():
    recipes = [get_recipe(name) for name in NAMES]
    assert len({recipe.model.image for recipe in recipes}) == 1
    assert len({recipe.train.steps for recipe in recipes}) == 1
    compared = {r.train.batch_size * min(r.model.views, 2 if r.name == "e-ssl" else 9) for r in recipes}
    assert len(compared) == 1
    for recipe in recipes:
        assert recipe.augment.views == recipe.model.views


@pytest.mark.parametrize("name", ["simclr", "triplet"])
def test_a_labelled_folder_trains_and_is_judged(name, labelled, tmp_path):
    recipe = get_recipe(name).smoke().on(FolderSource(path=labelled, validation_share=0.5))
    recipe = recipe.replace(model__image__image_size=32, train__steps=2)
    run = fit(recipe, tmp_path / "run", quiet=True)
    result = run.evaluation("test")
    assert 0 <= result.metrics["knn"] <= 1
    assert result.panels[-1].title == "What training looks at"
    assert run.model().embed("image", [Image.new("RGB", (9, 9))]).shape[0] == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_labelled_folder_trains_each(name, labelled, tmp_path):
    recipe = get_recipe(name).smoke().on_named(str(labelled)).replace(model__image__image_size=32, train__steps=2)
    run = fit(recipe, tmp_path / "run", evaluate=False, quiet=True)
    assert np.isfinite([line["loss"] for line in run.metrics("train")]).all()


@pytest.mark.parametrize("name", [*FREE, "siamese", "triplet"])
def test_pictures_alone_are_enough_without_labels(name, bare, tmp_path):
    recipe = get_recipe(name).smoke().on_named(str(bare))
    assert isinstance(recipe.source, PictureSource)
    recipe = recipe.replace(model__image__image_size=32, train__steps=2)
    run = fit(recipe, tmp_path / "run", quiet=True)
    assert 0 <= run.evaluation("test").metrics["view_r1"] <= 1


@pytest.mark.parametrize("name", ["supcon", "supervised"])
def test_what_needs_labels_says_so(name, bare):
    with pytest.raises(DataError, match="has no classes"):
        get_recipe(name).smoke().on_named(str(bare)).build()


@pytest.mark.parametrize("name", ["supcon", "supervised", "triplet", "siamese"])
def test_one_class_is_refused_before_training(name, tmp_path, labelled):
    for folder in "bc":
        for file in (labelled / folder).iterdir():
            file.unlink()
        (labelled / folder).rmdir()
    (labelled / "metadata.csv").write_text(
        "file_name,text,label\n" + "\n".join(f"a/{3 * i}.png,a,a" for i in range(20)) + "\n", encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"of the class 'a'.*at least two"):
        get_recipe(name).smoke().on_named(str(labelled)).build()


def test_a_list_of_pairs_trains_siamese_and_nothing_else(bare, tmp_path):
    rows = [f"{i}.png,{(i * 5 + 1) % 24}.png,{i % 2}" for i in range(24)]
    (bare / "pairs.csv").write_text("a,b,same\n" + "\n".join(rows) + "\n", encoding="utf-8")
    recipe = get_recipe("siamese").smoke().on_named(str(bare / "pairs.csv"))
    assert isinstance(recipe.source, ImagePairSource)
    recipe = recipe.replace(
        model__image__image_size=32, train__steps=2, train__batch_size=8, source__validation_share=0.4
    )
    run = fit(recipe, tmp_path / "run", quiet=True)
    assert 0 <= run.evaluation("test").metrics["auroc"] <= 1
    with pytest.raises(DataError, match="trains siamese"):
        get_recipe("simclr").on_named(str(bare / "pairs.csv"))


def test_triplets_come_in_groups_of_a_persons_classes(labelled):
    recipe = get_recipe("triplet").on_named(str(labelled))
    assert isinstance(recipe.source, GroupSource)
    sample = recipe.source.open("train").sample(0)
    assert len(sample["image"]) == recipe.model.views == recipe.augment.views
    assert recipe.model.image.size == (64, 64)


@pytest.mark.parametrize("pairs", ["labels", "views"])
def test_siamese_takes_labels_or_leaves_them(pairs, labelled, tmp_path):
    recipe = get_recipe("siamese").smoke().on_named(str(labelled))
    recipe = recipe.replace(model__pairs=pairs, model__image__image_size=32, train__steps=2)
    assert ("label" in recipe.build().needs) == (pairs == "labels")
    fit(recipe, tmp_path / "run", evaluate=False, quiet=True)
