from __future__ import annotations

import io
import math
import re
from dataclasses import replace

import pytest
from rich.console import Console
from view.study_sample import claims, estimate, hostile, report, verdicts

from midstream.study.verdict import decide
from midstream.view import study_table, study_text, token_text


def printed(of, width: int, **options) -> str:
    out = io.StringIO()
    Console(file=out, width=width, **options).print(study_table.table(of))
    return out.getvalue()


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("make", [report, hostile])
def test_no_line_is_wider_than_the_terminal(width, make):
    assert max(map(token_text.width, printed(make(), width).splitlines())) <= width


def test_narrow_every_verdict_is_said_in_whole_sentences():
    shown = words(printed(report(), 80))
    assert report().answer in shown
    for verdict in verdicts():
        for text in (f"{study_text.badge(verdict.found)} {verdict.claim.name}", verdict.claim.says, verdict.reason,
                     study_text.value(verdict.estimate), study_text.p_of(verdict),
                     "95 % interval, 30 works, the largest holds 12 %"):  # fmt: skip
            assert text in shown
    assert shown.count(verdicts()[0].estimate.method) == 1


def test_wide_every_verdict_is_a_row_of_a_table():
    lines = printed(report(), 200).splitlines()
    head = next(line for line in lines if line.startswith("claim"))
    places = [head.index(name) for name in ("claim", "estimate", "interval", "verdict", "reason")]
    for verdict in verdicts():
        row = next(line for line in lines if line.startswith(verdict.claim.name))
        assert row[places[1] :].startswith(study_text.value(verdict.estimate))
        assert row[places[2] :].startswith("95 % interval, 30 works")
        assert row[places[3] :].startswith(study_text.badge(verdict.found))
        assert row[places[4] :].startswith("the interval runs from")
    assert len(lines) < 20


@pytest.mark.parametrize("width", [80, 200])
def test_an_interval_that_is_missing_is_said_to_be(width):
    few, none = (estimate(value, math.nan, clusters=4, share=math.nan) for value in (0.03, math.nan))
    shown = words(printed(replace(report(), verdicts=tuple(decide(claims()[0], one) for one in (few, none))), width))
    assert "+0.0300 nats (no interval)" in shown
    assert "no interval, 4 works" in shown
    assert " – " in shown
    assert not re.search(r"\bnan\b|0\.0000|p =", shown)


@pytest.mark.parametrize("width", [80, 200])
def test_hostile_texts_reach_the_terminal_as_text(width):
    shown = printed(hostile(), width)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u200b\ud800-\udfff]", shown)
    one = verdicts()[0]
    words_of = {name: f"[red]{name}[/red]" for name in ("name", "says", "unit")}
    bound = replace(one.estimate, unit="[red]of[/red]", method="[red]method[/red]")
    tagged = replace(one, claim=replace(one.claim, **words_of), estimate=bound, reason="[red]reason[/red]")
    both = replace(report(), name="[red]study[/red]", answer="[red]answer[/red]", verdicts=(tagged, one))
    found = re.findall(r"\[red\](\w+)\[/red\]", printed(both, width))
    assert sorted(found) == ["answer", "method", "name", "of", "reason", "says", "study"]


def test_verdicts_are_coloured_and_said_in_words_and_plain_where_only_ascii_can_be_written():
    shown = printed(report(), 80, force_terminal=True, color_system="standard")
    assert "\x1b[1;32m✓ supported" in shown
    assert "\x1b[1;33m? undecided" in shown
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=out, width=80).print(study_table.table(report()))
    out.flush()
    plain = out.buffer.getvalue().decode("ascii")
    assert "supported  loss falls" in plain


def test_a_report_without_verdicts_is_its_answer():
    assert words(printed(replace(report(), verdicts=()), 80)) == f"{report().name} {report().caveat} {report().answer}"
