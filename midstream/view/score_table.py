"""Scores -> terminal tables: by layer, paired differences, prompts; beside each other where there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from midstream.errors import RequestError
from midstream.record import ScoreTable
from midstream.view import measure as marks
from midstream.view import token_text
from midstream.view.measure import Curve, Measure
from midstream.view.terminal import GAP, side_by_side

ROWS = 16
"""Layers shown where all would be more: every k-th, counted back from the last."""

Cell = tuple[str, str]
"""A value, and the interval that stands softly behind it."""

_DIM = Style(dim=True)
_STRONG = Style(bold=True)


@dataclass(frozen=True)
class ScoreView:
    """A score as something rich can print; it takes the width of the console it is printed on."""

    score: ScoreTable
    every: int | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What was scored, each measure by layer, differences, prompts, and what was counted and left out."""
        text: Callable[[str], str] = token_text.ascii_only if options.ascii_only else str
        room = options.max_width
        yield from (Text(text(line), _DIM) for line in _opening(self.score, self.every))
        sheets = [*_by_layer(self.score, self.every), *_differences(self.score), *_prompts(self.score)]
        for row in _rows([part for sheet in sheets for part in sheet.split(room)], room):
            yield Text("")
            yield from side_by_side([sheet.lines(text) for sheet in row], [sheet.width for sheet in row])
        if self.score.notes:
            yield Text("")
        yield from (Text(text(note), _DIM) for note in self.score.notes)


def table(score: ScoreTable, *, every: int | None = None) -> ScoreView:
    """The tables of a score: values with intervals, the last layer on top, means and baselines beneath.

    ``every`` k shows each k-th layer, counted back from the last; None: as few as make 16 rows at most.
    Raises RequestError for a score without rows.
    """
    if not len(score):
        raise RequestError("there is nothing to show: the score has no rows.")
    return ScoreView(score, every)


