"""Ranks by sorting against ranks by counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from readout_oracle import ranks_near

from midstream.readout import rank
from midstream.readout.rank import ranks
from midstream.readout.read import Rows, read
from midstream.readout.reader import Reader


def case(seed, *, vocabulary=3001, width=24, n=7, cap=None, bias=True):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(vocabulary, width, generator=generator)
    reader = Reader(weight, torch.randn(vocabulary, generator=generator) if bias else None, cap)
    return reader, torch.randn(n, width, generator=generator), torch.arange(0, vocabulary, 7)


@pytest.mark.parametrize("cap", [None, 4.0])
@pytest.mark.parametrize("bias", [True, False])
def test_ranks_are_those_of_the_read_out(cap, bias, monkeypatch):
    monkeypatch.setattr(rank, "ROWS", 3)
    reader, x, ids = case(1, cap=cap, bias=bias)
    found = ranks(reader, x, ids)
    assert found.shape == (len(x), len(ids))
    part = Rows(x, ids.expand(len(x), -1).contiguous())
    (columns,) = read(reader, [part], reference=None)
    ranks_near(columns, reader, part)
    assert (np.abs(found - columns.rank) <= 1).all(), "neighbours within rounding may change places"
    assert (found == columns.rank).mean() > 0.999


def test_equal_logits_share_the_better_rank_and_the_best_is_1():
    reader = Reader(torch.tensor([[1.0], [3.0], [3.0], [2.0], [3.0]]))
    assert ranks(reader, torch.ones(1, 1), torch.arange(5)).tolist() == [[5, 1, 1, 4, 1]]
    assert ranks(reader, -torch.ones(1, 1), torch.arange(5)).tolist() == [[1, 3, 3, 2, 3]]


def test_a_broken_row_has_no_ranks_and_others_keep_theirs():
    reader, x, ids = case(2)
    whole = ranks(reader, x, ids)
    x[3, 0] = torch.nan
    found = ranks(reader, x, ids)
    assert (found[3] == -1).all()
    assert (np.delete(found, 3, 0) == np.delete(whole, 3, 0)).all()


def test_nothing_named():
    reader, x, _ = case(3)
    assert ranks(reader, x, torch.zeros(0, dtype=torch.int64)).shape == (len(x), 0)
