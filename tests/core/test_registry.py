import ast
import subprocess
import sys
from pathlib import Path

import pytest

from intermodal.core import registry
from intermodal.core.errors import ConfigError


def test_listing_does_not_import_torch():
    code = "import sys; from intermodal.core.registry import cards; assert cards(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_card_names_a_class_that_exists():
    for card in registry.cards().values():
        cls = registry.load_class(card.id)
        assert cls.id == card.id
        assert cls.__name__ == card.cls


def test_unknown_method_suggests():
    with pytest.raises(ConfigError, match="did you mean 'clip'"):
        registry.card("clipp")


def test_a_part_is_used_by_its_id_and_not_listed():
    assert "language" in registry.parts() and "language" not in registry.cards()
    assert registry.load_class("language").id == registry.card("language").id == "language"


def test_two_files_with_one_id(tmp_path, monkeypatch):
    file = tmp_path / "a.py"
    file.write_text(
        "CARD = MethodCard(id='x', title='', paper='', cls='X', capabilities=(), recipes=(), reference='')\n"
    )
    monkeypatch.setattr(registry, "_method_files", lambda: [("p.one", file), ("p.two", file)])
    registry.cards.cache_clear()
    with pytest.raises(ConfigError, match=r"p\.one and p\.two"):
        registry.cards()
    registry.cards.cache_clear()


def test_card_must_be_literal(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("CARD = MethodCard(id=compute())\n")
    with pytest.raises(ConfigError, match="literals only"):
        registry._read_card("p.a", file, "CARD")


def test_every_method_file_holds_a_card_or_serves_those_of_its_family():
    root = Path(registry.__file__).parent.parent / "methods"
    for folder in (p for p in root.iterdir() if p.is_dir()):
        trees = {f.stem: ast.parse(f.read_text()) for f in folder.glob("*.py") if f.stem != "__init__"}
        assigned = {
            s: {ast.unparse(t) for n in tree.body if isinstance(n, ast.Assign) for t in n.targets}
            for s, tree in trees.items()
        }
        imports = [n for tree in trees.values() for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        used = {n.module for n in imports} | {f"{n.module}.{alias.name}" for n in imports for alias in n.names}
        for stem, names in assigned.items():
            shared = f"intermodal.methods.{folder.name}.{stem}" in used
            assert {"CARD", "PART"} & names or shared, (
                f"{folder / stem}.py is neither a method nor used by one beside it"
            )