def _step(count: int, every: int | None) -> int:
    return every or max(1, -(-count // ROWS))


@dataclass(frozen=True)
class _Sheet:
    """One small table: a title, a heading a column, and for each line its label and a cell a column.

    A line of empty cells is a heading: its label may run into them.
    ``soft``: lines that are not about a layer or lens itself: means, baselines, nulls.
    """

    title: str
    heads: Sequence[str]
    labels: Sequence[str]
    cells: Sequence[Sequence[Cell]]
    soft: frozenset[int] = frozenset()

    @property
    def gutter(self) -> int:
        own = [label for label, line in zip(self.labels, self.cells, strict=True) if any(map(any, line))]
        return max(map(token_text.width, own)) + 2

    @property
    def columns(self) -> list[tuple[int, int]]:
        """The widths of each column's values and intervals, blanks between the two included."""
        found: list[tuple[int, int]] = []
        for number, head in enumerate(self.heads):
            values, intervals = zip(*(line[number] for line in self.cells), strict=True)
            value, interval = max(map(token_text.width, values)), max(map(token_text.width, intervals))
            both = value + (1 if value and interval else 0) + interval
            found.append((value, interval + (1 if value and interval else 0) + max(0, token_text.width(head) - both)))
        return found

    @property
    def width(self) -> int:
        return max(self.gutter + sum(sum(pair) + 2 for pair in self.columns), token_text.width(self.title) + 1)

    def split(self, room: int) -> list[_Sheet]:
        """The same in as many tables as the room asks for, each with some of the columns."""
        parts: list[list[int]] = [[]]
        used = self.gutter
        for number, pair in enumerate(self.columns):
            if parts[-1] and used + sum(pair) + 2 > room:
                parts, used = [*parts, []], self.gutter
            parts[-1].append(number)
            used += sum(pair) + 2
        title = token_text.fit(self.title, max(1, min(room - 1, token_text.width(self.title))))
        return [
            replace(
                self,
                title=title,
                heads=[self.heads[i] for i in part],
                cells=[[line[i] for i in part] for line in self.cells],
            )
            for part in parts
        ]

    def lines(self, text: Callable[[str], str]) -> list[Text]:
        first = Text(" " + text(self.title), _STRONG, no_wrap=True, overflow="crop")
        head = Text(" " * self.gutter, _DIM, no_wrap=True, overflow="crop")
        for name, pair in zip(self.heads, self.columns, strict=True):
            head.append(text(token_text.fit(name, sum(pair) + 2)) if sum(pair) else "")
        return [first, head, *(self.line(number, text) for number in range(len(self.labels)))]

    def line(self, number: int, text: Callable[[str], str]) -> Text:
        made = Text("", no_wrap=True, overflow="crop")
        label = self.labels[number]
        if not any(map(any, self.cells[number])):
            return made.append(" " + text(label), _DIM)
        pad = self.gutter - 1 - token_text.width(label)
        numbered = label.replace(" ", "").isdigit()
        made.append(" " * pad + label + " " if numbered else " " + text(label) + " " * pad, _DIM)
        for (value, interval), (wide, rest) in zip(self.cells[number], self.columns, strict=True):
            behind = " " if wide and interval else ""
            made.append(" " * (wide - token_text.width(value)) + text(value), _DIM if number in self.soft else Style())
            made.append(text(token_text.fit(behind + interval, rest)) + "  " if rest else "  ", _DIM)
        return made


def _rows(sheets: list[_Sheet], room: int) -> Iterator[list[_Sheet]]:
    """The sheets in order, as many beside each other as fit."""
    row: list[_Sheet] = []
    for sheet in sheets:
        if row and sum(one.width + GAP for one in row) + sheet.width > room:
            yield row
            row = []
        row.append(sheet)
    if row:
        yield row


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
        step = _step(len(np.unique(columns["layer"][layered])), every)
        nth = {2: "2nd", 3: "3rd"}.get(step, f"{step}th")
        shown = f"every {nth} layer is shown, counted back from the last; " if step > 1 else ""
        yield f"{shown}means are over all layers below the last"


def _cell(value: float, low: float, high: float, shown: Measure) -> Cell:
    return marks.written(value, shown.factor), marks.interval(value, low, high, shown.factor)


def _by_layer(score: ScoreTable, every: int | None) -> Iterator[_Sheet]:
    """A table a measure: the layers, the last on top; the mean over them; the baselines of each lens."""
    for name in marks.names(score):
        shown = marks.measure(score, name)
        found = marks.curves(score, name, paired=False)
        lenses = [curve for curve in found if not curve.baseline]
        layers = sorted({layer for curve in lenses for layer in curve.layers.tolist()}, reverse=True)
        kept = layers[:: _step(len(layers), every)]
        labels = [str(layer) for layer in kept]
        cells = [[_at(curve, layer, shown) for curve in lenses] for layer in kept]
        if any(np.isfinite(curve.over[0]) for curve in lenses):
            labels.append("mean")
            cells.append([_cell(*curve.over, shown) for curve in lenses])
        for base in dict.fromkeys(curve.baseline for curve in found if curve.baseline):
            own = {curve.of: curve for curve in found if curve.baseline == base}
            labels.append(base)
            cells.append([_only(own[lens.lens], shown) if lens.lens in own else ("", "") for lens in lenses])
        soft = frozenset(range(len(kept), len(labels)))
        yield _Sheet(shown.heading, [curve.lens for curve in lenses], labels, cells, soft)


def _at(curve: Curve, layer: int, shown: Measure) -> Cell:
    at = np.flatnonzero(curve.layers == layer)
    if not len(at):
        return "", ""
    return _cell(float(curve.value[at[0]]), float(curve.low[at[0]]), float(curve.high[at[0]]), shown)


def _only(curve: Curve, shown: Measure) -> Cell:
    """The one value of a baseline, which does not depend on the layer."""
    return _cell(float(curve.value[0]), float(curve.low[0]), float(curve.high[0]), shown)


def _differences(score: ScoreTable) -> Iterator[_Sheet]:
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
        yield _Sheet("paired differences", ["mean", "below 0 at layers", "above 0 at layers"], labels, cells)


def _prompts(score: ScoreTable) -> Iterator[_Sheet]:
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
        yield _Sheet(title, [f"k = {k}" for k in ks], labels, cells, soft)
