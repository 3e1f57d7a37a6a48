import numpy as np
import pytest

from intermodal.core.errors import DataError
from intermodal.evaluate.emoji import evaluate_on_emoji
from intermodal.evaluate.result import Bars, Gallery, Heatmap, Table, load, save

OWN = [f"concept_{way}_r{k}" for way in ("t2i", "i2t") for k in (1, 5, 10)]


@pytest.mark.usefixtures("small_set")
def test_a_perfect_embedder_is_always_right(embedders, progress):
    result = evaluate_on_emoji(embedders["perfect"], "test", progress)
    m = result.metrics
    assert next(iter(m)) == "concept_r10"
    more = ["concept_mean_r10", "concept_strange_r10"]
    for name in [*OWN, *more, "concept_r1", "concept_name_r10", "new_style_r1", "style_top1", "style_all_top1"]:
        assert m[name] == 1.0, name
    assert m["concept_t2i_median_rank"] == m["concept_i2t_median_rank"] == 1
    assert m["alignment"] == pytest.approx(0)
    assert result.headline.figure == "100\N{NO-BREAK SPACE}%"
    assert not any(
        panel.rows for panel in result.panels if isinstance(panel, Gallery) and panel.title.startswith("Sure")
    )


@pytest.mark.usefixtures("small_set")
def test_a_constant_embedder_is_chance(embedders, progress):
    m = evaluate_on_emoji(embedders["constant"], "test", progress).metrics
    for name in [
        *OWN,
        "concept_r10",
        "concept_mean_r10",
        "concept_strange_r10",
        "new_style_r10",
        "style_top1",
        "style_top5",
        "style_all_top1",
        "subgroup_top1",
    ]:
        assert m[name] == pytest.approx(m[f"chance_{name}"]), name
    # 40 held-out concepts: styles one and two draw all of them, style three half.
    assert m["chance_concept_i2t_r10"] == pytest.approx(10 / 40)
    assert m["chance_concept_t2i_r10"] == pytest.approx((40 * 10 / 40 + 40 * 10 / 40 + 20 * 10 / 20) / 100)
    assert m["chance_style_top1"] == pytest.approx(1 / 120)
    assert m["chance_subgroup_top1"] == pytest.approx(1 / 4)
    assert m["effective_rank_image"] == pytest.approx(1, abs=1e-3) and m["modality_gap"] == pytest.approx(0)


@pytest.mark.usefixtures("small_set")
def test_a_random_embedder_is_near_chance_and_baselines_stand_beside(embedders, progress):
    m = evaluate_on_emoji(embedders["random"], "test", progress).metrics
    assert abs(m["concept_r10"] - m["chance_concept_r10"]) < 0.15
    assert m["style_top1"] < 0.1
    for who in ("pixels_", "colours_", "chance_"):
        for name in (
            "concept_r10",
            "concept_name_r10",
            "new_style_r10",
            "style_top1",
            "style_all_top5",
            "subgroup_top1",
        ):
            assert 0 <= m[who + name] <= 1
    assert 0 <= m["majority_subgroup_top1"] <= 1
    # Much of a picture is the same in every style, so raw pixels know the trained concepts.
    assert m["pixels_style_top1"] > 0.9
    assert m["pixels_style_all_top1"] < m["pixels_style_top1"]


@pytest.mark.usefixtures("small_set")
def test_the_quick_one_has_the_same_names_and_no_panels(embedders, progress):
    quick = evaluate_on_emoji(embedders["perfect"], "validation", progress)
    assert quick.panels == [] and quick.headline is None and quick.split == "validation"
    assert quick.metrics["concept_r10"] == quick.metrics["style_top1"] == 1.0
    assert not any(name.startswith(("pixels_", "colours_")) for name in quick.metrics)
    shares = [share for _, share in progress.told]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1


@pytest.mark.usefixtures("small_set")
def test_panels_survive_the_disk_and_mark_what_is_right(embedders, progress, tmp_path):
    result = evaluate_on_emoji(embedders["random"], "test", progress)
    kinds = {type(panel) for panel in result.panels}
    assert kinds == {Gallery, Heatmap, Table, Bars}
    save(result, tmp_path / "test")
    again = load(tmp_path / "test")
    assert [p.title for p in again.panels] == [p.title for p in result.panels]
    gallery = next(p for p in again.panels if p.title == "From a text to pictures")
    assert len(gallery.rows) == 12
    for query, items in gallery.rows:
        right = [item.good for item in items]
        found = int(query.note.split("rank ")[1].split(" ")[0])
        assert right.count(True) == (1 if found <= len(items) else 0)
        if found <= len(items):
            assert right.index(True) == found - 1
    shares = [share for _, share in progress.told]
    assert shares == sorted(shares) and len(shares) > 8


@pytest.mark.usefixtures("small_set")
def test_the_same_twice_is_the_same(embedders, progress):
    a, b = (evaluate_on_emoji(embedders["random"], "test", progress) for _ in range(2))
    assert a.metrics == b.metrics
    for one, two in zip(a.panels, b.panels, strict=True):
        if isinstance(one, Heatmap):
            np.testing.assert_array_equal(one.values, two.values)


def test_another_split_is_refused(embedders, progress):
    with pytest.raises(DataError, match="not 'style'"):
        evaluate_on_emoji(embedders["constant"], "style", progress)


def test_on_the_shipped_set_a_constant_embedder_is_chance(embedders, progress):
    m = evaluate_on_emoji(embedders["constant"], "validation", progress).metrics
    assert m["chance_concept_i2t_r10"] == pytest.approx(10 / 150)
    assert m["concept_r10"] == pytest.approx(m["chance_concept_r10"])
    assert m["style_top1"] == pytest.approx(m["chance_style_top1"])


@pytest.mark.usefixtures("small_set")
def test_concepts_without_a_relative_are_judged_apart(embedders, progress):
    """An embedder that is right only where a relative is in training scores 1 there and worse on the strangers."""

    class Half(type(embedders["perfect"])):
        def embed(self, modality, inputs):
            out = super().embed(modality, inputs)
            for row in out:
                if row.argmax() % 12 >= 6 and modality == "image":  # the synthetic set's concepts without a family
                    row[:] = np.roll(row, 12)
            return out

    m = evaluate_on_emoji(Half(), "test", progress).metrics
    assert m["concept_strange_r10"] < m["concept_r10"] < 1
