"""Claims as they are declared before a run, and what their intervals say of them after it.

Numpy and scipy only: what was found can be read without torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from midstream.record import Estimate

Side = Literal["below", "above", "within"]
Found = Literal["supported", "refuted", "undecided"]
Counts = Literal["works", "seeds"]

WORKS: Counts = "works"
"""What the interval of a claim counts, as a rule."""

POWER = 0.8
"""Share of repetitions in which a study should see an effect of the size that it calls detectable."""


@dataclass(frozen=True)
class Claim:
    """One estimand with its threshold, written down before anything runs.

    Attributes:
        name: a few words.
        says: the claim as a sentence that can be wrong.
        estimand: how its number is made.
        unit: of the number, the threshold and ``matters``.
        side: where the number lies if the claim holds: ``below`` or ``above`` the threshold, or ``within`` it by no
            more than ``matters`` (a claim of absence).
        threshold: as above.
        matters: s, the smallest effect that matters, above 0.
        least: how far beyond the threshold the estimate itself must lie.
        spread: standard deviation between works of the number of one work, from a pilot on works that confirm
            nothing; NaN where there was none.
        fewest: works (or seeds) without which nothing is decided.
        counts: what an interval is over: works, or seeds of models that were trained.
    """

    name: str
    says: str
    estimand: str
    unit: str
    side: Side
    threshold: float
    matters: float
    least: float = 0.0
    spread: float = math.nan
    fewest: int = 6
    counts: Counts = WORKS


@dataclass(frozen=True)
class Verdict:
    """What was found of a claim.

    Attributes:
        p: two-sided, of the threshold, from the interval's end that faces it: below 0.05 exactly where a 95 % interval
            leaves it out. NaN for a claim of absence, and without an interval.
        reason: why, in a sentence.
    """

    claim: Claim
    estimate: Estimate
    found: Found
    p: float
    reason: str


def decide(claim: Claim, estimate: Estimate) -> Verdict:
    """The verdict on a claim: supported where the whole interval lies on its side, else refuted or undecided.

    ``below`` (``above`` is its mirror image) is refuted where the whole interval lies above the threshold, or above
    ``threshold - matters``: an effect of the size that matters is ruled out. ``within`` is supported where the interval
    lies inside ``threshold ± matters``, refuted where it lies outside.
    """
    low, high, value = estimate.low, estimate.high, estimate.value
    p = _p_value(estimate, claim.threshold) if claim.side != "within" else math.nan
    if estimate.clusters < claim.fewest:
        reason = f"{estimate.clusters} {claim.counts} are too few for an interval: at least {claim.fewest} are needed."
        return Verdict(claim, estimate, "undecided", p, reason)
    if math.isnan(low) or math.isnan(high):
        return Verdict(claim, estimate, "undecided", p, "no interval could be made: something in it is undefined.")
    span = f"the interval runs from {low:+.4f} to {high:+.4f} {claim.unit}"
    found, reason = _within(claim, low, high) if claim.side == "within" else _beyond(claim, low, high, value)
    return Verdict(claim, estimate, found, p, f"{span}: {reason}.")


def _within(claim: Claim, low: float, high: float) -> tuple[Found, str]:
    edges = claim.threshold - claim.matters, claim.threshold + claim.matters
    shown = f"{edges[0]:g} to {edges[1]:g}"
    if edges[0] <= low and high <= edges[1]:
        return "supported", f"all of it within {shown}, where no difference matters"
    if high < edges[0] or low > edges[1]:
        return "refuted", f"all of it outside {shown}"
    return "undecided", f"partly within {shown} and partly outside"


def _beyond(claim: Claim, low: float, high: float, value: float) -> tuple[Found, str]:
    at = f"{claim.threshold:g}"
    if claim.side == "above":
        low, high, value, threshold = -high, -low, -value, -claim.threshold
    else:
        threshold = claim.threshold
    if high < threshold and value <= threshold - claim.least:
        return "supported", f"all of it {claim.side} {at}" + (
            f", the estimate by {claim.least:g} or more" if claim.least else ""
        )
    if low > threshold:
        return "refuted", f"all of it on the other side of {at}"
    if low > threshold - claim.matters:
        return "refuted", f"an effect of {claim.matters:g}, the smallest that matters, is ruled out"
    if high < threshold:
        return "undecided", f"all of it {claim.side} {at}, but the estimate by less than the {claim.least:g} asked for"
    return "undecided", "it holds both nothing and an effect that matters"


def _p_value(estimate: Estimate, threshold: float) -> float:
    """Two-sided; the interval is taken for that of a t with one degree of freedom less than clusters."""
    from scipy.special import stdtr, stdtrit

    facing = estimate.low if estimate.value > threshold else estimate.high
    reach = abs(estimate.value - facing)
    if math.isnan(reach) or estimate.clusters < 2:
        return math.nan
    if reach < 1e-300:
        return 1.0 if estimate.value == threshold else 0.0
    quantile = float(stdtrit(estimate.clusters - 1, (1 + estimate.level) / 2))
    statistic = abs(estimate.value - threshold) / (reach / quantile)
    return float(2 * stdtr(estimate.clusters - 1, -statistic))


def detectable(claim: Claim, works: int) -> float:
    """The effect that so many works tell from the threshold in 80 % of runs: ``(t_.975 + t_.8) spread / sqrt(works)``.

    That is an interval without the threshold; the estimate may still lie less than ``least`` beyond it. NaN where the
    claim has no spread from a pilot, infinite for fewer works than it needs.
    """
    from scipy.special import stdtrit

    if works < max(claim.fewest, 2):
        return math.inf
    return float(stdtrit(works - 1, 0.975) + stdtrit(works - 1, POWER)) * claim.spread / math.sqrt(works)


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number: Holm (1979). NaN stays NaN and counts for none."""
    known = sorted((value, index) for index, value in enumerate(p) if not math.isnan(value))
    adjusted, highest = [math.nan] * len(p), 0.0
    for rank, (value, index) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * value))
        adjusted[index] = highest
    return adjusted
