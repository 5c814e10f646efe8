"""Ctrl-C and SIGTERM that wait for what must not be left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def undisturbed() -> Generator[None]:
    """Inside, Ctrl-C and SIGTERM wait until the block has ended, well or not, so that nothing is left half done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []

    def remember(number: int, _frame: Any) -> None:
        asked.append(number)

    # a handler that Python does not know of (None) cannot be put back, and is left alone
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if handler is not None}
    try:
        for number in handlers:
            signal.signal(number, remember)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if asked:
            signal.raise_signal(asked[0])
