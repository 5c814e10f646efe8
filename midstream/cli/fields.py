"""JSON values as text for people: names and values in two columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

MANY = 8
"""Entries from which on a list is shown by its length, and numbers of layers by their range; JSON has them all."""


def fields(found: Mapping[str, Any]) -> Table:
    """A line a field: its name and its value in words."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", max_width=14)  # so that a hash stays in one line of 80
    table.add_column(overflow="fold")
    for name, value in found.items():
        table.add_row(Text(name.replace("_", " ")), Text(words(value) or "none"))
    return table


def words(value: Any) -> str:
    """A JSON value as text in one line: yes and no for true and false, many numbers as their range, long lists by their
    length."""
    if isinstance(value, dict):
        numbers = [entry for entry in value.values() if isinstance(entry, int | float)]
        if len(numbers) == len(value) > MANY:
            ends = dict.fromkeys((number(min(numbers)), number(max(numbers))))
            return " to ".join(ends)
        return ", ".join(f"{name} {words(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return ", ".join(map(words, value)) if len(value) <= MANY else f"{len(value):,}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) or value is None else str(value)


def number(value: Any) -> str:
    """A number with four digits, or with commas where it is whole; empty for None."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)
