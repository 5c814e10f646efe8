"""band.py: curves whose points hold at once, numbers from refitted maps, paired runs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from midstream.band import band, refitted, runs
from midstream.interval import ratio
from tests.test_interval import clustered, rng


def test_a_band_holds_every_point_of_the_curve_at_once():
    draw, both, alone, times = rng(3), 0, 0, 400
    for _ in range(times):
        own = draw.normal(0, 1, (6, 20, 3))  # six points, twenty clusters of three documents
        sums, counts = own.reshape(6, 60) * 10, np.full(60, 10.0)
        found = band(sums, counts, clusters=np.repeat(np.arange(20), 3), generator=draw, unit="nats")
        each = [ratio(row, counts, clusters=np.repeat(np.arange(20), 3), generator=draw, unit="nats") for row in sums]
        both += all(point.low <= 0 <= point.high for point in found)
        alone += all(point.low <= 0 <= point.high for point in each)
    assert alone / times < 0.86
    # one standard error is 1.1 points
    assert 0.925 <= both / times <= 0.98


def test_a_refit_that_moves_the_number_widens_its_interval():
    draw = rng(4)
    sums, counts, clusters = clustered(draw, 15, 0.3)
    plain = ratio(sums, counts, clusters=clusters, generator=draw, unit="nats")
    assert refitted(plain, [plain.value] * 4).high == pytest.approx(plain.high)
    values = plain.value + np.array([-0.3, 0.1, 0.1, 0.1])
    wide = refitted(plain, values)
    t = stats.t.ppf(0.975, 3)  # of four refits, however many works there are
    variance = 3 / 4 * ((values - values.mean()) ** 2).sum()
    assert wide.high - wide.value == pytest.approx(np.hypot(plain.high - plain.value, t * np.sqrt(variance)))


def test_paired_runs_have_the_t_interval_of_their_mean():
    found = runs([0.1, 0.3, 0.2, 0.4, 0.1], unit="nats")
    expected = stats.t.interval(0.95, 4, 0.22, stats.sem([0.1, 0.3, 0.2, 0.4, 0.1]))
    assert (found.value, found.low, found.high) == pytest.approx((0.22, *expected))
    assert np.isnan(runs([0.1, 0.2], unit="nats").low)


def test_a_curve_of_zeros_widens_no_other():
    draw = rng(6)
    sums, counts = np.stack([draw.normal(0, 1, 20), np.zeros(20)]), np.ones(20)
    one, none = band(sums, counts, clusters=np.arange(20), generator=rng(), unit="nats")
    alone = ratio(sums[0], counts, clusters=np.arange(20), generator=rng(), unit="nats")
    assert one.high - one.value == pytest.approx(alone.high - alone.value, rel=0.1)
    assert (none.low, none.high) == (0, 0)


def test_without_the_number_of_a_refit_there_is_no_interval():
    draw = rng(4)
    sums, counts, clusters = clustered(draw, 15, 0.3)
    plain = ratio(sums, counts, clusters=clusters, generator=draw, unit="nats")
    found = refitted(plain, [0.1, np.nan, 0.2, 0.3])
    assert found.value == plain.value
    assert np.isnan([found.low, found.high]).all()
    assert "undefined" in found.method
