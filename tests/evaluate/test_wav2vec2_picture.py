"""The picture of wav2vec 2.0's task: its numbers against plain loops, and that short and long recordings are drawn."""

import numpy as np
import torch

from intermodal.data.audio import Waveform
from intermodal.evaluate.wav2vec2_picture import draw_told_apart, places, runs
from intermodal.recipes import get_recipe


def test_runs_are_where_a_mask_is_true():
    mask = np.array([1, 1, 0, 0, 1, 0, 1], bool)
    assert runs(mask) == [(0, 2), (4, 5), (6, 7)]
    assert runs(~mask) == [(2, 4), (5, 6)]


def test_places_count_likelier_targets_with_other_codes():
    rng = np.random.default_rng(0)
    cosine, code = rng.standard_normal((9, 9)), rng.integers(0, 2, (9, 2))
    found = places(cosine, code)
    for i in range(9):
        others = [j for j in range(9) if tuple(code[j]) != tuple(code[i])]
        assert found[i] == sum(cosine[i, j] > cosine[i, i] for j in others) / len(others)
    assert places(cosine, np.zeros((9, 1), int)).tolist() == [0.0] * 9  # nothing else could be said


def test_recordings_of_any_length_are_drawn():
    torch.manual_seed(0)
    method = get_recipe("wav2vec2").smoke().build().eval()
    samples = np.random.default_rng(0).standard_normal(9000).astype(np.float32)
    image = draw_told_apart(method, Waveform(samples, 16_000), "said $1")
    assert image.size == (1600, 1376) and len(image.getcolors(1 << 24)) > 100
    assert np.array_equal(np.asarray(image), np.asarray(draw_told_apart(method, Waveform(samples, 16_000), "said $1")))
    other = draw_told_apart(method, Waveform(samples, 16_000), "said $1", seed=1)
    assert not np.array_equal(np.asarray(image), np.asarray(other))
    assert draw_told_apart(method, Waveform(samples[:300], 16_000)).size == image.size
