import json
import math

import numpy as np
import pytest
from PIL import Image

from intermodal.core.errors import DataError, IntermodalError
from intermodal.evaluate.result import (
    FILE,
    Bars,
    Evaluation,
    Gallery,
    Headline,
    Heatmap,
    Item,
    Table,
    in_percent,
    load,
    save,
)


def picture(colour: str) -> Image.Image:
    return Image.new("RGB", (8, 6), colour)


def example() -> Evaluation:
    red = Item(picture("red"), "a red one", 0.5, True, "noted")
    return Evaluation(
        "test",
        {"r10": 0.5, "broken": math.nan, "rank": 3.0},
        [
            Gallery(
                "g",
                "about",
                [(Item(text="q"), [red, Item(picture("red")), Item(text="w", good=False)])],
                True,
            ),
            Heatmap("h", "", np.array([[0.1, math.nan], [0.3, 0.4]]), [red, red], [Item(text="a"), Item(text="b")]),
            Table("t", "", ["", "x"], [["m", 0.25], ["n", None], ["o", "word"], ["p", 3]], emphasis=0),
            Bars("b", "", ["m", "n"], [0.25, math.nan], "%", baseline=[0.1, 0.2], baseline_name="chance"),
        ],
        1.5,
        Headline("50 %", "Half of them."),
    )


def same(a: Item, b: Item) -> bool:
    if (a.image is None) != (b.image is None):
        return False
    pixels = a.image is None or b.image is None or a.image.tobytes() == b.image.tobytes()
    return pixels and (a.text, a.score, a.good, a.note) == (b.text, b.score, b.good, b.note)


def test_an_evaluation_comes_back_as_it_was_saved(tmp_path):
    before = example()
    save(before, tmp_path / "evaluation" / "test")
    after = load(tmp_path / "evaluation" / "test")
    assert (after.split, after.seconds, after.headline) == ("test", 1.5, before.headline)
    assert list(after.metrics) == ["r10", "broken", "rank"]
    assert after.metrics["r10"] == 0.5 and math.isnan(after.metrics["broken"])
    gallery, heatmap, table, bars = after.panels
    assert isinstance(gallery, Gallery) and gallery.failures
    for mine, theirs in zip(gallery.rows[0][1], before.panels[0].rows[0][1], strict=True):
        assert same(mine, theirs)
    np.testing.assert_array_equal(heatmap.values, before.panels[1].values)
    assert same(heatmap.columns[1], Item(text="b"))
    assert table == before.panels[2]
    assert bars.values[0] == 0.25 and math.isnan(bars.values[1]) and bars.baseline == [0.1, 0.2]


def test_a_picture_is_written_once_and_the_file_is_strict_json(tmp_path):
    save(example(), tmp_path / "e")
    assert len(list((tmp_path / "e" / "pictures").iterdir())) == 1

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    json.loads((tmp_path / "e" / FILE).read_text(), parse_constant=refuse)


def test_saving_replaces_what_was_there_and_leaves_nothing_beside_it(tmp_path):
    save(example(), tmp_path / "e")
    save(Evaluation("test", {"r10": 1.0}), tmp_path / "e")
    assert load(tmp_path / "e").panels == []
    assert [p.name for p in tmp_path.iterdir()] == ["e"]


def test_damage_is_named(tmp_path):
    with pytest.raises(IntermodalError, match="There is no evaluation"):
        load(tmp_path)
    save(example(), tmp_path / "e")
    data = json.loads((tmp_path / "e" / FILE).read_text())
    (tmp_path / "e" / FILE).write_text(json.dumps({**data, "format": 99}))
    with pytest.raises(DataError, match="format 99"):
        load(tmp_path / "e")
    (tmp_path / "e" / FILE).write_text(json.dumps({**data, "panels": [{"kind": "sculpture"}]}))
    with pytest.raises(DataError, match="damaged"):
        load(tmp_path / "e")
    (tmp_path / "e" / FILE).write_text(json.dumps(data))
    next((tmp_path / "e" / "pictures").iterdir()).unlink()
    with pytest.raises(DataError, match="lacks a picture"):
        load(tmp_path / "e")


@pytest.mark.parametrize(("share", "said"), [(0.0133, "1.3 %"), (0.0996, "10 %"), (0.5, "50 %"), (1.0, "100 %")])
def test_shares_are_said_in_per_cents(share, said):
    assert in_percent(share) == said.replace(" ", "\N{NO-BREAK SPACE}")
