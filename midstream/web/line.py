"""Work one piece at a time, in one thread, step by step; those who wait see their place, those who leave are out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from midstream.errors import RequestError


class FullError(RequestError):
    """Too many wait already."""


@dataclass(frozen=True)
class Place:
    """Where somebody stands in the line: how many are before them."""

    ahead: int


_END = object()


class Line:
    """A line of people who want the one model; ``most`` may stand in it, the one who is served among them."""

    def __init__(self, most: int = 8) -> None:
        self.most = most
        self._waiting: list[object] = []
        self._moved = asyncio.Condition()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def serve(self, steps: Callable[[], Iterator[Any]]) -> AsyncGenerator[Any]:
        """What ``steps`` gives, after a ``Place`` for each time that the line has moved until it is its turn.

        A step that runs is not broken off: whoever leaves stops the work at its end. Raises FullError.
        """
        if len(self._waiting) >= self.most:
            raise FullError(f"{self.most} requests are waiting already: try again when one of them is done.")
        ticket, work = object(), None
        self._waiting.append(ticket)
        try:
            while ahead := self._waiting.index(ticket):
                yield Place(ahead)
                async with self._moved:
                    if self._waiting.index(ticket) == ahead:
                        await self._moved.wait()
            work = await self._step(steps)
            while (found := await self._step(next, work, _END)) is not _END:
                yield found
        finally:
            with anyio.CancelScope(shield=True):
                if (close := getattr(work, "close", None)) is not None:
                    await self._step(close)
                self._waiting.remove(ticket)
                async with self._moved:
                    self._moved.notify_all()

    async def once(self, work: Callable[[], Any]) -> Any:
        """What ``work`` gives, in its turn."""
        async with aclosing(self.serve(lambda: iter([work()]))) as steps:
            async for found in steps:
                if not isinstance(found, Place):
                    return found
        raise AssertionError

    async def _step(self, function: Callable[..., Any], *given: Any) -> Any:
        await checkpoint_if_cancelled()  # who left during a step is told of it outside the shield only
        with anyio.CancelScope(shield=True):
            return await asyncio.wrap_future(self._thread.submit(function, *given))
