"""A connection whose other side has to get on: it cannot be held open by sending nothing, or by taking nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

LEAST = 1 << 16
"""Bytes of an answer that must be taken within each ``patience``."""


class Connection(H11Protocol):
    """Cut off where a whole request head does not come within ``patience`` seconds, or an answer is not taken.

    uvicorn waits for both without end, and gives each a place among the few connections that it serves; an answer that
    is not taken would also keep everybody in the line waiting. Bodies are the guard's to wait for.
    """

    def __init__(self, *given: Any, patience: float, **named: Any) -> None:
        super().__init__(*given, **named)
        self._patience = patience
        self._limit: asyncio.TimerHandle | None = None
        self._unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Wait for a request."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Part of a request does not make the time for the rest of it longer."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """Wait for the answer to be taken."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """It was."""
        super().resume_writing()
        self._watch()

    def _watch(self) -> None:
        """Count from now on if it is the other side's turn and was not before."""
        served = self.cycle is not None and not self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]
        if served and not self.flow.write_paused:
            self._stop()
        elif self._limit is None:
            self._unsent = self.transport.get_write_buffer_size()
            self._limit = self.loop.call_later(self._patience, self._late)

    def _stop(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _late(self) -> None:
        self._limit = None
        if self._unsent - self.transport.get_write_buffer_size() < LEAST:
            self.transport.abort()
        else:
            self._watch()
