"""Estimates from the records: what was measured on two sides of a comparison; what maps to the surprise gain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from midstream.band import band, refitted
from midstream.interval import by_positions, contrast, ratio
from midstream.record import Array, Estimate
from midstream.study.aftermath import probe
from midstream.study.aftermath.panel import Panel
from midstream.study.aftermath.repeats import Repeats
from midstream.study.matched import Events
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
    sides = [side(values, weight) for weight in weights[:2]]
    alone = [ratio(s, c, clusters=weights.works, generator=_draw(seed), unit=unit) for s, c in sides]
    sums, counts = (np.array([one[part] for one in sides]) for part in (0, 1))
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
    (high, of_high), (low, of_low) = (side(values, weight) for weight in weights[:2])
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = (high.sum() / of_high.sum() + low.sum() / of_low.sum()) / 2
        return high - low - middle * (of_high - of_low), (of_high + of_low) / 2


def side(values: Array, weight: Array) -> tuple[Array, Array]:
    """A weighted mean of ``values`` ``[n, p]`` as a ratio, sums and counts ``[n]``; NaN counts for nothing."""
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


def centred(values: Array, usable: Array, works: Array) -> Array:
    """Values less the mean of their work over usable positions: a fixed effect of each work."""
    _, which = np.unique(works, return_inverse=True)
    kept = np.where(usable, values, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.bincount(which, kept.sum(1)) / np.bincount(which, usable.sum(1))
    return np.where(usable, values - means[which][:, None], 0.0)


def gain(panel: Panel, layers: Sequence[int], refit: int = -1) -> tuple[Array, Array]:
    """What the stream adds to R² of the surprise, as sums ``[layers, n]`` and counts ``[n]``, within works.

    R² is of the surprise's variance within works: ``(Σ e_known² - Σ e_layer²) / Σ y²``.
    """

    def squares(values: Array) -> Array:
        return (centred(values, panel.usable, panel.works) ** 2).sum(1)

    def left(name: str) -> Array:
        return squares(panel.surprise - panel.readings[name])

    known = left(probe.name(probe.KNOWN, refit))
    return np.array([known - left(probe.name(("stream", layer), refit)) for layer in layers]), squares(panel.surprise)


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
    found = by_positions(found, panel.usable.sum(1), clusters=panel.works)
    again = [gain(panel, [layer], refit) for refit in range(QUARTERS)]
    return refitted(found, [float(s.sum() / c.sum()) for s, c in again])
