"""The smallest number of coordinates from which the reading is still the same but for so many nats."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from midstream.record import Array

Asked = dict[int, Array]
"""k -> what reading from the first k coordinates adds at each position, nats."""


def bisected(added: Callable[[int], float], epsilon: float, most: int) -> int:
    """The smallest k with ``added(k) <= epsilon``, 0 to ``most``, by bisection: right where ``added`` falls with k.

    With all coordinates nothing is added.
    """
    if added(0) <= epsilon:
        return 0
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if added(middle) <= epsilon else (middle, high)
    return high


def smallest(points: Mapping[int, float], epsilon: float) -> int:
    """Of the k that were asked for, the smallest from which on none adds more than ``epsilon``.

    That is the one that ``bisected`` ended at, and where ``added`` does not fall throughout, none that came out small
    by chance. ``points`` has that of all coordinates, which add nothing.
    """
    order = sorted(points, reverse=True)
    kept = order[0]
    for k in order:
        if not points[k] <= epsilon:
            break
        kept = k
    return kept


def crossing(points: Mapping[int, float], epsilon: float) -> int:
    """``smallest``, between the k that were asked for too: ``added`` is taken to be straight there.

    For texts other than those that the search was made on.
    """
    order = sorted(points)
    grid = np.arange(order[-1] + 1)
    more = np.flatnonzero(~(np.interp(grid, order, [points[k] for k in order]) <= epsilon))
    return int(more[-1]) + 1 if len(more) else 0
