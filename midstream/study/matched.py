"""Surprising tokens against unsurprising ones of the same type, and what happens in the tokens after them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from midstream.record import Array


@dataclass(frozen=True)
class Events:
    """Positions that were surprised, and those they are held against.

    Position i is that of the prediction: the token it predicts, ``type[i]``, has surprise ``-log p`` there.

    Attributes:
        high: ``[n, p]`` float64: 1 where the surprise is in the top share and the type occurs in ``low`` too, else 0.
        low: ``[n, p]`` float64: at positions of surprise below the median, how many of ``high`` of the same type
            each stands for; both sum to the same.
        alone: share of the surprising positions whose type never was unsurprising, left out.
        threshold, median: of surprise, nats.
    """

    high: Array
    low: Array
    alone: float
    threshold: float
    median: float


def events(surprise: Array, types: Array, usable: Array, *, share: float = 0.1) -> Events:
    """Match by type: within each, unsurprising positions weigh as much together as the surprising ones do.

    Args:
        surprise: ``[n, p]`` nats, types: ``[n, p]`` token ids, usable: ``[n, p]`` bool, positions that may count.
        share: of the usable positions that count as surprising.
    """
    threshold, median = (float(np.quantile(surprise[usable], q)) for q in (1 - share, 0.5))
    high, low = usable & (surprise > threshold), usable & (surprise < median)
    return Events(*alike(high, low, types), threshold, median)


def alike(one: Array, other: Array, strata: Array) -> tuple[Array, Array, float]:
    """Match by stratum: within each, those of ``other`` weigh as much together as those of ``one`` do.

    Args:
        one, other: bool, of any shape; strata: the same, whole numbers from 0.

    Returns:
        Weights of either, float64: 1 for each of ``one`` in a stratum that holds both, else 0; and the share of ``one``
        whose stratum holds none of ``other``, NaN where there is none.
    """
    size = int(strata.max(initial=0)) + 1
    number, against = (np.bincount(strata[which], minlength=size) for which in (one, other))
    both = (number > 0) & (against > 0)
    weight = np.where(both, number / np.maximum(against, 1), 0.0)
    kept = one & both[strata]
    alone = 1 - kept.sum() / one.sum() if one.any() else np.nan
    return kept.astype(float), np.where(other, weight[strata], 0.0), float(alone)


def thinned(found: Events, types: Array, most: int, generator: np.random.Generator, *, partners: int = 1) -> Events:
    """At most so many of the surprises, and of each type no more than so many unsurprising partners for each of them.

    For what is too costly to be measured everywhere; types still weigh the same on both sides.
    """
    order = generator.permutation(found.high.size).reshape(found.high.shape)  # who is taken first
    high = found.high > 0
    if high.sum() > most:
        high &= order < np.sort(order[high])[most]
    taken = partners * np.bincount(types[high], minlength=int(types.max(initial=0)) + 1)
    low = np.zeros_like(high)
    at = np.argwhere((found.low > 0) & (taken[types] > 0))
    for row, column in at[np.argsort(order[tuple(at.T)])]:
        if taken[types[row, column]] > 0:
            taken[types[row, column]] -= 1
            low[row, column] = True
    one, other, _ = alike(high, low, types)
    return replace(found, high=one, low=other)


def following(values: Array, span: int, usable: Array | None = None) -> Array:
    """The mean of the ``span`` values after each position, ``[n, p]``; NaN where there are not as many.

    ``usable`` ``[n, p]`` bool leaves values out of the means.
    """
    n, p = values.shape
    found = np.full((n, p), np.nan)
    kept = np.ones((n, p), bool) if usable is None else usable
    if p > span:
        total, count = (_windows(part, span) for part in (np.where(kept, values, 0.0), kept.astype(float)))
        with np.errstate(invalid="ignore"):
            found[:, : p - span] = total / count
    return found


def _windows(values: Array, span: int) -> Array:
    """Sums of ``span`` values after each of the first p - span positions."""
    n, p = values.shape
    total = np.concatenate([np.zeros((n, 1)), np.cumsum(values, axis=1, dtype=np.float64)], axis=1)
    return total[:, span + 1 :] - total[:, 1 : p - span + 1]


def room(p: int, n: int, *, first: int, span: int) -> Array:
    """Positions ``[n, p]`` from ``first`` on that have ``span`` more after them: bool."""
    at = np.arange(p)
    return np.broadcast_to((at >= first) & (at < p - span), (n, p)).copy()
