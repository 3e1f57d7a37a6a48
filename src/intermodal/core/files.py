"""Files that are whole or absent: every write goes to a temporary neighbour, is synced, and then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from intermodal.core.errors import IntermodalError


def _explain(error: OSError, path: Path) -> IntermodalError | None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return IntermodalError(f"The disk is full: could not write {path}. What was there before is untouched.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return IntermodalError(f"No permission to write {path}.")
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
        return IntermodalError(
            f"{path} cannot be written: it, or a part of its path, is there already as another kind of file."
        )
    return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write; on success it replaces ``path`` in one step, on failure it vanishes.

    Raises:
        IntermodalError: if the disk is full or writing is not permitted; ``path`` is then as it was before.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise (_explain(error, path) or error) from error
    finally:
        with contextlib.suppress(NotADirectoryError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it takes the place of ``path``, on failure it vanishes.

    A folder that already stands at ``path`` is moved aside first and removed last, so that at every moment either the
    old or the new one exists in full (under ``path`` or, for one rename's time, beside it as ``.NAME.*.old``).

    Raises:
        IntermodalError: if the disk is full or writing is not permitted; ``path`` is then as it was before.
    """
    path = Path(path)
    token = uuid.uuid4().hex[:8]
    temporary = path.with_name(f".{path.name}.{token}.tmp")
    old = path.with_name(f".{path.name}.{token}.old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        for file in sorted(temporary.rglob("*")):
            _sync(file)
        _sync(temporary)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        _sync(path.parent)
    except OSError as error:
        if old.exists() and not path.exists():
            old.rename(path)
        raise (_explain(error, path) or error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically (UTF-8)."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, data: Any) -> None:
    """Write indented JSON atomically."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path, what: str = "file") -> Any:
    """Read JSON, or raise an IntermodalError that names the file and says what is wrong with it."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise IntermodalError(f"There is no {what} at {path}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise IntermodalError(f"The {what} {path} is not valid JSON ({error}): was it cut short?") from error
