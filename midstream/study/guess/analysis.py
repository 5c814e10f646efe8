"""Estimates from the records: where layers are cut, shares of what is told, the model's own coordinates; by work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from midstream.band import band, refitted
from midstream.interval import ratio
from midstream.record import Array, Estimate
from midstream.study.guess.chance import OWN, deviation, share_of
from midstream.study.guess.coordinates import lowest, matched, partial
from midstream.study.guess.search import smallest
from midstream.study.guess.setting import DECILE, EPSILONS, Layers, layers
from midstream.study.refit import QUARTERS
from midstream.study.study import Columns, Ground, Records

TOLD = ("relevance", "variance", "square", "lost", "held", "own")
"""Columns of the stage ``told``."""

SETS = 200
"""Random sets of basis elements."""

Statistic = Callable[[Array], float]
"""Of sums ``[m]`` over any documents: a number."""


@dataclass(frozen=True)
class Cut:
    """Where a layer's coordinates are cut into guess and rest.

    Attributes:
        k: the smallest number of coordinates from which reading adds at most ``epsilon``; rank: of all of them.
        added: what it adds on the texts it was chosen on, nats; moved: KL(read from all || read from S) there.
    """

    k: int
    rank: int
    added: float
    moved: float

    @property
    def chance(self) -> float:
        """k / rank: what a random part of equal size tells, as a share of what all tell, on average."""
        return self.k / self.rank


def cuts(records: Records) -> dict[int, dict[float, Cut]]:
    """Layer -> epsilon -> cut, from the stage ``choose``."""
    columns = records["choose"]
    found: dict[int, dict[float, Cut]] = {}
    for layer in np.unique(columns["layer"]):
        at = columns["layer"] == layer
        ks, rank = columns["k"][at], int(columns["rank"][at][0])
        count = {k: float(columns["positions"][at][ks == k].sum()) for k in np.unique(ks)}
        added, moved = (
            {int(k): float(columns[name][at][ks == k].sum()) / count[k] for k in count} for name in ("added", "moved")
        )
        found[int(layer)] = {
            epsilon: Cut(k, rank, added[k], moved[k]) for epsilon in EPSILONS for k in [smallest(added, epsilon)]
        }
    return found


class Number(NamedTuple):
    """Sums by work ``[G, m]`` and what is made of their total."""

    sums: Array
    statistic: Statistic

    def pseudo(self) -> Array:
        """``G f(T) - (G - 1) f(T - s_g)`` of each work g: their mean and spread are the jackknife's (Tukey 1958)."""
        total, groups = self.sums.sum(0), len(self.sums)
        without = np.array([self.statistic(total - one) for one in self.sums])
        return groups * self.statistic(total) - (groups - 1) * without


