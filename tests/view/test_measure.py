from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from view.score_sample import score

from midstream.view import measure

SCORE = score()


def test_measures_come_in_their_own_order_and_prompts_apart():
    shuffled = SCORE.pick(np.random.default_rng(0).permutation(len(SCORE)))
    names = ["kl", "cross_entropy", "agreement", "accuracy", "spearman", "effect"]
    assert measure.names(SCORE) == measure.names(shuffled) == names


def test_shares_are_written_as_percent_and_other_numbers_as_they_are():
    assert [measure.measure(SCORE, name).unit for name in measure.names(SCORE)] == [
        "nats",
        "nats",
        "%",
        "%",
        "",
        "nats",
    ]
    odd = {**SCORE.columns, "measure": np.full(len(SCORE), "brightness", object)}
    assert measure.measure(type(SCORE)(odd, SCORE.provenance, (), 30), "brightness").heading == "brightness, nats"


def test_a_curve_holds_its_rows_by_layer_and_the_mean_apart():
    curve = next(c for c in measure.curves(SCORE, "kl", paired=False) if c.lens == "tuned")
    columns = SCORE.columns
    own = (columns["lens"] == "tuned") & (columns["measure"] == "kl") & (columns["against"] == "")
    assert curve.layers.tolist() == list(range(31))
    for layer, value in zip(curve.layers, curve.value, strict=True):
        assert columns["value"][own & (columns["layer"] == layer)].tolist() == [value]
    assert curve.over[0] == columns["value"][own & (columns["layer"] == -1)][0]


def test_differences_are_named_and_baselines_belong_to_their_lens():
    pairs = [c.difference for c in measure.curves(SCORE, "agreement", paired=True)]
    assert pairs == ["future:1 − token", "future:1 − tokens", "future:1 − back-off"]
    bases = [c for c in measure.curves(SCORE, "agreement", paired=False) if c.baseline]
    assert {(c.of, c.baseline) for c in bases} == {("future:1", name) for name in ("token", "tokens", "back-off")}
    assert next(c.difference for c in measure.curves(SCORE, "kl", paired=True)) == "shortcut − logit"


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ((2.5, 2.4, 2.6), "±0.10"), ((2.5, 2.4, 2.7), "[2.40, 2.70]"), ((0.0, -0.1, np.inf), "[−0.10, ∞]"),
        ((1.0, np.nan, np.nan), ""), ((-1.0, -np.inf, -0.5), "[−∞, −0.50]"),
    ],
)  # fmt: skip
def test_intervals(bounds, text):
    assert measure.interval(*bounds) == text


def test_undefined_is_a_dash_and_nothing_is_minus_zero():
    assert [measure.written(v) for v in (np.nan, -0.001, -1.5)] == ["–", "0.00", "−1.50"]
    assert [measure.written(v, 100.0) for v in (0.0, -0.0001, 0.973)] == ["0.0", "0.0", "97.3"]


@given(st.lists(st.booleans(), max_size=20), st.integers(1, 4))
def test_spans_say_exactly_the_layers_of_those_there_are(away, stride):
    layers = stride * np.arange(len(away))
    text = measure.spans(np.array(away, bool), layers)
    found = set()
    for part in text.split(", ") if any(away) else []:
        first, _, last = part.partition("–")
        found |= {layer for layer in layers.tolist() if int(first) <= layer <= int(last or first)}
    assert found == set(layers[np.array(away, bool)].tolist())
    assert any(away) or text == "–"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("pass@5 multihop", ("5", None, "multihop")), ("pass@10 null a, known", ("10", " null", "a, known")),
        ("pass@1 null", ("1", None, "null")), ("pass@1 null, known", ("1", None, "null, known")),
        ("pass@1 null null", ("1", " null", "null")), ("pass@1 - null null", ("1", " - null", "null")),
    ],
)  # fmt: skip
def test_a_prompt_file_may_be_called_null(name, parts):
    assert measure.PASS.fullmatch(name).groups() == parts
