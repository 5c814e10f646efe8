"""Factor and scale of the input reader's scores against a search over the cross-entropy itself."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from midstream.lens.fit.beta import RANGE, fit_factors
from midstream.lens.lens import Transport
from midstream.readout.reader import Reader


def world(noise, m=150, size=40, d=6, seed=0, shrink=1.0):
    """Rows of tokens with noise on them (the posterior has beta = 1 / noise^2), shrunk towards their mean."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(size, d, generator=draw)
    answers = torch.randint(size, (m,), generator=draw)
    e = rows[answers] + noise * torch.randn(m, d, generator=draw)
    mean = e.mean(0)
    return Reader(rows, -0.5 * rows.square().sum(1)), mean + shrink * (e - mean), answers


def entropy(reader, e, answers, factors, a=1.0, b=1.0):
    """Cross-entropy in float64, factor and scale multiplied by ``a`` and ``b``."""
    mean, rows = factors.mean.double(), reader.weight.double()
    z = (mean + b * factors.scale * (e.double() - mean)) @ rows.T - 0.5 * rows.square().sum(1)
    return float(-torch.log_softmax(a * factors.beta * z, 1).gather(1, answers[:, None]).mean())


@pytest.mark.parametrize("noise", [0.3, 1.0, 10.0])
@pytest.mark.parametrize("scaled", [False, True])
def test_they_are_where_the_cross_entropy_is_least(noise, scaled):
    reader, e, answers = world(noise)
    found = fit_factors(reader, e, answers, scaled=scaled)
    least = entropy(reader, e, answers, found)
    for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0):
        assert entropy(reader, e, answers, found, a=factor) > least
        if scaled:
            assert entropy(reader, e, answers, found, b=factor) > least
    assert scaled or found.scale == 1


@pytest.mark.parametrize("shrink", [1.0, 0.25])
def test_they_recover_the_noise_and_what_was_shrunk(shrink):
    found = fit_factors(*world(0.7, m=6000, shrink=shrink))
    assert found.beta == pytest.approx(1 / 0.7**2, rel=0.06)
    assert found.scale == pytest.approx(1 / shrink, rel=0.04)


def test_the_scaled_map_gives_the_scaled_vectors():
    reader, e, answers = world(0.7, shrink=0.5)
    draw = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(6, 6, generator=draw), torch.randn(6, generator=draw)
    found = fit_factors(reader, e, answers)
    for move in (Transport(weight, bias), Transport(weight)):
        expected = found.mean + found.scale * (move(e) - found.mean)
        torch.testing.assert_close(found.applied(move)(e), expected)


def test_the_scale_finds_more_tokens_when_predictions_were_shrunk():
    reader, e, answers = world(0.7, m=2000, shrink=0.3)
    found = fit_factors(reader, e, answers)
    v = found.mean + found.scale * (e - found.mean)
    shares = [float(((x @ reader.weight.T + reader.bias).argmax(1) == answers).float().mean()) for x in (e, v)]
    assert shares[1] > shares[0] + 0.05


def test_certain_and_broken_vectors():
    reader, e, answers = world(0.0)
    assert 10 < fit_factors(reader, e, answers).beta <= RANGE[1]
    assert 10 < fit_factors(reader, e, answers, scaled=False).beta <= RANGE[1]
    wrong = fit_factors(reader, -e, answers)
    assert 0 < wrong.beta * wrong.scale < 1e-3
    assert math.isnan(fit_factors(reader, e * torch.nan, answers).beta)
    assert math.isnan(fit_factors(reader, e[:0], answers[:0]).beta)


def test_equal_vectors_keep_a_scale_that_is_a_number():
    reader, e, answers = world(1.0)
    found = fit_factors(reader, e[:1].expand(150, -1), answers)
    assert found.beta > 0
    assert 0 < found.scale < math.inf


def test_more_noise_means_a_smaller_factor():
    factors = [fit_factors(*world(noise, m=2000)).beta for noise in (0.5, 1.0, 2.0)]
    assert all(a > b for a, b in pairwise(factors))
