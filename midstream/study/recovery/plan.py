"""What is read: which reader at which layers, how far back, of how many positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from midstream.record import Array
from midstream.study.fitting import every, few
from midstream.study.refit import QUARTERS
from midstream.study.study import Ground, Need, Text

FIRST = 8
"""Positions before it are read under too little context to count; more than any lag."""

LAGS = (0, 1, 2, 3, 4)
"""How far back the token lies that is read: lag j is that of the token at i - j, read at i."""

OWN, SHARED, OTHER, NOISY = "own", "shared", "map of half depth", "row and noise"
"""A map a layer; one map for all layers; the map of another layer; a map of the token's own row and noise instead of
the stream, as good at the same places as the layer's own by R²."""

LESS, HELD = "own, less text", "types not seen"
"""A map a layer fitted on less text; the same without a fifth of the token types."""

TABLE, FREQUENT = "back-off", "most frequent"
"""Guesses without the stream: what most often came after the two tokens before (lag 0), or so far before the token read
(other lags); the token that is most frequent in the fit texts."""

HELD_SHARE = 0.2
"""Share of the token types that maps of ``HELD`` have not seen."""


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        positions: of the texts that confirm, in all.
        refit: tokens that maps of ``HELD`` and refits are fitted on, about as many of each text to fit on.
    """

    positions: int
    refit: int


SIZES = {
    "quick": Size(400, 5_000),
    "default": Size(3_000, 40_000),
    "large": Size(12_000, 200_000),
}

CONFIRM = {
    "quick": Need(16, 160, whole=False),
    "default": Need(96, 512, whole=False),
    "large": Need(400, 1024, whole=False),
}
"""Size -> what is read of the texts that confirm."""

BATCH = 8
"""Texts in one unit."""

REFITTED = 4
"""One unit in so many is read with refitted maps too."""


@dataclass(frozen=True, order=True)
class Cell:
    """What one reader makes of one layer: ``refit`` is the quarter its map has not seen, -1: it has seen all."""

    reader: str
    lag: int
    layer: int
    refit: int = -1


def steps(blocks: int) -> tuple[int, ...]:
    """The layers that everything is read at, 0 and L among them."""
    return few(blocks)


def depth(blocks: int, share: float) -> int:
    """The layer of ``steps`` at a share of the depth."""
    found = steps(blocks)
    return min(found, key=lambda layer: abs(layer - share * blocks))


def cells(ground: Ground) -> list[Cell]:
    """All that is read with maps: the token read and the one before by own maps at every layer, others at ``steps``."""
    blocks = ground.model.anatomy.layers
    some, all_of = steps(blocks), steps(blocks) if ground.size == "quick" else every(blocks)
    found = [Cell(reader, lag, layer) for reader, lag in ((OWN, 0), (OWN, 1)) for layer in all_of]
    others = [(OWN, 2), (OWN, 3), (OWN, 4), (SHARED, 0), (SHARED, 1), (OTHER, 0), (NOISY, 0), (LESS, 0), (HELD, 0)]
    return found + [Cell(reader, lag, layer) for reader, lag in others for layer in some]


def scored(ground: Ground) -> set[Cell]:
    """What calibrated log-probabilities are read of too: own maps, of the token read at every layer."""
    some = steps(ground.model.anatomy.layers)
    return {cell for cell in cells(ground) if cell.reader == OWN and (cell.lag == 0 or cell.layer in some)}


def again(ground: Ground) -> list[Cell]:
    """What is read with refitted maps: what the claims are about."""
    some = steps(ground.model.anatomy.layers)
    return [Cell(reader, 0, layer, refit) for refit in range(QUARTERS) for reader in (OWN, SHARED) for layer in some]


KINDS = (*(f"input:{lag}" for lag in LAGS), "input:0:shared", "input:1:shared")
"""The lenses that it reads with."""


def positions(ground: Ground, sunk: Array) -> Array:
    """Where a text is read: evenly from ``FIRST`` on, sinks left out; ``[n]`` int64.

    Args:
        sunk: ``[t]`` bool, positions that are attention sinks at some layer.
    """
    texts = ground.texts["confirm"]
    usable = np.flatnonzero((np.arange(len(sunk)) >= FIRST) & ~sunk)
    wanted = -(-SIZES[ground.size].positions // len(texts))
    if len(usable) <= wanted:
        return usable
    return usable[np.linspace(0, len(usable) - 1, wanted).round().astype(np.int64)]


def batches(texts: Sequence[Text]) -> list[Sequence[Text]]:
    """The units' texts."""
    return [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
