"""Published folders by hub id, through huggingface_hub's cache: never a pickle, nothing when offline."""

from __future__ import annotations

import os
import re
from pathlib import Path

from intermodal.core.errors import CheckpointError

ALLOWED = ("*.safetensors", "*.json", "*.txt", "*.model")


def is_hub_id(text: str) -> bool:
    """Say whether a text has the form of a hub id, ``name`` or ``owner/name``."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", text) is not None and ".." not in text


def offline() -> bool:
    """Say whether downloading is switched off by ``INTERMODAL_OFFLINE`` or ``HF_HUB_OFFLINE``."""
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on")
        for name in ("INTERMODAL_OFFLINE", "HF_HUB_OFFLINE")
    )


def download(hub_id: str, revision: str | None = None) -> Path:
    """Return the local folder of a published model, downloaded unless the cache has it.

    Args:
        hub_id: ``owner/name``.
        revision: a branch, tag or commit; None for the main branch.

    Raises:
        CheckpointError: if it is not in the cache while offline, does not exist, or cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    is_offline = offline()
    try:
        found = snapshot_download(hub_id, revision=revision, allow_patterns=list(ALLOWED), local_files_only=is_offline)
    except LocalEntryNotFoundError as error:
        if is_offline:
            raise CheckpointError(
                f"{hub_id!r} is no folder here, and downloading is switched off (INTERMODAL_OFFLINE or "
                "HF_HUB_OFFLINE): unset it, or give the path of a folder."
            ) from error
        raise CheckpointError(f"{hub_id!r} could not be downloaded: the hub cannot be reached ({error}).") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(f"{hub_id!r} could not be downloaded: {error}") from error
    return Path(found)
