"""What is fixed before anything is measured: sizes, layers, what of the guess may be lost, which positions count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from midstream.study.fitting import every, few
from midstream.study.study import Ground

FIRST = 8
"""Positions before it are read under too little context to count."""

EPSILONS = (0.01, 0.03, 0.1, 0.3)
"""Nats of KL that reading from a part of the stream may add."""

PRIMARY = 0.03
"""The one that the claims are decided at."""

PREDICTED = (PRIMARY, EPSILONS[-1])
"""Those at which the final prediction is taken."""

THIN = 2
"""One position in so many of the texts that choose is read from parts of the stream: neighbours resemble each other."""

DECILE = 10
"""One coordinate in so many is among those that the output weights least."""


DRAWS = "relevance", "parts", "bases", "turns", "sets"
"""What is drawn."""


def seed(study: int, draw: str, number: int = 0) -> int:
    """Of one draw, from the study's: no two draws share their numbers."""
    return int(np.random.SeedSequence([study, DRAWS.index(draw), number]).generate_state(1)[0])


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        batch: texts in one pass.
        windows: cut out of each document to fit on, at most, each read from its own start.
        positions: of these that say what the output looks at, about.
        draws: tokens drawn at each from what is read there.
        bases: random ones; turns: outputs turned at random.
    """

    batch: int
    windows: int
    positions: int
    draws: int
    bases: int
    turns: int


SIZES = {
    "quick": Size(batch=8, windows=4, positions=768, draws=4, bases=20, turns=8),
    "default": Size(batch=8, windows=2, positions=4096, draws=8, bases=200, turns=12),
    "large": Size(batch=8, windows=4, positions=16384, draws=8, bases=1000, turns=50),
}


@dataclass(frozen=True)
class Layers:
    """Where the stream is looked at.

    Attributes:
        all: ascending, 0 and L among them.
        half, late, before: about half way, at three quarters (the primary one), one before the last.
        last: L.
    """

    all: tuple[int, ...]
    half: int
    late: int
    before: int
    last: int

    @property
    def shown(self) -> tuple[int, ...]:
        """Those of a name."""
        return tuple(dict.fromkeys([self.half, self.late, self.before, self.last]))


def layers(ground: Ground) -> Layers:
    """Eight layers over the depth, in a quick run four, of those that lenses have maps for at this size."""
    last, quick = ground.model.anatomy.layers, ground.size == "quick"
    have = [layer for layer in (few(last) if quick else every(last)) if layer < last]

    def nearest(wanted: int) -> int:
        return min(have, key=lambda layer: (abs(layer - wanted), layer))

    half, late, before = nearest(last // 2), nearest(3 * last // 4), nearest(last - 1)
    more = () if quick else (0, nearest(-(-last // 15)), nearest(last // 4), nearest(last - 3))
    return Layers(tuple(sorted({*more, half, late, before, last})), half, late, before, last)
