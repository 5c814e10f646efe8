"""Freed memory, given back to the system."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any


def give_back() -> None:
    """Returns what has been freed and lies between what is in use; does nothing where the C library is not glibc.

    glibc keeps such pages: reading windows of many lengths for minutes, a fit would grow by a gigabyte.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _trim() -> Any:
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # TypeError: Windows names no default library
        return None
