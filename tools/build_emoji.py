"""Build the emoji picture set that the library ships: ``emoji.parquet`` and the licences beside it.

Pictures: nine open artwork sets (iconify packages of SVG bodies). Names and keywords: ``emojibase-data``. All
come through ``npm pack`` at pinned versions and must match their sha512 (``emoji_tables.toml``). A *concept*
is an emoji without skin tone; icons are joined to concepts by code point where a package says it, else by
name, drawn with resvg on white and stored as lossless WebP. Drawings that are blank, or have the same pixels
as an earlier row, are left out.

How the split by concept is kept honest: every concept has a ``base_concept``, and a base is never on two
sides. Variants of gender, role, hair and family go with their base, and so do all flags, all key-caps and all
clock faces; any other concept is its own base. Beside it stands the ``family``, which errs on the side of
merging, so that an evaluation can tell which held-out concepts have no relative at all in training:

1. Whole sub-groups whose members are variants of one drawing are one family: flags, key-caps, arrows, zodiac
   signs, hearts, cat faces, hand directions, ... So are the clock faces and the phases of the moon.
2. Otherwise the label is cut at ":" and at words such as "with", "on", "over" ("grinning face with sweat" is
   "grinning"), and words that name only a variant are dropped: gender ("man", "woman’s"), colour, size, ...
3. A table lists the rest by hand ("poodle" is "dog", "merman" is "merperson", plurals).

``split_concepts`` then takes, by a seeded hash over bases and from every group in proportion, exactly 300
test and 150 validation concepts among the small bases that at least four training styles draw.

    python tools/build_emoji.py --out src/intermodal/data/assets --cache DIR

The same packages, resvg, Pillow and pyarrow (their versions are in the file's metadata) give the same bytes.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import time
import tomllib
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIZE = 64
SEED = "intermodal-emoji-1"
TEST, VALIDATION = 300, 150
LARGEST_HELD_OUT = 6  # larger bases (flags, clocks, key-caps, ...) stay in train: the test side is diverse
LEAST_STYLES = 4  # how many training styles must draw a concept before it may be held out
TEST_STYLES = ("noto", "noto-v1")

TABLES: dict[str, Any] = tomllib.loads(Path(__file__).with_name("emoji_tables.toml").read_text("utf-8"))
DROPPED = frozenset(TABLES["base"]["dropped"].split())
GENDER = frozenset(["man", "woman", "men", "women", "person", "people", "man’s", "woman’s", "men’s", "women’s"])
SUBGROUP_BASE: dict[str, str] = TABLES["base"]["subgroups"]
SAME = {label: base for base, labels in TABLES["base"]["same"].items() for label in labels}
CUT = re.compile(r":.*| \(.*| (?:with|without|on|over|at|behind|showing|in|and) .*")

# Columns that are no strings, for Arrow and for ``datasets`` (in a spelling that its older releases know).
STRING: tuple[pa.DataType, dict[str, Any]] = (pa.string(), {"dtype": "string", "_type": "Value"})
OTHER_TYPES = {
    "image": (pa.struct({"bytes": pa.binary(), "path": pa.string()}), {"_type": "Image"}),
    "keywords": (pa.list_(pa.string()), {"feature": STRING[1], "_type": "Sequence"}),
}


def slug(text: str) -> str:
    """Lower-case words joined by hyphens: the form of concept ids."""
    plain = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def compact(text: str) -> str:
    """Letters and digits only, "flag for X" as "flag X": how names are compared, as styles differ in more."""
    plain = unicodedata.normalize("NFKD", text.lower()).replace("&", "and")
    return re.sub(r"^flagfor(flag)?", "flag", re.sub(r"[^a-z0-9]", "", plain))


def code_key(hexcode: str) -> str:
    """A code-point sequence in upper case without the variation selector FE0F: how they are compared."""
    return "-".join(part for part in hexcode.upper().split("-") if part != "FE0F")


def base_concept(label: str, subgroup: str) -> str:
    """What stays on one side of the split: people without gender and hair, one flag, one key-cap, one clock face."""
    base = family(label, subgroup)
    varied = subgroup.startswith("person") or subgroup == "family" or GENDER & set(label.lower().split())
    return base if varied or base in ("flag", "keycap", "clock face") else label.lower()


def family(label: str, subgroup: str) -> str:
    """What a concept is a variant of, by the rule in the module's description."""
    name = label.lower()
    if name in SAME:
        return SAME[name]
    if subgroup in SUBGROUP_BASE:
        return SUBGROUP_BASE[subgroup]
    if subgroup == "time" and name.endswith(("o’clock", "-thirty")):
        return "clock face"
    if subgroup == "sky-weather" and "moon" in name:
        return "moon"
    words = CUT.sub("", name).split()
    kept = [word for word in words if word not in DROPPED]
    if not kept:  # only variant words before the cut: what follows says what it is ("person in bed" is "bed")
        rest = re.sub(r"^.*?\b(?:with|in|on|over)\b", "", name.partition(":")[0])
        kept = [word for word in rest.split() if word not in DROPPED] or words
    base = " ".join(kept)
    return SAME.get(base, base)


