"""Slopes on the surprise: windows lie where they are said to, levels are no slopes, intervals are wide enough."""

from __future__ import annotations

import numpy as np
import pytest

from midstream.record import Estimate
from midstream.study.aftermath import slopes
from midstream.study.aftermath.panel import Panel


def panel(surprise, types=None, works=None):
    n, p = surprise.shape
    types = np.zeros((n, p), np.int64) if types is None else types
    works = np.arange(n) if works is None else works
    usable = np.ones((n, p), bool)
    return Panel(works, np.arange(n), surprise, types, types, usable, usable, {}, "quick", 0)


@pytest.mark.parametrize("window", [(1, 1), (2, 2), (3, 5), (-1, -1), (-5, -3), (17, 32), (-32, -17)])
def test_a_window_is_that_of_its_tokens(window):
    one = panel(np.random.default_rng(0).exponential(1.0, (2, 80)))
    found, (first, last) = slopes.later(one, window), window
    for i in range(80):
        if i + first >= 1 and i + last < 80:
            np.testing.assert_allclose(found[:, i], one.surprise[:, i + first : i + last + 1].mean(1))
        elif i + first != 0:
            assert np.isnan(found[:, i]).all()


@pytest.mark.parametrize("group", ["type", "work", "quarter"])
def test_what_a_level_explains_is_no_slope(group):
    draw = np.random.default_rng(1)
    types, works = draw.integers(0, 20, (30, 80)), np.arange(30) // 3
    places = {"type": types, "work": works[:, None] + 0 * types, "quarter": (np.arange(80) // 20)[None] + 0 * types}
    level = draw.normal(0, 3, 30)[places[group]]
    one = panel(draw.normal(size=(30, 80)) + level, types, works)
    sums, counts, _ = slopes.slopes(one, [0.3 * one.surprise + 2 * level], np.ones((30, 80), bool))
    assert sums.sum() / counts.sum() == pytest.approx(0.3, abs=1e-6)


def test_intervals_know_how_many_levels_were_fitted():
    draw = np.random.default_rng(2)
    types = np.stack([draw.permutation(np.repeat(np.arange(800), 2)) for _ in range(2)]).reshape(40, 80)
    one = panel(draw.normal(size=(40, 80)), types)  # each type four times: 3,200 positions, 800 levels and more
    noise = draw.normal(size=(40, 80))
    sums = slopes.slopes(one, [noise], np.ones((40, 80), bool))
    (found,) = slopes.effects(one, sums, 1.0)
    error = 1 / np.sqrt(sums.counts.sum())
    assert (found.high - found.low) / 2 / 2.02 == pytest.approx(error, rel=0.25)
    bare = slopes.effects(one, sums._replace(sums=sums.sums / slopes._enlarged([types.ravel()])), 1.0)[0]
    assert bare.high - bare.low < 0.9 * (found.high - found.low)


def test_the_type_that_makes_it_is_named():
    draw = np.random.default_rng(3)
    types = draw.integers(0, 30, (24, 100))
    one = panel(draw.exponential(2.0, (24, 100)), types, np.arange(24) // 2)
    values = 0.2 * one.surprise * (types == 7) + draw.normal(0, 0.05, (24, 100))
    every = np.ones((24, 100), bool)
    assert slopes.weightiest(one, values, every) == 7
    (whole,) = slopes.effects(one, slopes.slopes(one, [values], every), 1.0)
    (without,) = slopes.effects(one, slopes.slopes(one, [values], every & (types != 7)), 1.0)
    assert whole.low > 0
    assert without.low < 0 < without.high


def test_tokens_are_positions_and_not_squares_of_the_surprise():
    draw = np.random.default_rng(4)
    types = np.zeros((24, 100), np.int64)
    types[0, :3] = 1, 2, 3  # alone in their types: they say nothing of a slope
    surprise = draw.exponential(2.0, (24, 100))
    surprise[:2] *= 5
    one = panel(surprise, types, np.arange(24) // 2)
    used = np.ones((24, 100), bool)
    used[4:6, 10:] = False
    values = draw.normal(size=(24, 100))
    sums = slopes.slopes(one, [values], used)
    (found,) = slopes.effects(one, sums, 1.0)
    assert (found.documents, found.tokens) == (24, 22 * 100 + 2 * 10 - 3)
    assert found.largest_share == 200 / found.tokens
    other = slopes.slopes(one, [values], used & (np.arange(100) < 50))
    less = slopes.beyond(one, sums, other, 1.0)
    assert (less.clusters, less.tokens) == (12, 22 * 50 + 2 * 10 - 3)
    assert less.largest_share == found.largest_share  # that of the other is 100 / 1117, less


def test_what_multiplies_all_costs_alike_is_taken_off_in_proportion():
    every, found = np.ones((24, 100), bool), []
    for seed in range(40):
        draw = np.random.default_rng([5, seed])
        one = panel(draw.exponential(2.0, (24, 100)), works=np.arange(24) // 2)
        level = np.repeat(draw.normal(1, 0.3, (2, 12)), 2, axis=1)[:, :, None]  # costs differ between works
        hard = (1 + 0.2 * one.surprise) * level + draw.normal(0, 0.2, (2, 24, 100))
        costs = (0.5 + 0.1 * one.surprise) * level[0] + 5 * hard[0], hard[1]
        sums, c = slopes.in_proportion(one, costs, every, np.exp(-one.surprise))
        assert sums.sums.sum() / sums.counts.sum() == pytest.approx(
            np.subtract(*(s.sum() for s, _, _ in (slopes.slopes(one, [v], every) for v in (costs[0], c * costs[1]))))
            / sums.counts.sum()
        )
        found.append(slopes.effects(one, sums, 1.0)[0])
    bare = np.std([estimate.value for estimate in found], ddof=1)
    half = np.mean([(estimate.high - estimate.low) / 2 for estimate in found]) / 2.2
    assert half == pytest.approx(bare, rel=0.3)


def ends(*pairs):
    return [Estimate((low + high) / 2, low, high, 0.95, 10, 10, 10, "", "nats", 0.1) for low, high in pairs]


def test_when_an_excess_is_gone():
    found = ends((1.0, 2.0), (0.1, 0.4), (-0.1, 0.1), (0.01, 0.3), (-0.1, 0.1), (0.0, 0.1))
    assert slopes.untold(found) == 2
    assert slopes.small(found, 0.15) == 4  # a later one reaches what matters
    assert slopes.small(found, 0.05) is None
    assert slopes.untold(ends((1.0, 2.0))) is None
    assert slopes.small(ends((np.nan, np.nan), (-0.1, 0.1)), 0.15) == 1


def test_nothing_is_said_of_nothing():
    one = panel(np.ones((8, 80)))
    sums = slopes.slopes(one, [np.full((8, 80), np.nan)], np.ones((8, 80), bool))
    assert np.isnan(slopes.effects(one, sums, 1.0)[0].value)
