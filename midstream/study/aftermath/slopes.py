"""Slopes on the surprise, with levels for types, works and parts of texts: what follows the worse a token was missed.

A surprise is no draw: hard types, hard passages and early parts of texts have more of them, and more of much else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from midstream.band import band
from midstream.interval import by_positions, contrast, ratio
from midstream.record import Array, Estimate
from midstream.study.aftermath.analysis import NATS, side
from midstream.study.aftermath.condition import AFTER, FIRST
from midstream.study.aftermath.panel import Panel
from midstream.study.aftermath.repeats import PARTS, Repeats
from midstream.study.matched import following, room


class Sums(NamedTuple):
    """Of slopes as ratios: what each text adds to numerator and denominator, ``[k, n]`` each, or ``[n]`` of one slope.

    Attributes:
        counts: squares of the regressor, so that they do not say how many tokens there are.
        positions: those that tell something of the slope, which none does that is alone in a level.
    """

    sums: Array
    counts: Array
    positions: Array


def distance(panel: Panel) -> float:
    """How much higher the surprise is of surprises than of those matched with them, nats; NaN where there are none."""
    with np.errstate(invalid="ignore"):
        high, low = ((panel.surprise * side).sum() / side.sum() for side in (panel.events.high, panel.events.low))
    return float(high - low)


def slopes(panel: Panel, values: Sequence[Array], used: Array) -> Sums:
    """Slopes of ``values`` ``[n, p]`` on the surprise, over positions ``used`` where they are not NaN.

    Types, works and quarters of a text have levels of their own.
    """
    parts = [sloped(one, panel.surprise, used & ~np.isnan(one), levels(panel)) for one in values]
    return Sums(*(np.array(each) for each in zip(*parts, strict=True)))


def effects(panel: Panel, sums: Sums, times: float) -> list[Estimate]:
    """Slopes times a distance in surprise, nats a token, with simultaneous intervals."""
    kept = (sums.counts > 0).all(0)
    of, works = Sums(*(part[:, kept] for part in sums)), panel.works[kept]
    found = band(of.sums * times, of.counts, clusters=works, generator=panel.draw(), unit=NATS)
    return [by_positions(one, used, clusters=works) for one, used in zip(found, of.positions, strict=True)]


def beyond(one: Panel, first: Sums, other: Sums, times: float) -> Estimate:
    """A slope less the same of other texts of the same works, both times the same distance."""
    both = Sums(*(np.concatenate(each) for each in zip(first, other, strict=True)))
    found = contrast(both.sums * times, both.counts, clusters=one.works, generator=one.draw(), unit=NATS)
    return by_positions(found, both.positions, clusters=one.works)


def in_proportion(panel: Panel, costs: tuple[Array, Array], used: Array, base: Array) -> tuple[Sums, float]:
    """The slope of one cost ``[n, p]`` less c times another, c the ratio of their means weighted by ``base``; and c.

    What multiplies both alike, as a hard place may, is taken off. A text adds to c too: what it adds to the slope by
    that is in its part of the numerator, to first order, and all these parts sum to 0.
    """
    first, second = (side(one, base)[0] for one in costs)
    with np.errstate(invalid="ignore", divide="ignore"):
        c = first.sum() / second.sum()
        found, other = (slopes(panel, [one], used) for one in (costs[0] - c * costs[1], costs[1]))
        moved = (first - c * second) / second.sum() * other.sums.sum() / other.counts.sum() * found.counts.sum()
    return found._replace(sums=found.sums - moved), float(c)


def levels(panel: Panel) -> list[Array]:
    """Type of the token that surprises, work, and quarter of the text, ``[n, p]`` each."""
    n, p = panel.surprise.shape
    works = np.unique(panel.works, return_inverse=True)[1]
    return [
        panel.target,
        np.broadcast_to(works[:, None], (n, p)),
        np.broadcast_to(np.arange(p) * PARTS // p, (n, p)),
    ]


def sloped(y: Array, x: Array, used: Array, groups: Sequence[Array]) -> Sums:
    """A regression of ``y`` on ``x`` with fixed effects of ``groups``, all ``[n, p]``, as a ratio, ``[n]`` each.

    Levels are fitted to few positions each, so that what is left varies less than it should; residuals are enlarged for
    it, ``sqrt(N / (N - K))`` with K levels (Cameron and Miller, "A Practitioner's Guide to Cluster-Robust Inference",
    Journal of Human Resources 50, 2015). The slope stays what it is.
    """
    sums, counts, positions = (np.zeros(used.shape) for _ in range(3))
    coded = [np.unique(group[used], return_inverse=True)[1] for group in groups]
    left, at = _within(y[used], coded), _within(x[used], coded)
    square = float((at * at).sum())
    if square > 0:
        fitted = (at * left).sum() / square * at
        sums[used], counts[used] = at * (fitted + _enlarged(coded) * (left - fitted)), at * at
        positions[used] = ~_alone(coded)
    return Sums(sums.sum(1), counts.sum(1), positions.sum(1))


def _enlarged(groups: Sequence[Array]) -> float:
    """Positions that are alone in their level say nothing: they count neither as such nor as levels."""
    alone = _alone(groups)
    number, fitted = (~alone).sum(), sum(len(np.unique(group[~alone])) - 1 for group in groups) + 1
    return float(np.sqrt(number / (number - fitted))) if number > fitted else np.nan


def _alone(groups: Sequence[Array]) -> Array:
    return np.logical_or.reduce([np.bincount(group)[group] == 1 for group in groups])


def weightiest(panel: Panel, values: Array, used: Array) -> int:
    """The type of token that adds most to the slope's numerator, up or down; -1 where nothing is used."""
    used = used & ~np.isnan(values)
    if not used.any():
        return -1
    coded = [np.unique(group[used], return_inverse=True)[1] for group in levels(panel)]
    added = np.bincount(coded[0], _within(values[used], coded) * _within(panel.surprise[used], coded))
    return int(np.unique(panel.target[used])[np.abs(added).argmax()])


