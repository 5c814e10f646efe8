"""Small tables of values and intervals in a terminal, beside each other where there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.style import Style
from rich.text import Text

from midstream.view import token_text
from midstream.view.terminal import GAP, side_by_side

ROWS = 16
"""Layers shown where all would be more: every k-th, counted back from the last."""

Cell = tuple[str, str]
"""A value, and the interval that stands softly behind it."""

DIM = Style(dim=True)
_STRONG = Style(bold=True)


def step(count: int, every: int | None, rows: int = ROWS) -> int:
    """The k of every k-th layer: ``every`` where given, else so that ``count`` become ``rows`` at most."""
    return every or max(1, -(-count // rows))


def every_layer(k: int) -> str:
    """Which layers are shown; empty for all."""
    nth = {2: "2nd", 3: "3rd"}.get(k, f"{k}th")
    return f"every {nth} layer is shown, counted back from the last" if k > 1 else ""


def lay(sheets: Sequence[Sheet], room: int, text: Callable[[str], str]) -> Iterator[Text]:
    """The lines of the tables in order, as many beside each other as ``room`` columns hold, wide ones cut in parts.

    ``text`` makes each text fit for the terminal.
    """
    for row in _rows([part for sheet in sheets for part in sheet.split(room)], room):
        yield Text("")
        yield from side_by_side([sheet.lines(text) for sheet in row], [sheet.width for sheet in row])


@dataclass(frozen=True)
class Sheet:
    """One small table: a title, a heading a column, and for each line its label and a cell a column.

    A line of empty cells is a heading: its label may run into them.
    ``soft``: lines that are not about a layer or lens itself: means, baselines, nulls. ``corner``: above the labels.
    """

    title: str
    heads: Sequence[str]
    labels: Sequence[str]
    cells: Sequence[Sequence[Cell]]
    soft: frozenset[int] = frozenset()
    corner: str = ""

    @property
    def gutter(self) -> int:
        """Columns of the labels, with what keeps them apart from the cells."""
        own = [label for label, line in zip(self.labels, self.cells, strict=True) if any(map(any, line))]
        return max(map(token_text.width, [self.corner, *own])) + 2

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
        """Columns of the whole table."""
        return max(self.gutter + sum(sum(pair) + 2 for pair in self.columns), token_text.width(self.title) + 1)

    def split(self, room: int) -> list[Sheet]:
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
        """Title, headings, and a line a label."""
        first = Text(" " + text(self.title), _STRONG, no_wrap=True, overflow="crop")
        head = Text(token_text.fit(" " + text(self.corner), self.gutter), DIM, no_wrap=True, overflow="crop")
        for name, pair in zip(self.heads, self.columns, strict=True):
            head.append(text(token_text.fit(name, sum(pair) + 2)) if sum(pair) else "")
        return [first, head, *(self._line(number, text) for number in range(len(self.labels)))]

    def _line(self, number: int, text: Callable[[str], str]) -> Text:
        made = Text("", no_wrap=True, overflow="crop")
        label = self.labels[number]
        if not any(map(any, self.cells[number])):
            return made.append(" " + text(label), DIM)
        pad = self.gutter - 1 - token_text.width(label)
        numbered = label.replace(" ", "").isdigit()
        made.append(" " * pad + label + " " if numbered else " " + text(label) + " " * pad, DIM)
        for (value, interval), (wide, rest) in zip(self.cells[number], self.columns, strict=True):
            behind = " " if wide and interval else ""
            made.append(" " * (wide - token_text.width(value)) + text(value), DIM if number in self.soft else Style())
            made.append(text(token_text.fit(behind + interval, rest)) + "  " if rest else "  ", DIM)
        return made


def _rows(sheets: list[Sheet], room: int) -> Iterator[list[Sheet]]:
    """The sheets in order, as many beside each other as fit."""
    row: list[Sheet] = []
    for sheet in sheets:
        if row and sum(one.width + GAP for one in row) + sheet.width > room:
            yield row
            row = []
        row.append(sheet)
    if row:
        yield row
