"""One line a generated token: its log-probability, and the best token of each layer where it was chosen."""

from __future__ import annotations

from collections.abc import Sequence

from midstream.record import ReadingTable
from midstream.view import token_text

TOKEN = 12
"""Columns of the generated token."""

CELL = 8
"""Columns of a layer's token, the tick beside it left out."""


def header(table: ReadingTable, width: int) -> str:
    """The line above: which layer stands where; as many layers as have room, the last always."""
    marks = [f"{_name(table, row)}" for row in _rows(table, width)]
    cells = "".join(token_text.fit(mark, CELL + 2) for mark in marks)
    return f"{'log p':>7}  {token_text.fit('token', TOKEN)} {cells.rstrip()}\n"


def line(table: ReadingTable, token: int, logprob: float, width: int) -> str:
    """The token and, for each layer, its best token there; ✓ where that is the one that was chosen."""
    cells: list[str] = []
    for row in _rows(table, width):
        best = int(table.columns["top_ids"][row, 0])
        cells.append(token_text.fit(_text(table, best), CELL) + ("✓ " if best == token else "  "))
    number = f"{logprob:7.2f}".replace("-", "−")
    return f"{number}  {token_text.fit(_text(table, token), TOKEN)} {''.join(cells).rstrip()}\n"


def _rows(table: ReadingTable, width: int) -> Sequence[int]:
    """The rows that fit: those nearest the last, which stands on the right."""
    room = max(1, (width - TOKEN - 10) // (CELL + 2))
    return range(max(0, len(table) - room), len(table))


def _name(table: ReadingTable, row: int) -> str:
    lenses = len(set(table.columns["lens"].tolist())) > 1
    layer = str(table.columns["layer"][row])
    return f"{table.columns['lens'][row]} {layer}" if lenses else layer


def _text(table: ReadingTable, token: int) -> str:
    return token_text.visible(table.vocabulary[token]) if token >= 0 else "–"
