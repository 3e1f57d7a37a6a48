"""Requests of bounded size, and how much one may ask for."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BYTES = 32_000_000
MAX_INPUTS = 256
MAX_TEXT = 10_000
MAX_SAMPLES = 64
MAX_STEPS = 10_000
MAX_RECORDINGS = 16
MAX_SECONDS = 900.0
"""Of sound in one request, in all."""


class LimitBody:
    """Refuses requests whose body is larger than a bound, whether or not they state their length.

    Args:
        app: what is protected.
        max_bytes: the bound.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the body's bytes as they come."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        stated = Headers(scope=scope).get("content-length", "")
        seen = int(stated) if stated.isdigit() else 0
        too_large = seen > self.max_bytes
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if too_large or seen > self.max_bytes:
                megabytes = self.max_bytes / 1e6
                raise HTTPException(413, f"The request is larger than the {megabytes:.0f} MB that are allowed.")
            return message

        await self.app(scope, counted, send)
