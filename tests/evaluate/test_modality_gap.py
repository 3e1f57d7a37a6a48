"""The gap between two sets of vectors: exact cases, the plane that shows most, and the drawing."""

from __future__ import annotations

import numpy as np
import pytest

from intermodal.evaluate.modality_gap import draw_gap, gap, plane, told_apart


def test_gap_is_the_distance_of_the_means():
    one = np.array([[1.0, 0.0], [0.0, 1.0]])
    other = np.array([[-1.0, 0.0], [0.0, 1.0]])
    assert gap(one, other) == pytest.approx(1.0)
    assert gap(one, one) == 0
    assert gap(np.array([[1.0, 0.0]]), np.array([[-1.0, 0.0]])) == 2


def test_sets_are_told_apart_wholly_or_not_at_all():
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(500, 6))
    assert told_apart(cloud + 9, cloud - 9) == 1
    assert told_apart(cloud, rng.normal(size=(500, 6))) == pytest.approx(0.5, abs=0.08)


def test_the_plane_keeps_the_widest_directions_and_their_distances():
    rng = np.random.default_rng(1)
    wide = rng.normal(size=(60, 5)) * [9, 4, 0, 0, 0]
    turn, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    one, other = plane((wide @ turn)[:20], (wide @ turn)[20:])
    assert one.shape == (20, 2) and other.shape == (40, 2)
    flat = np.concatenate([one, other])
    assert np.allclose(np.linalg.norm(flat[0] - flat[1:], axis=1), np.linalg.norm(wide[0] - wide[1:], axis=1))


def test_the_drawing_shows_each_set_in_its_colour():
    rng = np.random.default_rng(2)
    sets = {"texts": rng.normal(size=(30, 4)), "pictures": rng.normal(size=(30, 4)) + 8}
    drawn = np.asarray(draw_gap(sets).convert("RGB")).astype(int)
    for colour in ((13, 125, 116), (138, 90, 0)):
        assert (np.abs(drawn - colour).max(-1) < 12).any()
