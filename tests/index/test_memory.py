"""The index in memory, and the held-out pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.emoji import EmojiSource
from intermodal.data.folder import FolderSource
from intermodal.index import held_out as held_out_module
from intermodal.index.embedding import embeds, offering, stamp
from intermodal.index.held_out import held_out, source_of
from intermodal.index.hits import MemoryIndex
from intermodal.index.session import Session
from intermodal.methods.contrastive.clip import CLIP


@given(st.integers(0, 12), st.integers(1, 15), st.integers(0, 2**32 - 1))
def test_memory_index_is_the_sorted_dot_product(count: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 4)).astype(np.float32)
    query = rng.normal(size=4).astype(np.float32)
    index = MemoryIndex("some", vectors, [str(i) for i in range(count)], lambda i: {"text": f"t{i}"})
    hits = index.search(query, k)
    expected = sorted(((float(v @ query), str(i)) for i, v in enumerate(vectors)), reverse=True)[:k]
    assert [h.path for h in hits] == [name for _, name in expected]
    assert [h.caption for h in hits] == [f"t{name}" for _, name in expected]


def test_held_out_of_the_emoji_set_are_all_pictures_of_its_test_split(
    small_clip: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERMODAL_CACHE", str(tmp_path))
    pictures = EmojiSource(unit="picture").open("unseen")
    said: list[str] = []
    first = held_out(small_clip, EmojiSource(unit="concept"), stamp(small_clip), lambda what, _: said.append(what))
    assert len(first) == len(pictures) and said
    row = len(pictures) // 2
    hit = max(first.search(first.vectors[row], 40), key=lambda h: h.path == pictures.sample_name(row))
    assert hit.path == pictures.sample_name(row) and hit.caption == pictures.sample(row)["text"]
    assert hit.picture().tobytes() == pictures.sample(row)["image"].tobytes()

    said.clear()
    second = held_out(small_clip, EmojiSource(), stamp(small_clip), lambda what, _: said.append(what))
    assert not said, "the second time the vectors come from the cache"
    np.testing.assert_array_equal(first.vectors, second.vectors)

    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"junk")
    third = held_out(small_clip, EmojiSource(), stamp(small_clip), lambda what, _: said.append(what))
    assert said and len(third) == len(first), "a damaged cache is made anew"


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    small_clip: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(held_out_module, "cache_folder", lambda: tmp_path / "file")
    held_out_module._write_cache(tmp_path / "file" / "x.safetensors", np.zeros((1, 2), np.float32))
    assert held_out_module._read_cache(tmp_path / "file" / "x.safetensors", (1, 2)) is None


def test_held_out_of_a_folder_are_its_validation_pictures(small_clip: CLIP, pictures: Path) -> None:
    source = FolderSource(path=pictures, validation_share=0.4)
    index = held_out(small_clip, source, stamp(small_clip))
    assert 0 < len(index) < 12
    hit = index.search(index.vectors[0], 1)[0]
    assert hit.caption.endswith("square") and Path(hit.path).exists()


def test_source_of(pictures: Path, tmp_path: Path) -> None:
    assert source_of(tmp_path / "no run") == EmojiSource()
    source = FolderSource(path=pictures)
    (tmp_path / "recipe.json").write_text(json.dumps({"source": source.to_dict()}))
    assert source_of(tmp_path) == source
    (tmp_path / "recipe.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(ConfigError, match="no source"):
        source_of(tmp_path)


def test_capabilities_that_lack_are_named(small_clip: CLIP) -> None:
    class Mute:
        id = "mute"

    with pytest.raises(ConfigError, match=r"A search needs .*'embed'; 'mute' has none.*clip"):
        offering(Mute(), "embed", "A search")
    with pytest.raises(ConfigError, match="embeds audio; this one embeds image, text"):
        embeds(small_clip, "audio", "It")


def test_session(small_clip: CLIP, pictures: Path, tmp_path: Path) -> None:
    small_clip.save(tmp_path / "run" / "model")
    session = Session(tmp_path / "run")
    assert (session.name, session.card.id, session.capabilities) == ("run", "clip", ("embed", "classify"))
    assert session.parameters == sum(p.numel() for p in small_clip.parameters())
    index, update = session.folder(pictures)
    assert update.added == 12
    picture = Image.open(pictures / "003.png").convert("RGB")
    assert index.search(session.query(image=picture), 1)[0].path == str(pictures / "003.png")
    np.testing.assert_array_equal(session.query(" red "), small_clip.embed("text", ["red"])[0])
    for arguments in ({}, {"text": "  "}, {"text": "x", "image": picture}):
        with pytest.raises(DataError, match="one of the two"):
            session.query(**arguments)
