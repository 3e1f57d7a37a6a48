"""Measured results: of most figures more is better, of distances less."""

from intermodal.recipes.measured import beats_baseline, in_words


def test_a_distance_beats_its_baseline_by_being_smaller():
    distance = {"metric": "frechet", "value": 0.5, "baseline": 3.2}
    assert beats_baseline(distance) and not beats_baseline({**distance, "value": 4.0})
    recall = {"metric": "concept_r10", "value": 0.5, "baseline": 0.04}
    assert beats_baseline(recall) and not beats_baseline({**recall, "value": 0.03})


def test_words_say_which_way_is_better():
    assert (
        in_words({"metric": "frechet", "value": 0.5, "baseline": 3.2})
        == "frechet 0.500 (baseline 3.200; less is better)"
    )
    assert in_words({"metric": "psnr", "value": 20.0, "baseline": 15.0}) == "psnr 20.000 (baseline 15.000)"
