"""Surprises against tokens of the same type."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream.study.matched import events, following, room, thinned


@given(st.integers(0, 10_000))
def test_every_type_weighs_as_much_on_both_sides(seed):
    draw = np.random.default_rng(seed)
    surprise, types = draw.exponential(2, (6, 40)), draw.integers(0, 12, (6, 40))
    usable = draw.random((6, 40)) < 0.8
    found = events(surprise, types, usable)
    assert not found.high[~usable].any()
    assert not found.low[~usable].any()
    for kind in range(12):
        of = types == kind
        assert found.high[of].sum() == pytest.approx(found.low[of].sum())
    assert (surprise[found.high > 0] > found.threshold).all()
    assert (surprise[found.low > 0] < found.median).all()
    kept, every = found.high.sum(), (usable & (surprise > found.threshold)).sum()
    assert found.alone == pytest.approx(1 - kept / every)


def test_a_type_s_own_level_cancels():
    draw = np.random.default_rng(0)
    surprise, types = draw.exponential(2, (40, 60)), draw.integers(0, 5, (40, 60))
    level = np.array([3.0, -2.0, 0.5, 8.0, 1.0])[types]
    surprise += level  # types differ in how often they are surprising
    found = events(surprise, types, np.ones_like(types, bool))
    contrast = (found.high * level).sum() / found.high.sum() - (found.low * level).sum() / found.low.sum()
    assert contrast == pytest.approx(0, abs=1e-9)


def test_after_is_the_mean_of_what_follows():
    values = np.random.default_rng(1).normal(size=(3, 20))
    found = following(values, 4)
    for row in range(3):
        for at in range(20):
            expected = values[row, at + 1 : at + 5].mean() if at + 5 <= 20 else np.nan
            assert found[row, at] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(following(values, 20)).all()


def test_room_leaves_what_is_needed_on_both_sides():
    assert room(20, 2, first=8, span=4)[1].nonzero()[0].tolist() == list(range(8, 16))
    assert np.isnan(following(np.zeros((1, 20)), 4)[~room(20, 1, first=0, span=4)]).all()


def test_what_is_not_usable_is_in_no_mean():
    values = np.random.default_rng(1).normal(size=(2, 12))
    usable = np.ones((2, 12), bool)
    usable[:, 5] = False
    assert following(values, 3, usable)[0, 3] == pytest.approx((values[0, 4] + values[0, 6]) / 2)
    assert following(values, 1, usable)[0, 4] != following(values, 1, usable)[0, 4]


@given(st.integers(0, 10_000), st.integers(0, 30))
def test_thinned_keeps_no_more_and_types_weigh_alike(seed, most):
    draw = np.random.default_rng(seed)
    surprise, types = draw.exponential(2, (6, 40)), draw.integers(0, 12, (6, 40))
    every = events(surprise, types, np.ones_like(types, bool), share=0.2)
    found = thinned(every, types, most, np.random.default_rng(seed))
    assert found.high.sum() == min(most, every.high.sum())
    assert ((found.high == 0) | (every.high > 0)).all()
    assert ((found.low == 0) | (every.low > 0)).all()
    for kind in range(12):
        of = types == kind
        assert found.high[of].sum() == pytest.approx(found.low[of].sum())
        assert (found.low[of] > 0).sum() <= found.high[of].sum()
    again = thinned(every, types, most, np.random.default_rng(seed))
    np.testing.assert_array_equal(again.low, found.low)
