"""Which row of a table stands in which cell of the grid: rows are layers, columns positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from midstream.errors import RequestError, choices
from midstream.record import Array, ReadingTable
from midstream.view import chart

SITES = ("attn_out", "resid_mid", "mlp_out", "resid_post")
"""Sites in the order in which a block computes them."""


@dataclass(frozen=True)
class Grid:
    """Which row of a table stands in which cell, for one document and lens.

    Attributes:
        offset: the readings are about the token at position + offset.
        layers, sites: of the R grid rows, layer 0 first.
        positions: of the P columns.
        index: int64 ``[R, P]`` row of the table, -1 where it has none.
        tokens, kinds, targets: of the P columns: token id read there, its kind, id of the token that really came (-1).
    """

    doc_id: int
    lens: str
    offset: int
    layers: list[int]
    sites: list[str]
    positions: list[int]
    index: Array
    tokens: list[int]
    kinds: list[str]
    targets: list[int]

    def take(self, column: Array) -> Array:
        """``[R, P, ...]`` entries of a table's column; cells without a row repeat row 0: mask with ``index < 0``."""
        return column[np.maximum(self.index, 0)]

    def cells(self, table: ReadingTable, stat: chart.Statistic) -> Array:
        """float64 ``[R, P]``: the statistic in each cell, NaN where undefined or absent."""
        return np.where(self.index < 0, np.nan, self.take(chart.values(table, stat)))

    def tops(self, table: ReadingTable) -> Array:
        """int64 ``[R, P]``: id of the top token, -1 where absent."""
        return np.where(self.index < 0, -1, self.take(table.columns["top_ids"][:, 0]))

    def right(self, table: ReadingTable) -> Array:
        """bool ``[R, P]``: the top token is the token that really came."""
        tops = self.tops(table)
        return (tops == np.asarray(self.targets)[None, :]) & (tops >= 0)

    def row_label(self, row: int) -> str:
        """As ``label``."""
        return label(self.layers[row], self.sites[row])


def label(layer: int, site: str) -> str:
    """``24`` for the stream after block 24, ``24 attn`` and the like for places inside it."""
    part = {"resid_post": "", "resid_mid": " mid", "attn_out": " attn", "mlp_out": " mlp"}
    return f"{layer}{part.get(site, ' ' + site)}"


def lay_out(
    table: ReadingTable,
    *,
    lens: str | None = None,
    sites: Sequence[str] | None = None,
    every: int = 1,
    doc_id: int | None = None,
) -> Grid:
    """The grid of one lens (default: the first) and some sites (default: all) of one document (default: the first).

    ``every`` k keeps the first layer and each k-th after it, and always the last. Raises RequestError.
    """
    if not len(table):
        raise RequestError("there are no readings to show: the table has no rows.")
    if every < 1:
        raise RequestError(f"every {every} layers: expected 1 or more.")
    columns = table.columns
    names: list[str] = list(dict.fromkeys(columns["lens"].tolist()))
    chosen = names[0] if lens is None else lens
    if chosen not in names:
        raise choices("lens", chosen, names)
    doc = int(columns["doc_id"][0]) if doc_id is None else doc_id
    own = (columns["doc_id"] == doc) & (columns["lens"] == chosen)
    found = sorted(set(columns["site"][own].tolist()), key=_site_order)
    for site in sites or ():
        if site not in found:
            raise choices("site", site, found)
    rows = np.flatnonzero(own & np.isin(columns["site"], list(sites or found)))
    return _arrange(table, chosen, rows, _stride(np.unique(columns["layer"][rows]), every))


def _stride(layers: Array, every: int) -> Array:
    return np.union1d(layers[::every], layers[-1:])


def _site_order(site: str) -> tuple[int, str]:
    return (SITES.index(site) if site in SITES else -1, site)


def _arrange(table: ReadingTable, lens: str, rows: Array, layers: Array) -> Grid:
    columns = table.columns
    rows = rows[np.isin(columns["layer"][rows], layers)]
    places = [
        (int(a), str(b)) for a, b in zip(columns["layer"][rows].tolist(), columns["site"][rows].tolist(), strict=True)
    ]
    lines = sorted(set(places), key=lambda place: (place[0], _site_order(place[1])))
    positions = np.unique(columns["position"][rows])
    line_of = {place: number for number, place in enumerate(lines)}
    index = np.full((len(lines), len(positions)), -1, np.int64)
    index[[line_of[place] for place in places], np.searchsorted(positions, columns["position"][rows])] = rows
    some = index.max(0)  # any row of a column: they agree on the token read and the token that came
    doc = int(columns["doc_id"][rows[0]])
    own = table.positions["doc_id"] == doc
    kinds = dict(zip(table.positions["position"][own].tolist(), table.positions["kind"][own].tolist(), strict=True))
    return Grid(
        doc_id=doc,
        lens=lens,
        offset=int(columns["offset"][rows[0]]),
        layers=[place[0] for place in lines],
        sites=[place[1] for place in lines],
        positions=positions.tolist(),
        index=index,
        tokens=columns["token_id"][some].tolist(),
        kinds=[str(kinds.get(position, "text")) for position in positions.tolist()],
        targets=columns["target_id"][some].tolist(),
    )
