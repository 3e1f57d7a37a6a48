from __future__ import annotations

import json
import math

from intermodal.cli.common import print_json


def test_what_is_no_number_is_null(capsys):
    print_json({"a": math.nan, "b": [math.inf, 0.5], "c": ("x", None)})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 0.5], "c": ["x", None]}
