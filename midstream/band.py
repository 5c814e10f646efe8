"""More than one interval at once, and intervals of numbers that fits or trainings have made."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from midstream.interval import DRAWS, FEWEST, WEBB, ratio
from midstream.record import Estimate


def band(
    sums: npt.ArrayLike, counts: npt.ArrayLike, *, clusters: npt.ArrayLike, generator: np.random.Generator, unit: str
) -> list[Estimate]:
    """A curve: ratios ``θ_k`` over the same clusters, with intervals that hold all of them at once in 95 % of samples.

    Each end of ``ratio``'s interval is moved out by one factor, at least 1: the 95 % quantile of ``max_k |t*_k|`` over
    that of a single ``|t*_k|``, median over k, with ``t*_k = Σ_g w_g u_kg / se*_k`` over draws of Webb weights w, u_kg
    what cluster g adds to θ_k, se* from the same draw (Montiel Olea and Plagborg-Møller, "Simultaneous confidence
    bands", Journal of Applied Econometrics 34, 2019).

    Args:
        sums: ``[k, documents]``; counts the same, or ``[documents]``.
        clusters, generator, unit: as for ``ratio``.
    """
    sums = np.asarray(sums, dtype=np.float64)
    counts, labels = np.broadcast_to(np.asarray(counts), sums.shape), np.asarray(clusters)
    points = [ratio(s, c, clusters=labels, generator=generator, unit=unit) for s, c in zip(sums, counts, strict=True)]
    groups = min((point.clusters for point in points), default=0)
    if groups < FEWEST or len(points) < 2:
        return points
    _, which = np.unique(labels, return_inverse=True)
    added = np.zeros((len(sums), which.max() + 1))
    for row, s, c in zip(added, sums, counts, strict=True):
        np.add.at(row, which, (s - s.sum() / c.sum() * c) / c.sum())
    draws = WEBB[generator.integers(0, len(WEBB), (DRAWS, added.shape[1]))]
    center = draws @ added.T  # [draws, k]
    spread = np.sqrt(np.maximum((draws**2) @ (added**2).T - center**2 / added.shape[1], 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.nan_to_num(np.abs(center) / spread, posinf=0.0)
    single = float(np.median(np.quantile(statistic, 0.95, axis=0)[spread.any(0)])) if spread.any() else 0.0
    widen = max(1.0, float(np.quantile(statistic.max(1), 0.95)) / single) if single > 0 else 1.0
    method = f"simultaneous over {len(points)} points: max-t, Webb weights; {points[0].method}"
    return [
        replace(
            point,
            low=point.value - widen * (point.value - point.low),
            high=point.value + widen * (point.high - point.value),
            method=method,
        )
        for point in points
    ]


def refitted(estimate: Estimate, values: npt.ArrayLike) -> Estimate:
    """An estimate made with a fitted map, its interval widened by what ``values`` say of the fit.

    Args:
        values: ``[q]``, the same number from maps that were fitted without one of q parts of the fit documents each;
            the fit's variance is their jackknife's, ``(q - 1)/q Σ (θ_(j) - mean)²``, which is known to q - 1 degrees of
            freedom: it reaches as far as t has it with these. Ends are NaN where one of them is.
    """
    from scipy.special import stdtrit

    found = np.asarray(values, dtype=np.float64)
    if not np.isfinite(found).all():
        return replace(
            estimate,
            low=math.nan,
            high=math.nan,
            method=f"{estimate.method}; no interval: numbers of refits are undefined",
        )
    variance = (len(found) - 1) / len(found) * float(((found - found.mean()) ** 2).sum())
    reach = float(stdtrit(len(found) - 1, (1 + estimate.level) / 2)) * np.sqrt(variance)
    below, above = (float(np.hypot(end - estimate.value, reach)) for end in (estimate.low, estimate.high))
    method = f"{estimate.method}; widened by {len(found)} refits without a part of the fit documents each"
    return replace(estimate, low=estimate.value - below, high=estimate.value + above, method=method)


def runs(differences: npt.ArrayLike, *, unit: str, level: float = 0.95) -> Estimate:
    """The mean of paired differences of independent runs (seeds), with its t interval; NaN below three of them."""
    from scipy.special import stdtrit

    found = np.asarray(differences, dtype=np.float64)
    n = len(found)
    reach = float(stdtrit(n - 1, (1 + level) / 2)) * found.std(ddof=1) / np.sqrt(n) if n > 2 else np.nan
    value, method = float(found.mean()), f"t over {n} paired runs"
    return Estimate(value, value - reach, value + reach, level, n, n, n, method, unit, 1 / n)
