from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intermodal.core.config import Config, suggestion, trust_package
from intermodal.core.errors import ConfigError

trust_package(__name__.partition(".")[0])


@dataclass(frozen=True, kw_only=True)
class Inner(Config):
    width: int = 3
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True, kw_only=True)
class Other(Config):
    depth: int = 1


@dataclass(frozen=True, kw_only=True)
class Outer(Config):
    inner: Inner | Other = Inner()
    rate: float = 0.5
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, float] = (1, 2.0)
    path: Path | None = None
    name: str = "x"


@given(
    width=st.integers(),
    kind=st.sampled_from(["a", "b"]),
    rate=st.floats(allow_nan=False),
    sizes=st.lists(st.integers(), max_size=4).map(tuple),
    name=st.text(),
    other=st.booleans(),
)
def test_json_round_trip_is_the_identity(width, kind, rate, sizes, name, other):
    inner = Other(depth=width) if other else Inner(width=width, kind=kind)
    config = Outer(inner=inner, rate=rate, sizes=sizes, name=name, path=Path("a/b"))
    again = Config.from_json(config.to_json())
    assert again == config
    assert type(again.inner) is type(inner)


def test_unknown_key_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"Inner has no field 'widht'; did you mean 'width'\?"):
        Inner.from_dict({"widht": 4})
    with pytest.raises(ConfigError, match="did you mean 'rate'"):
        Outer().replace(rte=1.0)
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        Outer().replace(inner__widht=1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"rate": "fast"}, "Outer.rate should be float"),
        ({"sizes": [1, "b"]}, "Outer.sizes should be int"),
        ({"pair": [1]}, "Outer.pair needs 2 values, found 1"),
        ({"inner": {"kind": "c"}}, "Outer.inner should be Inner or Other"),
        ({"name": None}, "Outer.name should be str, found None"),
    ],
)
def test_wrong_types_name_the_field(data, message):
    with pytest.raises(ConfigError, match=message):
        Outer.from_dict(data)


def test_bool_is_no_int():
    with pytest.raises(ConfigError, match="Inner.width should be int, found True"):
        Inner.from_dict({"width": True})


def test_a_file_cannot_import_foreign_code():
    with pytest.raises(ConfigError, match="outside the library"):
        Config.from_dict({"type": "os:system"})
    with pytest.raises(ConfigError, match="no configuration class"):
        Config.from_dict({"type": "intermodal.core.files:write_text"})
    with pytest.raises(ConfigError, match="does not exist here"):
        Config.from_dict({"type": "intermodal.core.config:Nothing"})


def test_replace_reaches_nested_fields_and_leaves_the_original():
    before = Outer()
    after = before.replace(inner__width=9, rate=1.0)
    assert (after.inner.width, after.rate, before.inner.width) == (9, 1.0, 3)
    with pytest.raises(ConfigError, match="has no fields to change"):
        before.replace(rate__x=1)


def test_configurations_are_frozen():
    with pytest.raises(AttributeError):
        Inner().width = 5


def test_cut_json():
    with pytest.raises(ConfigError, match="Not valid JSON"):
        Config.from_json(Outer().to_json()[:20])


def test_suggestion_lists_what_exists_when_nothing_is_near():
    assert suggestion("zzz", ["alpha", "beta"]) == "; known are: alpha, beta."
