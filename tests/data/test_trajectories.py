"""Moments of a drawing: which are kept, and what the strip and the animation show of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from intermodal.core.drawing import Glimpse
from intermodal.core.errors import DataError
from intermodal.data.trajectories import Trajectory, evenly, frames, save_animation, strip


def grey(value: int, size: int = 4) -> Image.Image:
    return Image.new("RGB", (size, size), (value,) * 3)


def watched(trajectory: Trajectory, steps: int, batches: tuple[int, ...] = (1,), size: int = 4) -> list[Image.Image]:
    """Draw pictures whose prediction is as grey as the step's number, and whose noisy version is black."""
    for number, count in enumerate(batches):
        for done in range(steps):
            trajectory(
                Glimpse(
                    done,
                    steps,
                    1 - done / steps,
                    lambda v=number * 100 + done, n=count: [grey(v, size)] * n,
                    lambda n=count: [grey(0, size)] * n,
                    count,
                )
            )
    return [grey(250, size)] * sum(batches)


@given(st.integers(1, 60), st.integers(1, 1000))
def test_moments_are_spread_evenly(count: int, of: int) -> None:
    found = evenly(count, of)
    assert found == sorted(set(found)) and len(found) == min(count, of) and found[0] == 0
    if count > 1:
        assert found[-1] == of - 1
        gaps = [b - a for a, b in itertools.pairwise(found)]
        assert not gaps or max(gaps) - min(gaps) <= 1


def test_moments_and_the_end() -> None:
    trajectory = Trajectory(kept=5)
    pictures = watched(trajectory, 101)
    moments = trajectory.end(pictures)
    assert [m.done for m in moments] == [0, 25, 50, 75, 100, 101] and moments[0].noise == 1
    assert [m.becoming[0].getpixel((0, 0))[0] for m in moments] == [0, 25, 50, 75, 100, 250]
    assert moments[2].noisy[0].getpixel((0, 0)) == (0, 0, 0)


def test_several_batches_are_one_moment() -> None:
    trajectory = Trajectory(kept=3, pictures=5)
    assert trajectory.now() == []
    pictures = watched(trajectory, 3, (2, 2, 2))
    moments = trajectory.end(pictures)
    assert [len(m.becoming) for m in moments] == [len(m.noisy) for m in moments] == [5] * 4
    assert [p.getpixel((0, 0))[0] for p in moments[1].becoming] == [1, 1, 101, 101, 201]
    assert [p.getpixel((0, 0))[0] for p in trajectory.now()] == [2, 2, 102, 102, 202]


def test_pictures_are_not_looked_at_without_need() -> None:
    trajectory, looked = Trajectory(kept=2), list[int]()

    def see(done: int) -> list[Image.Image]:
        looked.append(done)
        return [grey(done)]

    for done in range(10):
        trajectory(Glimpse(done, 10, 0.5, lambda d=done: see(d), lambda: [grey(0)], 1))
    assert looked == [0, 9]


def test_large_pictures_are_kept_small() -> None:
    trajectory = Trajectory(side=8)
    pictures = watched(trajectory, 2, size=32)
    assert {p.size for m in trajectory.end(pictures) for p in (*m.noisy, *m.becoming)} == {(8, 8)}
    assert pictures[0].size == (32, 32)


def test_a_strip_shows_noise_above_and_what_it_becomes_below() -> None:
    trajectory = Trajectory()
    moments = trajectory.end(watched(trajectory, 40, (2,), size=32))
    found = strip(moments)
    left, top, cell = found.width - (10 * 66 - 2), found.height - (2 * 130 + 10 - 2), 66
    where = [(left + i * cell + 5, top + 5) for i in range(10)]
    assert [found.getpixel(place)[0] for place in where] == [0] * 9 + [250]
    below = [found.getpixel((x, y + cell))[0] for x, y in where]
    assert below == [0, 5, 10, 15, 20, 24, 29, 34, 39, 250]
    second = [found.getpixel((x, y + 2 * cell + 8 + cell))[0] for x, y in where]
    assert second == below
    few = Trajectory()
    assert strip(few.end(watched(few, 1))).width < found.width


def test_an_animation_holds_its_end(tmp_path: Path) -> None:
    trajectory = Trajectory()
    moments = trajectory.end(watched(trajectory, 30))
    pictures = frames(moments)
    assert {p.size for p in pictures} == {(256, 256)}
    save_animation(pictures, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 31 and gif.info["loop"] == 0
        times, shades = [], []
        for number in range(gif.n_frames):
            gif.seek(number)
            times.append(gif.info["duration"])
            shades.append(gif.convert("RGB").getpixel((9, 9))[0])
    assert times[:-1] == [100] * 30 and times[-1] == 2000 and shades == [*range(30), 250]


def test_nothing_watched_is_a_sentence() -> None:
    with pytest.raises(DataError, match="Nothing was drawn in steps"):
        Trajectory().end([grey(0)])
