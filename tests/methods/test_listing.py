"""The listing of methods against the plan, the recipes and the handbook."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from intermodal.core.registry import cards, parts
from intermodal.recipes import RECIPES, get_recipe
from intermodal.recipes.measured import beats_baseline, measured

ROOT = Path(__file__).parents[2]
IDS = json.loads((Path(__file__).parent / "planned_ids.json").read_text())


def test_every_method_is_one_of_the_plan():
    assert set(cards()) <= set(IDS)
    assert not set(parts()) & set(IDS)


def test_the_plan_is_that_of_the_shared_list():
    data = os.environ.get("INTERMODAL_DATA")
    plan = Path(data).parent / "METHODS.md" if data else None
    if plan is None or not plan.exists():
        pytest.skip("METHODS.md, the list of all methods, is not beside INTERMODAL_DATA")
    rows = re.findall(r"^\| ([a-z0-9-]+) \|", plan.read_text(encoding="utf-8"), flags=re.M)
    assert [row for row in rows if row != "id"] == IDS


def test_json_listing_holds_what_a_reader_needs():
    done = subprocess.run(
        [sys.executable, "-m", "intermodal", "methods", "--json"], capture_output=True, text=True, check=True
    )
    listed = {row["id"]: row for row in json.loads(done.stdout)}
    assert set(listed) == set(cards())
    for row in listed.values():
        assert {"id", "title", "paper", "capabilities", "recipes", "reference", "measured"} <= set(row)


def test_every_recipe_belongs_to_a_method_and_states_itself():
    named = [name for card in [*cards().values(), *parts().values()] for name in card.recipes]
    assert sorted(named) == sorted(RECIPES)
    for name in RECIPES:
        assert get_recipe(name).name == name


def test_every_figure_has_its_date_hardware_and_baseline():
    for name, figure in measured().items():
        assert name in RECIPES
        assert {"metric", "value", "baseline", "split", "date", "hardware", "minutes"} <= set(figure)
        assert beats_baseline(figure)
        for expected in get_recipe(name).expect:
            value = figure["metrics"][expected.metric]
            assert expected.low <= value <= expected.high, (name, expected.metric, value)


@pytest.mark.parametrize("method", sorted(cards()))
def test_every_method_has_its_page_with_the_code_that_is_its_equation(method):
    page = (ROOT / "docs" / "methods" / f"{method}.md").read_text(encoding="utf-8")
    assert f"methods/{method}.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    shown = re.findall(r'^ *--8<-- "(src/[^":]+):([^"]+)"', page, flags=re.M)
    assert shown, "the page shows no code"
    for file, section in shown:
        code = (ROOT / file).read_text(encoding="utf-8")
        assert f"--8<-- [start:{section}]" in code and f"--8<-- [end:{section}]" in code, (file, section)
    equations = re.findall(r'^ *--8<-- "docs/_generated/([^"]+)\.svg"', page, flags=re.M)
    assert equations, "the page shows no equation"
    drawn = (ROOT / "docs" / "build.py").read_text(encoding="utf-8")
    assert all(f'"{name}": r"' in drawn for name in equations), equations
