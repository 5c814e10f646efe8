"""Where a layer's coordinates are cut into what the guess needs and the rest, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from midstream.record import Array
from midstream.study.guess.search import crossing, smallest
from midstream.study.guess.setting import EPSILONS
from midstream.study.study import Columns, Ground, Records


@dataclass(frozen=True)
class Cut:
    """A cut of one layer.

    Attributes:
        k: the smallest number of coordinates from which reading adds at most ``epsilon``; rank: of all of them.
        added: what it adds on the texts it was chosen on, nats; moved: KL(read from all || read from S) there.
        again: k without each of the works that it was chosen on.
    """

    k: int
    rank: int
    added: float
    moved: float
    again: tuple[int, ...]

    @property
    def chance(self) -> float:
        """k / rank: what a random part of equal size tells, as a share of what all tell, on average."""
        return self.k / self.rank

    def extreme(self, matters: float) -> str:
        """How much S is, where its share cannot lie above chance by so much, or is 0 by definition; else nothing."""
        if not self.k:
            return "none of the coordinates"
        return "nearly all coordinates" if 1 - self.chance <= matters else ""


def cuts(ground: Ground, records: Records) -> dict[int, dict[float, Cut]]:
    """Layer -> epsilon -> cut, from the stage ``choose``."""
    works = {text.number: text.work for text in ground.texts["tune"]}
    columns = records["choose"]
    work = np.array([works[int(number)] for number in columns["document"]])
    found: dict[int, dict[float, Cut]] = {}
    for layer in np.unique(columns["layer"]):
        at = columns["layer"] == layer
        rank, moved = int(columns["rank"][at][0]), _means(columns, at, "moved")
        added = _means(columns, at, "added")
        without = [_means(columns, at & (work != one), "added") for one in np.unique(work)]
        found[int(layer)] = {
            epsilon: Cut(k, rank, added[k], moved[k], tuple(crossing(points, epsilon) for points in without if points))
            for epsilon in EPSILONS
            for k in [smallest(added, epsilon)]
        }
    return found


def _means(columns: Columns, at: Array, name: str) -> dict[int, float]:
    """k -> mean over positions."""
    ks, which = np.unique(columns["k"][at], return_inverse=True)
    sums, counts = (np.bincount(which, weights=columns[part][at]) for part in (name, "positions"))
    return dict(zip(ks.tolist(), (sums / counts).tolist(), strict=True))
