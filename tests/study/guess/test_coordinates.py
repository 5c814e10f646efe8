"""The stream's own coordinates: output weights are what moves the logits, correlations are what is planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from midstream.model.anatomy import find, in_float32
from midstream.study.displace import rotation
from midstream.study.guess.coordinates import gains, in_basis, lowest, matched, output_gram, partial
from tests.tiny import tiny


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "olmo"])
def test_an_output_weight_is_how_far_the_logits_spread_for_a_step_behind_the_norm(family):
    module = tiny(family, tie_word_embeddings=False)
    anatomy = find(module, module.config)
    weight = output_gram(anatomy).diagonal().sqrt()
    rows = anatomy.output_rows(torch.arange(anatomy.vocabulary)).double()
    rows = rows - rows.mean(0)
    # the norm's own factor: what it makes of a vector, over that vector brought to mean square 1 as the norm does
    x = torch.randn(1, anatomy.width, generator=torch.Generator().manual_seed(0))
    other = x - x.mean() if family in ("gpt2", "olmo") else x
    other = other / other.square().mean().sqrt()
    bias = in_float32(anatomy.final_norm, torch.zeros(1, anatomy.width))
    g = ((in_float32(anatomy.final_norm, x) - bias) / other)[0].double()
    torch.testing.assert_close(gains(anatomy), g, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(weight, g.abs() * rows.norm(dim=0), rtol=1e-4, atol=1e-4)


def test_the_correlation_leaves_out_what_variance_explains():
    draw = np.random.default_rng(0)
    variance = np.exp(draw.normal(size=4000))
    loss, weight = variance * np.exp(draw.normal(size=4000)), variance * np.exp(draw.normal(size=4000))
    assert abs(partial(loss, weight, variance)) < 0.08  # both follow variance, and have nothing else in common
    both = np.exp(draw.normal(size=4000))
    assert partial(loss * both, weight / both, variance) < -0.3
    assert partial(loss * both, weight * both, variance) > 0.3
    assert np.isnan(partial(np.full(4000, np.nan), weight, variance))


def test_another_basis_is_the_same_numbers_of_turned_coordinates():
    draw = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(24, 24, generator=draw, dtype=torch.float64) for _ in range(3))
    covariance, gram, q = a @ a.T, b @ b.T, rotation(24, 1).double()
    turned = {"lost": q.T @ c @ q, "gram": q.T @ gram @ q, "covariance": q.T @ covariance @ q}
    precision = torch.linalg.inv(covariance)
    one = in_basis(q, lost=c, precision=precision, gram=gram, covariance=covariance)
    other = in_basis(torch.eye(24, dtype=torch.float64), precision=q.T @ precision @ q, **turned)
    assert one == pytest.approx(other, abs=1e-9)


def test_controls_are_others_that_are_weighted_more_at_equal_variance():
    draw = np.random.default_rng(0)
    weight, variance = draw.random(100), np.exp(draw.normal(size=100))
    little = lowest(weight, 10)
    assert set(little) == set(np.argsort(weight)[:10])
    others = matched(little, np.flatnonzero(weight > np.median(weight)), variance[None])
    assert len(set(others)) == 10
    assert weight[others].min() > np.median(weight)
    off = np.abs(np.log(variance[others]) - np.log(variance[little]))
    random = draw.choice(np.setdiff1d(np.arange(100), little), (50, 10))
    assert off.mean() < np.abs(np.log(variance[random]) - np.log(variance[little])).mean(1).min()
