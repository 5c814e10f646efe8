"""Linear maps through the read-out's product: PyTorch's values and gradients, and PyTorch itself where it must be."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from midstream.model import linear as module
from midstream.model.linear import FastLinear


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(33,), (7, 33), (2, 5, 33)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_pytorchs(shape, bias):
    layer = torch.nn.Linear(33, 17, bias=bias).requires_grad_(False)
    x, g = drawn(*shape).requires_grad_(), drawn(*shape[:-1], 17, seed=1)
    expected = layer(x)
    (slope,) = torch.autograd.grad(expected, x, g)
    with FastLinear():
        got = layer(x)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(got, x, g)[0], slope, rtol=1e-5, atol=1e-5)


def test_what_pytorch_refuses_is_refused():
    x, weight = drawn(3, 8).requires_grad_(), drawn(4, 8)
    with FastLinear():
        once, changed, curved = (F.linear(x, weight) for _ in range(3))
    (slope,) = torch.autograd.grad(curved.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):  # no second derivative, rather than a wrong one
        (slope.sum() * 2).backward()
    torch.autograd.grad(once.sum(), x)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(once.sum(), x)
    weight.zero_()
    with pytest.raises(RuntimeError, match="inplace"):
        torch.autograd.grad(changed.sum(), x)


@pytest.mark.parametrize(
    ("x", "weight", "ours"),
    [
        (drawn(3, 8), drawn(4, 8), True),
        (drawn(3, 8), drawn(4, 8).requires_grad_(), False),
        (drawn(3, 8).double(), drawn(4, 8).double(), False),
        (drawn(3, 8).bfloat16(), drawn(4, 8).bfloat16(), False),
        (drawn(0, 8), drawn(4, 8), False),
    ],
)
def test_only_constant_float32_weights_are_taken(monkeypatch, x, weight, ours):
    taken = []
    monkeypatch.setattr(module, "product", lambda a, w: taken.append(1) or a @ w.T)
    with FastLinear():
        got = F.linear(x, weight)
    torch.testing.assert_close(got, F.linear(x, weight))
    assert bool(taken) == ours
    F.linear(x, weight)
    assert len(taken) == ours, "nothing is left behind"


def test_without_gradients_every_float32_weight_is_taken(monkeypatch):
    taken, x, weight = [], drawn(3, 8), drawn(4, 8).requires_grad_()
    monkeypatch.setattr(module, "product", lambda a, w: taken.append(1) or a @ w.T)
    with torch.inference_mode(), FastLinear():
        got = F.linear(x, weight)
    assert taken
    torch.testing.assert_close(got, F.linear(x, weight))
