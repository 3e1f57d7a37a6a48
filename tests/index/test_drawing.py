"""What command line, page and API share in drawing: progress, drawings that are watched, prompts that are heard."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from PIL import Image

from intermodal.core.drawing import Drawing, Glimpse
from intermodal.core.errors import ConfigError, DataError
from intermodal.data.trajectories import Trajectory
from intermodal.index.drawing import MOST_SEED, Steps, draws, live, seeds_from, settings
from intermodal.index.prompts import checked, unheard


def picture() -> Image.Image:
    return Image.new("RGB", (2, 2))


def test_progress_goes_from_nothing_to_all_over_batches() -> None:
    told: list[tuple[str, float]] = []
    watch = Steps(3, lambda what, share: told.append((what, share)))
    for count in (2, 1):
        for done in range(2):
            watch(Glimpse(done, 2, 0.5, lambda n=count: [picture()] * n, list, count))
    assert {what for what, _ in told} == {"drawing 3 pictures in 2 steps"}
    assert [share for _, share in told] == pytest.approx([0, 1 / 3, 2 / 3, 5 / 6])


def test_seeds() -> None:
    assert seeds_from(3, 2) == [3, 4] and seeds_from(MOST_SEED, 1) == [MOST_SEED]
    for seed, count in ((-1, 1), (MOST_SEED, 2)):
        with pytest.raises(DataError, match="Seeds go from 0"):
            seeds_from(seed, count)


def test_settings_are_the_models_but_for_those_given(small_cfg: Any, small_clip: Any) -> None:
    assert settings(small_cfg, {}, "To draw") == small_cfg.drawing
    assert settings(small_cfg, {"steps": 9}, "To draw") == small_cfg.drawing.replace(steps=9)
    assert settings(small_clip, {}, "To draw") is None
    with pytest.raises(ConfigError, match=r"To draw needs .* 'draw'; 'clip' has embed"):
        settings(small_clip, {"steps": 9}, "To draw")
    with pytest.raises(ConfigError, match="at least 1 step"):
        settings(small_cfg, {"steps": 0}, "To draw")


def test_a_live_drawing_is_the_drawing(small_cfg: Any) -> None:
    seen = list(
        live(
            draws(small_cfg, "To draw"),
            ["a red square"] * 2,
            [5, 6],
            small_cfg.drawing,
            trajectory=Trajectory(),
            stop=threading.Event(),
        )
    )
    assert [moment.done for moment, _ in seen] == [0, 1, 2, 3, 4]
    expected = small_cfg.draw(["a red square"] * 2, [5, 6])
    assert [p.tobytes() for p in seen[-1][1]] == [p.tobytes() for p in expected]


def test_it_stops_when_it_is_told_to(small_cfg: Any) -> None:
    stop, many = threading.Event(), small_cfg.drawing.replace(steps=500)
    seen = []
    for moment, _ in live(small_cfg, ["a red square"], [0], many, trajectory=Trajectory(500), stop=stop):
        seen.append(moment.done)
        if moment.done == 3:
            stop.set()
    assert 3 in seen and len(seen) < 500 and seen == list(range(len(seen)))


def test_it_stops_when_nobody_looks_any_more(small_cfg: Any) -> None:
    before, stop = threading.active_count(), threading.Event()
    many = small_cfg.drawing.replace(steps=500)
    drawing = live(small_cfg, ["a red square"], [0], many, trajectory=Trajectory(500), stop=stop)
    next(drawing)
    drawing.close()
    assert stop.is_set() and threading.active_count() == before


def test_errors_come_to_whoever_asked(small_ddpm: Any) -> None:
    with pytest.raises(ConfigError, match="no guidance 3"):
        list(live(small_ddpm, [None], [0], Drawing(guidance=3.0), trajectory=Trajectory(), stop=threading.Event()))


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("x" * 10_001, "at most 10,000 characters, found 10,001"),
        ("\udcff", "no text"),
    ],
)
def test_prompts_that_are_none(prompt: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        checked(prompt)


def test_prompts_that_are() -> None:
    assert checked(None) is None and checked("a cat") == "a cat"


def test_what_a_model_does_not_hear(small_cfg: Any, small_ddpm: Any, small_clip: Any) -> None:
    assert unheard(small_cfg, "A  RED square") == unheard(small_cfg, None) == unheard(small_ddpm, "anything") == []
    assert unheard(small_cfg, "a purple, red зелёный square") == ["The model does not know 'purple,', 'зелёный'."]
    with pytest.raises(DataError, match="knows none of the words 'purple', '青'"):
        unheard(small_cfg, "purple 青")
    [said] = unheard(small_cfg, "red " * 20)
    assert said == "The model reads the first 6 of the prompt's 20 words, no more."
    assert unheard(small_clip, "зелёный") != [], "bytes are known to every byte-level model, but there are many"
