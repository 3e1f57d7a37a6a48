"""Requests of bounded size."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


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
