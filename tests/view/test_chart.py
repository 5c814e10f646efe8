from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from view.sample import reading

from midstream.errors import RequestError
from midstream.view import chart

TABLE, _ = reading()


@pytest.mark.parametrize("name", chart.STATISTICS)
def test_each_statistic(name):
    """Every row of the table: it comes from a declared column, and its values obey what its label says."""
    stat = chart.statistic(name)
    column = "top_logprobs" if stat.column == "top1" else stat.column
    declared = next(entry for entry in TABLE.declared if entry.name == column)
    source = TABLE.columns[column].astype(float)
    source = source[:, 0] if source.ndim == 2 else np.where(source < 0, np.nan, source) if "rank" in column else source
    value = chart.values(TABLE, stat)
    change = source - TABLE.columns.get(f"unedited_{column}", np.nan)
    forms = {"value": source, "exp": np.exp(source), "logit": source + TABLE.columns["lse"], "change": change}
    expected = forms[stat.form]
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert stat.unit == {"value": declared.unit, "change": declared.unit, "exp": "%", "logit": ""}[stat.form]
    known = value[np.isfinite(value)]
    if stat.unit == "%":
        assert known.min() >= 0
        assert known.max() <= 1
    elif "rank" in column:
        assert known.min() >= 1


@pytest.mark.parametrize("name", chart.STATISTICS)
def test_the_good_end_is_drawn_strong(name):
    stat = chart.statistic(name)
    scale = chart.scale(TABLE, stat)
    value = np.linspace(scale.low, scale.high, 50)
    place = scale.place(value if stat.good == "high" else value[::-1])
    assert place[0] == 0
    assert place[-1] == 1
    assert (np.diff(place) > 0).all()
    assert (np.diff(scale.place(np.array(scale.ticks()))) > 0).all()
    assert scale.shade(np.array([np.nan, -np.inf, np.inf])).tolist()[0] == -1
    assert set(scale.shade(np.array([-np.inf, np.inf])).tolist()) == {0, chart.SHADES - 1}


def test_an_unknown_statistic_is_refused_with_the_valid_ones():
    with pytest.raises(RequestError, match=r"'brightness'.*kl_final_lens"):
        chart.statistic("brightness")


def test_default_gives_way_where_it_is_undefined():
    assert chart.choose(TABLE, chart.DEFAULT).name == chart.DEFAULT
    columns = {**TABLE.columns, "final_top1_logprob": np.full(len(TABLE), np.nan, np.float32)}
    columns["final_top1_rank"] = np.full(len(TABLE), -1, np.int32)
    bare = type(TABLE)(columns, TABLE.positions, TABLE.watched, TABLE.vocabulary, TABLE.provenance, TABLE.layers)
    assert chart.choose(bare, chart.DEFAULT).name == "logprob"
    assert chart.choose(bare, "final_top1_rank").name == "logprob"
    assert chart.choose(bare, "entropy").name == "entropy"
    columns = {**columns, "logprob": columns["final_top1_logprob"]}
    assert chart.choose(replace(bare, columns=columns), chart.DEFAULT).name == "rank"


@pytest.mark.parametrize(("theme", "sign"), [("light", -1), ("dark", 1)])
def test_ramps_are_ordered_by_luminance_alone_and_text_on_them_is_readable(theme, sign):
    ramp = chart.ramp(theme)
    luminance = np.array([1.05 / chart.contrast("#ffffff", colour) for colour in ramp])
    assert len(ramp) == chart.SHADES
    assert (sign * np.diff(luminance) > 0).all()
    assert min(chart.contrast(colour, chart.ink(colour)) for colour in ramp) >= 4.5


@pytest.mark.parametrize(("theme", "sign"), [("light", -1), ("dark", 1)])
def test_the_ramp_of_a_change_has_two_sides_that_the_colour_blind_can_tell_apart(theme, sign):
    """Both sides leave a grey in the middle, equally light at every step; they differ in blue against red."""
    ramp = chart.ramp(theme, "change")
    luminance = np.array([1.05 / chart.contrast("#ffffff", colour) for colour in ramp])
    middle = chart.SHADES // 2
    assert len(ramp) == len(set(ramp)) == chart.SHADES
    assert (sign * np.diff(luminance[middle:]) > 0).all()
    assert (sign * np.diff(luminance[middle::-1]) > 0).all()
    apart = [chart.contrast(down, up) for down, up in zip(ramp, ramp[::-1], strict=True)]
    assert max(apart) < 1.3 < min(chart.contrast(ramp[end], ramp[middle]) for end in (0, -1))
    assert min(chart.contrast(colour, chart.ink(colour)) for colour in ramp) >= 4.5
    blue = np.array([int(colour[5:7], 16) - int(colour[1:3], 16) for colour in ramp])
    assert abs(blue[middle]) < 12
    assert blue[: middle - 8].max() < -25
    assert blue[middle + 8 :].min() > 25


