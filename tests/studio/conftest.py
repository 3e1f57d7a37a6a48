"""What every test of the page needs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def event_loops(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the event loops that gradio makes for every page and leaves open."""
    made: list[asyncio.AbstractEventLoop] = []
    original = asyncio.new_event_loop

    def recorded() -> asyncio.AbstractEventLoop:
        made.append(original())
        return made[-1]

    monkeypatch.setattr(asyncio, "new_event_loop", recorded)
    yield
    asyncio.set_event_loop(None)
    for loop in made:
        if not loop.is_running():  # LanceDB's own runs in the background
            loop.close()
