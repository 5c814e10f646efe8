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
    one, other = weighted(high, low, types)
    alone = 1 - one.sum() / high.sum() if high.any() else np.nan
    return Events(one, other, float(alone), threshold, median)


def weighted(high: Array, low: Array, keys: Array) -> tuple[Array, Array]:
    """Weights that make two sets of positions alike in ``keys``: 1 for those of the first that have a partner.

    Args:
        high, low: ``[n, p]`` bool; keys: ``[n, p]`` whole numbers from 0, what partners share.

    Returns two ``[n, p]`` float64; those of one key sum to the same in both.
    """
    size = int(keys.max(initial=0)) + 1
    number_high, number_low = (np.bincount(keys[part], minlength=size) for part in (high, low))
    both = (number_high > 0) & (number_low > 0)
    weight = np.where(both, number_high / np.maximum(number_low, 1), 0.0)
    return (high & both[keys]).astype(float), np.where(low, weight[keys], 0.0)


def thinned(found: Events, types: Array, most: int, generator: np.random.Generator) -> Events:
    """At most so many of the surprises, and of each type no more unsurprising partners than it has surprises.

    For what is too costly to be measured everywhere; types still weigh the same on both sides.
    """
    order = generator.permutation(found.high.size).reshape(found.high.shape)  # who is taken first
    high = found.high > 0
    if high.sum() > most:
        high &= order < np.sort(order[high])[most]
    taken = np.bincount(types[high], minlength=int(types.max(initial=0)) + 1)
    low = np.zeros_like(high)
    at = np.argwhere((found.low > 0) & (taken[types] > 0))
    for row, column in at[np.argsort(order[tuple(at.T)])]:
        if taken[types[row, column]] > 0:
            taken[types[row, column]] -= 1
            low[row, column] = True
    return replace(found, **dict(zip(("high", "low"), weighted(high, low, types), strict=True)))


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
