"""What a user writes in an option, taken apart: ``0,8,16``, ``0-8,30``, ``-1``; ``key=value`` pieces."""

from __future__ import annotations

from collections.abc import Iterable

from midstream.errors import RequestError

MOST = 10_000
"""That a range may name; no model has as many layers, and no text that is read at once as many positions."""


def numbers(name: str, given: str, count: int | None = None) -> list[int]:
    """The numbers that ``given`` lists; a leading minus counts from the end.

    Args:
        name: what they are.
        count: of all there are; with it ``3-`` goes on to the last.

    Raises RequestError for anything else.
    """
    found: list[int] = []
    for piece in given.split(","):
        first, dash, last = piece.strip().partition("-") if piece.strip()[:1] != "-" else (piece.strip(), "", "")
        try:
            end = str(count - 1) if dash and not last and count is not None else last
            low, high = int(first), int(end if dash else first)
            if not 0 <= high - low < (count or MOST):
                raise ValueError
            found += range(low, high + 1)
        except ValueError:
            raise RequestError(f"{name} {given!r}: expected numbers and ranges such as 0,8,16 or 0-8,30.") from None
    return found


def pairs(what: str, pieces: Iterable[str]) -> dict[str, str]:
    """``key=value`` pieces by key. Raises RequestError for another piece, and a key twice; ``what`` they are of."""
    values: dict[str, str] = {}
    for piece in pieces:
        key, equals, value = piece.partition("=")
        if not equals or key in values:
            raise RequestError(f"{what} has {piece!r}: expected key=value, each key once.")
        values[key] = value
    return values
