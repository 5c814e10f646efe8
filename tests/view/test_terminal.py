from __future__ import annotations

import io
import re
import unicodedata
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from rich.console import Console
from view.sample import reading, several

from midstream.errors import RequestError
from midstream.record import ReadingTable
from midstream.view import chart, terminal, token_text
from midstream.view.layout import lay_out

TABLE, _ = reading(tokens=40, layers=12)


def printed(table: ReadingTable, width: int, *, colour: str | None = "truecolor", **options) -> str:
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=colour is not None, color_system=colour, no_color=colour is None
    )
    console.print(terminal.grid(table, **options))
    return out.getvalue()


def plain(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


@pytest.mark.parametrize("width", [20, 80, 200])
@pytest.mark.parametrize("colour", [None, "standard", "256", "truecolor"])
@pytest.mark.parametrize("subs", [False, True])
def test_no_line_is_wider_than_the_terminal(width, colour, subs):
    table, _ = reading(tokens=25, layers=5, subs=subs, watch=(4, 5, 6, 7, 8, 9))
    lines = plain(printed(table, width, colour=colour))
    assert max(token_text.width(line) for line in lines) <= width
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs") for line in lines for char in line)


def test_a_row_never_wraps():
    lines = plain(printed(TABLE, 12))
    rows = [line for line in lines if re.match(r" {3,}\d+ ", line)]
    assert len(rows) == 40 * 13 + 13  # a page for each position, and the watched token's


def test_pages_cover_every_position_once_and_are_headed():
    lines = plain(printed(TABLE, 80))
    ranges = [tuple(map(int, re.findall(r"\d+", line))) for line in lines if line.startswith("positions")]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == 39
    assert all(one[1] + 1 == other[0] for one, other in pairwise(ranges))
    assert sum(line.strip().startswith("12 ") for line in lines) == len(ranges) + 1  # and once among the watched


def test_the_output_is_on_top_and_each_layer_shows_its_top_token():
    small, _ = reading(tokens=4, layers=3)
    lines = [line for line in plain(printed(small, 120)) if re.match(r" +\d ", line)]
    layout = lay_out(small)
    for line, row in zip(lines, (3, 2, 1, 0), strict=False):
        assert line.split()[0] == str(row)
        for token in layout.tops(small)[row].tolist():
            assert token_text.visible(small.vocabulary[token])[:5] in line


def test_right_guesses_are_marked():
    text = printed(TABLE, 80)
    assert "\n".join(plain(text)).count("✓") == lay_out(TABLE).right(TABLE).sum() + 1  # the legend names the mark


def test_without_colour_a_bar_stands_for_it():
    text = printed(TABLE, 80, colour=None, statistic="top1_probability")
    assert "\x1b" not in text
    assert "█" in text
    assert "bar: probability of the shown token" in text


def test_a_change_has_two_colours_and_the_legend_says_which_is_which():
    """Without colour an arrow stands before each token; where the change is undefined nothing does."""
    small, _ = reading(tokens=4, layers=3, watch=())
    stat = chart.statistic("logprob_change")
    changes = lay_out(small).cells(small, stat)
    lines = plain(printed(small, 120, colour=None, statistic=stat.name))
    rows = [line for line in lines if re.match(r" +\d ", line)]
    scale, tops = chart.scale(small, stat), lay_out(small).tops(small)
    for line, values, tokens in zip(rows, changes[::-1], tops[::-1].tolist(), strict=True):
        for place, token in zip(scale.place(values), tokens, strict=True):
            mark = "=" if abs(place - 0.5) < 1 / 16 else "▼▽△▲"[int(place > 0.18) + (place > 0.5) + (place > 0.82)]
            word = token_text.visible(small.vocabulary[token])[:4]
            assert f" {' ' if np.isnan(place) else mark}{word}" in line.replace("✓", " ")
    assert np.isnan(changes[:, -1]).all()
    assert any(line.startswith(" less likely ▼ −") and line.endswith(" more likely ") for line in lines)
    coloured = printed(small, 120, statistic=stat.name)
    fill = chart.ramp("dark", "change")[scale.shade(changes)[0, 0]]
    red, green, blue = (int(fill[at : at + 2], 16) for at in (1, 3, 5))
    assert f"48;2;{red};{green};{blue}m" in coloured
    assert "colour: change in log p of the next token in nats" in plain(coloured)[-3]


def test_an_ascii_terminal_gets_ascii():
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=out, width=80).print(terminal.grid(TABLE))
    out.flush()
    out.seek(0)
    assert out.read().isascii()


