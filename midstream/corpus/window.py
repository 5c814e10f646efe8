"""Documents longer than the model's context, cut into windows in which every token is read exactly once."""

from __future__ import annotations

from dataclasses import dataclass

from midstream.errors import RequestError

LONGEST = 2048
"""Tokens in the longest window, whatever the model allows: longer ones cost more than their context is worth."""


@dataclass(frozen=True)
class Window:
    """The tokens ``start`` to ``stop`` (exclusive) of a document, read from position ``first`` on.

    The tokens from ``start`` to ``first`` are there as context; an earlier window reads them with more of it.
    """

    start: int
    stop: int
    first: int


def windows(tokens: int, size: int, *, reach: int = 0) -> list[Window]:
    """The windows of a document: consecutive ones overlap by half a window, or by ``reach`` where that is more.

    Args:
        tokens: length of the document.
        size: the longest window in tokens: the model's context, at most ``LONGEST``.
        reach: largest absolute offset of the lenses that will read.

    Every position is read once, in the window where its context is longest: the first one that holds it.
    Raises RequestError when ``reach`` leaves no room to advance.
    """
    overlap = max(size // 2, reach)
    if overlap >= size:
        raise RequestError(
            f"a lens that reaches {reach} tokens away does not fit a window of {size}: use a smaller offset."
        )
    cut = [Window(0, min(size, tokens), 0)]
    while cut[-1].stop < tokens:
        start = cut[-1].start + size - overlap
        cut.append(Window(start, min(start + size, tokens), cut[-1].stop))
    return cut