@dataclass
class Concept:
    """One emoji without skin tone: its names, its pictures (style -> WebP) and its side of the split."""

    name: str
    keywords: list[str]
    group: str
    subgroup: str
    codepoints: str
    concept: str
    base_concept: str
    family: str
    concept_split: str = "train"
    pictures: dict[str, bytes] = field(default_factory=dict)


def split_concepts(concepts: list[Concept], seed: str = SEED) -> None:
    """Set ``concept_split`` of every concept: ``TEST`` and ``VALIDATION`` held out, whole bases at a time.

    Quotas are proportional to how many concepts of a group may be held out (largest remainder); in a group,
    bases are taken in the order of a seeded hash as long as they fit; bases of one concept fill the rest.
    """
    bases: dict[str, list[Concept]] = defaultdict(list)
    for concept in concepts:
        bases[concept.base_concept].append(concept)
    groups: dict[str, list[str]] = defaultdict(list)
    for base, members in bases.items():
        drawn = all(len(concept.pictures.keys() - set(TEST_STYLES)) >= LEAST_STYLES for concept in members)
        if drawn and len(members) <= LARGEST_HELD_OUT:
            groups[min(concept.group for concept in members)].append(base)
    for names in groups.values():
        names.sort(key=lambda base: hashlib.sha256(f"{seed}|{base}".encode()).digest())
    weights = {group: sum(len(bases[base]) for base in names) for group, names in sorted(groups.items())}
    total = max(1, sum(weights.values()))
    for split, wanted in (("test", TEST), ("validation", VALIDATION)):
        exact = {group: wanted * weight / total for group, weight in weights.items()}
        quota = {group: int(share) for group, share in exact.items()}
        for group in sorted(exact, key=lambda g: (quota[g] - exact[g], g))[: wanted - sum(quota.values())]:
            quota[group] += 1
        for group, names in groups.items():
            for base in list(names):
                if len(bases[base]) <= quota[group]:
                    quota[group] -= len(bases[base])
                    names.remove(base)
                    for concept in bases[base]:
                        concept.concept_split = split
        if sum(concept.concept_split == split for concept in concepts) != wanted:
            raise ValueError(f"too few concepts may be held out: the {split} side lacks {quota}")


