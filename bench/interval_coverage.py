"""How often the 95 % intervals of ``midstream/interval.py`` hold the truth, by simulation; printed as a table.

    python bench/interval_coverage.py [--runs 4000]

A world is G clusters of ``ceil(100 e^{0.8 N})`` tokens. A token's value is ``sqrt(c) a + sqrt(1 - c) e``, a drawn once
a cluster and e once a token, each of mean 0 and variance 1: the truth is 0, and two tokens of a cluster correlate by c.
In the even world both are normal. In the others e is a gamma variable of skewness 4 (a KL by token has 0.5 to 5), and
a is normal, or in the hardest exponential: there the clusters' means have skewness 2, and what a cluster adds to the
estimate 5, sizes being unequal. Beside each interval stand the even one it starts from, jackknife and t, with the mean
width relative to its, and the percentile bootstrap over clusters (999 draws), the usual choice. Seeded: the same table
every time.
"""

from __future__ import annotations

import argparse
import json
from itertools import product

import numpy as np
from scipy.stats import t as student

from midstream.interval import jackknife, ratio

CLUSTERS = (9, 30, 100)
CORRELATIONS = (0.05, 0.3)
SKEWED = ("nothing", "tokens", "tokens and clusters")
SPREAD = 0.8
SHAPE = 0.25
"""Of the tokens' gamma distribution: its skewness is 2 over the root of this."""
DRAWS = 999


def world(draw: np.random.Generator, groups: int, correlation: float, skewed: str) -> tuple[np.ndarray, np.ndarray]:
    """Sums and tokens by cluster; the sum of n gamma values of one shape is a gamma value of n times that shape."""
    tokens = np.ceil(100 * np.exp(draw.normal(0, SPREAD, groups)))
    shared = draw.exponential(size=groups) - 1 if skewed == "tokens and clusters" else draw.normal(size=groups)
    if skewed == "nothing":
        own = draw.normal(size=groups) * np.sqrt(tokens)
    else:
        own = (draw.gamma(SHAPE * tokens) - SHAPE * tokens) / np.sqrt(SHAPE)
    return np.sqrt(correlation) * shared * tokens + np.sqrt(1 - correlation) * own, tokens


def percentile(draw: np.random.Generator, sums: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the estimate over clusters drawn with replacement."""
    drawn = draw.integers(0, len(sums), (DRAWS, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / tokens[drawn].sum(1), [0.025, 0.975])
    return float(low), float(high)


def measure(groups: int, correlation: float, skewed: str, runs: int) -> dict[str, float | str]:
    """Share of the runs whose interval holds 0, for the three kinds; share that lie wholly below and above it."""
    draw = np.random.default_rng([groups, int(100 * correlation), SKEWED.index(skewed)])
    quantile = student.ppf(0.975, groups - 1)
    ends = np.empty((runs, 3, 2))
    for run in ends:
        sums, tokens = world(draw, groups, correlation, skewed)
        found = ratio(sums, tokens, clusters=np.arange(groups), generator=draw, unit="nats")
        value, error = jackknife(sums[None], tokens[None])
        run[:] = (
            (found.low, found.high),
            (value - quantile * error, value + quantile * error),
            percentile(draw, sums, tokens),
        )
    low, high = ends[:, :, 0], ends[:, :, 1]
    covers, even, usual = ((low <= 0) & (high >= 0)).mean(0)
    width, plain, _ = (high - low).mean(0)
    return {
        "skewed": skewed,
        "clusters": groups,
        "correlation": correlation,
        "covers": covers,
        "below": (high[:, 0] < 0).mean(),
        "above": (low[:, 0] > 0).mean(),
        "width": width / plain,
        "even": even,
        "percentile": usual,
    }


def main() -> None:
    """Print a JSON line for each case, then the table for the docs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4000)
    runs = parser.parse_args().runs
    found = []
    for skewed, groups, correlation in product(SKEWED, CLUSTERS, CORRELATIONS):
        found.append(measure(groups, correlation, skewed, runs))
        print(json.dumps(found[-1]), flush=True)
    print("\n| skewed | clusters | correlation | covers | too low | too high | width | t covers | percentile covers |")
    print("|---|---|---|---|---|---|---|---|---|")
    for line in found:
        covers, below, above, even, usual = (
            f"{100 * line[name]:.1f} %" for name in ("covers", "below", "above", "even", "percentile")
        )
        case = f"{line['skewed']} | {line['clusters']} | {line['correlation']}"
        print(f"| {case} | {covers} | {below} | {above} | {line['width']:.2f} | {even} | {usual} |")


if __name__ == "__main__":
    main()
