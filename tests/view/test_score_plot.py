from __future__ import annotations

import re

import numpy as np
import pytest
from view.score_sample import score

from midstream.errors import RequestError
from midstream.view import chart, curve_panel, label_place, measure, score_plot

SCORE = score(layers=12)


def texts(svg: bytes) -> list[str]:
    return re.findall(r"<!-- (.*?) -->", svg.decode())


@pytest.mark.parametrize(("ending", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_the_ending_chooses_the_format_and_the_same_score_gives_the_same_bytes(tmp_path, ending, magic):
    path = tmp_path / f"score.{ending}"
    score_plot.save(SCORE, path, measures=["accuracy"])
    first = path.read_bytes()
    assert first.startswith(magic)
    score_plot.save(SCORE, path, measures=["accuracy"])
    assert path.read_bytes() == first


def test_a_panel_a_measure_with_every_lens_and_baseline_named():
    shown = texts(score_plot.render(SCORE, "svg"))
    for title in (
        "KL(output ‖ lens), nats",
        "same first choice as the output, %",
        "causal: effect beyond random, nats",
    ):
        assert shown.count(title) == 1
    assert shown.count("tuned") == 5
    assert shown.count("back-off") == 1
    assert {"tuned − shortcut", "− back-off", "paired difference"} <= set(shown)
    assert any("95 % intervals, 38 clusters" in text for text in shown)


def test_measures_are_chosen_and_unknown_ones_refused():
    shown = texts(score_plot.render(SCORE, "svg", measures=["agreement"]))
    assert "KL(output ‖ lens), nats" not in shown
    with pytest.raises(RequestError, match=r"unknown measure 'beauty': expected one of kl"):
        score_plot.render(SCORE, "svg", measures=["beauty"])


def test_too_few_clusters_draw_curves_and_say_why_there_is_no_band():
    shown = texts(score_plot.render(score(clusters=3), "svg", measures=["accuracy"]))
    assert any("no 95 % intervals, 3 clusters" in text for text in shown)


def test_a_score_of_prompts_alone_has_no_curves():
    prompts = SCORE.pick(np.array([name.startswith("pass") for name in SCORE.columns["measure"]]))
    with pytest.raises(RequestError, match="no measure by layer"):
        score_plot.render(prompts, "svg")


@pytest.mark.parametrize("name", ["score.gif", "score"])
def test_an_unknown_ending_is_refused_and_leaves_nothing(tmp_path, name):
    with pytest.raises(RequestError, match=r"expected one of svg, png, pdf"):
        score_plot.save(SCORE, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_kinds_of_lens_keep_their_colours_and_can_be_read():
    lenses = SCORE.columns["lens"].tolist()
    colours = curve_panel.colours(lenses)
    assert colours == curve_panel.colours(lenses[::-1])
    assert len(set(colours.values())) == len(colours) == 5
    for colour in [*curve_panel.HUES.values(), *curve_panel.SPARE]:
        assert chart.contrast(colour, "#ffffff") >= 4.5


def test_names_touch_neither_each_other_nor_another_curve():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    x = np.linspace(0, 30, 31)
    heights = [0.899 + 0 * x, 0.9 + 0 * x, 0.901 + 0 * x, 0.5 + 0 * x, 0.55 + 0 * x, x / 60, 0.2 - x / 200]
    lines = [label_place.Line(f"lens {i}", "#000000", x, y) for i, y in enumerate(heights)]
    axes.set_ylim(-0.1, 1.1)
    for line in lines:
        axes.plot(line.x, line.y)
    figure.draw_without_rendering()
    label_place.write(axes, lines)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(heights)
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        for line in lines:
            points = axes.transData.transform(np.stack([line.x, line.y], 1))
            dense = np.stack([np.interp(np.linspace(0, 30, 900), x, points[:, i]) for i in (0, 1)], 1)
            assert not any(box.contains(*point) for point in dense)


def test_bands_are_seen_whole():
    figure = score_plot._draw(SCORE, measure.names(SCORE))
    bands = [(axes, band) for axes in figure.axes for band in axes.collections]
    assert len(bands) > 20
    for axes, band in bands:
        heights = np.concatenate([path.vertices[:, 1] for path in band.get_paths()])
        assert axes.get_ylim()[0] <= heights.min()
        assert heights.max() <= axes.get_ylim()[1]
