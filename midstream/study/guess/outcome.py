"""What the first two verdicts say together: through the guess, beside it, or neither can be told."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from midstream.study.verdict import Side, Verdict, decide

Outcome = Literal["through", "beside", "shared", "turned away", "even", "undecided"]

SAYS: dict[Outcome, str] = {
    "through": "The input is told through the guess: what the guess needs tells more of it than a part of equal size, "
    "and more than as many coordinates of an output turned at random",
    "beside": "The input lies beside the guess: what the guess needs tells less of it than a part of equal size, and "
    "less than as many coordinates of an output turned at random",
    "shared": "Input and guess share large directions, so that chance, k/d, tells nothing: what the guess needs tells "
    "more of the input than a part of equal size, but no more than as many coordinates of an output turned at random",
    "turned away": "Input and guess share large directions, so that chance, k/d, tells nothing, but the guess is "
    "turned away from the input: what it needs tells more of it than a part of equal size, but less than as many "
    "coordinates of an output turned at random",
    "even": "Neither through the guess nor beside it: what the guess needs tells as much of the input as a part of "
    "equal size, and as that many coordinates of an output turned at random",
    "undecided": "Whether the input is told through the guess or lies beside it is not decided",
}


def outcome(through: Verdict, turned: Verdict) -> Outcome:
    """From the share of S against a blind part, and against outputs turned at random: the first that holds."""
    both = through, turned
    held: dict[Outcome, bool] = {
        "through": all(one.found == "supported" for one in both),
        "beside": all(_holds(one, "below") for one in both),
        "turned away": through.found == "supported" and _holds(turned, "below"),
        "shared": through.found == "supported" and turned.found == "refuted",
        "even": all(_holds(one, "within") for one in both),
    }
    for name, holds in held.items():
        if holds:
            return name
    return "undecided"


def _holds(verdict: Verdict, side: Side) -> bool:
    """Whether the mirrored claim would be supported, or the one that there is nothing."""
    return decide(replace(verdict.claim, side=side), verdict.estimate).found == "supported"