@dataclass(frozen=True, eq=False)
class Panel:
    """What the texts that confirm say.

    Attributes:
        works: ``[n]`` of each document; positions: ``[n]`` that count.
        told: (layer, quarter left out or -1) -> name -> ``[n, d]``, as ``measure.told`` has them.
        weight: ``[d]``, output weight of the stream's own coordinates; variance: layer -> ``[d]``, theirs there.
        chance, turned: the records of the stages of these names.
    """

    works: Array
    positions: Array
    told: Mapping[tuple[int, int], Mapping[str, Array]]
    weight: Array
    variance: Mapping[int, Array]
    chance: Columns
    turned: Columns
    layers: Layers
    seed: int

    @classmethod
    def of(cls, ground: Ground, records: Records) -> Panel:
        """From the records; texts in the order of their numbers."""
        works = {text.number: text.work for text in ground.texts["confirm"]}
        columns = records["told"]
        numbers, d = np.unique(columns["document"]), int(columns["coordinate"].max()) + 1
        told: dict[tuple[int, int], dict[str, Array]] = {}
        for layer, without in sorted({*zip(columns["layer"].tolist(), columns["without"].tolist(), strict=True)}):
            at = np.flatnonzero((columns["layer"] == layer) & (columns["without"] == without))
            at = at[np.lexsort((columns["coordinate"][at], columns["document"][at]))]
            made = {name: columns[name][at].reshape(len(numbers), d) for name in (*TOLD, "positions")}
            told[int(layer), int(without)] = made
        weighed = records["weigh"]
        variance = {int(layer): weighed["variance"][weighed["layer"] == layer] for layer in np.unique(weighed["layer"])}
        first = weighed["layer"] == weighed["layer"][0]
        return cls(
            np.array([works[int(number)] for number in numbers]),
            told[layers(ground).last, -1]["positions"][:, 0],
            told,
            weighed["weight"][first],
            variance,
            records["chance"],
            records["turned"],
            layers(ground),
            ground.seed,
        )

    def estimate(self, number: Number, unit: str = "1") -> Estimate:
        """A number with its interval."""
        groups = len(number.sums)
        found = ratio(number.pseudo(), np.ones(groups), clusters=np.arange(groups), generator=self._draw(), unit=unit)
        return self._counted(found)

    def curve(self, numbers: Sequence[Number], unit: str = "1") -> list[Estimate]:
        """Several numbers with simultaneous intervals."""
        values = np.array([number.pseudo() for number in numbers])
        groups = np.arange(values.shape[1])
        found = band(values, np.ones(len(groups)), clusters=groups, generator=self._draw(), unit=unit)
        return [self._counted(one) for one in found]

    def share(self, layer: int, k: int, *, less: float = 0.0, order: str = "relevance", without: int = -1) -> Number:
        """What the first k coordinates tell of the input, as a share of what all tell, ``less`` a constant."""
        values = self.told[layer, without][order]
        sums = np.stack([values[:, :k].sum(1), values.sum(1)], axis=1)
        return Number(self._by_work(sums), lambda total: _over(total[0], total[1]) - less)

    def told_at(self, layer: int, part: slice = slice(None)) -> Number:
        """R^2: what some coordinates by relevance tell of the input row, of all that there is."""
        values = self.told[layer, -1]
        sums = np.stack([values["relevance"][:, part].sum(1), values["square"].sum(1)], axis=1)
        return Number(self._by_work(sums), lambda total: _over(total[0], total[1]))

    def correlation(self, layer: int, *, less: float = 0.0, without: int = -1) -> Number:
        """Rank correlation of what is lost with a coordinate and its output weight, given variance; less a constant."""
        variance = self.variance[layer]
        weight = self.weight * np.sqrt(variance)
        sums = self._by_work(self.told[layer, without]["lost"])
        return Number(sums, lambda total: partial(total, weight, variance) - less)

    def random_correlations(self, layer: int) -> Array:
        """The same number in random bases, ``[bases]``."""
        return self.chance["correlation"][(self.chance["layer"] == layer) & (self.chance["basis"] != OWN)]

    def turned_shares(self, layer: int, epsilon: float) -> Array:
        """What outputs turned at random would need tells, as shares, ``[turns]``."""
        return self.turned[share_of(epsilon)][(self.turned["layer"] == layer) & (self.turned["turn"] != OWN)]

    def random_share(self, layer: int, cut: Cut) -> tuple[float, float]:
        """What a random part of the size of S tells, as a share: mean and standard deviation."""
        uneven = float(self.chance["uneven"][self.chance["layer"] == layer][0])
        return cut.chance, deviation(cut.k, cut.rank, uneven)

    def foretold(self, layer: int, which: Array, without: int = -1) -> Number:
        """R^2 of some of the stream's own coordinates from the final prediction, each in units of its variance."""
        values = self.told[layer, without]
        sums = np.stack([values[name][:, which].sum(1) for name in ("held", "own")], axis=1)
        return Number(self._by_work(sums), lambda total: _over(total[0], total[1]))

    def less(self, one: Number, other: Number) -> Number:
        """The first number less the second."""
        m = one.sums.shape[1]
        sums = np.concatenate([one.sums, other.sums], axis=1)
        return Number(sums, lambda total: one.statistic(total[:m]) - other.statistic(total[m:]))

    def risen(self, which: Mapping[int, Array], without: int = -1) -> Number:
        """``foretold`` one before the last layer, less at half depth; ``which``: layer -> coordinates."""
        at = self.layers.before, self.layers.half
        return self.less(*(self.foretold(layer, which[layer], without) for layer in at))

    def slotted(self, without: int = -1) -> Number:
        """``risen`` of the coordinates that the output weights least, less that of those matched with them."""
        return self._slotted(self.little, self.much, without)

    def slotted_by_chance(self) -> Array:
        """The same of coordinates drawn blindly, with as many of the others to match with: ``[SETS]``."""
        draw, d = self._draw(), len(self.weight)
        orders = [draw.permutation(d) for _ in range(SETS)]
        split, end = len(self.little), len(self.little) + len(self.much)
        numbers = [self._slotted(order[:split], order[split:end], -1) for order in orders]
        return np.array([number.statistic(number.sums.sum(0)) for number in numbers])

    def _slotted(self, chosen: Array, pool: Array, without: int) -> Number:
        at = self.layers.half, self.layers.before
        beside = {layer: matched(chosen, pool, self.variance[layer]) for layer in at}
        return self.less(self.risen(dict.fromkeys(at, chosen), without), self.risen(beside, without))

    @cached_property
    def little(self) -> Array:
        """The coordinates that the output weights least: a decile."""
        return lowest(self.weight, DECILE)

    @cached_property
    def much(self) -> Array:
        """The coordinates of output weight above the median."""
        return np.flatnonzero(self.weight > np.median(self.weight))

    def beside(self, layer: int) -> Array:
        """As many coordinates of about equal variance at that layer that the output weights more than most."""
        return matched(self.little, self.much, self.variance[layer])

    def refitted(self, number: Callable[[int], Number]) -> Estimate:
        """A number, its interval widened by the same with each quarter of the fit documents left out (-1: none)."""
        again = [number(quarter) for quarter in range(QUARTERS)]
        return refitted(self.estimate(number(-1)), [one.statistic(one.sums.sum(0)) for one in again])

    def _by_work(self, sums: Array) -> Array:
        names, which = np.unique(self.works, return_inverse=True)
        found = np.zeros((len(names), sums.shape[1]))
        np.add.at(found, which, sums)
        return found

    def _counted(self, estimate: Estimate) -> Estimate:
        positions = self._by_work(self.positions[:, None].astype(np.float64))[:, 0]
        return replace(
            estimate,
            documents=len(self.works),
            tokens=int(positions.sum()),
            largest_share=float(positions.max() / positions.sum()),
            method=f"of jackknife pseudo-values of works: {estimate.method}",
        )

    def _draw(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


def _over(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def beyond(estimate: Estimate, random: Array, of: str) -> Estimate:
    """An interval widened by how much the number differs between random bases, or sets of elements, ``of`` some kind.

    The model has one basis and one lowest decile: works say nothing of how much two that mean nothing would differ.
    """
    from scipy.special import stdtrit

    reach = float(stdtrit(max(estimate.clusters - 1, 1), (1 + estimate.level) / 2)) * float(np.std(random, ddof=1))
    below, above = (float(np.hypot(end - estimate.value, reach)) for end in (estimate.low, estimate.high))
    method = f"{estimate.method}; widened by the spread over {len(random)} {of}"
    return replace(estimate, low=estimate.value - below, high=estimate.value + above, method=method)
