"""Each recipe trained in full, and its result held against the band that it states (``make slow``; minutes each)."""

from __future__ import annotations

import pytest

from intermodal.recipes import RECIPES, get_recipe
from intermodal.train.run import fit

STATED = [name for name in RECIPES if get_recipe(name).expect]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", STATED)
def test_a_recipe_reaches_what_it_states(name, tmp_path):
    recipe = get_recipe(name)
    run = fit(recipe, tmp_path / name, quiet=True)
    metrics = run.evaluation(recipe.final_split).metrics
    for expected in recipe.expect:
        assert expected.low <= metrics[expected.metric] <= expected.high, (expected.metric, metrics[expected.metric])
