from __future__ import annotations

import json
import math

from intermodal.cli.common import print_json, print_metrics


def test_what_is_no_number_is_null(capsys):
    print_json({"a": math.nan, "b": [math.inf, 0.5], "c": ("x", None)})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 0.5], "c": ["x", None]}


def test_an_undefined_figure_is_said_to_be_so(capsys):
    print_metrics({"a": 0.5, "long": None, "b": math.nan})
    assert capsys.readouterr().out.split() == ["a", "0.5000", "long", "undefined", "b", "undefined"]
