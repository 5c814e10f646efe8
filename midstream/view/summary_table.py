"""Summaries of a store -> terminal tables: a table a measure, by layer or by group, and where differences lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from midstream.errors import RequestError
from midstream.record import Array, SummaryTable
from midstream.view import measure as marks
from midstream.view import token_text
from midstream.view.measure import Curve, Measure
from midstream.view.sheet import DIM, Cell, Sheet, every_layer, lay, step

ABREAST = 8
"""Layers that stand beside each other in a table of groups, at most; fewer where they do not fit."""

GROUPS = 40
"""Groups that a table lists: of more, those with the most positions."""

NAME = 24
"""Columns of a group's name."""


@dataclass(frozen=True)
class SummaryView:
    """A summary as something rich can print; it takes the width of the console it is printed on."""

    summary: SummaryTable
    every: int | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What was averaged, each measure by layer or by group, and what was counted and left out."""
        text: Callable[[str], str] = token_text.ascii_only if options.ascii_only else str
        layers = len(np.unique(self.summary.columns["layer"]))
        grouped = bool((self.summary.columns["group"] != "").any())
        k = step(layers, self.every)
        if grouped:
            k = self._step(layers, options.max_width)
        sheets = _by_group(self.summary, k) if grouped else [*_away(self.summary), *_by_layer(self.summary, k)]
        yield from (Text(text(line), DIM) for line in _packed(_opening(self.summary, k), options.max_width))
        yield from lay([*sheets], options.max_width, text)
        notes = [*self.summary.notes, *_hidden(self.summary)]
        if notes:
            yield Text("")
        yield from (Text(text(note), DIM) for note in notes)

    def _step(self, layers: int, room: int) -> int:
        """The k of every k-th layer with which the tables of groups fit."""
        for many in range(ABREAST, 1, -1):
            k = step(layers, self.every, many)
            if self.every or all(sheet.width <= room for sheet in _by_group(self.summary, k)):
                return k
        return step(layers, self.every, 1)


def table(summary: SummaryTable, *, every: int | None = None) -> SummaryView:
    """The tables of a summary: values with intervals, layers from the last down, or groups down and layers across.

    ``every`` k shows each k-th layer, counted back from the last; None: as few as can be read at once.
    Raises RequestError for a summary without rows.
    """
    if not len(summary):
        raise RequestError("there is nothing to show: the summary has no rows.")
    return SummaryView(summary, every)


def opening(summary: SummaryTable) -> list[str]:
    """What was averaged, over how much, with what intervals, and less what."""
    columns = summary.columns
    parts = [summary.provenance.model]
    if (columns["group"] != "").any():
        fewest, most = int(columns["clusters"].min()), int(columns["clusters"].max())
        parts.append(f"by {token_text.name(summary.by, NAME)}")
        parts.append(f"{f'{fewest:,} to ' if fewest < most else ''}{most:,} clusters a group")
    else:
        documents, clusters, tokens = (int(columns[name].max()) for name in ("documents", "clusters", "tokens"))
        parts.append(f"{documents:,} documents in {clusters:,} clusters, {tokens:,} positions")
    bounded = np.isfinite(columns["low"]).any()
    parts.append(f"{100 * columns['level'][0]:g} % intervals" if bounded else "too few clusters for intervals")
    against = [token_text.name(one, 200) for one in dict.fromkeys(columns["against"].tolist()) if one]
    return [*(part for part in parts if part), *(f"less {one}, paired by document" for one in against)]


def groups(summary: SummaryTable, most: int) -> list[str]:
    """The groups in the order of the table; of more than ``most``, those with the most positions."""
    columns = summary.columns
    found = list(dict.fromkeys(columns["group"].tolist()))
    if len(found) <= most:
        return found
    size = {name: int(columns["tokens"][columns["group"] == name].max()) for name in found}
    kept = set(sorted(found, key=lambda name: -size[name])[:most])
    return [name for name in found if name in kept]


def _hidden(summary: SummaryTable) -> Iterator[str]:
    rest = len(set(summary.columns["group"].tolist())) - GROUPS
    if rest > 0:
        yield f"{rest:,} smaller groups are not shown: --out FILE.parquet or --format json has them all."


def _opening(summary: SummaryTable, k: int) -> Iterator[str]:
    yield from opening(summary)
    if (summary.columns["group"] != "").any():
        yield "positions: how many, in how many clusters"
    if shown := every_layer(k):
        yield shown


def _packed(parts: Iterable[str], room: int) -> Iterator[str]:
    """The parts, as many in a line as fit."""
    line = ""
    for part in parts:
        if line and token_text.width(f"{line} · {part}") > room:
            yield line
            line = ""
        line = f"{line} · {part}" if line else part
    yield line


def _cell(curve: Curve, layer: int, shown: Measure, decimals: int) -> Cell:
    at = np.flatnonzero(curve.layers == layer)
    if not len(at):
        return "", ""
    value, low, high = (float(part[at[0]]) for part in (curve.value, curve.low, curve.high))
    written = marks.written(value, shown.factor, decimals)
    return written, marks.interval(value, low, high, shown.factor, decimals)


def _decimals(found: list[Curve], shown: Measure) -> int:
    return marks.digits(np.concatenate([(curve.high - curve.low) / 2 for curve in found]), shown.factor)


def measures(summary: SummaryTable) -> Iterator[tuple[Measure, bool]]:
    """Each measure, first the values and then the differences where there are any; and which of the two."""
    against = summary.columns["against"] != ""
    for paired in (False, True):
        for name in marks.names(summary.pick(against == paired)):
            yield marks.measure(summary, name), paired


def _title(shown: Measure, paired: bool) -> str:
    return f"difference of {shown.heading}" if paired else shown.heading


def _by_layer(summary: SummaryTable, k: int) -> Iterator[Sheet]:
    """A table a measure: the layers, the last on top; a column a lens."""
    for shown, paired in measures(summary):
        found = marks.curves(summary, shown.name, paired=paired)
        layers = sorted({layer for curve in found for layer in curve.layers.tolist()}, reverse=True)[::k]
        decimals = _decimals(found, shown)
        cells = [[_cell(curve, layer, shown, decimals) for curve in found] for layer in layers]
        yield Sheet(
            _title(shown, paired), [token_text.name(curve.lens, NAME) for curve in found], [*map(str, layers)], cells
        )


def _away(summary: SummaryTable) -> Iterator[Sheet]:
    """The layers at which the interval of a difference does not hold 0."""
    labels: list[str] = []
    cells: list[list[Cell]] = []
    for shown, paired in measures(summary):
        if not paired:
            continue
        found = marks.curves(summary, shown.name, paired=True)
        if len(found) > 1:
            labels.append(shown.label)
            cells.append([("", "")] * 2)
        for curve in found:
            below, above = (marks.spans(away, curve.layers) for away in (curve.high < 0, curve.low > 0))
            labels.append(f"  {token_text.name(curve.lens, NAME)}" if len(found) > 1 else shown.label)
            cells.append([("", below), ("", above)])
    if labels:
        yield Sheet(
            "differences whose interval leaves out 0", ["below 0 at layers", "above 0 at layers"], labels, cells
        )


def _by_group(summary: SummaryTable, k: int) -> Iterator[Sheet]:
    """A table a measure: for each lens its groups, with their positions in how many clusters; a column a layer."""
    kept = groups(summary, GROUPS)
    layers = sorted(np.unique(summary.columns["layer"]).tolist(), reverse=True)[::k][::-1]
    for shown, paired in measures(summary):
        found = {group: marks.curves(summary, shown.name, paired=paired, group=group) for group in kept}
        every = [curve for curves in found.values() for curve in curves]
        decimals = _decimals(every, shown)
        labels: list[str] = []
        cells: list[list[Cell]] = []
        for lens in dict.fromkeys(curve.lens for curve in every):
            labels.append(token_text.name(lens, NAME))
            cells.append([("", "")] * (1 + len(layers)))
            for group, curves in found.items():
                for curve in curves:
                    if curve.lens == lens:
                        labels.append(f"  {token_text.name(group, NAME) or 'none'}")
                        many = f"{_largest(curve.tokens):,}", f"in {_largest(curve.clusters):,}"
                        cells.append([many, *(_cell(curve, layer, shown, decimals) for layer in layers)])
        heads = ["positions", *(f"layer {layer}" for layer in layers)]
        yield Sheet(_title(shown, paired), heads, labels, cells, corner=token_text.name(summary.by, NAME))


def _largest(counts: Array) -> int:
    return int(counts.max()) if len(counts) else 0
