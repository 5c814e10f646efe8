"""The divergence and its gradient against autograd in float64, on shapes that no block size divides."""

from __future__ import annotations

import pytest
import torch

from midstream.errors import RequestError
from midstream.readout import gradient, reference
from midstream.readout.gradient import kl_and_gradient
from midstream.readout.reader import Reader


def case(seed, *, vocabulary=3001, width=24, n=7, size=1.0, bias=True, cap=None):
    """A random reader and prepared rows of three layers, the last of them the output."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    reader = Reader(normal(vocabulary, width), normal(vocabulary) if bias else None, cap)
    return reader, size * normal(3, n, width)


def truth(reader, x, final):
    """KL and gradient from all logits in float64 by autograd."""
    at = x.double().requires_grad_()
    log_f = reference.logits(reader, final).log_softmax(-1)
    kl = (log_f.exp() * (log_f - reference.logits(reader, at).log_softmax(-1))).sum(-1)
    (slope,) = torch.autograd.grad(kl.sum(), at)
    return kl.detach(), slope


@pytest.mark.parametrize("cap", [None, 4.0])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
def test_divergence_and_gradient_are_those_of_float64(size, bias, cap):
    reader, x = case(1, size=size, bias=bias, cap=cap)
    target = gradient.reference(reader, x[2])
    kl, slope = kl_and_gradient(reader, x, target)
    expected_kl, expected_slope = truth(reader, x, x[2])
    torch.testing.assert_close(kl.double(), expected_kl, rtol=1e-5, atol=1e-5 * max(1, size))
    torch.testing.assert_close(slope.double(), expected_slope, rtol=1e-4, atol=2e-5 * max(1, size))
    assert kl_and_gradient(reader, x, target, gradient=False)[1] is None
    assert torch.equal(kl_and_gradient(reader, x, target, gradient=False)[0], kl)


@pytest.mark.parametrize(("vocabulary", "n"), [(1, 1), (5, 3), (2048, 2), (2049, 700), (5000, 1)])
@pytest.mark.parametrize("cap", [None, 4.0])
def test_no_shape_is_special(vocabulary, n, cap):
    reader, x = case(2, vocabulary=vocabulary, n=n, cap=cap)
    kl, slope = kl_and_gradient(reader, x, gradient.reference(reader, x[2]))
    expected_kl, expected_slope = truth(reader, x, x[2])
    torch.testing.assert_close(kl.double(), expected_kl, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slope.double(), expected_slope, rtol=1e-4, atol=2e-5)
    alone, own = kl_and_gradient(reader, x[0], gradient.reference(reader, x[2]))
    torch.testing.assert_close(alone, kl[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own, slope[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cap", [None, 30.0])
def test_huge_logits_do_not_overflow(cap):
    reader, x = case(3, cap=cap)
    x = x * (1e4 / reference.logits(Reader(reader.weight), x).abs().max())
    kl, slope = kl_and_gradient(reader, x, gradient.reference(reader, x[2]))
    expected_kl, expected_slope = truth(reader, x, x[2])
    torch.testing.assert_close(kl.double(), expected_kl, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(slope.double(), expected_slope, rtol=1e-3, atol=5e-2)


@pytest.mark.parametrize("cap", [None, 4.0])
def test_a_row_that_is_no_number_is_undefined_and_alone(cap):
    reader, x = case(4, cap=cap)
    sick = x.clone()
    sick[0, 1, 3], sick[1, 2, 0] = torch.nan, torch.inf if cap is None else torch.nan
    target = gradient.reference(reader, x[2])
    (kl, slope), (well, well_slope) = kl_and_gradient(reader, sick, target), kl_and_gradient(reader, x, target)
    at = torch.zeros_like(kl, dtype=torch.bool)
    at[0, 1] = at[1, 2] = True
    assert kl[at].isnan().all()
    assert slope[at].isnan().all(1).all()
    assert torch.equal(kl[~at], well[~at])
    assert torch.equal(slope[~at], well_slope[~at])
    x[2, 4, 0] = torch.nan
    assert kl_and_gradient(reader, sick[:2], gradient.reference(reader, x[2]))[0][:, 4].isnan().all()


def test_the_target_of_other_rows_is_that_of_their_output():
    reader, x = case(5)
    rows = torch.tensor([2, 3, 6])
    kl, _ = kl_and_gradient(reader, x[:, rows - 1], gradient.reference(reader, x[2])[rows])
    torch.testing.assert_close(kl.double(), truth(reader, x[:, rows - 1], x[2][rows])[0], rtol=1e-5, atol=1e-5)


def test_shapes_that_do_not_fit_are_refused():
    reader, x = case(6)
    target = gradient.reference(reader, x[2])
    with pytest.raises(RequestError, match=r"float32 \[\.\.\., 7, 24\]"):
        kl_and_gradient(reader, x[:, :5], target)
    with pytest.raises(RequestError, match="float64"):
        kl_and_gradient(reader, x.double(), target)


@pytest.mark.parametrize("cap", [None, 4.0])
def test_rough_gradients_are_a_few_percent_off_at_most(cap, monkeypatch):
    reader, x = case(7, n=40, cap=cap)
    target = gradient.reference(reader, x[2])
    kl, slope = kl_and_gradient(reader, x, target)
    monkeypatch.setattr(gradient, "_multiplies_bfloat16", lambda _device: True)
    rough_kl, rough = kl_and_gradient(reader, x, target, rough=True)
    assert not torch.equal(rough_kl, kl)
    torch.testing.assert_close(rough_kl, kl, rtol=0.02, atol=0.2)
    assert ((rough - slope)[:2].norm(dim=2) < 0.05 * slope[:2].norm(dim=2)).all()
    monkeypatch.setattr(gradient, "_multiplies_bfloat16", lambda _device: False)
    assert torch.equal(kl_and_gradient(reader, x, target, rough=True)[1], slope)