def test_tokens_are_text_and_never_markup():
    small, _ = reading(tokens=40, layers=2)
    assert "[red]x" in printed(small, 400)


def test_the_colour_is_that_of_the_statistic():
    small, _ = reading(tokens=2, layers=2, watch=())
    stat = chart.statistic("entropy")
    shade = chart.scale(small, stat).shade(lay_out(small).cells(small, stat))[2, 1]
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="truecolor")
    segments = [*console.render(terminal.grid(small, statistic="entropy"))]
    fills = {segment.style.bgcolor.name for segment in segments if segment.style and segment.style.bgcolor}
    assert chart.ramp("dark")[shade] in fills
    dim = [bool(segment.style.dim) for segment in segments if segment.style and segment.style.bgcolor]
    assert dim[:6] == [True, False] * 3  # the special token's column alone; the label of a row is dim, not its cells


def test_watched_tokens_are_listed_by_layer():
    lines = plain(printed(TABLE, 80))
    start = next(i for i, line in enumerate(lines) if "watched at position 39" in line)
    own = (TABLE.watched["position"] == 39) & (TABLE.watched["watch_id"] == 4)
    ranks = TABLE.watched["rank"][own][np.argsort(-TABLE.watched["layer"][own])]
    assert lines[start + 1].split() == ["·Paris"]
    assert [int(line.split()[1].replace(",", "")) for line in lines[start + 2 : start + 15]] == ranks.tolist()


def test_each_lens_is_headed_by_its_name_and_what_it_reads_and_coloured_by_what_it_has():
    table, _ = several(tokens=8, layers=5)
    lines = [line.strip() for line in plain(printed(table, 72))]
    heads = ["logit lens · next token", "future:1 lens · token +2", "input lens · input token"]
    assert [line for line in lines if " lens · " in line] == heads
    assert "colour: log-probability of the output's top for token +2 in nats" in lines
    assert "colour: rank of the input token" in lines
    assert sum(line.startswith("5 ") for line in lines) == 3  # two grids and the watched token
    assert plain(printed(table, 72, lens="input"))[0].strip() == heads[2]


def test_lenses_stand_side_by_side_where_all_positions_have_room():
    table, _ = several(tokens=6, layers=5, watch=())
    narrow, wide, widest = (plain(printed(table, width)) for width in (80, 110, 220))
    heads = lambda lines: [line.count(" lens · ") for line in lines if " lens · " in line]  # noqa: E731
    assert (heads(narrow), heads(wide), heads(widest)) == ([1, 1, 1], [2, 1], [3])
    assert max(map(token_text.width, wide)) <= 110
    layout = lay_out(table, lens="future:1")
    row = next(line for line in wide if line.startswith("    5 "))
    second = (110 - terminal.GAP) // 2 + terminal.GAP
    assert next(line for line in wide if "future:1" in line)[second:].startswith(" future:1 lens")
    assert row[second:].startswith("    5 ")
    for token in layout.tops(table)[5].tolist():
        assert token_text.visible(table.vocabulary[token])[:4] in row[len(row) // 2 :]


def test_lenses_with_the_same_legend_share_it():
    small, _ = reading(tokens=3, layers=2)
    other = {**small.columns, "lens": np.full(len(small), "tuned", object)}
    both = replace(small, columns={name: np.concatenate([small.columns[name], other[name]]) for name in other})
    assert "\n".join(plain(printed(both, 160))).count("colour: ") == 1
    assert "\n".join(plain(printed(both, 40))).count("colour: ") == 2


def test_an_unknown_statistic_is_refused():
    with pytest.raises(RequestError, match="unknown statistic"):
        terminal.grid(TABLE, statistic="nope")
