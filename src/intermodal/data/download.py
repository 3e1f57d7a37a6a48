"""Files from the network: checked against a SHA-256 before they take their name, never half there."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from intermodal.core.errors import DataError
from intermodal.core.files import atomic_file

OFFLINE = ("INTERMODAL_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE")
"""Environment variables any of which, if set to 1, keeps the library off the network."""

CHUNK = 1 << 20
Progress = Callable[[int, int | None], None]
"""Called with the bytes that have come, and how many there will be (None if the server does not say)."""


def offline() -> str | None:
    """Return the name of the environment variable that forbids the network, or None."""
    return next((v for v in OFFLINE if os.environ.get(v, "").lower() in ("1", "true", "yes", "on")), None)


def fetch(url: str, sha256: str, path: Path, progress: Progress | None = None, timeout: float = 30) -> Path:
    """Download ``url`` to ``path``, unless the right file is there already; return ``path``.

    Args:
        url: ``https://`` or ``http://``.
        sha256: of the file, hexadecimal.
        path: where it goes; its folder is made.
        progress: called after each mebibyte.
        timeout: seconds of silence after which the server is given up.

    Raises:
        DataError: if the network is switched off, the server does not answer or refuses, the file comes
            incomplete, or its checksum is wrong (it is thrown away then).
    """
    if not url.startswith(("https://", "http://")):
        raise DataError(f"Can only download from https:// and http:// addresses, found {url!r}.")
    if path.exists() and file_sha256(path) == sha256.lower():
        return path
    switch = offline()
    if switch is not None:
        raise DataError(f"{path.name} is not here and the network is off ({switch} is set): cannot fetch {url}.")
    with atomic_file(path) as temporary:
        found = _download(url, temporary, progress, timeout)
        if found != sha256.lower():
            raise DataError(
                f"The checksum of {url} is wrong: expected SHA-256 {sha256.lower()}, found {found}. Nothing was kept."
            )
    return path


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, path: Path, progress: Progress | None, timeout: float) -> str:
    digest, count = hashlib.sha256(), 0
    request = urllib.request.Request(url, headers={"User-Agent": "intermodal"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            length = answer.headers.get("Content-Length")
            total = int(length) if length is not None else None
            with path.open("wb") as file:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                    count += len(chunk)
                    if progress is not None:
                        progress(count, total)
    except urllib.error.HTTPError as error:
        error.close()
        raise DataError(f"The server refused {url}: {error.code} {error.reason}.") from error
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"Cannot reach {url} ({reason}): is there a network?") from error
    if total is not None and count != total:
        raise DataError(f"{url} came incomplete: {count} of {total} bytes. Try again.")
    return digest.hexdigest()
