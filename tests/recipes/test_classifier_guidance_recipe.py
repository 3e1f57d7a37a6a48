"""The recipe of classifier guidance on a person's folders: what is judged, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.folder import FolderSource
from intermodal.evaluate.classifier_guidance import known, study
from intermodal.methods.image_generation.classifier_guidance import ClassifierGuidance
from intermodal.recipes import get_recipe
from intermodal.recipes.image_generation import TextChoice


def pictures(folder, classes, count=8):
    rng = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 60, (12, 12, 3)) + 70 * number
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return FolderSource(path=folder, validation_share=0.4)


def test_a_folder_of_folders_is_enough(tmp_path):
    source = pictures(tmp_path, ("cat", "dog"), count=24)
    recipe = get_recipe("classifier-guidance").smoke().on(source)
    model = recipe.build().eval()
    assert isinstance(model, ClassifierGuidance) and model.names == ("cat", "dog")
    assert recipe.source == source and recipe.replace(final_split="validation").final_split == "validation"
    metrics, panels = study(model, source, "validation", lambda *about: None, count=6)
    assert {"noisy_accuracy", "class_accuracy", "chance_class_accuracy", "real_class_accuracy"} <= set(metrics)
    assert all(0 <= value <= 1 for value in metrics.values())
    assert metrics["real_class_accuracy"] > 0.9  # one class is dark, the other is not
    assert [panel.title for panel in panels] == [
        "The classifier against noise",
        "How strongly the classifier pulls",
        "Fidelity against diversity",
        "One seed at several scales",
        "While it draws",
    ]
    assert known(model, ["cat", "bird", None]) == ["cat", None, None]


def test_data_without_two_classes_is_refused_in_words(tmp_path):
    recipe = get_recipe("classifier-guidance").smoke()
    one = pictures(tmp_path / "one", (".",))
    rows = ["file_name,text,label", *(f"{i}.png,picture {i},cat" for i in range(8))]
    (tmp_path / "one" / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(DataError, match="of the class 'cat': a classifier needs two"):
        recipe.on(one).build()
    with pytest.raises(DataError, match="lie in one folder"):
        recipe.on(pictures(tmp_path / "folder", ("cat",))).build()
    flat = pictures(tmp_path / "flat", (".",))
    with pytest.raises(DataError, match="class"):
        recipe.on(flat).build()
    for file in (tmp_path / "flat").iterdir():
        file.with_suffix(".txt").write_text("a picture", encoding="utf-8")
    with pytest.raises(DataError, match="has no classes"):
        recipe.on(flat).build()
    with pytest.raises(ConfigError, match="name of a class, no text"):
        recipe.replace(texts=TextChoice()).build()
