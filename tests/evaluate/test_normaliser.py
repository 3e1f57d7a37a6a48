"""The error of a learnt normaliser falls as theory says."""

from __future__ import annotations

import pytest

from intermodal.evaluate.normaliser import normaliser_lines, study_normaliser


def test_the_error_falls_as_one_over_the_root_of_the_sample_size():
    study = study_normaliser("gaussian-1d", (200, 800, 3200), repeats=24, seed=1)
    assert study.slope == pytest.approx(-0.5, abs=0.15)
    assert study.errors[0] > 1.5 * study.errors[1] > 2 * study.errors[2]
    assert study.errors[-1] < 0.03
    lines = normaliser_lines({"gaussian-1d": study})
    assert [len(s.x) for s in lines.series] == [3, 3] and lines.log_x and lines.log_y
