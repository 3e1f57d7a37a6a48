"""The pure functions of tools/build_emoji.py: grouping into base concepts, joining by name, the splitter."""

import importlib.util
import sys
from collections import Counter, defaultdict
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image, ImageDraw

TOOL = Path(__file__).parents[2] / "tools" / "build_emoji.py"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_emoji", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_emoji"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


tool = load_tool()


@pytest.mark.parametrize(
    ("base", "members"),
    [
        ("firefighter", [(f"{who}firefighter", "person-role") for who in ("", "man ", "woman ")]),
        ("wrestling", [(f"{who} wrestling", "person-sport") for who in ("people", "men", "women")]),
        ("running", [("man running", "person-activity"), ("woman running: facing right", "person-activity")]),
        ("person", [("man: red hair", "person"), ("woman: bald", "person"), ("older person", "person")]),
        ("family", [("family: man, woman, boy", "family"), ("kiss: man, man", "family"), ("kiss", "family")]),
        ("merperson", [("merman", "person-fantasy"), ("mermaid", "person-fantasy")]),
        ("restroom", [("men’s room", "transport-sign"), ("restroom", "transport-sign")]),
        (
            "flag",
            [("flag: France", "country-flag"), ("flag: Wales", "subdivision-flag"), ("black flag", "flag")],
        ),
        ("clock face", [("one o’clock", "time"), ("twelve-thirty", "time")]),
        ("keycap", [("keycap: #", "keycap"), ("keycap: 10", "keycap")]),
        ("zodiac", [("Aries", "zodiac"), ("Ophiuchus", "zodiac")]),
        ("moon", [("new moon", "sky-weather"), ("full moon face", "sky-weather")]),
        ("arrow", [("up arrow", "arrow"), ("SOON arrow", "arrow")]),
        ("heart", [("red heart", "heart"), ("light blue heart", "heart"), ("heart suit", "game")]),
        ("circle", [("red circle", "geometric"), ("hollow red circle", "other-symbol")]),
        ("square", [("black medium-small square", "geometric"), ("white square button", "geometric")]),
        ("cat", [("cat", "animal-mammal"), ("cat face", "animal-mammal"), ("kissing cat", "cat-face")]),
        ("dog", [("dog face", "animal-mammal"), ("poodle", "animal-mammal"), ("guide dog", "animal-mammal")]),
        ("apple", [("red apple", "food-fruit"), ("green apple", "food-fruit")]),
        ("grinning", [("grinning face", "face-smiling"), ("grinning face with big eyes", "face-smiling")]),
        ("bed", [("person in bed", "person-resting"), ("bed", "household")]),
        ("veil", [("man with veil", "person-role")]),
        ("thumbs", [("thumbs up", "hand-fingers-closed"), ("thumbs down", "hand-fingers-closed")]),
        ("flag in hole", [("flag in hole", "sport")]),
    ],
)
def test_family(base: str, members: list[tuple[str, str]]) -> None:
    assert [tool.family(label, subgroup) for label, subgroup in members] == [base] * len(members)


@pytest.mark.parametrize(
    ("base", "members"),
    [
        ("firefighter", [(f"{who}firefighter", "person-role") for who in ("", "man ", "woman ")]),
        ("person", [("man: red hair", "person"), ("woman: bald", "person"), ("older person", "person")]),
        ("family", [("family: man, woman, boy", "family"), ("kiss: man, man", "family"), ("kiss", "family")]),
        ("restroom", [("men’s room", "transport-sign"), ("restroom", "transport-sign")]),
        ("flag", [("flag: France", "country-flag"), ("flag: Wales", "subdivision-flag"), ("black flag", "flag")]),
        ("clock face", [("one o’clock", "time"), ("twelve-thirty", "time")]),
        ("keycap", [("keycap: #", "keycap"), ("keycap: 10", "keycap")]),
    ],
)
def test_variants_of_gender_role_flag_keycap_and_clock_share_their_base(
    base: str, members: list[tuple[str, str]]
) -> None:
    assert [tool.base_concept(label, subgroup) for label, subgroup in members] == [base] * len(members)


@pytest.mark.parametrize(
    ("label", "subgroup"), [("red heart", "heart"), ("dog face", "animal-mammal"), ("up arrow", "arrow")]
)
def test_any_other_concept_is_its_own_base(label: str, subgroup: str) -> None:
    assert tool.base_concept(label, subgroup) == label
    assert tool.family(label, subgroup) != label


def test_different_things_have_different_families() -> None:
    labels = [
        "pizza",
        "wolf",
        "fox",
        "teacher",
        "farmer",
        "church",
        "mosque",
        "hot dog",
        "polar bear",
        "bear",
    ]
    assert len({tool.family(label, "other") for label in labels}) == len(labels)


def test_a_family_is_never_empty() -> None:
    for label in ("man", "face", "black", "woman’s", "left", "person: x"):
        assert tool.family(label, "other")


