"""Confidence intervals for averages over tokens that come in clusters (works, authors, documents).

Tokens of one text resemble each other, so an interval counts clusters, never tokens. The estimate is the ratio
``θ = Σ sums / Σ tokens``, or the difference of two such ratios over the same documents. Its standard error is the
delete-one-cluster jackknife; the interval is t from 12 clusters on, a wild cluster bootstrap-t for 6 to 11, and
undefined (NaN) below 6. Every ``Estimate`` of the package is made here.

Sources: Cameron and Miller, "A practitioner's guide to cluster-robust inference", Journal of Human Resources 50
(2015); MacKinnon, Nielsen and Webb, "Fast and reliable jackknife and bootstrap methods for cluster-robust inference",
Journal of Applied Econometrics 38 (2023); Webb, "Reworking wild bootstrap-based inference for clustered errors",
Canadian Journal of Economics 56 (2023).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from midstream.record import Estimate

FEWEST = 6
"""Below this many clusters no interval is given: six Webb weights make too few distinct samples."""
ENOUGH = 12
"""From this many clusters on the t interval is used."""
DRAWS = 9999
"""Bootstrap samples; ``level * (DRAWS + 1)`` is whole for the usual levels."""
WEBB = np.array([-np.sqrt(1.5), -1.0, -np.sqrt(0.5), np.sqrt(0.5), 1.0, np.sqrt(1.5)])
"""Webb's six weights, equally likely: mean 0, variance 1."""

Floats = npt.NDArray[np.float64]


def ratio(
    sums: npt.ArrayLike,
    counts: npt.ArrayLike,
    *,
    clusters: npt.ArrayLike,
    generator: np.random.Generator,
    unit: str,
    level: float = 0.95,
) -> Estimate:
    """The average per token, ``θ = Σ sums / Σ counts``, with its interval.

    Args:
        sums: ``[documents]`` sum of the statistic over each document's tokens, in ``unit``.
        counts: ``[documents]`` tokens in each of those sums. Documents with none are left out.
        clusters: ``[documents]`` labels of any kind: the work, the author, or the document itself.
        generator: draws the bootstrap weights; unused from 12 clusters on.
        unit: of the value, such as ``nats``.
        level: coverage of the interval, between 0 and 1.

    Returns:
        The estimate; NaN where it is undefined: without tokens, or where a sum is NaN.

    Raises:
        ValueError: lengths that differ, a negative count, or a level outside (0, 1).
    """
    rows = np.atleast_2d(sums), np.atleast_2d(counts)
    return _estimate(*rows, labels=np.asarray(clusters), level=level, unit=unit, generator=generator)


def paired_ratio(
    sums: npt.ArrayLike,
    counts: npt.ArrayLike,
    *,
    clusters: npt.ArrayLike,
    generator: np.random.Generator,
    unit: str,
    level: float = 0.95,
) -> Estimate:
    """First condition minus second over the same documents, ``θ = Σ sums₀ / Σ counts₀ - Σ sums₁ / Σ counts₁``.

    A cluster is deleted, or weighted, in both conditions at once, so what the conditions share cancels.

    Args:
        sums: ``[2, documents]``, in ``unit``.
        counts: ``[2, documents]``, or ``[documents]`` where both conditions read the same tokens. A document without
            tokens in either condition is left out of both.
        clusters, generator, unit, level: as for ``ratio``.

    Returns:
        The estimate; ``tokens`` is the smaller of the conditions' totals, ``largest_share`` the larger of their shares.

    Raises:
        ValueError: as for ``ratio``.
    """
    sums = np.asarray(sums)
    if sums.ndim != 2 or len(sums) != 2:
        raise ValueError(f"sums must be [2, documents], one row a condition, not {list(sums.shape)}.")
    counts = np.broadcast_to(np.asarray(counts), sums.shape)
    return _estimate(sums, counts, labels=np.asarray(clusters), level=level, unit=unit, generator=generator)


def jackknife(sums: Floats, counts: Floats) -> tuple[Any, Any]:
    """The contrast and its delete-one-cluster standard error.

    ``θ = Σ_c s_c Σ_g sums_cg / Σ_g counts_cg`` with signs s = (1) or (1, -1), and
    ``se² = (G - 1)/G Σ_g (θ_(g) - θ)²``, θ_(g) being θ without cluster g: CV3 of MacKinnon, Nielsen and Webb (2023),
    which for clusters of equal size is the standard error of the mean of the cluster means.

    Args:
        sums, counts: ``[..., conditions, G]``, one entry a cluster, G > 1.

    Returns:
        θ and se, each ``[...]``; se is NaN where a condition has all its tokens in one cluster.
    """
    clusters = sums.shape[-1]
    total, tokens = sums.sum(-1, keepdims=True), counts.sum(-1, keepdims=True)
    signs = _signs(sums.shape[-2])
    with np.errstate(divide="ignore", invalid="ignore"):
        value = signs @ (total / tokens)
        without = signs @ ((total - sums) / (tokens - counts))
        squares = ((without - value) ** 2).sum(-1)
    error = np.sqrt((clusters - 1) / clusters * squares)
    return value[..., 0], np.where(np.isfinite(error), error, np.nan)


