"""What lenses are good for, with intervals: sums over each document's positions, then estimates over documents.

A measure is an average over positions, ``Σ sums / Σ positions``; an interval counts clusters of documents. Two lenses
about the same token by the same reader are compared position by position, and every lens with its baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from midstream.interval import paired_ratio, ratio
from midstream.lens.lens import Lens
from midstream.record import SCORE, Array, Estimate, ReadingTable

LEVEL = 0.95
ALL_LAYERS = -1
"""The layer of a row that is the mean over the layers below the last."""

Group = tuple[str, str, int]
"""Name of a lens or baseline, site and layer."""


def _first(rank: Array) -> Array:
    return np.where(rank < 1, np.nan, rank == 1)


_VALUES: Mapping[str, Callable[[Mapping[str, Array]], Array]] = {
    "kl": lambda columns: columns["kl_final_lens"],
    "kl_reverse": lambda columns: columns["kl_lens_final"],
    "cross_entropy": lambda columns: -columns["logprob"],
    "entropy": lambda columns: columns["entropy"],
    "agreement": lambda columns: _first(columns["final_top1_rank"]),
    "accuracy": lambda columns: _first(columns["rank"]),
}
MEASURES = tuple(_VALUES)
"""Each from the columns of a reading: KL(output || lens), KL(lens || output), -log p of the real token, entropy (nats);
the share of positions where the lens puts the model's own first choice, or the real token, first."""

UNITS = {name: "1" if name in ("agreement", "accuracy") else "nats" for name in MEASURES}


def measures(lens: Lens) -> tuple[str, ...]:
    """The measures that mean something for a lens."""
    if lens.reader == "output":
        return MEASURES
    return ("cross_entropy", "accuracy") if lens.calibrated else ("accuracy",)


@dataclass(frozen=True, eq=False)
class Scored:
    """One row of a score table; ``record.SCORE`` says what the fields mean."""

    lens: str
    layer: int
    site: str
    measure: str
    against: str
    estimate: Estimate


@dataclass(frozen=True, eq=False)
class DocumentSums:
    """One document: the sum of every measure over the positions read, ``[groups, measures]``, NaN where undefined."""

    cluster: str
    positions: int
    groups: tuple[Group, ...]
    sums: Array


@dataclass(frozen=True)
class Baseline:
    """What a lens is compared with beside other lenses.

    Attributes:
        name: ``future:1 | token``: the lens, then ``token`` or ``tokens`` (its map fitted on the input row of the
            token read, or on those of the last four), ``back-off`` (the most frequent answer in the fitted text) or
            ``most frequent`` (the best constant answer to the scored text).
        lens: the lens it belongs to.
        measures: those that it has.
    """

    name: str
    lens: str
    measures: tuple[str, ...]


def add_up(cluster: str, tables: Iterable[ReadingTable], more: Mapping[Group, Mapping[str, Array]]) -> DocumentSums:
    """The sums of a document's reading, which comes in chunks.

    Args:
        more: sums that no reading gives: group -> measure -> its value at each position.
    """
    groups: list[Group] = []
    total: Array = np.zeros(())
    positions = 0
    for table in tables:
        labels = [table.columns[name] for name in ("lens", "site", "layer")]
        new = np.zeros(len(table), dtype=bool)
        for label in labels:
            new[1:] |= label[1:] != label[:-1]
        new[:1] = True
        starts = np.flatnonzero(new)
        groups = list(zip(*(label[starts].tolist() for label in labels), strict=True))
        values = np.stack([made(table.columns) for made in _VALUES.values()]).astype(np.float64)
        total = total + np.add.reduceat(values, starts, axis=1).T
        positions += len(table) // len(groups)
    for group, values in more.items():
        row = [[values[name].sum() if name in values else np.nan for name in MEASURES]]
        groups, total = [*groups, group], np.concatenate([total, row])
    return DocumentSums(cluster, positions, tuple(groups), total)


