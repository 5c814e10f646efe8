from __future__ import annotations

import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from view.study_sample import chart, curves, hostile

from midstream.errors import RequestError
from midstream.study.report import Line
from midstream.view import figure_file, study_chart

SVG = {
    "svg", "metadata", "RDF", "Work", "type", "format", "creator", "Agent", "title", "defs", "style", "g", "path",
    "use", "clipPath", "rect",
}  # fmt: skip
NONE = (math.nan,) * 3


def drawn(of):
    with mpl.rc_context(figure_file.settings()):
        figure = study_chart._draw(of)
        figure.draw_without_rendering()
    return figure


def bars(axes) -> list[list[tuple[float, float]]]:
    """Of each line, the ends of its bars."""
    kinds = [one for one in axes.collections if type(one).__name__ == "LineCollection"]
    return [[tuple(part[:, 1]) for part in one.get_segments()] for one in kinds]


@pytest.mark.parametrize(("ending", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_the_ending_chooses_the_format_and_the_same_chart_gives_the_same_bytes(tmp_path, ending, magic):
    path = tmp_path / f"chart.{ending}"
    study_chart.save(chart(), path)
    assert path.read_bytes().startswith(magic)
    assert path.read_bytes() == study_chart.render(chart(), ending)
    with pytest.raises(RequestError, match="unknown figure format 'gif'"):
        study_chart.save(chart(), tmp_path / "chart.gif")


@pytest.mark.parametrize("make", [chart, curves])
def test_title_axes_ticks_and_every_name_are_written(make):
    of = make()
    shown = " ".join(re.findall(r"<!-- (.*?) -->", study_chart.render(of).decode()))
    for text in (of.title, of.x, of.y, *(line.name for line in of.lines), *(text for _, text in of.ticks)):
        assert text.replace("-", "") in shown.replace("- ", "").replace("-", "")


def test_few_values_are_points_with_bars_side_by_side_and_none_without_an_interval():
    axes = drawn(chart()).axes[0]
    assert [len(one) for one in bars(axes)] == [3, 3, 3, 3, 3, 0]
    for line, found in zip(chart().lines[:5], bars(axes), strict=False):
        assert np.allclose(found, list(zip(line.low, line.high, strict=True)))
    lines = axes.lines[:6]
    assert all(line.get_marker() not in ("", "None") for line in lines)
    assert len({line.get_marker() for line in lines}) == 6
    starts = [line.get_xdata()[0] for line in lines]
    assert len(set(starts)) == 6
    assert np.ptp(starts) < 0.5 * (0.5 - 0.25)
    one = replace(chart(), lines=(chart().lines[0],))
    assert drawn(one).axes[0].lines[0].get_xdata()[0] == 0.25


def test_many_values_are_curves_with_bands_and_gaps_where_there_is_none():
    of = curves()
    part = replace(of.lines[0], low=(*of.lines[0].low[:10], *(math.nan,) * 5, *of.lines[0].low[15:]))
    axes = drawn(replace(of, lines=(part, *of.lines[1:]))).axes[0]
    bands = [one for one in axes.collections if type(one).__name__ == "FillBetweenPolyCollection"]
    assert [len(one.get_paths()) for one in bands] == [2, 1, 1]
    assert [len(one) for one in bars(axes)] == [0, 0, 0]
    assert all(line.get_marker() in ("", "None") for line in axes.lines[:3])
    alone = (*(math.nan,) * 3, part.high[3], *(math.nan,) * 27)
    axes = drawn(replace(of, lines=(replace(part, high=alone),))).axes[0]
    assert bars(axes) == [[(part.low[3], part.high[3])]]


def test_whole_numbers_on_x_have_no_ticks_between_them():
    line = Line("a", (0.0, 1.0, 2.0, 3.0), (1.0, 2.0, 1.0, 2.0), *((math.nan,) * 4,) * 2)
    assert all(
        float(tick).is_integer() for tick in drawn(replace(chart(), lines=(line,), ticks=())).axes[0].get_xticks()
    )


def test_controls_are_grey_dashed_and_thinner_and_main_lines_have_hues_of_their_own():
    axes = drawn(chart()).axes[0]
    main, quiet = axes.lines[:4], axes.lines[4:6]
    assert [to_hex(line.get_color()) for line in main] == list(study_chart.MAIN[:4])
    assert [to_hex(line.get_color()) for line in quiet] == list(study_chart.GREY[:2])
    assert {line.get_linestyle() for line in main} == {"-"}
    assert "-" not in {line.get_linestyle() for line in quiet}
    assert max(line.get_linewidth() for line in quiet) < min(line.get_linewidth() for line in main)


def test_a_line_at_zero_only_where_zero_is_in_range():
    def at_zero(of):
        return [line for line in drawn(of).axes[0].lines if list(line.get_ydata()) == [0, 0]]

    assert len(at_zero(chart())) == 1
    far = Line("a", (1.0, 2.0), (5.0, 6.0), (4.9, 5.9), (5.1, 6.1))
    assert not at_zero(replace(chart(), lines=(far,), ticks=()))
    assert drawn(replace(chart(), lines=(far,), ticks=())).axes[0].get_ylim()[0] > 4


@pytest.mark.parametrize("make", [chart, curves])
def test_names_stand_right_of_the_data_over_none_other_and_beside_their_ends(make):
    figure = drawn(make())
    axes = figure.axes[0]
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the line to the end
    assert len(boxes) == len(make().lines)
    assert min(box.x0 for box in boxes) > axes.get_window_extent().x1
    for i, box in enumerate(boxes):
        assert all(not box.overlaps(other) for other in boxes[:i])
    ends = {line.name: line.y[-1] for line in make().lines}
    order = sorted(zip((box.y0 for box in boxes), axes.texts, strict=True), key=lambda pair: pair[0])
    named = [ends[text.get_text().replace("-\n", "-").replace("\n", " ")] for _, text in order]
    assert named == sorted(named)


def test_more_names_than_fit_stand_in_a_legend_below_for_which_the_figure_grows():
    one = curves().lines[0]
    many = replace(curves(), lines=tuple(replace(one, name=f"condition {n}") for n in range(24)))
    figure = drawn(many)
    assert not figure.axes[0].texts
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [line.name for line in many.lines]
    assert not legend.get_window_extent().overlaps(figure.axes[0].get_window_extent())
    assert figure.get_figheight() > study_chart.SIZE[1] + 2
    assert [line.get_color() for line in legend.get_lines()] == [line.get_color() for line in figure.axes[0].lines[:24]]


def test_what_is_undefined_is_not_drawn():
    none = replace(chart(), lines=tuple(replace(line, y=NONE) for line in chart().lines))
    axes = drawn(none).axes[0]
    assert [text.get_text() for text in axes.texts] == ["no value is defined"]
    assert bars(axes) == [[]] * 6
    assert len(axes.get_yticks()) == 0
    assert [text.get_text() for text in drawn(replace(chart(), lines=(), ticks=())).axes[0].texts] == [
        "no value is defined"
    ]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_hostile_texts_stay_texts():
    for section in hostile().sections:
        if section.chart:
            root = ElementTree.fromstring(study_chart.render(section.chart))
            tags = {element.tag.rpartition("}")[2] for element in root.iter()}
            assert tags <= SVG
