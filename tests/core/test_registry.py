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
        registry._read_card("p.a", file)


def test_every_method_file_holds_a_card():
    root = Path(registry.__file__).parent.parent / "methods"
    for file in root.glob("*/*.py"):
        if file.stem != "__init__":
            targets = [t.id for n in ast.parse(file.read_text()).body if isinstance(n, ast.Assign) for t in n.targets]
            assert "CARD" in targets, f"{file} holds no method: shared parts belong in nn/, losses/ or metrics/"
