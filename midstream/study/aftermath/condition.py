"""What is read and how much: positions, layers, sizes.

Position i makes the prediction that was surprised; the token that surprised it, x_{i+1}, is read at position i + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from midstream.study.fitting import few
from midstream.study.study import Ground

PROMPT = 16
"""Tokens of a document that the model's own samples continue."""

FIRST = PROMPT
"""Positions before it are in no number: too little context, and in the samples not the model's own."""

AFTER = 32
"""Tokens after a surprise in which its excess loss is followed."""

SPAN = 16
"""Predictions after position i + 1 that a hidden position may cost: those at i + 2 to i + 17."""

SURPRISING = 0.1
"""Share of the tokens that counts as surprising."""

PARTNERS = 3
"""Unsurprising tokens for each surprise that are hidden too, where there are as many: four would tell little more."""

GUESS, READ, NEAR = "at i", "at i + 1", "near"
HIDDEN = (GUESS, READ, NEAR)
"""Whose keys and values are hidden: where it was guessed wrongly, where it is read, and one of the 15 before i."""


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        batch: texts in one pass; together: samples that are made in one.
        steps: layers over the depth that are read, less one.
        probe: fit documents that the maps to the surprise are fitted on; positions that the smallest refit has for
            each of its inputs, which with the model's width says how far these documents are read.
        deep: surprises whose positions are read through lenses; hidden: those whose positions are hidden.
    """

    batch: int
    together: int
    steps: int
    probe: tuple[int, float]
    deep: int
    hidden: int


SIZES = {
    "quick": Size(8, 16, 4, (30, 4.5), 30, 20),
    "default": Size(8, 48, 8, (120, 8), 600, 300),
    "large": Size(4, 40, 15, (240, 40), 4000, 2000),
}


def layers(ground: Ground) -> tuple[int, ...]:
    """Layers that are read, 0 and L among them; a quick run's are among those that its lenses have."""
    last, steps = ground.model.anatomy.layers, SIZES[ground.size].steps
    places = few(last) if ground.size == "quick" else tuple(range(last + 1))
    return tuple(sorted({places[round(step * (len(places) - 1) / steps)] for step in range(steps + 1)}))


def starts(last: int) -> tuple[int, ...]:
    """A position is hidden from every block after one of these layers on: the last two thirds, and the last third."""
    return tuple(sorted({last // 3, 2 * last // 3}))


def decided(last: int) -> int:
    """The start that the primary claim is about: from a third of the depth on, once a token's own features are made."""
    return last // 3
