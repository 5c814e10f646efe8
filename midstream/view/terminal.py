"""Marks -> terminal text: the grid in the width there is, and the table of watched tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from midstream.record import Array, ReadingTable
from midstream.view import chart, token_text
from midstream.view.layout import Grid, lay_out

BARS, ARROWS = " ▁▂▃▄▅▆▇█", "▼▼▽▽=△△▲▲"
"""Stand before each token where there is no colour: the fuller, the stronger; for a change down, none, up."""

NARROW, WIDE = 6, 14
"""Columns of a cell's token, at least and at most; beside it stands one column for the mark, and one for a bar."""

GAP = 3
"""Columns between what stands side by side."""

_DIM = Style(dim=True)
_STRONG = Style(bold=True)


@dataclass(frozen=True)
class TerminalGrid:
    """The grid as something rich can print; it takes the width of the console it is printed on."""

    table: ReadingTable
    layouts: list[Grid]
    statistic: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lenses beside each other where each has room for every position, else one under another, in pages."""
        colour = console.color_system is not None and not console.no_color
        sheets = [self.sheet(layout, colour, options.ascii_only) for layout in self.layouts]
        for group in _abreast(sheets, options.max_width):
            width = (options.max_width - GAP * (len(group) - 1)) // len(group)
            yield from side_by_side([list(sheet.lines(width)) for sheet in group], [width] * len(group))
            for number, sheet in enumerate(group):
                if all(sheet.legend() != other.legend() for other in group[:number]):
                    yield from sheet.legend()
            yield from side_by_side([list(sheet.watched(width)) for sheet in group], [width] * len(group))
            if group[-1] is not sheets[-1]:
                yield Text("")

    def sheet(self, layout: Grid, colour: bool, ascii_only: bool) -> _Sheet:
        """One lens's grid, coloured by the statistic where this lens has it."""
        own = self.table.pick(self.table.columns["lens"] == layout.lens)
        return _Sheet(self.table, layout, chart.choose(own, self.statistic), colour, ascii_only)


def grid(
    table: ReadingTable,
    *,
    statistic: str = chart.DEFAULT,
    lens: str | None = None,
    sites: tuple[str, ...] | None = None,
    every: int = 1,
) -> TerminalGrid:
    """Rows are layers, the output on top; columns are positions; a cell shows the top token in its statistic's colour.

    Every lens of the table has its own grid, unless ``lens`` names one.
    Prints on any rich console: 16, 256 or all colours, or none (a bar before each token stands for the colour).
    Raises RequestError for an unknown statistic, lens or site.
    """
    chart.statistic(statistic)
    lenses = [lens] if lens is not None else list(dict.fromkeys(table.columns["lens"].tolist())) or [None]
    return TerminalGrid(table, [lay_out(table, lens=one, sites=sites, every=every) for one in lenses], statistic)


