from __future__ import annotations

import io

import pytest
from rich.console import Console

from midstream.view import token_text
from midstream.view.answer_table import AnswerView

NAMES = ("token", "count", "share", "top_ids", "note")
TYPES = ("VARCHAR", "BIGINT", "FLOAT", "INTEGER[]", "VARCHAR")
ROWS = [(" the", 1200, 0.123456789, [1, None], None), ("", -3, float("nan"), [], "x" * 200)]


def printed(width: int, names=NAMES, types=TYPES, rows=ROWS, total=2, encoding="utf-8") -> list[str]:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    Console(file=out, width=width).print(AnswerView(names, types, rows, total))
    out.flush()
    out.seek(0)
    return out.read().splitlines()


@pytest.mark.parametrize("width", [10, 20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_what_does_not_fit_is_named(width):
    lines = printed(width)
    assert max(map(token_text.width, lines)) <= width
    shown, told = lines[0].split(), " ".join(" ".join(lines[3:]).split())
    assert shown == list(NAMES[: len(shown)])
    for name in NAMES[len(shown) :]:
        assert name in told
    assert ("did not fit" in told) == (len(shown) < len(NAMES))


def test_values_are_told_apart():
    lines = printed(200)
    assert lines[1].split() == ["·the", "1200", "0.123457", "[1,", "null]", "null"]
    assert lines[2].split()[:4] == ["∅", "-3", "nan", "[]"]
    assert lines[1].index("1200") + 4 == lines[2].index("-3") + 2
    assert lines[3] == "2 rows"


def test_it_says_how_many_rows_there_are():
    assert "the first 2 of 1,234 rows" in printed(80, total=1234)[-1]
    assert "there are more" in printed(80, total=None)[-1]
    assert printed(80, rows=ROWS[:1], total=1)[-1] == "1 row"
    empty = printed(80, rows=[], total=0)
    assert empty[0].split() == list(NAMES)
    assert empty[-1] == "0 rows"


def test_hostile_text_is_one_harmless_line_and_an_ascii_terminal_gets_ascii():
    rows = [("\x1b[31mred\n\u202e[bold]", 1, 0.5, [], "日本語")]
    assert "".join(printed(80, rows=rows)).isprintable()
    assert "[bold]" in "".join(printed(80, rows=rows))
    assert all(line.isascii() for line in printed(80, rows=rows, encoding="ascii"))


def test_a_first_column_wider_than_the_terminal_is_cut():
    lines = printed(8, names=("note",), types=("VARCHAR",), rows=[("x" * 200,)], total=1)
    assert lines[1] == "xxxxxxx…"