def estimates(
    documents: Sequence[DocumentSums], lenses: Sequence[Lens], baselines: Sequence[Baseline], *, last: int, seed: int
) -> list[Scored]:
    """Every estimate: each lens, each less every comparable lens given after it, each less its baselines, baselines.

    Args:
        documents: all with the same groups.
        last: the model's last layer, L, which means over layers leave out: there output lenses are the identity.
        seed: of the the bootstraps, which up to 200 clusters have; the same for every estimate.
    """
    if not documents:
        return []
    gathered = _Gathered(documents, last, seed)
    made: list[Scored] = []
    for number, lens in enumerate(lenses):
        others = [other.name for other in lenses[number + 1 :] if _comparable(lens, other)]
        own = [baseline for baseline in baselines if baseline.lens == lens.name]
        for measure in measures(lens):
            made += gathered.rows(lens.name, measure)
            for other in others:
                made += gathered.rows(lens.name, measure, other)
            for baseline in own:
                if measure in baseline.measures:
                    made += gathered.rows(lens.name, measure, baseline.name, fixed=True)
        for baseline in own:
            for measure in baseline.measures:
                made += gathered.rows(baseline.name, measure)
    return made


def _comparable(first: Lens, second: Lens) -> bool:
    return (first.offset, first.reader) == (second.offset, second.reader)


class _Gathered:
    """The sums of all documents, and the estimates from them."""

    def __init__(self, documents: Sequence[DocumentSums], last: int, seed: int) -> None:
        self._groups = documents[0].groups
        self._sums = np.stack([document.sums for document in documents])
        self._counts = np.array([document.positions for document in documents])
        self._clusters = np.unique([document.cluster for document in documents], return_inverse=True)[1]
        self._last, self._seed = last, seed

    def rows(self, lens: str, measure: str, against: str = "", *, fixed: bool = False) -> Iterator[Scored]:
        """By layer and over layers; ``against`` is subtracted place by place, or ``fixed``, whatever its own place.

        Nothing where the measure is undefined for one of the two: an unfitted lens's agreement with itself.
        """
        first, second = self._series(lens, measure), self._series(against, measure)
        if fixed:
            second = dict.fromkeys(first, next(iter(second.values())))
        places = [place for place in first if not against or place in second]
        pair = [first, second] if against else [first]
        found = {place: np.stack([series[place] for series in pair]) for place in places}
        for site in dict.fromkeys(site for site, _ in places):
            below = [sums for (place, layer), sums in found.items() if place == site and layer < self._last]
            if len(below) > 1:
                found[site, ALL_LAYERS] = np.mean(below, axis=0)
        for (site, layer), sums in found.items():
            yield Scored(lens, layer, site, measure, against, self._estimate(sums, UNITS[measure]))

    def _series(self, lens: str, measure: str) -> dict[tuple[str, int], Array]:
        """(site, layer) -> the sum of each document."""
        column = MEASURES.index(measure)
        return {
            (site, layer): self._sums[:, number, column]
            for number, (name, site, layer) in enumerate(self._groups)
            if name == lens
        }

    def _estimate(self, sums: Array, unit: str) -> Estimate:
        counts, clusters, generator = self._counts, self._clusters, np.random.default_rng(self._seed)
        if len(sums) == 1:
            return ratio(sums[0], counts, clusters=clusters, generator=generator, unit=unit, level=LEVEL)
        return paired_ratio(sums, counts, clusters=clusters, generator=generator, unit=unit, level=LEVEL)


def columns(rows: Sequence[Scored]) -> dict[str, Array]:
    """The columns of a score table, as ``record.SCORE`` declares them."""
    names = {field.name for field in fields(Estimate)}
    return {
        column.name: np.array(
            [getattr(row.estimate if column.name in names else row, column.name) for row in rows],
            dtype=object if column.dtype == "str" else column.dtype,
        )
        for column in SCORE
    }
