import pytest

from intermodal.core.errors import DataError
from intermodal.core.fields import Field, check_fields

IMAGE = Field((3, None, None), "uint8", "a picture")


def test_varying_sizes_are_accepted():
    assert IMAGE.accepts(Field((3, 64, 32), "uint8"))
    assert not IMAGE.accepts(Field((1, 64, 32), "uint8"))
    assert not IMAGE.accepts(Field((3, 64, 32), "float32"))
    assert not IMAGE.accepts(Field((3, 64), "uint8"))


def test_every_problem_is_listed():
    with pytest.raises(DataError, match=r"text \(str\) is missing; image should be uint8\[3x\?x\?\], found str") as e:
        check_fields({"text": Field((), "str"), "image": IMAGE}, {"image": Field((), "str")}, "CLIP", "folder x")
    assert "folder x" in str(e.value)


def test_fitting_fields_pass():
    check_fields({"image": IMAGE}, {"image": IMAGE, "more": IMAGE}, "CLIP", "x")
