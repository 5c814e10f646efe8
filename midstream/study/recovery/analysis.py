"""Estimates from the records: how often, how near and how surely the token is read, by reader, layer and lag."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from midstream.band import band, refitted
from midstream.interval import contrast, ratio
from midstream.record import Array, Estimate
from midstream.study.fitting import every
from midstream.study.matched import alike
from midstream.study.recovery.plan import NOISY, OWN, SHARED, TABLE, Cell, depth, steps
from midstream.study.refit import QUARTERS
from midstream.study.study import Columns, Ground, Records

SHARE, NATS, R2 = "share of tokens", "nats", "of R²"

DISTANCES, NORMS = 4, 2
"""Classes of the distance to the nearest row and of the row's norm, in which rare and frequent tokens are matched."""


@dataclass(frozen=True, eq=False)
class Panel:
    """What was measured at the n places that were read.

    Attributes:
        cells: cell -> column -> ``[n]``; NaN at places that were not read (refits read a part).
        known: column of the stage ``places`` -> ``[n]``.
        document: ``[n]``, index of each place's text; works: ``[texts]``.
        first: layer -> ``[texts]``, whether its own map finds a text's first token.
        blocks: L.
    """

    cells: dict[Cell, dict[str, Array]]
    known: dict[str, Array]
    document: Array
    works: Array
    first: dict[int, Array]
    blocks: int
    seed: int

    @classmethod
    def of(cls, ground: Ground, records: Records) -> Panel:
        """From the records of the main arm; made once."""
        key = f"panel {id(records['read']['right'])}"
        if key not in ground.keep:
            ground.keep[key] = _panel(ground, records)
        return ground.keep[key]

    def right(self, cell: Cell) -> Array:
        """Whether the token was the nearest row: 1, 0, NaN where not read."""
        return self.cells[cell]["right"].astype(np.float64)

    def mean(self, values: Array, where: Array | None = None, weights: Array | None = None) -> Estimate:
        """The mean of values ``[n]`` over the places where they are defined, with its interval over works."""
        sums, counts = self._sums(values, where, weights)
        return ratio(sums, counts, clusters=self.works, generator=self._draw(), unit=SHARE)

    def accuracy(self, cell: Cell, where: Array | None = None) -> Estimate:
        """How often the token was the nearest row."""
        return self.mean(self.right(cell), where)

    def first_token(self, layer: int) -> Estimate:
        """How often the own map finds the first token of a text, an attention sink; NaN where it was not read."""
        found = self.first.get(layer, np.full(len(self.works), np.nan))
        return ratio(found, np.ones(len(found)), clusters=self.works, generator=self._draw(), unit=SHARE)

    def explained(self, cell: Cell, where: Array | None = None) -> Estimate:
        """``R² = 1 − Σ|row − predicted|² / Σ|row − mean row of the fit texts|²``."""
        columns = self.cells[cell]
        error, _ = self._sums(columns["error"].astype(np.float64), where)
        spread, _ = self._sums(columns["spread"].astype(np.float64), where)
        found = ratio(error, spread, clusters=self.works, generator=self._draw(), unit="1")
        return replace(found, value=1 - found.value, low=1 - found.high, high=1 - found.low)

    def gain(self, cell: Cell, where: Array | None = None) -> Estimate:
        """``log p(t|h) − log unigram(t)``, nats."""
        return replace(self.mean(self.cells[cell]["gain"].astype(np.float64), where), unit=NATS)

    def curve(self, cells: Sequence[Cell], where: Array | None = None) -> list[Estimate]:
        """Accuracies that hold at once in 95 % of samples of works."""
        pairs = [self._sums(self.right(cell), where) for cell in cells]
        sums, counts = (np.array(part) for part in zip(*pairs, strict=True))
        return band(sums, counts, clusters=self.works, generator=self._draw(), unit=SHARE)

    def layers(self, reader: str, lag: int) -> list[int]:
        """Those at which a reader was read."""
        return [layer for layer in every(self.blocks) if Cell(reader, lag, layer) in self.cells]

    def at(self, share: float) -> int:
        """The layer at a share of the depth."""
        return depth(self.blocks, share)

    def still(self) -> Estimate:
        """Accuracy at the last layer less that of the table's guess from the tokens before."""
        guess = self.right(Cell(TABLE, 0, 0))
        return self._again(lambda refit: self.right(Cell(OWN, 0, self.blocks, refit)) - guess)

    def fades(self) -> Estimate:
        """Accuracy at the last layer less that at a quarter of the depth."""
        early = self.at(0.25)
        return self._again(
            lambda refit: self.right(Cell(OWN, 0, self.blocks, refit)) - self.right(Cell(OWN, 0, early, refit))
        )

    def early(self) -> Estimate:
        """What one map for all layers loses against own ones, at an eighth of the depth less in the middle half."""
        return self._lost(self.at(0.125))

    def late(self) -> Estimate:
        """The same at the last layer."""
        return self._lost(self.blocks)

    def _lost(self, layer: int) -> Estimate:
        inside = [at for at in steps(self.blocks) if 0.25 <= at / self.blocks <= 0.75 and at != layer]

        def lost(layers: Sequence[int], refit: int) -> Array:
            each = [self.right(Cell(OWN, 0, at, refit)) - self.right(Cell(SHARED, 0, at, refit)) for at in layers]
            return np.mean(each, axis=0)

        return self._again(lambda refit: lost([layer], refit) - lost(inside, refit))

    @cached_property
    def rare(self) -> tuple[Array, Array, float]:
        """Weights of rare places and of frequent ones, ``[n]`` each, and the share of the rare that have no partner.

        Rare are the third of the places whose tokens come least in the fit texts, frequent the third that come most,
        matched in classes of the distance to the nearest row and of the row's norm.
        """
        often = self.known["frequency"]
        low, high = np.quantile(often, [1 / 3, 2 / 3])
        strata = _classes(self.known["nearest"], DISTANCES) * NORMS + _classes(self.known["norm"], NORMS)
        return alike(often <= low, (often >= high) & (often > low), strata)

    def rare_less_frequent(self, sums: Array, counts: Array, unit: str) -> Estimate:
        """A ratio over rare places less the same over frequent ones of alike rows.

        A frequency belongs to a type: the interval is that over works or that over types, whichever is wider.

        Args:
            sums, counts: ``[n]``, what the ratio is of; NaN at places that were not read.
        """
        there = ~np.isnan(sums) & ~np.isnan(counts)
        labels = self.document, np.unique(self.known["token"], return_inverse=True)[1]
        found: list[Estimate] = []
        for label, clusters in zip(labels, (self.works, None), strict=True):
            parts = [
                [np.bincount(label[there], (weight * one)[there], minlength=label.max() + 1) for one in (sums, counts)]
                for weight in self.rare[:2]
            ]
            both = np.array(parts).transpose(1, 0, 2)
            names = np.arange(both.shape[2]) if clusters is None else clusters[: both.shape[2]]
            found.append(contrast(*both, clusters=names, generator=self._draw(), unit=unit))
        works, types = found
        return replace(
            works,
            low=min(works.low, types.low),
            high=max(works.high, types.high),
            method=f"{works.method}; or over {types.clusters} types, whichever is wider",
        )

    def kept(self, cell: Cell) -> Estimate:
        """How much more often rare tokens are found than frequent ones of alike rows."""
        return self.rare_less_frequent(self.right(cell), np.ones(len(self.document)), SHARE)

    def kept_by_r2(self, layer: int, refit: int = -1) -> Estimate:
        """R² of rare tokens less that of frequent ones, own map, less the same of rows and noise of equal R²."""
        own, other = self.cells[Cell(OWN, 0, layer, refit)], self.cells[Cell(NOISY, 0, layer)]
        error = other["error"].astype(np.float64) - own["error"].astype(np.float64)
        return self.rare_less_frequent(error, own["spread"].astype(np.float64), R2)

    def rarer(self) -> Estimate:
        """``kept_by_r2`` of the last layer."""
        again = [self.kept_by_r2(self.blocks, quarter).value for quarter in range(QUARTERS)]
        return refitted(self.kept_by_r2(self.blocks), again)

    def _again(self, values: Callable[[int], Array]) -> Estimate:
        """The mean of what all fit texts give, its interval widened by the refits."""
        return refitted(self.mean(values(-1)), [self.mean(values(quarter)).value for quarter in range(QUARTERS)])

    def _sums(self, values: Array, where: Array | None = None, weights: Array | None = None) -> tuple[Array, Array]:
        """Sums and counts by text, ``[texts]`` each, of the places where values are defined."""
        weight = np.ones(len(values)) if weights is None else weights
        weight = np.where(np.isnan(values) | (False if where is None else ~where), 0.0, weight)
        parts = (weight * np.nan_to_num(values), weight)
        sums, counts = (np.bincount(self.document, part, minlength=len(self.works)) for part in parts)
        return sums, counts

    def _draw(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


def _classes(values: Array, number: int) -> Array:
    """The class of each value, classes of about equal size, from 0."""
    return np.searchsorted(np.quantile(values, np.arange(1, number) / number), values, side="right")


def _panel(ground: Ground, records: Records) -> Panel:
    read, first = records["read"], records["first"]
    own = _rows(read, OWN, 0, 0, -1)
    where = _place(read)[own]
    known, of = records["places"], _place(records["places"])
    order = np.argsort(of)
    found = order[np.searchsorted(of[order], where)]
    numbers = {text.number: index for index, text in enumerate(ground.texts["confirm"])}
    return Panel(
        {**_cells(read, where), **_cells(records["refits"], where)},
        {name: values[found] for name, values in known.items()},
        np.array([numbers[number] for number in read["document"][own].tolist()]),
        np.array([text.work for text in ground.texts["confirm"]]),
        {layer: first["right"][first["layer"] == layer].astype(np.float64) for layer in np.unique(first["layer"])},
        ground.model.anatomy.layers,
        ground.seed,
    )


def _place(columns: Columns) -> Array:
    """A number for each row's place."""
    return columns["document"].astype(np.int64) << 32 | columns["position"]


def _rows(columns: Columns, reader: str, lag: int, layer: int, refit: int) -> Array:
    same = (columns["reader"] == reader) & (columns["lag"] == lag)
    return np.flatnonzero(same & (columns["layer"] == layer) & (columns["refit"] == refit))


def _cells(columns: Columns, where: Array) -> dict[Cell, dict[str, Array]]:
    """Every cell's columns, at the places ``where`` ``[n]``."""
    keys = [columns[name] for name in ("reader", "lag", "layer", "refit")]
    _, which = np.unique(keys[0], return_inverse=True)
    code = ((which * 64 + keys[1]) * 4096 + keys[2]) * 64 + keys[3] + 1
    order = np.argsort(code, kind="stable")
    cuts = np.flatnonzero(np.diff(code[order])) + 1
    slot = {place: index for index, place in enumerate(where.tolist())}
    found: dict[Cell, dict[str, Array]] = {}
    for part in np.split(order, cuts):
        cell = Cell(str(keys[0][part[0]]), *(int(key[part[0]]) for key in keys[1:]))
        at = np.array(
            [slot[place] for place in _place({k: columns[k][part] for k in ("document", "position")}).tolist()]
        )
        made = {name: np.full(len(where), np.nan, np.float32) for name in ("right", "error", "spread", "gain")}
        for name, values in made.items():
            values[at] = columns[name][part]
        found[cell] = made
    return found