def _estimate(
    sums: npt.NDArray[Any],
    counts: npt.NDArray[Any],
    *,
    labels: npt.NDArray[Any],
    level: float,
    unit: str,
    generator: np.random.Generator,
) -> Estimate:
    if sums.shape != counts.shape or labels.shape != sums.shape[1:]:
        shapes = [list(array.shape) for array in (sums, counts, labels)]
        raise ValueError(f"sums, counts and clusters must have one entry a document, not {shapes}.")
    if (counts < 0).any() or not 0 < level < 1:
        raise ValueError("counts must not be negative, and level must lie between 0 and 1.")
    kept = (counts > 0).all(0)
    by_cluster, tokens = _gather(sums[:, kept], counts[:, kept], labels[kept])
    totals, groups = tokens.sum(1), tokens.shape[1]
    low, high, method = _interval(by_cluster, tokens, level=level, generator=generator)
    return Estimate(
        value=float((_signs(len(sums)) @ (by_cluster.sum(1) / totals)).item()) if groups else float("nan"),
        low=low,
        high=high,
        level=level,
        clusters=groups,
        documents=int(kept.sum()),
        tokens=int(totals.min()),
        method=method,
        unit=unit,
        largest_share=float((tokens.max(1) / totals).max()) if groups else float("nan"),
    )


def _gather(sums: npt.NDArray[Any], counts: npt.NDArray[Any], labels: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Sums by cluster, ``[conditions, G]``, ordered by size and not by label, so that names cannot move a draw."""
    names, which = np.unique(labels, return_inverse=True)
    table = np.zeros((len(counts) + len(sums), len(names)))
    for row, values in zip(table, (*counts, *sums), strict=True):
        np.add.at(row, which, values)
    table = table[:, np.lexsort(table[::-1])]
    return table[len(counts) :], table[: len(counts)]


def _interval(
    sums: Floats, counts: Floats, *, level: float, generator: np.random.Generator
) -> tuple[float, float, str]:
    groups = sums.shape[1]
    if groups < FEWEST:
        return np.nan, np.nan, f"none: fewer than {FEWEST} clusters"
    center, error = (float(part) for part in jackknife(sums, counts))
    if groups < ENOUGH:
        method = f"wild cluster bootstrap-t, Webb weights, {DRAWS} draws"
        rounding = 1e-9 * float((np.abs(sums).sum(1) / counts.sum(1)).max())  # a spread below it is none
        if not error > rounding:
            return center - error, center + error, method
        return *_bootstrap(sums, counts, level=level, generator=generator), method
    from scipy.special import stdtrit  # the t quantile without scipy.stats, which takes half a second to import

    width = error * float(stdtrit(groups - 1, (1 + level) / 2))
    return center - width, center + width, f"delete-one-cluster jackknife, t with {groups - 1} degrees of freedom"


def _bootstrap(sums: Floats, counts: Floats, *, level: float, generator: np.random.Generator) -> tuple[float, float]:
    """The values that the restricted wild cluster bootstrap-t does not reject.

    Under the null value δ each condition's mean is the nearest, weighing by tokens, that meets it:
    ``θ̃_c = θ_c + s_c (δ - θ) (1/T_c) / Σ (1/T_c)``. Cluster g's residual sum is ``e_cg = sums_cg - θ̃_c counts_cg``;
    a sample is ``θ̃_c counts_cg + v_g e_cg`` with Webb weights v, and δ is rejected when
    ``P(|t*| >= |t|) <= 1 - level``. The same v serve every δ, so each end is found by doubling and bisection.
    Residuals of the estimate itself (the unrestricted form) cover less where clusters are unequal: in a simulation of
    6 clusters of log-normal size 90.6 % against 94.3 %, of 11 clusters 93.1 against 94.5.
    """
    weights = WEBB[generator.integers(0, len(WEBB), (DRAWS, 1, sums.shape[1]))]
    center, error = (float(part) for part in jackknife(sums, counts))
    totals = counts.sum(1)
    share = _signs(len(sums)) / totals / (1 / totals).sum()

    def rejected(null: float) -> bool:
        mean = (sums.sum(1) / totals + (null - center) * share)[:, None] * counts
        value, spread = jackknife(mean + weights * (sums - mean), counts)
        extreme = np.abs(value - null) * error >= abs(center - null) * spread * (1 - 1e-9)
        return float(extreme.mean()) <= 1 - level

    return _edge(rejected, center, -error), _edge(rejected, center, error)


def _edge(rejected: Callable[[float], bool], inside: float, step: float) -> float:
    """Where ``rejected`` turns true on the way from ``inside`` by ``step``; infinite beyond 1,023 steps."""
    outside = inside + step
    for _ in range(10):
        if rejected(outside):
            break
        inside, outside = outside, outside + (outside - inside) * 2
    else:
        return float(np.copysign(np.inf, step))
    while abs(outside - inside) > 1e-3 * abs(step):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if rejected(middle) else (middle, outside)
    return outside


def _signs(conditions: int) -> Floats:
    return np.array([1.0, -1.0][:conditions])