class Package:
    """An npm package file: fetched into the folder if it is not there, refused if its sha512 is another."""

    def __init__(self, name: str, pin: list[str], folder: Path) -> None:
        self.name, self.version, self.integrity = name, pin[0], f"sha512-{pin[1]}"
        self.path = folder / f"{name.lstrip('@').replace('/', '-')}-{self.version}.tgz"
        if not self.path.exists():
            command = ["npm", "pack", "--silent", f"{name}@{self.version}", "--pack-destination", str(folder)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        digest = base64.b64encode(hashlib.sha512(self.path.read_bytes()).digest()).decode()
        if f"sha512-{digest}" != self.integrity:
            raise ValueError(f"{self.path.name}: sha512-{digest} is not the pinned {self.integrity}")

    def text(self, name: str) -> str:
        """The text of one file of the package."""
        with tarfile.open(self.path) as archive:
            return archive.extractfile(f"package/{name}").read().decode("utf-8")  # type: ignore[union-attr]

    def json(self, name: str) -> Any:
        """One file of the package, parsed."""
        return json.loads(self.text(name))


def read_concepts(names: Package) -> dict[str, Concept]:
    """Every concept by its code key, in code-point order; components and regional letters are no concepts."""
    messages = names.json("en/messages.json")
    groups, subgroups = ({e["order"]: e["key"] for e in messages[kind]} for kind in ("groups", "subgroups"))
    entries = [e for e in names.json("en/data.json") if "group" in e and groups[e["group"]] != "component"]
    slugs = Counter(slug(entry["label"]) for entry in entries)
    concepts: dict[str, Concept] = {}
    for entry in sorted(entries, key=lambda e: [int(code, 16) for code in e["hexcode"].split("-")]):
        label, hexcode, subgroup = entry["label"], entry["hexcode"], subgroups[entry["subgroup"]]
        suffix = "" if slugs[slug(label)] == 1 else f"-{hexcode.split('-')[0].lower()}"
        concepts[code_key(hexcode)] = Concept(
            name=label.lower(),
            keywords=entry.get("tags", []),
            group=groups[entry["group"]],
            subgroup=subgroup,
            codepoints=hexcode,
            concept=slug(label) + suffix,
            base_concept=base_concept(label, subgroup),
            family=family(label, subgroup),
        )
    return concepts


def name_table(concepts: dict[str, Concept], sources: dict[str, Package]) -> dict[str, str]:
    """Compact name -> code key, for packages without code points; where sources disagree the earlier wins."""
    table: dict[str, str] = {}

    def add(name: str, code: str) -> None:
        name = compact(name)
        if len(name) > 1 and not name.isdigit() and code_key(code) in concepts:
            table.setdefault(name, code_key(code))

    for concept in concepts.values():
        add(concept.name, concept.codepoints)
    for style in ("twemoji", "noto", "openmoji", "fluent-emoji-flat"):
        icon_code = {icon: code for code, icon in sources[style].json("chars.json").items()}
        for icon, code in icon_code.items():
            add(icon, code)
        for alias, target in sources[style].json("icons.json").get("aliases", {}).items():
            if "hFlip" not in target and target["parent"] in icon_code:
                add(alias, icon_code[target["parent"]])
    for concept in concepts.values():
        if "-" not in concept.codepoints:
            add(unicodedata.name(chr(int(concept.codepoints, 16)), ""), concept.codepoints)
    for kind in ("cldr", "emojibase", "joypixels", "iamcal", "github"):
        for code, shortcodes in sources["emojibase-data"].json(f"en/shortcodes/{kind}.json").items():
            for shortcode in [shortcodes] if isinstance(shortcodes, str) else shortcodes:
                add(shortcode, code)
    return table


def icons_by_concept(style: str, packages: dict[str, Package], table: dict[str, str]) -> dict[str, str]:
    """Code key -> icon name for one style: by ``chars.json``, else by the table of joins and then by name.

    ``fluent-emoji`` names its icons as ``fluent-emoji-flat`` does, which has the code points.
    """
    data = packages[style].json("icons.json")
    chars = packages["fluent-emoji-flat" if style == "fluent-emoji" else style].json("chars.json")
    if chars:
        pairs = [(code_key(code), icon) for code, icon in sorted(chars.items())]
    else:
        joins = {**TABLES["joins"]["all"], **TABLES["joins"].get(style, {})}
        icons = [*sorted(data["icons"]), *sorted(data.get("aliases", {}))]
        icons.sort(key=lambda icon: icon not in joins)  # the joins by hand, then icons, then aliases
        pairs = [(table.get(compact(joins.get(icon, icon)), ""), icon) for icon in icons]
    return dict(reversed(pairs))  # the first icon of a concept is taken


def svg_of(data: dict[str, Any], icon: str) -> str:
    """The SVG document of one icon: scaled into the square, shape kept, and mirrored if the alias says so."""
    alias = data.get("aliases", {}).get(icon, {})
    entry = {**data, **data["icons"][alias.get("parent", icon)]}
    left, top = entry.get("left", 0), entry.get("top", 0)
    width, height, body = entry.get("width", 16), entry.get("height", 16), entry["body"]
    if alias.get("hFlip"):
        body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{SIZE}" height="{SIZE}" viewBox="{left} {top} {width} {height}">{body}</svg>'
    )


