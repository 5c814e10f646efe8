"""Estimates from the records: after a surprise less after matched tokens, by work; what maps to the surprise gain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from midstream.band import band, refitted
from midstream.interval import contrast, ratio
from midstream.record import Array, Estimate
from midstream.study.aftermath import probe
from midstream.study.aftermath.condition import AFTER, FIRST
from midstream.study.aftermath.panel import Panel
from midstream.study.aftermath.repeats import Repeats
from midstream.study.matched import Events, following, room
from midstream.study.output import ordered
from midstream.study.refit import QUARTERS
from midstream.study.study import Columns

NATS = "nats a token"


class Arms(NamedTuple):
    """Means where the surprise was high, where it was low, and the first less the second."""

    high: Estimate
    low: Estimate
    difference: Estimate


class Weights(NamedTuple):
    """``[n, p]`` weights of positions on both sides of a comparison, and ``[n]`` the work of each row."""

    high: Array
    low: Array
    works: Array

    @classmethod
    def of(cls, panel: Panel, compared: Events) -> Weights:
        """Of surprises and their partners."""
        return cls(compared.high, compared.low, panel.works)

    @classmethod
    def again(cls, panel: Panel, repeats: Repeats) -> Weights:
        """Of tokens that come a second time and those that are new."""
        return cls(repeats.second, repeats.fresh, panel.works)


def arms(values: Array, weights: Weights, seed: int, unit: str) -> Arms:
    """What ``values`` ``[n, p]`` are on both sides; NaN counts on neither."""
    sides = [_side(values, weight) for weight in weights[:2]]
    alone = [ratio(s, c, clusters=weights.works, generator=_draw(seed), unit=unit) for s, c in sides]
    sums, counts = (np.array([side[part] for side in sides]) for part in (0, 1))
    both = contrast(sums, counts, clusters=weights.works, generator=_draw(seed), unit=unit)
    return Arms(alone[0], alone[1], both)


def curve(values: Sequence[Array], weights: Weights, seed: int, unit: str) -> list[Estimate]:
    """The difference of the two sides for each of several ``values``, with simultaneous intervals."""
    parts = [halved(one, weights) for one in values]
    sums, counts = (np.array([part[number] for part in parts]) for number in (0, 1))
    return band(sums, counts, clusters=weights.works, generator=_draw(seed), unit=unit)


def halved(values: Array, weights: Weights) -> tuple[Array, Array]:
    """A difference of two weighted means as one ratio, sums and counts ``[n]``.

    Both sides weigh the same, W; counts are half of each side's weights, so that they sum to W. With values taken from
    the middle of the two means, what a text adds to the ratio is what it adds to the difference, to first order.
    """
    (high, of_high), (low, of_low) = (_side(values, weight) for weight in weights[:2])
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = (high.sum() / of_high.sum() + low.sum() / of_low.sum()) / 2
        return high - low - middle * (of_high - of_low), (of_high + of_low) / 2


def beyond(own: tuple[Array, Array], other: tuple[Array, Array], works: Array, seed: int) -> Estimate:
    """One difference less another, of texts of the same works; each as ``halved`` gives it."""
    sums, counts = (np.array([one[part] for one in (own, other)]) for part in (0, 1))
    return contrast(sums, counts, clusters=works, generator=_draw(seed), unit=NATS)


def _side(values: Array, weight: Array) -> tuple[Array, Array]:
    there = np.where(np.isnan(values), 0.0, weight)
    return (there * np.nan_to_num(values)).sum(1), there.sum(1)


def _draw(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def placed(panel: Panel, columns: Columns, name: str, **chosen: object) -> Array:
    """One column of a stage as ``[n, p]``, of the rows where other columns are as ``chosen``; NaN where none is."""
    if not columns:
        return np.full(panel.surprise.shape, np.nan)
    rows = np.ones(len(columns["document"]), bool)
    for key, value in chosen.items():
        rows &= columns[key] == value
    part = {key: columns[key][rows] for key in ("document", "position", name)}
    return ordered(part, panel.numbers, panel.surprise.shape[1])[name].astype(np.float64)


Window = tuple[int, int]
"""First and last token, from the surprising one: 1 is what is predicted at i + 1."""


def excess(panel: Panel, windows: Sequence[Window]) -> list[Estimate]:
    """Loss near a surprise less that near the same token unsurprising, with simultaneous intervals, nats a token.

    A regression over all positions: mean cross-entropy in a window on the surprise, with fixed effects of its type and
    of the work; its slope times the mean distance in surprise between surprises and those matched with them. It uses
    every occurrence of a type, where a match uses the outer ones. A work's own level is estimated from its few hundred
    tokens, which pulls slopes down by about one over their number (Nickell 1981).
    """
    n, p = panel.surprise.shape
    room_ = panel.usable & room(p, n, first=FIRST, span=AFTER)
    works = np.broadcast_to(np.unique(panel.works, return_inverse=True)[1][:, None], room_.shape)
    with np.errstate(invalid="ignore"):  # no surprise may have a partner
        sides = [(panel.surprise * weight).sum() / weight.sum() for weight in (panel.events.high, panel.events.low)]
    sums, counts = np.zeros((len(windows), n, p)), np.zeros((len(windows), n, p))
    for number, window in enumerate(windows):
        values = later(panel, window)
        used = room_ & ~np.isnan(values)
        groups = [np.unique(panel.target[used], return_inverse=True)[1], works[used]]
        x, y = (_within(one[used], groups) for one in (panel.surprise, values))
        sums[number][used], counts[number][used] = x * y * (sides[0] - sides[1]), x * x
    kept = (counts.sum(2) > 0).all(0)
    parts = sums.sum(2)[:, kept], counts.sum(2)[:, kept]
    return band(*parts, clusters=panel.works[kept], generator=panel.draw(), unit=NATS)


def later(panel: Panel, window: Window) -> Array:
    """Mean cross-entropy in a window of each position, ``[n, p]``, less the mean of its work; NaN without room."""
    first, last = window
    level = centred(panel.surprise, panel.usable, panel.works)
    after = following(level, last - first + 1, panel.usable)
    found, shift = np.full(after.shape, np.nan), first - 1
    if shift >= 0:
        found[:, : after.shape[1] - shift] = after[:, shift:]
    else:
        found[:, -shift:] = after[:, :shift]
    return found


def centred(values: Array, usable: Array, works: Array) -> Array:
    """Values less the mean of their work over usable positions: a fixed effect of each work."""
    _, which = np.unique(works, return_inverse=True)
    kept = np.where(usable, values, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.bincount(which, kept.sum(1)) / np.bincount(which, usable.sum(1))
    return np.where(usable, values - means[which][:, None], 0.0)


def gone(found: Sequence[Estimate], least: float) -> int | None:
    """After how many tokens an excess is gone: the first whose band includes 0, or whose value is below ``least``."""
    return next((step for step, one in enumerate(found, 1) if not one.low > 0 or one.value < least), None)


def gain(panel: Panel, layers: Sequence[int], refit: int = -1) -> tuple[Array, Array]:
    """What the stream adds to R² of the surprise, as sums ``[layers, n]`` and counts ``[n]``, within works.

    R² is of the surprise's variance within works: ``(Σ e_token² - Σ e_layer²) / Σ y²``.
    """

    def squares(values: Array) -> Array:
        return (centred(values, panel.usable, panel.works) ** 2).sum(1)

    def left(name: str) -> Array:
        return squares(panel.surprise - panel.readings[name])

    token = left(probe.name(probe.TOKEN, refit))
    return np.array([token - left(probe.name(("stream", layer), refit)) for layer in layers]), squares(panel.surprise)


def gains(panel: Panel, layers: Sequence[int]) -> list[Estimate]:
    """The gain at each layer, with simultaneous intervals."""
    sums, counts = gain(panel, layers)
    return band(sums, counts, clusters=panel.works, generator=panel.draw(), unit="R²")


def best(panel: Panel, layers: Sequence[int]) -> int:
    """The layer whose gain is largest, on works that choose."""
    sums, _ = gain(panel, layers)
    return layers[int(sums.sum(1).argmax())]


def gained(panel: Panel, layer: int) -> Estimate:
    """The gain at one layer, its interval widened by refitted maps."""
    sums, counts = gain(panel, [layer])
    found = ratio(sums[0], counts, clusters=panel.works, generator=panel.draw(), unit="R²")
    again = [gain(panel, [layer], refit) for refit in range(QUARTERS)]
    return refitted(found, [float(s.sum() / c.sum()) for s, c in again])


def slope(panel: Panel, repeats: Repeats) -> Estimate:
    """Log-probability at a second occurrence per nat of surprise at the first, within frequency class and work."""
    used = (repeats.second > 0) & ~np.isnan(repeats.first)
    works = np.broadcast_to(np.unique(panel.works, return_inverse=True)[1][:, None], used.shape)
    groups = [repeats.keys[used], works[used]]
    x, y = (_within(values[used], groups) for values in (repeats.first, -panel.surprise))
    sums, counts = np.zeros(used.shape), np.zeros(used.shape)
    sums[used], counts[used] = x * y, x * x
    return ratio(sums.sum(1), counts.sum(1), clusters=panel.works, generator=panel.draw(), unit="nats a nat")


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
