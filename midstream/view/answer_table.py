"""The rows of a query -> a terminal table of the width there is; what does not fit is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from midstream.view import token_text
from midstream.view.sheet import DIM

WIDEST, NARROWEST = 48, 12
"""Columns that a text is cut to where there is room, and where there is little."""

NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
           "FLOAT", "DOUBLE", "DECIMAL")  # fmt: skip
"""Types that stand at the right of their column."""

_GAP = 2
_HEAD = Style(bold=True)


@dataclass(frozen=True)
class AnswerView:
    """Rows as something rich can print.

    Attributes:
        names, types: of the columns; types as DuckDB writes them.
        rows: those that are shown, as Python values.
        total: how many there are; None: more than are shown, nobody knows how many.
    """

    names: Sequence[str]
    types: Sequence[str]
    rows: Sequence[Sequence[Any]]
    total: int | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The columns from the left that fit, then how many rows there are and which columns did not fit."""
        text: Callable[[str], str] = token_text.ascii_only if options.ascii_only else str
        heads = [text(token_text.name(name, WIDEST)) for name in self.names]
        cells = [[text(_cell(value)) for value in row] for row in self.rows]
        numbers = [kind.partition("(")[0] in NUMBERS for kind in self.types]
        widths = self._widths(heads, cells, numbers, options.max_width)
        yield _line(heads, widths, numbers, [_HEAD] * len(heads))
        for row, shown in zip(self.rows, cells, strict=True):
            yield _line(shown, widths, numbers, [DIM if value is None else Style() for value in row])
        yield from (Text(text(line), DIM) for line in self._notes(len(widths)))

    def _widths(
        self, heads: Sequence[str], cells: Sequence[Sequence[str]], numbers: Sequence[bool], room: int
    ) -> list[int]:
        """Of the columns that are shown: texts are cut before columns are left out, the first column always stays."""
        whole = [max(map(token_text.width, (head, *column))) for head, *column in zip(heads, *cells, strict=True)]
        widths: list[int] = []
        for most in range(WIDEST, NARROWEST - 1, -4):
            widths = [wide if number else min(wide, most) for wide, number in zip(whole, numbers, strict=True)]
            if sum(widths) + _GAP * (len(widths) - 1) <= room:
                return widths
        while len(widths) > 1 and sum(widths) + _GAP * (len(widths) - 1) > room:
            widths.pop()
        return [min(wide, room) for wide in widths]

    def _notes(self, shown: int) -> list[str]:
        count = len(self.rows)
        if self.total is None:
            notes = [f"the first {count:,} rows; there are more: --out FILE.parquet has them all."]
        elif self.total > count:
            notes = [f"the first {count:,} of {self.total:,} rows; --out FILE.parquet has them all."]
        else:
            notes = [f"{count:,} row{'' if count == 1 else 's'}"]
        if left := [token_text.name(name, WIDEST) for name in self.names[shown:]]:
            listed = ", ".join(left)
            notes.append(f"{len(left):,} column{'' if len(left) == 1 else 's'} did not fit: {listed}")
        return notes


def _line(cells: Sequence[str], widths: Sequence[int], numbers: Sequence[bool], styles: Sequence[Style]) -> Text:
    line = Text(no_wrap=True, overflow="crop")
    for place, width in enumerate(widths):
        cell = token_text.fit(cells[place], width)
        if numbers[place]:
            bare = cell.rstrip(" ")
            cell = " " * (width - token_text.width(bare)) + bare
        line.append(cell, styles[place])
        line.append(" " * _GAP if place < len(widths) - 1 else "")
    line.rstrip()
    return line


def _cell(value: Any) -> str:
    """A value as one line: null in words, blanks at the ends of a text as ``·``, numbers to six digits."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return token_text.name(f"[{', '.join(map(_cell, value))}]", WIDEST + 1)
    shown = token_text.visible(str(value)[: 4 * WIDEST])
    bare = shown.strip("·")
    ends = len(shown) - len(shown.lstrip("·")), len(shown) - len(shown.rstrip("·"))
    return "·" * ends[0] + bare.replace("·", " ") + "·" * ends[1] if bare else shown
