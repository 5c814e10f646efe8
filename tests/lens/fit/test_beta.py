"""The factor of the input reader's scores against a search over the cross-entropy itself."""

from __future__ import annotations

import math

import pytest
import torch

from midstream.lens.fit.beta import RANGE, fit_beta
from midstream.readout.reader import Reader


def world(noise, m=150, size=40, d=6, seed=0):
    """Rows of tokens with noise on them: the posterior of Gaussian noise has beta = 1 / noise^2."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(size, d, generator=draw)
    answers = torch.randint(size, (m,), generator=draw)
    e = rows[answers] + noise * torch.randn(m, d, generator=draw)
    return Reader(rows, -0.5 * rows.square().sum(1)), e, answers


def entropy(reader, e, answers, beta):
    z = (e.double() @ reader.weight.double().T + reader.bias.double()) * beta
    return float(-torch.log_softmax(z, 1).gather(1, answers[:, None]).mean())


@pytest.mark.parametrize("noise", [0.3, 1.0, 10.0])
def test_it_is_where_the_cross_entropy_is_least(noise):
    reader, e, answers = world(noise)
    beta = fit_beta(reader, e, answers)
    least = entropy(reader, e, answers, beta)
    for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0):
        assert entropy(reader, e, answers, beta * factor) > least


def test_it_recovers_the_noise():
    assert fit_beta(*world(0.7, m=6000)) == pytest.approx(1 / 0.7**2, rel=0.05)


def test_certain_and_broken_vectors():
    reader, e, answers = world(0.0)
    assert 10 < fit_beta(reader, e, answers) <= RANGE[1]
    assert 0 < fit_beta(reader, -e, answers) < 1e-3
    assert math.isnan(fit_beta(reader, e * torch.nan, answers))
    assert math.isnan(fit_beta(reader, e[:0], answers[:0]))
