from __future__ import annotations

import re

import pytest
from view.sample import reading, several

from midstream.errors import RequestError
from midstream.view import chart, plot

SMALL, _ = reading(tokens=24, layers=3)
WIDE, _ = reading(tokens=60, layers=3)


@pytest.mark.parametrize(("ending", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_the_ending_chooses_the_format_and_the_same_reading_gives_the_same_bytes(tmp_path, ending, magic):
    path = tmp_path / f"read.{ending}"
    plot.save(SMALL, path)
    first = path.read_bytes()
    assert first.startswith(magic)
    plot.save(SMALL, path)
    assert path.read_bytes() == first


def test_cells_carry_tokens_up_to_a_width_and_beyond_it_none():
    glyphs = lambda table: plot.render(table, "svg").count(b"<!-- ")  # noqa: E731  one comment for each drawn text
    assert glyphs(SMALL) > SMALL.layers * 24
    assert glyphs(WIDE) < 2 * 60 + 60


def test_hostile_tokens_are_text_in_the_figure():
    table, _ = reading(tokens=40, layers=1)
    drawn = plot.render(table, "svg").decode()
    assert not re.search(r"<script|<img", drawn)
    letters = re.search(r"<!-- \$x\^2\$ -->(.*?)<!--", drawn, re.DOTALL)[1].count("<use")
    assert letters == len("$x^2$")  # a dollar sign is drawn as one and begins no formula


@pytest.mark.parametrize("name", ["read.gif", "read"])
def test_an_unknown_ending_is_refused_and_leaves_nothing(tmp_path, name):
    with pytest.raises(RequestError, match=r"expected one of svg, png, pdf"):
        plot.save(SMALL, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_a_sentence(tmp_path):
    with pytest.raises(RequestError):
        plot.save(SMALL, tmp_path / "missing" / "read.svg")


def test_an_unknown_statistic_is_refused_before_anything_is_drawn():
    with pytest.raises(RequestError, match="unknown statistic"):
        plot.render(SMALL, "svg", statistic="nope")


def test_drawing_says_nothing(capfd):
    plot.render(SMALL, "png")
    assert capfd.readouterr() == ("", "")


def test_lenses_stand_side_by_side_while_they_can_be_read_and_share_the_scale_of_one_statistic():
    size = lambda svg: [float(v) for v in re.search(rb'width="([\d.]+)pt" height="([\d.]+)pt"', svg).groups()]  # noqa: E731
    short, _ = several(tokens=6, layers=5)
    long, _ = several(tokens=30, layers=5)
    beside, under = plot.render(short, "svg"), plot.render(long, "svg")
    one = plot.render(short, "svg", lenses=["logit"])
    assert size(beside)[0] > 1.5 * size(one)[0]
    assert size(under)[1] > 2 * size(one)[1]
    for title in ("logit · next token", "future:1 · token +2", "input · input token"):
        assert f"<!-- {title} -->".encode() in beside
        assert f"<!-- {title} -->".encode() not in one
    assert beside.count(b"<!-- log-probability of the output") == 2  # the next token, and token +2
    assert plot.render(short, "svg", lenses=["logit", "logit"]).count(b"<!-- log-probability of the output") == 1


def test_a_change_is_drawn_in_two_colours_and_the_bar_says_which_is_which():
    drawn = plot.render(SMALL, "svg", statistic="logprob_change").decode().lower()
    stat = chart.statistic("logprob_change")
    ramp = chart.ramp("light", "change")
    shades = chart.scale(SMALL, stat).shade(chart.values(SMALL, stat))
    for shade in (shades[shades >= 0].min(), shades.max()):
        assert f"fill: {ramp[shade]}" in drawn
    assert "<!-- change in log p of the next token in nats" in drawn
    assert "less likely ←   → more likely" in drawn


def test_an_unknown_lens_is_refused():
    with pytest.raises(RequestError, match="unknown lens 'tuned'"):
        plot.render(SMALL, "svg", lenses=["logit", "tuned"])