def _abreast(sheets: list[_Sheet], width: int) -> list[list[_Sheet]]:
    """The sheets in groups that stand beside each other: as many as have room for all their positions in one page."""
    many = len(sheets)
    while many > 1 and not all(sheet.fits((width - GAP * (many - 1)) // many) for sheet in sheets):
        many -= 1
    even = -(
        -len(sheets) // -(-len(sheets) // many)
    )  # three where two fit: two and one; four where three fit: two, two
    return [sheets[start : start + even] for start in range(0, len(sheets), even)]


def side_by_side(columns: list[list[Text]], widths: list[int]) -> Iterator[Text]:
    """Lines that stand beside each other, each column in its width, ``GAP`` apart."""
    for lines in zip_longest(*columns):
        whole = Text(no_wrap=True, overflow="crop")
        for number, line in enumerate(lines):
            part = line.copy() if line is not None else Text("")
            if number < len(columns) - 1:
                part.truncate(widths[number], pad=True)
                part.append(" " * GAP)
            whole.append_text(part)
        yield whole


class _Sheet:
    """One grid with its texts and colours worked out, for a console with or without colour."""

    def __init__(
        self, table: ReadingTable, layout: Grid, stat: chart.Statistic, colour: bool, ascii_only: bool
    ) -> None:
        self.table, self.layout, self.stat, self.colour, self.ascii_only = table, layout, stat, colour, ascii_only
        self.scale = chart.scale(table, stat)
        self.shades = self.scale.shade(layout.cells(table, stat))
        self.tops, self.right = layout.tops(table), layout.right(table)
        self.styles = (
            [Style(color=chart.ink(fill), bgcolor=fill) for fill in chart.ramp("dark", stat.form)] if colour else []
        )
        self.beside = 1 if colour else 2
        self.gutter = max(len("layer"), *(len(layout.row_label(row)) for row in range(len(layout.layers)))) + 1

    def text(self, text: str) -> str:
        return token_text.ascii_only(text) if self.ascii_only else text

    def fit(self, text: str, columns: int) -> str:
        return token_text.fit(text, columns, cut="~" if self.ascii_only else "…")

    def token(self, token_id: int) -> str:
        return self.text(token_text.visible(self.table.vocabulary[token_id])) if token_id >= 0 else ""

    def line(self, label: str) -> Text:
        """The beginning of a row; a row that does not fit is cut, since one that wraps is no row."""
        line = Text(no_wrap=True, overflow="crop")
        return line.append(label.rjust(self.gutter - 1) + " ", _DIM)

    def fits(self, width: int) -> bool:
        """Whether every position has room beside the others for a whole cell."""
        return (width - self.gutter) // len(self.layout.positions) - self.beside >= NARROW

    def heading(self) -> Text:
        """Which lens this is and what it reads about."""
        line = Text(" ", no_wrap=True, overflow="crop")
        line.append(self.text(token_text.visible(self.layout.lens).replace("·", " ")), _STRONG)
        return line.append(self.text(f" lens · {chart.about(self.layout.offset)}"), _DIM)

    def lines(self, width: int) -> Iterator[Text]:
        yield self.heading()
        cell = self.cell_width(width)
        many = max(1, (width - self.gutter) // (cell + self.beside))
        count = len(self.layout.positions)
        many = -(-count // -(-count // many))  # as many pages as are needed, all about equally wide
        for start in range(0, count, many):
            columns = range(start, min(start + many, count))
            first, last = self.layout.positions[columns[0]], self.layout.positions[columns[-1]]
            if count > many:
                yield Text(self.text(f"positions {first}–{last} of {self.layout.positions[-1]}"), _DIM)
            yield from self.header(columns, cell)
            for row in reversed(range(len(self.layout.layers))):
                yield self.row(row, columns, cell)
            yield Text("")

    def cell_width(self, width: int) -> int:
        """As wide as the tokens need where all positions fit side by side, else as nine of ten of them need."""
        shown = {*np.unique(self.tops).tolist(), *self.layout.tokens}
        widths = [token_text.width(self.token(i)) for i in shown]
        fair = (width - self.gutter) // len(self.layout.positions) - self.beside
        if fair >= NARROW:
            return min(max(NARROW, *widths), WIDE, fair)
        return min(max(NARROW, int(np.percentile(widths, 90))), 9)

    def header(self, columns: range, cell: int) -> Iterator[Text]:
        came, read = (
            self.line("next" if self.layout.offset == 1 else self.text(f"{self.layout.offset:+d}".replace("-", "−"))),
            self.line("token"),
        )
        for column in columns:
            dimmed = self.layout.kinds[column] != "text"
            came.append(self.cell("", self.layout.targets[column], cell), _DIM)
            read.append(self.cell("", self.layout.tokens[column], cell), _DIM if dimmed else _STRONG)
        yield read
        if self.layout.offset != 0:
            yield came

    def cell(self, before: str, token_id: int, columns: int, mark: str = " ") -> str:
        """Mark and token where there is colour, else bar, token and mark: always ``columns`` and what stands beside."""
        token = self.fit(self.token(token_id), columns)
        return mark + token if self.colour else (before or " ") + token + mark

    def row(self, row: int, columns: range, cell: int) -> Text:
        line = self.line(self.layout.row_label(row))
        for column in columns:
            shade, right = int(self.shades[row, column]), bool(self.right[row, column])
            style = self.styles[shade] if self.colour and shade >= 0 else Style()
            if right:
                style += _STRONG
            if self.layout.kinds[column] != "text":
                style += _DIM
            mark = self.text("✓") if right else " "
            line.append(self.cell(self.bar(shade), int(self.tops[row, column]), cell, mark), style)
        return line

    def bar(self, shade: int) -> str:
        if shade < 0:  # undefined, which is no value at all
            return "-" if self.ascii_only else " "
        marks = "012345678" if self.ascii_only else ARROWS if self.stat.form == "change" else BARS
        return marks[round(shade / (chart.SHADES - 1) * 8)]

    def legend(self) -> list[Text]:
        stops = self.scale.ticks()
        before, after = (f" {end} " for end in chart.ENDS) if self.stat.form == "change" else (" ", "")
        line = Text(before)
        for value, shade in zip(stops, self.scale.shade(np.array(stops)).tolist(), strict=True):
            written = self.text(f" {chart.tick_text(self.stat, value)} ")
            line.append(
                written if self.colour else self.bar(shade) + written, self.styles[shade] if self.colour else ""
            )
        line.append(after)
        label, about = chart.label(self.stat, self.layout.offset), chart.about(self.layout.offset)
        return [
            Text(self.text(f" {'colour' if self.colour else 'bar'}: {label}")),
            line,
            Text(self.text(f" ✓ the top token is the {about}; top row = last layer"), _DIM),
        ]

    def watched(self, width: int) -> Iterator[Text]:
        """Rank and log-probability of each watched token by layer, at the last position."""
        watched, layout = self.table.watched, self.layout
        own = (watched["position"] == layout.positions[-1]) & (watched["lens"] == layout.lens)
        own &= watched["doc_id"] == layout.doc_id
        ids = list(dict.fromkeys(watched["watch_id"][own].tolist()))
        if not ids:
            return
        block = 19
        many = max(1, (width - self.gutter) // block)
        for start in range(0, len(ids), many):
            yield Text("")
            yield Text(f" watched at position {layout.positions[-1]}: rank, log-probability in nats", _DIM)
            part = ids[start : start + many]
            names = self.line("")
            for token in part:
                name = self.fit(self.token(token), block - 2).rstrip()
                names.append(" " * (block - 2 - token_text.width(name)) + name + "  ", _STRONG)
            yield names
            for row in reversed(range(len(layout.layers))):
                at = own & (watched["layer"] == layout.layers[row]) & (watched["site"] == layout.sites[row])
                yield self.watched_row(row, [at & (watched["watch_id"] == i) for i in part])

    def watched_row(self, row: int, found: list[Array]) -> Text:
        line = self.line(self.layout.row_label(row))
        for mask in found:
            rank, logprob = self.table.watched["rank"][mask], self.table.watched["logprob"][mask]
            known = len(rank) > 0 and rank[0] > 0
            place = f"{rank[0]:,}" if known else self.text("–")
            line.append(place.rjust(7), _STRONG if place == "1" else Style())
            value = f"{logprob[0]:.2f}".replace("-", "−") if known and np.isfinite(logprob[0]) else "–"
            line.append(self.text(value).rjust(10) + "  ")
        return line