def draw(svg: str) -> Image.Image:
    """The SVG drawn on white, without any font of this machine."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True)
    return Image.open(io.BytesIO(png)).convert("RGB")


def is_blank(picture: Image.Image) -> bool:
    """True when fewer than 20 pixels (0.5 %) differ visibly from the white ground."""
    return int((np.asarray(picture).min(axis=2) < 240).sum()) < 20


def draw_style(
    style: str, concepts: dict[str, Concept], data: dict[str, Any], icons: dict[str, str], seen: set[bytes]
) -> Counter[str]:
    """Draw every concept of one style into its ``pictures``; says how many were taken, and left out why."""
    counts: Counter[str] = Counter(taken=0, blank=0, repeated=0)
    for key, concept in concepts.items():
        if key in icons:
            picture = draw(svg_of(data, icons[key]))
            digest = hashlib.sha256(picture.tobytes()).digest()
            fate = "blank" if is_blank(picture) else "repeated" if digest in seen else "taken"
            counts[fate] += 1
            if fate == "taken":
                seen.add(digest)
                webp = io.BytesIO()
                picture.save(webp, "WEBP", lossless=True, quality=100, method=6)
                concept.pictures[style] = webp.getvalue()
    return counts


def count(concepts: list[Concept]) -> dict[str, Any]:
    """The figures of the set: pictures and concepts, per style, group and split."""
    by_group: dict[str, dict[str, int]] = defaultdict(lambda: {"train": 0, "validation": 0, "test": 0})
    pictures: Counter[str] = Counter()
    for concept in concepts:
        by_group[concept.group][concept.concept_split] += 1
        pictures[concept.concept_split] += len(concept.pictures)
    return {
        "pictures": pictures.total(),
        "concepts": len(concepts),
        "base_concepts": len({concept.base_concept for concept in concepts}),
        "pictures_per_style": dict(Counter(style for concept in concepts for style in concept.pictures)),
        "pictures_per_concept_split": dict(pictures),
        "concepts_per_concept_split": dict(Counter(concept.concept_split for concept in concepts)),
        "concepts_per_group": dict(sorted(by_group.items())),
    }


def write_table(concepts: list[Concept], licences: dict[str, Any], facts: dict[str, Any], path: Path) -> None:
    """The rows as a zstd Parquet file in which ``datasets`` sees an Image; ``facts`` go to its metadata."""
    rows = [
        {
            "image": {"bytes": concept.pictures[style], "path": f"{style}/{concept.concept}.webp"},
            **{name: value for name, value in vars(concept).items() if name != "pictures"},
            "style": style,
            "licence": licence["spdx"],
            "style_split": "test" if style in TEST_STYLES else "train",
        }
        for style, licence in licences.items()
        for concept in concepts
        if style in concept.pictures
    ]
    types = {name: OTHER_TYPES.get(name, STRING) for name in rows[0]}
    features = {name: feature for name, (_, feature) in types.items()}
    notes = {"huggingface": {"info": {"features": features}}, "intermodal": facts}
    schema = pa.schema(
        [(name, arrow) for name, (arrow, _) in types.items()],
        metadata={key: json.dumps(value) for key, value in notes.items()},
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, path, compression="zstd", compression_level=19, row_group_size=1000)


def write_notices(sources: dict[str, Package], licences: dict[str, Any], facts: dict[str, Any], folder: Path) -> None:
    """Attribution and licence text of every style and of the names, and a README."""
    folder.mkdir(parents=True, exist_ok=True)
    notices, line = TABLES["notices"], f"\n{'-' * 80}\n\n"
    for style, licence in licences.items():
        info = sources[style].json("info.json")
        text = sources["spdx-license-list"].json(f"licenses/{licence['spdx']}.json")["licenseText"].strip()
        text = text.replace("(c) <year> <copyright holders>", f"(c) {info['author']['name']}")
        notice = notices["style"].format(
            style=style, info=info, licence=licence, package=sources[style], credit=TABLES["credits"][style]
        )
        (folder / f"{style}.txt").write_text(f"{notice}{line}{text}\n", encoding="utf-8")
    names = sources["emojibase-data"]
    text = f"{notices['names'].format(package=names)}{line}{names.text('LICENSE').strip()}\n"
    (folder / f"{names.name}.txt").write_text(text, encoding="utf-8")
    styles = [[style, n, licences[style]["spdx"]] for style, n in facts["pictures_per_style"].items()]
    groups = [[group, *n.values()] for group, n in facts["concepts_per_group"].items()]
    tables = ["\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows) for rows in (styles, groups)]
    text = notices["readme"].format(styles=tables[0], groups=tables[1], **facts)
    (folder / "README.md").write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Build everything and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of emoji.parquet and emoji_licences/")
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps the npm package files")
    options = parser.parse_args(argv)
    options.cache.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    packages = {s: Package(f"@iconify-json/{s}", pin, options.cache) for s, pin in TABLES["styles"].items()}
    sources = packages | {name: Package(name, pin, options.cache) for name, pin in TABLES["texts"].items()}
    everything = read_concepts(sources["emojibase-data"])
    table, seen, counts = name_table(everything, sources), set[bytes](), Counter[str]()
    for style, package in packages.items():
        icons = icons_by_concept(style, packages, table)
        counts += draw_style(style, everything, package.json("icons.json"), icons, seen)
        print(f"{time.monotonic() - begun:4.0f} s, after {style}: {dict(counts)}", file=sys.stderr, flush=True)
    concepts = [concept for concept in everything.values() if concept.pictures]
    split_concepts(concepts)
    facts = {
        **count(concepts),
        "left_out": {fate: n for fate, n in counts.items() if fate != "taken"},
        "seed": SEED,
        "packages": {p.name: {"version": p.version, "integrity": p.integrity} for p in sources.values()},
        "tools": {name: metadata.version(name) for name in ("resvg_py", "pillow", "pyarrow")},
    }
    corrected = TABLES["licences"]  # where the artwork's own licence says otherwise than the package
    licences = {s: p.json("info.json")["license"] | corrected.get(s, {}) for s, p in packages.items()}
    write_notices(sources, licences, facts, options.out / "emoji_licences")
    write_table(concepts, licences, facts, options.out / "emoji.parquet")
    built = (options.out / "emoji.parquet").read_bytes()
    print(f"{json.dumps(facts, indent=1)}\n{len(built)} bytes, sha256 {hashlib.sha256(built).hexdigest()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
