"""One line a generated token: its log-probability, and the best token of each layer where it was chosen."""

from __future__ import annotations

from collections.abc import Sequence

from midstream.record import ReadingTable
from midstream.view import token_text

TOKEN = 12
"""Columns of the generated token, where there is room."""

CELL = 8
"""Columns of a layer's token, the tick beside it left out, where there is room."""

NUMBER = 10
"""Columns of the log-probability and the blanks around it."""


def header(table: ReadingTable, width: int) -> str:
    """The line above: which layer stands where; as many layers as have room, the last always."""
    token, cell, rows = _room(table, width)
    cells = "".join(token_text.fit(_name(table, row), cell + 2) for row in rows)
    return f"{'log p':>7}  {token_text.fit('token', token)} {cells.rstrip()}\n"


def line(table: ReadingTable, token: int, logprob: float, width: int) -> str:
    """The token and, for each layer, its best token there; ✓ where that is the one that was chosen."""
    wide, cell, rows = _room(table, width)
    cells: list[str] = []
    for row in rows:
        best = int(table.columns["top_ids"][row, 0])
        cells.append(token_text.fit(_text(table, best), cell) + ("✓ " if best == token else "  "))
    number = f"{logprob:7.2f}".replace("-", "−")
    return f"{number}  {token_text.fit(_text(table, token), wide)} {''.join(cells).rstrip()}\n"


def _room(table: ReadingTable, width: int) -> tuple[int, int, Sequence[int]]:
    """Columns of the token and of a cell, and the rows that fit: those nearest the last, which stands on the right."""
    left = width - NUMBER
    count = max(1, (left - TOKEN) // (CELL + 2))
    cell = min(CELL, max(1, left // 2 - 2))
    return min(TOKEN, max(1, left - cell - 2)), cell, range(max(0, len(table) - count), len(table))


def _name(table: ReadingTable, row: int) -> str:
    lenses = len(set(table.columns["lens"].tolist())) > 1
    layer = str(table.columns["layer"][row])
    return f"{table.columns['lens'][row]} {layer}" if lenses else layer


def _text(table: ReadingTable, token: int) -> str:
    return token_text.visible(table.vocabulary[token]) if token >= 0 else "–"
