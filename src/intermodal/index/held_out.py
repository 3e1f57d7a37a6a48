"""The pictures or texts that a model was not trained on, ready to be searched."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from intermodal.core.capabilities import Embeds
from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError, IntermodalError
from intermodal.core.files import atomic_file, read_json
from intermodal.core.progress import Progress, silent
from intermodal.data.catalog import cache_folder
from intermodal.data.emoji import EmojiSource, emoji_table
from intermodal.data.source import Source, SourceConfig
from intermodal.index.embedding import BATCH, ModelStamp, embed_files, offering
from intermodal.index.hits import MemoryIndex
from intermodal.methods.base import Method

MOST_TEXTS = 20_000
"""Of more held-out texts so many are searched, evenly taken."""
CACHE_FORMAT = 1
"""Raised when pictures are read or prepared in another way than before."""


def source_of(run: str | Path) -> SourceConfig:
    """Return the data that a run was trained on; for a model that is no run the shipped emoji set.

    Raises:
        ConfigError: if the run's recipe is damaged.
    """
    path = Path(run) / "recipe.json"
    if not path.exists():
        return EmojiSource()
    data = read_json(path, "recipe")
    source = Config.from_dict(data["source"]) if isinstance(data, dict) and "source" in data else None
    if not isinstance(source, SourceConfig):
        raise ConfigError(f"The recipe {path} names no source of data: it was altered or cut short.")
    return source


def held_out(model: Method, source: SourceConfig, made_by: ModelStamp, progress: Progress = silent) -> MemoryIndex:
    """Embed what was held out: the emoji set's held-out concepts and styles, or another source's validation split.

    Pictures where model and data have them, else texts. The vectors of the shipped emoji set are kept in the user's cache
    folder, by the model's stamp.

    Raises:
        ConfigError: if the model does not embed anything.
        DataError: if the data is not there, or has nothing that the model embeds.
    """
    embedder: Embeds = offering(model, "embed", "A search")
    if "image" not in embedder.modalities:
        return _held_out_texts(embedder, source, progress)
    shipped = isinstance(source, EmojiSource)
    pictures = (EmojiSource(unit="picture") if shipped else source).open("unseen" if shipped else "validation")
    cached = _cache_file(made_by, pictures) if shipped else None
    vectors = None if cached is None else _read_cache(cached, (len(pictures), made_by.dim))
    rows = list(range(len(pictures)))
    if vectors is None:
        rows, parts = [], [np.zeros((0, made_by.dim), np.float32)]
        what = f"embedding {len(pictures)} held-out pictures"
        progress(what, 0.0)
        read = embed_files(embedder, range(len(pictures)), lambda i: pictures.sample(i)["image"], pictures.sample_name)
        done = 0
        for readable, batch, unreadable in read:
            rows += readable
            parts.append(batch)
            done += len(readable) + len(unreadable)
            progress(what, done / len(pictures))
        vectors = np.concatenate(parts)
        if cached is not None and len(rows) == len(pictures):
            _write_cache(cached, vectors)
    return MemoryIndex(
        pictures.name,
        vectors,
        [pictures.sample_name(row) for row in rows],
        lambda at: pictures.sample(rows[at]),
    )


def _held_out_texts(embedder: Embeds, source: SourceConfig, progress: Progress) -> MemoryIndex:
    if isinstance(source, EmojiSource):
        raise DataError(
            "This model embeds texts and was trained by no run, so there are no held-out texts: name a text file or folder."
        )
    opened = source.open("validation")
    if "text" not in opened.fields:
        raise DataError(f"{opened.name} has no texts to search: name a text file or folder.")
    count = min(len(opened), MOST_TEXTS)
    rows = [len(opened) * i // count for i in range(count)]
    texts = [str(opened.sample(row)["text"]) for row in rows]
    parts = []
    for start in range(0, count, BATCH):
        parts.append(embedder.embed("text", texts[start : start + BATCH]))
        progress(f"embedding {count:,} held-out texts", min(start + BATCH, count) / count)
    return MemoryIndex(
        opened.name, np.concatenate(parts), [opened.sample_name(row) for row in rows], lambda at: {"text": texts[at]}
    )


def _cache_file(made_by: ModelStamp, pictures: Source) -> Path:
    key = f"{made_by.sha256} {pictures.name} {len(pictures)} {emoji_table().nbytes} {CACHE_FORMAT}"
    return cache_folder() / "held-out" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"


def _read_cache(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Return cached vectors, or None where there are none that fit: they are then made again."""
    try:
        vectors = load_file(path)["vectors"]
    except (FileNotFoundError, SafetensorError, KeyError, OSError):
        return None
    return vectors if vectors.shape == shape else None


def _write_cache(path: Path, vectors: np.ndarray) -> None:
    """Keep vectors for the next time; a cache that cannot be written is only a loss of time."""
    try:
        with atomic_file(path) as temporary:
            save_file({"vectors": np.ascontiguousarray(vectors)}, str(temporary))
    except (IntermodalError, OSError, SafetensorError):
        return
