from __future__ import annotations

from dataclasses import fields

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.readout.blocked import block_sums
from midstream.readout.reader import Reader
from midstream.readout.rows import Rows, stack
from midstream.readout.sums import Sums, best, empty, named


def pile(seed, vocabulary=60):
    generator = torch.Generator().manual_seed(seed)
    reader = Reader(torch.randn(vocabulary, 8, generator=generator))
    xs = [5 * torch.randn(3, 8, generator=generator) for _ in range(2)]
    rows = stack([Rows(x, torch.randint(0, vocabulary, (3, 2)), None, xs[0]) for x in xs], xs[1], 0, 3)
    return reader, rows, named(reader, rows)


def over(reader, rows, logits, start, stop):
    return block_sums(rows.x @ reader.weight[start:stop].T, start, rows, logits, 5)


def same(one: Sums, other: Sums):
    for field in fields(Sums):
        a, b = getattr(one, field.name), getattr(other, field.name)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3, msg=field.name)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.tuples(st.integers(1, 59), st.integers(1, 59)))
def test_blocks_merge_in_any_grouping(seed, cuts):
    reader, rows, logits = pile(seed)
    first, second = sorted(cuts)
    if first == second:
        return
    a, b, c = (over(reader, rows, logits, *ends) for ends in ((0, first), (first, second), (second, 60)))
    left = a.merged(b, rows).merged(c, rows)
    same(left, a.merged(b.merged(c, rows), rows))
    whole = over(reader, rows, logits, 0, 60)
    same(left, whole)
    same(empty(rows, 5).merged(whole, rows), whole)


def test_best_breaks_ties_by_id():
    values = torch.tensor([[1.0, 3.0, 3.0, 2.0]])
    kept, ids = best(values, torch.tensor([[9, 8, 2, 5]]), 3)
    assert ids.tolist() == [[2, 8, 5]]
    assert kept.tolist() == [[3.0, 3.0, 2.0]]
