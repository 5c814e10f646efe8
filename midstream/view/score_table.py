"""Scores -> terminal tables: by layer, paired differences, prompts; beside each other where there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from midstream.errors import RequestError
from midstream.record import ScoreTable
from midstream.view import measure as marks
from midstream.view import token_text
from midstream.view.measure import Curve, Measure
from midstream.view.sheet import DIM, Cell, Sheet, every_layer, lay, step


@dataclass(frozen=True)
class ScoreView:
    """A score as something rich can print; it takes the width of the console it is printed on."""

    score: ScoreTable
    every: int | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What was scored, each measure by layer, differences, prompts, and what was counted and left out."""
        text: Callable[[str], str] = token_text.ascii_only if options.ascii_only else str
        yield from (Text(text(line), DIM) for line in _opening(self.score, self.every))
        sheets = [*_by_layer(self.score, self.every), *_differences(self.score), *_prompts(self.score)]
        yield from lay(sheets, options.max_width, text)
        if self.score.notes:
            yield Text("")
        yield from (Text(text(note), DIM) for note in self.score.notes)


def table(score: ScoreTable, *, every: int | None = None) -> ScoreView:
    """The tables of a score: values with intervals, the last layer on top, means and baselines beneath.

    ``every`` k shows each k-th layer, counted back from the last; None: as few as make 16 rows at most.
    Raises RequestError for a score without rows.
    """
    if not len(score):
        raise RequestError("there is nothing to show: the score has no rows.")
    return ScoreView(score, every)


def _opening(score: ScoreTable, every: int | None) -> Iterator[str]:
    """What was scored on how much; which layers are shown, and what the means are over."""
    columns = score.columns
    layered = columns["layer"] >= 0
    corpus = np.flatnonzero([not marks.PASS.fullmatch(name) for name in columns["measure"].tolist()])
    parts = [score.provenance.model]
    if len(corpus):
        documents, clusters, tokens = (int(columns[name][corpus].max()) for name in ("documents", "clusters", "tokens"))
        parts.append(f"held out: {documents:,} documents in {clusters:,} clusters, {tokens:,} positions")
    bounded = np.isfinite(columns["low"]).any()
    parts.append(f"{100 * columns['level'][0]:g} % intervals" if bounded else "too few clusters for intervals")
    yield " · ".join(part for part in parts if part)
    if layered.any():
        k = step(len(np.unique(columns["layer"][layered])), every)
        yield "; ".join(filter(None, [every_layer(k), "means are over all layers below the last"]))


def _cell(value: float, low: float, high: float, shown: Measure) -> Cell:
    return marks.written(value, shown.factor), marks.interval(value, low, high, shown.factor)


def _by_layer(score: ScoreTable, every: int | None) -> Iterator[Sheet]:
    """A table a measure: the layers, the last on top; the mean over them; the baselines of each lens."""
    for name in marks.names(score):
        shown = marks.measure(score, name)
        found = marks.curves(score, name, paired=False)
        lenses = [curve for curve in found if not curve.baseline]
        layers = sorted({layer for curve in lenses for layer in curve.layers.tolist()}, reverse=True)
        kept = layers[:: step(len(layers), every)]
        labels = [str(layer) for layer in kept]
        cells = [[_at(curve, layer, shown) for curve in lenses] for layer in kept]
        if any(np.isfinite(curve.over[0]) for curve in lenses):
            labels.append("mean")
            cells.append([_cell(*curve.over, shown) for curve in lenses])
        for base in dict.fromkeys(curve.baseline for curve in found if curve.baseline):
            own = {curve.of: curve for curve in found if curve.baseline == base}
            labels.append(base)
            cells.append([_only(own[lens.of], shown) if lens.of in own else ("", "") for lens in lenses])
        soft = frozenset(range(len(kept), len(labels)))
        yield Sheet(shown.heading, [curve.lens for curve in lenses], labels, cells, soft)


def _at(curve: Curve, layer: int, shown: Measure) -> Cell:
    at = np.flatnonzero(curve.layers == layer)
    if not len(at):
        return "", ""
    return _cell(float(curve.value[at[0]]), float(curve.low[at[0]]), float(curve.high[at[0]]), shown)


def _only(curve: Curve, shown: Measure) -> Cell:
    """The one value of a baseline, which does not depend on the layer."""
    return _cell(float(curve.value[0]), float(curve.low[0]), float(curve.high[0]), shown)


def _differences(score: ScoreTable) -> Iterator[Sheet]:
    """For each measure that has a better end: means over layers, and the layers whose interval is away from 0."""
    labels: list[str] = []
    cells: list[list[Cell]] = []
    for name in marks.names(score):
        shown = marks.measure(score, name)
        found = marks.curves(score, name, paired=True)
        if not found or not shown.good:
            continue
        labels.append(shown.heading)
        cells.append([("", "")] * 3)
        for curve in found:
            below, above = (marks.spans(away, curve.layers) for away in (curve.high < 0, curve.low > 0))
            labels.append(f"  {curve.difference}")
            cells.append([_cell(*curve.over, shown), ("", below), ("", above)])
    if labels:
        yield Sheet("paired differences", ["mean", "below 0 at layers", "above 0 at layers"], labels, cells)


def _prompts(score: ScoreTable) -> Iterator[Sheet]:
    """A table for each set of items: columns k; for each lens the value, its null, and the value less the null."""
    columns = score.columns
    found: dict[str, dict[tuple[str, str], dict[int, Cell]]] = {}
    items: dict[str, int] = {}
    for row, name in enumerate(columns["measure"].tolist()):
        if match := marks.PASS.fullmatch(name):
            site, lens, against = (str(columns[part][row]) for part in ("site", "lens", "against"))
            rest = " ".join(part for part in (match[3].strip(), "" if site == "resid_post" else site) if part)
            label = lens + (f" − {against}" if against else "")
            kind = {None: "", " null": "null", " - null": "less null"}[match[2]]
            value, low, high = (float(columns[part][row]) for part in ("value", "low", "high"))
            cell = _cell(value, low, high, marks.measure(score, name))
            found.setdefault(rest, {}).setdefault((label, kind), {})[int(match[1])] = cell
            items[rest] = int(columns["documents"][row])
    for rest, lines in found.items():
        ks = sorted({k for cells in lines.values() for k in cells})
        title = f"pass@k, % of the intermediates of {items[rest]:,} items" + (f", {rest}" if rest else "")
        soft = frozenset(number for number, (_, kind) in enumerate(lines) if kind)
        labels = [f"  {kind}" if kind else label for label, kind in lines]
        cells = [[line.get(k, ("", "")) for k in ks] for line in lines.values()]
        yield Sheet(title, [f"k = {k}" for k in ks], labels, cells, soft)
