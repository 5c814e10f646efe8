"""Estimates from the records: shares of what is told, the model's own coordinates; by work, with what else errs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from midstream.band import band, refitted
from midstream.interval import by_positions, ratio
from midstream.record import Array, Estimate
from midstream.study.guess.chance import OWN, deviation
from midstream.study.guess.coordinates import lowest, matched, partial, varying
from midstream.study.guess.cut import Cut
from midstream.study.guess.measure import held_of
from midstream.study.guess.setting import DECILE, PREDICTED, PRIMARY, Layers, layers, seed
from midstream.study.refit import QUARTERS
from midstream.study.study import Columns, Ground, Records
from midstream.study.verdict import POWER

TOLD = ("relevance", "variance", "square", "lost", "own", *map(held_of, PREDICTED))
"""Columns of the stage ``told``."""

SETS = 200
"""Random sets of basis elements."""

Statistic = Callable[[Array], float]
"""Of sums ``[m]`` over any documents: a number."""


class Number(NamedTuple):
    """Sums by work ``[G, m]`` and what is made of their total."""

    sums: Array
    statistic: Statistic

    @property
    def value(self) -> float:
        """Of all works."""
        return self.statistic(self.sums.sum(0))

    def pseudo(self) -> Array:
        """``f(T) + (G - 1) (mean_h f(T - s_h) - f(T - s_g))`` of each work g: the jackknife's spread (Tukey 1958).

        Their mean is the plain value, not corrected for bias: neither is what chance gives, that it is held against.
        """
        total, groups = self.sums.sum(0), len(self.sums)
        without = np.array([self.statistic(total - one) for one in self.sums])
        return self.value + (groups - 1) * (without.mean() - without)


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

    def estimate(self, number: Number) -> Estimate:
        """A number with its interval."""
        groups = len(number.sums)
        found = ratio(number.pseudo(), np.ones(groups), clusters=np.arange(groups), generator=self._draw(), unit="1")
        return self._counted(found)

    def curve(self, numbers: Sequence[Number]) -> list[Estimate]:
        """Several numbers with simultaneous intervals."""
        values = np.array([number.pseudo() for number in numbers])
        groups = np.arange(values.shape[1])
        found = band(values, np.ones(len(groups)), clusters=groups, generator=self._draw(), unit="1")
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

    def turned_shares(self, layer: int, k: int) -> Array:
        """What the first k coordinates of outputs turned at random tell, as shares, ``[turns]``."""
        columns = self.turned
        return columns["share"][(columns["layer"] == layer) & (columns["k"] == k) & (columns["turn"] != OWN)]

    def random_share(self, layer: int, cut: Cut) -> tuple[float, float]:
        """What a random part of the size of S tells, as a share: mean and standard deviation."""
        uneven = float(self.chance["uneven"][self.chance["layer"] == layer][0])
        return cut.chance, deviation(cut.k, cut.rank, uneven)

    def foretold(self, layer: int, which: Array, epsilon: float = PRIMARY, without: int = -1) -> Number:
        """R^2 of some of the stream's own coordinates from the final prediction, each in units of its variance."""
        values = self.told[layer, without]
        sums = np.stack([values[name][:, which].sum(1) for name in (held_of(epsilon), "own")], axis=1)
        return Number(self._by_work(sums), lambda total: _over(total[0], total[1]))

    def less(self, one: Number, other: Number) -> Number:
        """The first number less the second."""
        m = one.sums.shape[1]
        sums = np.concatenate([one.sums, other.sums], axis=1)
        return Number(sums, lambda total: one.statistic(total[:m]) - other.statistic(total[m:]))

    def risen(self, which: Array, epsilon: float = PRIMARY, without: int = -1) -> Number:
        """``foretold`` one before the last layer, less at half depth."""
        at = self.layers.before, self.layers.half
        return self.less(*(self.foretold(layer, which, epsilon, without) for layer in at))

    def filled(self, epsilon: float = PRIMARY, without: int = -1) -> Number:
        """``risen`` of the coordinates that the output weights least, less that of those matched with them."""
        return self.less(*(self.risen(which, epsilon, without) for which in (self.little, self.control)))

    def filled_by_chance(self) -> Array:
        """The same of coordinates drawn blindly, with as many of the others to match with: ``[SETS]``."""
        draw, split = np.random.default_rng(seed(self.seed, "sets")), len(self.little)
        end, found = split + len(self.much), np.zeros(SETS)
        for number in range(SETS):
            order = draw.permutation(self.varying)
            chosen = order[:split]
            other = matched(chosen, order[split:end], self._matching)
            found[number] = self.less(self.risen(chosen), self.risen(other)).value
        return found

    @cached_property
    def varying(self) -> Array:
        """The coordinates that vary at every layer."""
        return varying(np.stack(list(self.variance.values())))

    @cached_property
    def little(self) -> Array:
        """Of them those that the output weights least: a decile."""
        return self.varying[lowest(self.weight[self.varying], DECILE)]

    @cached_property
    def much(self) -> Array:
        """Of them those of output weight above the median."""
        weight = self.weight[self.varying]
        return self.varying[weight > np.median(weight)]

    @cached_property
    def control(self) -> Array:
        """As many coordinates as ``little`` that the output weights more than most, of about equal variance."""
        return matched(self.little, self.much, self._matching)

    @property
    def _matching(self) -> Array:
        return np.stack([self.variance[layer] for layer in (self.layers.half, self.layers.before)])

    def refitted(self, number: Callable[[int], Number]) -> Estimate:
        """A number, its interval widened by the same with each quarter of the fit documents left out (-1: none)."""
        return refitted(self.estimate(number(-1)), [number(quarter).value for quarter in range(QUARTERS)])

    def through(self, cut: Cut) -> Estimate:
        """The share of S at three quarters of the depth less k/d."""
        late = self.layers.late

        def less(k: int) -> float:
            return self.share(late, k).value - k / cut.rank

        found = self.refitted(lambda without: self.share(late, cut.k, less=cut.chance, without=without))
        found = widened(found, self.random_share(late, cut)[1], np.inf, "the spread of random parts")
        return _recut(found, cut, less)

    def more_than_turned(self, cut: Cut) -> Estimate:
        """That share less that of outputs turned at random."""
        late = self.layers.late
        turned = self.turned_shares(late, cut.k)

        def less(k: int) -> float:
            return self.share(late, k).value - float(self.turned_shares(late, k).mean())

        found = self.refitted(lambda without: self.share(late, cut.k, less=float(turned.mean()), without=without))
        return _recut(beyond(found, turned, "outputs turned at random"), cut, less)

    def leaning(self) -> Estimate:
        """The rank correlation at three quarters of the depth less the mean of random bases."""
        late = self.layers.late
        random = self.random_correlations(late)
        chance = float(random.mean())
        found = self.refitted(lambda without: self.correlation(late, less=chance, without=without))
        return beyond(found, random, "random bases")

    def slotted(self) -> Estimate:
        """``filled`` against sets of coordinates drawn blindly."""
        found = self.refitted(lambda without: self.filled(without=without))
        return beyond(found, self.filled_by_chance(), "random sets of elements")

    def _by_work(self, sums: Array) -> Array:
        names, which = np.unique(self.works, return_inverse=True)
        found = np.zeros((len(names), sums.shape[1]))
        np.add.at(found, which, sums)
        return found

    def _counted(self, estimate: Estimate) -> Estimate:
        found = by_positions(estimate, self.positions, clusters=self.works)
        return replace(found, method=f"of jackknife pseudo-values of works: {estimate.method}")

    def _draw(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


def _over(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def beyond(estimate: Estimate, random: Array, of: str) -> Estimate:
    """An interval widened by how much the number differs between random bases, or sets of elements, ``of`` some kind.

    The model has one basis and one lowest decile: works say nothing of how much two that mean nothing would differ. One
    more draw beside n of them, less their mean, has their variance times ``1 + 1/n``, by t with n - 1 degrees.
    """
    n = len(random)
    deviation = float(np.std(random, ddof=1)) * np.sqrt(1 + 1 / n)
    return widened(estimate, deviation, n - 1, f"the spread over {n} {of}")


def widened(estimate: Estimate, deviation: float, freedom: float, by: str) -> Estimate:
    """An interval widened by another error, of a standard deviation that is known to so many degrees of freedom."""
    from scipy.special import stdtrit

    reach = float(stdtrit(freedom, (1 + estimate.level) / 2)) * deviation
    below, above = (float(np.hypot(end - estimate.value, reach)) for end in (estimate.low, estimate.high))
    method = f"{estimate.method}; widened by {by}"
    return replace(estimate, low=estimate.value - below, high=estimate.value + above, method=method)


def _recut(estimate: Estimate, cut: Cut, number: Callable[[int], float]) -> Estimate:
    """An interval widened by what the number is where the cut was chosen without each of its works: a jackknife."""
    again = np.array([number(k) for k in cut.again])
    n = len(again)
    deviation = float(np.sqrt((n - 1) / n * ((again - again.mean()) ** 2).sum())) if n > 1 else np.nan
    return widened(estimate, deviation, max(n - 1, 1), f"{n} cuts without a work each that chose it")


def bounded(estimate: Estimate, cut: Cut, matters: float) -> Estimate:
    """Without an interval where S is nearly all coordinates, or none: no share of it could then support a claim."""
    extreme = cut.extreme(matters)
    if not extreme:
        return estimate
    method = f"{estimate.method}; no interval: the guess needs {extreme}"
    return replace(estimate, low=np.nan, high=np.nan, method=method)


def detected(estimate: Estimate) -> float:
    """What would be told from the threshold in 80 % of runs with an interval as wide as this one's."""
    from scipy.special import stdtrit

    half, freedom = (estimate.high - estimate.low) / 2, max(estimate.clusters - 1, 1)
    return half * float(1 + stdtrit(freedom, POWER) / stdtrit(freedom, (1 + estimate.level) / 2))
