"""Answers that come as they are made: server-sent events, whose work ends as soon as nobody listens."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.types import Receive, Scope, Send

Events = AsyncGenerator[tuple[str, Any]]


class Told(StreamingResponse):
    """Events (name, JSON value), each sent when it comes.

    FastAPI's own events leave the generator to the garbage collector where a listener goes away, and the line would
    wait for it: here it is closed at once.
    """

    media_type = "text/event-stream"

    def __init__(self, events: Events) -> None:
        self._events = events
        super().__init__(_written(events))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them all, or until the listener has gone."""
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


async def _written(events: Events) -> AsyncGenerator[bytes]:
    async for name, data in events:
        yield format_sse_event(event=name, data_str=json.dumps(data, ensure_ascii=False, allow_nan=False))