def test_every_table_entry_is_used_once() -> None:
    same = tool.TABLES["base"]["same"]
    labels = [label for entries in same.values() for label in entries]
    assert len(labels) == len(set(labels))
    assert set(tool.TABLES["credits"]) == set(tool.TABLES["styles"])


def test_names_are_compared_without_separators() -> None:
    assert tool.compact("flag-for-flag-Côte d’Ivoire") == tool.compact("flag: Côte d’Ivoire") == "flagcotedivoire"
    assert tool.compact("BACK arrow") == tool.compact("back-arrow") == "backarrow"
    assert tool.slug("Piñata & Mrs. Claus’s") == "pinata-mrs-clauss"
    assert tool.code_key("2764-fe0f-200d-1f525") == "2764-200D-1F525"


def make_concepts() -> list:
    """900 concepts in three groups: bases of one and of three concepts, one large base, some drawn by few."""
    concepts = []
    for number in range(900):
        group = "abc"[number % 3 if number < 600 else 0]
        base = "large" if number < 40 else f"triple-{number // 9}-{number % 3}" if number < 300 else f"b{number}"
        styles = ["twemoji", "openmoji", "emojione", *(["fxemoji"] if number % 10 else []), "noto"]
        concepts.append(
            tool.Concept(
                name=f"n{number}",
                keywords=[],
                group=group,
                subgroup="s",
                codepoints=f"{number:X}",
                concept=f"c{number}",
                base_concept=base,
                family=base,
                pictures=dict.fromkeys(styles, b""),
            )
        )
    return concepts


def splits_of(concepts: list) -> dict[str, str]:
    return {concept.concept: concept.concept_split for concept in concepts}


def test_the_splitter_holds_out_exactly_as_many_as_asked() -> None:
    concepts = make_concepts()
    tool.split_concepts(concepts)
    assert Counter(splits_of(concepts).values()) == {"train": 450, "test": 300, "validation": 150}


def test_the_splitter_keeps_bases_whole_and_large_ones_in_train() -> None:
    concepts = make_concepts()
    tool.split_concepts(concepts)
    sides = defaultdict(set)
    for concept in concepts:
        sides[concept.base_concept].add(concept.concept_split)
    assert all(len(splits) == 1 for splits in sides.values())
    assert sides["large"] == {"train"}


def test_the_splitter_holds_out_only_what_four_training_styles_draw() -> None:
    concepts = make_concepts()
    tool.split_concepts(concepts)
    held_out = [concept for concept in concepts if concept.concept_split != "train"]
    assert all(len(concept.pictures.keys() - {"noto", "noto-v1"}) >= 4 for concept in held_out)


def test_the_splitter_takes_from_every_group_in_proportion() -> None:
    concepts = make_concepts()
    tool.split_concepts(concepts)
    may = Counter(
        concept.group for concept in concepts if concept.base_concept.startswith("b") and len(concept.pictures) == 5
    )
    test = Counter(concept.group for concept in concepts if concept.concept_split == "test")
    assert set(test) == {"a", "b", "c"}
    assert test["a"] > test["b"] and may["a"] > may["b"]
    assert abs(test["b"] - test["c"]) <= 30


def test_the_splitter_depends_on_the_seed_and_not_on_the_order() -> None:
    first, again, other = make_concepts(), make_concepts()[::-1], make_concepts()
    tool.split_concepts(first)
    tool.split_concepts(again)
    tool.split_concepts(other, seed="another")
    assert splits_of(first) == splits_of(again)
    assert splits_of(first) != splits_of(other)


def test_the_splitter_refuses_too_small_a_set() -> None:
    with pytest.raises(ValueError, match="too few"):
        tool.split_concepts(make_concepts()[:400])


def test_a_package_with_another_digest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scope-name-1.0.0.tgz").write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not the pinned"):
        tool.Package("@scope/name", ["1.0.0", "AAAA=="], tmp_path)


def test_blank_pictures_are_told() -> None:
    picture = Image.new("RGB", (64, 64), "white")
    assert tool.is_blank(picture)
    ImageDraw.Draw(picture).rectangle((0, 0, 7, 7), fill="red")
    assert not tool.is_blank(picture)


def test_an_icon_is_centred_and_an_alias_mirrored() -> None:
    pytest.importorskip("resvg_py", reason="only the build of the set needs it")
    data = {
        "icons": {"bar": {"body": '<path d="M0 0h10v10H0z" fill="#f00"/>', "width": 40, "height": 20}},
        "aliases": {"rab": {"parent": "bar", "hFlip": True}},
    }
    picture = tool.draw(tool.svg_of(data, "bar"))
    assert picture.size == (64, 64) and picture.mode == "RGB"
    assert picture.getpixel((8, 24)) == (255, 0, 0)  # 40x20 fills rows 16 to 48
    assert picture.getpixel((8, 8)) == picture.getpixel((40, 24)) == (255, 255, 255)
    mirrored = tool.draw(tool.svg_of(data, "rab"))
    assert mirrored.getpixel((56, 24)) == (255, 0, 0)
    assert mirrored.getpixel((8, 24)) == (255, 255, 255)
