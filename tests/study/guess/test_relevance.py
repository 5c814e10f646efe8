"""What the output looks at: the sampled matrix is the exact one, and that is the curvature of the KL that is read."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from midstream.lens.lens import Transport
from midstream.model.anatomy import find
from midstream.readout.reader import output_reader
from midstream.study.guess.relevance import relevance
from tests.tiny import tiny


def world(family):
    module = tiny(family, tie_word_embeddings=False)
    reader = output_reader(find(module, module.config))
    draw = torch.Generator().manual_seed(3)
    d = reader.weight.shape[1]
    h = torch.randn(5, d, generator=draw)
    return reader, Transport(torch.eye(d) + 0.2 * torch.randn(d, d, generator=draw), torch.randn(d, generator=draw)), h


def logprobs(reader, move, h):
    """Of one position, in the plainest lines, float64."""
    x = h.double() if move is None else move.weight.double() @ h.double() + move.bias.double()
    x = x[None] if reader.norm is None else deepcopy(reader.norm).double()(x[None])
    z = (x * reader.scale @ reader.weight.double().T)[0]
    z = z if reader.bias is None else z + reader.bias.double()
    return (z if reader.soft_cap is None else reader.soft_cap * torch.tanh(z / reader.soft_cap)).log_softmax(-1)


def exact(reader, move, h):
    """J^T G^T W^T (diag p - p p^T) W G J of all positions, from the derivative of every log-probability."""
    total = 0
    for row in h:
        slope = torch.autograd.functional.jacobian(lambda x: logprobs(reader, move, x), row.double())
        p = logprobs(reader, move, row).exp()
        total = total + slope.T @ (p[:, None] * slope)
    return total.detach()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "cohere"])
@pytest.mark.parametrize("mapped", [True, False])
def test_sampled_is_exact_but_for_chance(family, mapped):
    reader, move, h = world(family)
    move = move if mapped else None
    found = relevance(reader, move, h, 8_000, torch.Generator().manual_seed(0))
    true = exact(reader, move, h)
    assert float((found - true).norm() / true.norm()) < 0.05
    again = relevance(reader, move, h, 8_000, torch.Generator().manual_seed(1))
    assert float((again - true).norm() / true.norm()) < 0.05
    assert not torch.equal(found, again)


def test_exact_is_the_curvature_of_the_divergence():
    reader, move, h = world("llama")
    v = torch.randn(h.shape[1], generator=torch.Generator().manual_seed(1)).double() * 1e-3
    p, q = logprobs(reader, move, h[0]), logprobs(reader, move, h[0].double() + v)
    kl = float((p.exp() * (p - q)).sum().detach())
    assert kl == pytest.approx(float(v @ exact(reader, move, h[:1]) @ v) / 2, rel=0.02)


def test_parts_of_the_positions_add_up_to_all():
    reader, move, h = world("llama")
    one, two = (relevance(reader, move, part, 8_000, torch.Generator().manual_seed(0)) for part in (h[:2], h[2:]))
    true = exact(reader, move, h)
    assert float((one + two - true).norm() / true.norm()) < 0.05