def test_a_change_is_measured_from_zero_both_ways():
    """The middle of the ramp is no change; what falls as far as another rises stands as far on the other side."""
    stat = chart.statistic("logprob_change")
    scale = chart.scale(TABLE, stat)
    known = chart.values(TABLE, stat)
    known = known[np.isfinite(known)]
    assert (known < 0).any()
    assert (known > 0).any()
    assert scale.low == -scale.high
    assert scale.high >= np.abs(known).max()  # nothing is cut: an edit may move a few cells only
    assert scale.shade(np.zeros(1)).tolist() == [chart.SHADES // 2]
    np.testing.assert_allclose(scale.place(known) + scale.place(-known), 1)
    assert (np.sign(scale.place(known) - 0.5) == np.sign(known)).all()
    ticks = scale.ticks()
    assert ticks == [-tick for tick in ticks[::-1]]
    assert [ticks[0], ticks[-1]] == [scale.low, scale.high]
    texts = [chart.tick_text(stat, tick) for tick in ticks]
    assert [text[0] for text in texts] == ["−"] * (len(ticks) // 2) + ["0"] + ["+"] * (len(ticks) // 2)


@pytest.mark.parametrize("far", [0.0, 0.004, 0.3, 1.2, 25.0, 130.0])
def test_the_legend_states_how_far_a_change_goes(far):
    columns = {**TABLE.columns, "unedited_logprob": TABLE.columns["logprob"] - np.float32(far)}
    scale = chart.scale(replace(TABLE, columns=columns), chart.statistic("logprob_change"))
    texts = [chart.tick_text(scale.stat, tick) for tick in scale.ticks()]
    assert len(texts) == len(set(texts)) >= 3
    assert scale.high == max(scale.ticks()) >= far
    assert np.diff(scale.place(np.array(scale.ticks())))[-1] > 0.12  # the last two do not run into each other


def test_a_change_is_undefined_without_an_unedited_run():
    columns = {name: values for name, values in TABLE.columns.items() if "unedited" not in name}
    bare = replace(TABLE, columns=columns)
    assert np.isnan(chart.values(bare, chart.statistic("logprob_change"))).all()
    assert chart.choose(bare, "logprob_change").name == chart.DEFAULT
    assert [stat.name for stat in chart.STATISTICS.values() if stat.versus] == ["kl_unedited", "logprob_change"]


def test_contrast_is_that_of_wcag():
    assert chart.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert chart.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_numbers_are_written_with_their_unit():
    write = lambda name, value: chart.written(chart.statistic(name), value)  # noqa: E731
    assert write("probability", 0.9731) == "97.3 %"
    assert write("probability", 1.0) == "100 %"
    assert write("rank", 12345) == "12,345"
    assert write("logprob", -0.5) == "−0.50 nats"
    assert write("logit", 3.14159) == "3.14"
    assert write("rank", np.nan) == "–"
    changes = [write("logprob_change", value) for value in (1.5, -1.5, 0.001, -0.001, np.nan)]
    assert changes == ["+1.50 nats", "−1.50 nats", "0.00 nats", "0.00 nats", "–"]


def test_labels_name_the_token_that_the_lens_reads_about():
    rank = chart.statistic("rank")
    assert [chart.label(rank, offset) for offset in (1, 0, 2, -1)] == [
        "rank of the next token",
        "rank of the input token",
        "rank of the token +2",
        "rank of the token −1",
    ]
    assert chart.label(chart.statistic("entropy"), 1) == "entropy in nats"
    assert chart.label(chart.statistic("final_top1_rank"), 1) == "rank of the output's top token"
    assert chart.label(chart.statistic("final_top1_rank"), 3) == "rank of the output's top for token +3"
