"""Claims and verdicts: where intervals lie, what could have been seen, Holm's correction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from midstream.record import Estimate
from midstream.study.verdict import Claim, decide, detectable, holm

BELOW = Claim("a", "it falls", "a - b", "nats", "below", 0.0, matters=0.02, least=0.0, spread=0.05)


def estimate(value, low, high, clusters=20):
    return Estimate(value, low, high, 0.95, clusters, clusters, 1000, "t", "nats", 0.1)


@pytest.mark.parametrize(
    ("changes", "interval", "found"),
    [
        ({}, (-0.03, -0.05, -0.01), "supported"),
        ({}, (0.03, 0.01, 0.05), "refuted"),
        ({}, (0.0, -0.01, 0.01), "refuted"),
        ({}, (-0.02, -0.05, 0.01), "undecided"),
        ({"least": 0.005}, (-0.004, -0.03, -0.001), "undecided"),
        ({"least": 0.005}, (-0.006, -0.03, -0.001), "supported"),
        ({"least": 0.005}, (-0.004, -0.007, -0.001), "refuted"),
        ({"side": "above"}, (0.03, 0.01, 0.05), "supported"),
        ({"side": "above"}, (-0.03, -0.05, -0.01), "refuted"),
        ({"side": "above"}, (0.02, -0.01, 0.05), "undecided"),
        ({"side": "within"}, (0.0, -0.01, 0.015), "supported"),
        ({"side": "within"}, (0.05, 0.03, 0.07), "refuted"),
        ({"side": "within"}, (0.01, -0.01, 0.03), "undecided"),
    ],
)
def test_a_verdict_follows_the_interval(changes, interval, found):
    assert decide(replace(BELOW, **changes), estimate(*interval)).found == found


def test_nothing_is_decided_without_an_interval_or_with_too_few_works():
    nan = float("nan")
    assert decide(BELOW, estimate(-0.3, nan, nan, 4)).found == "undecided"
    assert decide(replace(BELOW, fewest=12), estimate(-0.3, -0.4, -0.2, 11)).found == "undecided"
    assert "few" not in decide(BELOW, estimate(-0.3, nan, nan, 30)).reason
    assert "nothing" not in decide(replace(BELOW, least=0.005), estimate(-0.004, -0.03, -0.001)).reason
    assert "12" in decide(replace(BELOW, fewest=12), estimate(-0.3, -0.4, -0.2, 11)).reason


@given(st.floats(-1, 1), st.floats(0.01, 1), st.floats(0.01, 1), st.integers(6, 60))
def test_p_is_below_a_twentieth_exactly_where_the_interval_leaves_the_threshold_out(value, below, above, clusters):
    verdict = decide(BELOW, estimate(value, value - below, value + above, clusters))
    edge = min(abs(value - below), abs(value + above))
    if edge > 1e-9:
        assert (verdict.p < 0.05) == (value - below > 0 or value + above < 0)


@given(st.floats(-1, 1), st.floats(0.0, 1), st.floats(0.0, 1))
def test_above_is_the_mirror_image_of_below(value, below, above):
    one = decide(BELOW, estimate(value, value - below, value + above))
    other = decide(replace(BELOW, side="above"), estimate(-value, -value - above, -value + below))
    assert one.found == other.found


def test_what_is_called_detectable_is_seen_in_four_of_five_runs():
    draw, works, seen = np.random.default_rng(0), 20, 0
    effect = detectable(BELOW, works)
    for _ in range(3000):
        found = draw.normal(-effect, BELOW.spread, works)
        reach = stats.t.ppf(0.975, works - 1) * found.std(ddof=1) / np.sqrt(works)
        seen += decide(BELOW, estimate(found.mean(), found.mean() - reach, found.mean() + reach)).found == "supported"
    assert 0.77 < seen / 3000 < 0.83
    assert detectable(BELOW, 3) == float("inf")


@given(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=8))
def test_holm_is_that_of_the_definition(p):
    got = holm(p)
    known = sorted(value for value in p if value == value)
    for value, adjusted in zip(p, got, strict=True):
        if value != value:
            assert adjusted != adjusted
            continue
        rank = max(index for index, other in enumerate(known) if other <= value)
        expected = max(min(1.0, (len(known) - i) * known[i]) for i in range(rank + 1))
        assert adjusted == pytest.approx(expected)
