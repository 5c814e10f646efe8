from __future__ import annotations

import re

import numpy as np
import pytest
from view.summary_sample import POSITIONS, summary

from midstream.errors import RequestError
from midstream.view import summary_plot
from midstream.view.curve_panel import colours

LAYERS = summary(layers=12)
GROUPED = summary(by="position", groups=POSITIONS, layers=12)


def texts(svg: bytes) -> list[str]:
    return re.findall(r"<!-- (.*?) -->", svg.decode())


def drawn(table, *names: str):
    return summary_plot._draw(table, list(names))


def hues(axes) -> list[str]:
    from matplotlib.colors import to_hex

    return [to_hex(line.get_color()) for line in axes.lines]


@pytest.mark.parametrize(("ending", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_the_ending_chooses_the_format_and_the_same_summary_gives_the_same_bytes(tmp_path, ending, magic):
    path = tmp_path / f"summary.{ending}"
    summary_plot.save(LAYERS, path, names=["accuracy"])
    first = path.read_bytes()
    assert first.startswith(magic)
    summary_plot.save(LAYERS, path, names=["accuracy"])
    assert path.read_bytes() == first


def test_a_panel_a_measure_with_every_lens_named():
    shown = texts(summary_plot.render(LAYERS, "svg"))
    for title in ("KL(output ‖ lens), nats", "token read put first, %", "log p of the token read, nats"):
        assert shown.count(title) == 1
    assert shown.count("tuned") == shown.count("logit") == 9
    assert any("95 % intervals" in text and "38 clusters" in text for text in shown)


def test_measures_are_chosen_in_order_and_unknown_ones_refused():
    shown = texts(summary_plot.render(LAYERS, "svg", names=["entropy", "agreement"]))
    titles = [text for text in shown if text in ("entropy, nats", "same first choice as the output, %")]
    assert titles == ["entropy, nats", "same first choice as the output, %"]
    assert "KL(output ‖ lens), nats" not in shown
    with pytest.raises(RequestError, match=r"unknown measure 'beauty': expected one of kl_final_lens"):
        summary_plot.render(LAYERS, "svg", names=["beauty"])
    with pytest.raises(RequestError, match="no measure"):
        summary_plot.render(LAYERS.pick(np.zeros(len(LAYERS), bool)), "svg")


def test_a_small_panel_a_group_on_one_scale_with_the_others_grey_behind():
    figure = drawn(GROUPED, "entropy")
    panels = figure.axes or [axes for block in figure.subfigs for axes in block.axes]
    assert [axes.get_title(loc="left") for axes in panels] == list(POSITIONS)
    assert len({axes.get_ylim() for axes in panels}) == 1
    own = list(colours(["logit", "tuned"]).values())
    for number, axes in enumerate(panels):
        assert hues(axes) == ["#d3d6d0"] * 16 + own
        rows = GROUPED.columns
        at = (rows["group"] == POSITIONS[number]) & (rows["lens"] == "tuned") & (rows["measure"] == "entropy")
        assert np.allclose(axes.lines[-1].get_ydata(), rows["value"][at])
        assert len(axes.collections) == 2


def test_differences_stand_about_a_line_at_zero():
    table = summary(against="quantised", layers=12)
    figure = drawn(table, "entropy", "accuracy")
    for axes in figure.axes:
        assert hues(axes)[0] == "#14181f"
        assert set(axes.lines[0].get_ydata()) == {0.0}
        assert axes.get_ylim()[0] < 0 < axes.get_ylim()[1]
        assert axes.get_title(loc="left").startswith("Δ ")
    assert any("less quantised, paired by document" in text for text in texts(summary_plot.render(table, "svg")))


def test_bands_are_seen_whole():
    for table in (LAYERS, summary(against="b", layers=12)):
        for axes in drawn(table, *set(table.columns["measure"])).axes:
            for band in axes.collections:
                heights = np.concatenate([path.vertices[:, 1] for path in band.get_paths()])
                assert axes.get_ylim()[0] <= heights.min()
                assert heights.max() <= axes.get_ylim()[1]


def test_every_panel_has_ticks_enough_to_be_read():
    for table in (LAYERS, GROUPED, summary(against="b", layers=12)):
        figure = drawn(table, "entropy", "logprob", "kl_final_lens")
        for axes in figure.axes or [axes for block in figure.subfigs for axes in block.axes]:
            low, high = axes.get_ylim()
            assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 3


def test_sites_have_line_styles_one_name_a_lens_and_the_note_says_which_is_which():
    table = summary(sites=("resid_post", "attn_out"), layers=12)
    (axes,) = drawn(table, "entropy").axes
    assert len({line.get_linestyle() for line in axes.lines}) == 2
    assert len(set(hues(axes))) == 2
    shown = texts(summary_plot.render(table, "svg", names=["entropy"]))
    assert shown.count("logit") == shown.count("tuned") == 1
    assert any("resid_post solid, attn_out dashes" in text for text in shown)


def test_small_groups_of_many_are_counted_not_drawn():
    works = tuple(f"work {n}" for n in range(summary_plot.GROUPS + 5))
    shown = texts(summary_plot.render(summary(by="work", groups=works, layers=2), "svg", names=["entropy"]))
    assert "work 0" in shown
    assert works[-1] not in shown
    assert any("5 smaller groups are not drawn" in text for text in shown)


def test_a_hostile_field_value_is_drawn_as_text(tmp_path):
    table = summary(by="$x$", groups=("$\\frac{", "</svg><script>", "\x00\n", ""), layers=2)
    summary_plot.save(table, tmp_path / "x.svg", names=["entropy"])
    assert "<script>" not in (tmp_path / "x.svg").read_text()


@pytest.mark.parametrize("name", ["summary.gif", "summary"])
def test_an_unknown_ending_is_refused_and_leaves_nothing(tmp_path, name):
    with pytest.raises(RequestError, match=r"expected one of svg, png, pdf"):
        summary_plot.save(LAYERS, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