Window = tuple[int, int]
"""First and last token, from the surprising one: 1 is what is predicted at i + 1."""


def excess(panel: Panel, windows: Sequence[Window], times: float) -> list[Estimate]:
    """Mean cross-entropy in windows near a surprise less that elsewhere in the text, its slope on the surprise.

    A hard text is hard everywhere: what lies more than ``AFTER`` tokens away says how hard. Not the same window before:
    the slope of one token's loss on another's is, by symmetry of covariances, nearly that of the other's on its own,
    so that their difference is nearly 0 whatever a surprise does.
    """
    n, p = panel.surprise.shape
    used, away = panel.usable & room(p, n, first=FIRST, span=AFTER), elsewhere(panel)
    return effects(panel, slopes(panel, [later(panel, one) - away for one in windows], used), times)


def elsewhere(panel: Panel) -> Array:
    """Mean cross-entropy of each text more than ``AFTER`` tokens from each position, ``[n, p]``; NaN for none."""
    p = panel.surprise.shape[1]
    away = (np.abs(np.arange(p)[:, None] - np.arange(p)) > AFTER).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return (np.where(panel.usable, panel.surprise, 0.0) @ away) / (panel.usable @ away)


def later(panel: Panel, window: Window) -> Array:
    """Mean cross-entropy in a window of each position, ``[n, p]``; NaN without room."""
    first, last = window
    after = following(panel.surprise, last - first + 1, panel.usable)
    found, shift = np.full(after.shape, np.nan), first - 1
    if shift >= 0:
        found[:, : after.shape[1] - shift] = after[:, shift:]
    else:
        found[:, -shift:] = after[:, :shift]
    return found


def untold(found: Sequence[Estimate]) -> int | None:
    """The first of them whose interval reaches 0: the more text, the later."""
    return next((number for number, one in enumerate(found) if not one.low > 0), None)


def small(found: Sequence[Estimate], matters: float) -> int | None:
    """The first from which on no upper end reaches what matters."""
    above = [number for number, one in enumerate(found) if not one.high < matters]
    first = above[-1] + 1 if above else 0
    return first if first < len(found) else None


def returned(panel: Panel, repeats: Repeats) -> Estimate:
    """What rare tokens gain at their second occurrence per nat of surprise at the first, nats a nat.

    The gain is over new tokens of the same frequency, form and quarter of a text, which all have one level here: the
    slope is that of the log-probability itself. Works have levels of their own.
    """
    used = (repeats.second > 0) & ~np.isnan(repeats.first)
    groups = [repeats.keys, levels(panel)[1]]
    sums, counts, positions = sloped(-panel.surprise, repeats.first, used, groups)
    found = ratio(sums, counts, clusters=panel.works, generator=panel.draw(), unit="nats a nat")
    return by_positions(found, positions, clusters=panel.works)


def _within(values: Array, groups: Sequence[Array]) -> Array:
    """Values less fixed effects of several groups, by turns until nothing changes."""
    found = values.astype(np.float64)
    for _ in range(50):
        before = found
        for group in groups:
            found = found - (np.bincount(group, found) / np.maximum(np.bincount(group), 1))[group]
        if not len(found) or np.abs(found - before).max() < 1e-9:
            break
    return found
