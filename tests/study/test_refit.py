"""Maps of a study's own texts: quarters share no work, a refit has not seen its quarter, each equals plain solving."""

from __future__ import annotations

import pytest
import torch

from midstream.study import refit
from midstream.study.refit import QUARTERS, fitted, grouped, memory
from midstream.study.study import Ground, Text

D, P = 6, 400


def texts(count=40):
    return [Text(n, f"w{n // 2}", (n,)) for n in range(count)]


def world(seed=0):
    """Inputs and targets of each text: y = A x + noise, other noise in every text."""
    draw = torch.Generator().manual_seed(seed)
    a = torch.randn(D, 3, generator=draw)
    found = {}
    for text in texts():
        x = torch.randn(P, D, generator=draw)
        found[text.number] = x, x @ a + torch.randn(P, 3, generator=draw)
    return found


def rows_of(made):
    def rows(some):
        for text in some:
            x, y = made[text.number]
            yield {("stream", 1): x}, {"y": y}, None

    return rows


def test_quarters_and_those_that_choose_the_ridge_share_no_work():
    quarters, ridge = grouped(texts())
    works = [{text.work for text in group} for group in [*quarters, ridge]]
    assert sum(map(len, works)) == len(set.union(*works)) == 20
    assert [len(group) for group in works] == [5, 5, 4, 4, 2]
    assert sum(map(len, [*quarters, ridge])) == 40


def test_a_refit_is_the_least_squares_of_the_other_quarters():
    made = world()
    ground = Ground(None, {"fit": texts()}, "default", 0)
    found = fitted(ground, "maps", rows_of(made))
    assert len(found) == 1 + QUARTERS
    quarters, _ = grouped(texts())
    for left_out, maps in enumerate(found, start=-1):
        kept = [text for number, group in enumerate(quarters) if number != left_out for text in group]
        x = torch.cat([made[text.number][0] for text in kept]).double()
        y = torch.cat([made[text.number][1] for text in kept]).double()
        a = torch.cat([x, torch.ones(len(x), 1)], 1)
        plain = torch.linalg.lstsq(a, y).solution
        torch.testing.assert_close(maps[("stream", 1), "y"].transport.weight, plain[:D].T.float(), atol=2e-3, rtol=0)


def test_the_memory_that_is_foretold_is_that_of_the_sums(monkeypatch):
    held, matrices = [], []
    sums, solve = refit._summed, refit.solve

    def summed(*of):
        held.append(sums(*of))
        return held[-1]

    def solved(one, other):
        held.append(one)
        matrices.append(sum(m.xx.nbytes for every in held for m in every.moments.values()))
        del held[QUARTERS + 2 :]  # those of all but one quarter are needed no more
        return solve(one, other)

    monkeypatch.setattr(refit, "_summed", summed)
    fitted(Ground(None, {"fit": texts()}, "default", 0), "maps", rows_of(world()), solved)
    assert memory([D]) == max(matrices) + 6 * 8 * D * D


def test_they_are_made_once_and_know_their_name():
    calls = []

    def rows(some):
        calls.append(len(some))
        return rows_of(world())(some)

    ground = Ground(None, {"fit": texts()}, "default", 0)
    first = fitted(ground, "one", rows)
    count = len(calls)
    assert fitted(ground, "one", rows) is first
    assert len(calls) == count
    assert fitted(ground, "two", rows) is not first


def test_too_few_positions_are_refused():
    ground = Ground(None, {"fit": texts(8)}, "default", 0)
    few = {number: (x[:1], y[:1]) for number, (x, y) in world().items()}
    with pytest.raises(Exception, match="too few"):
        fitted(ground, "maps", rows_of(few))
