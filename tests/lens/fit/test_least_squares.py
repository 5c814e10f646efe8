"""Maps from sums against least squares on all rows; a planted map, shuffled labels, the choice of the ridge."""

from __future__ import annotations

import pytest
import torch

from midstream.errors import RequestError
from midstream.lens.fit.least_squares import RIDGES, fvu, solve, solve_shared
from midstream.lens.fit.sums import Sums, calibrate

D = 8


def world(n, seed, *, noise=0.1, layers=2):
    """Rows at some layers, and what a known affine map (one a layer) makes of the first."""
    draw = torch.Generator().manual_seed(seed)
    known = torch.Generator().manual_seed(99)
    mix, weight, bias = torch.randn(D, D, generator=known), torch.randn(D, D, generator=known), torch.arange(float(D))
    base = 10 + torch.randn(n, D, generator=draw) @ mix
    x = {("stream", layer): base * (1 + layer) for layer in range(layers)}
    y = base @ weight.T + bias + noise * torch.randn(n, D, generator=draw)
    return x, {"final:0": y, "row:0": base.flip(1)}, weight, bias


def sums(x, y, calibration=None):
    found = Sums.empty(calibration or calibrate([(x, y, None)]), "world")
    found.add(x, y, None)
    found.release()
    return found


def fitted(n=4000, **more):
    x, y, *known = world(n, 0, **more)
    fit = sums(x, y)
    held = sums(*world(1000, 1, **more)[:2], fit.calibration)
    return fit, held, known


def test_planted_map_is_recovered():
    fit, held, (weight, bias) = fitted(noise=0.0)
    found = solve(fit, held)
    for layer in range(2):
        transport = found[("stream", layer), "final:0"].transport
        torch.testing.assert_close(transport.weight * (1 + layer), weight, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(transport.bias, bias, atol=2e-2, rtol=1e-3)
        assert found[("stream", layer), "final:0"].fvu_held < 1e-5


def test_shuffled_labels_give_chance():
    x = world(4000, 0)[0]
    other = world(4000, 5)[1]
    fit = sums(x, other)
    held = sums(world(1000, 1)[0], world(1000, 6)[1], fit.calibration)
    for found in solve(fit, held).values():
        assert 0.97 < found.fvu_held < 1.05


def test_errors_and_ridge_are_those_of_all_rows():
    """Slow way: for each ridge the map by a linear solve in float64, its error on the held-out rows themselves."""
    noise = 30.0  # so much that the best ridge is inside the grid
    x, y, *_ = world(60, 0, noise=noise)
    held_x, held_y, *_ = world(500, 1, noise=noise)
    fit = sums(x, y)
    found = solve(fit, sums(held_x, held_y, fit.calibration))[("stream", 0), "final:0"]
    a, b = x["stream", 0].double(), y["final:0"].double()
    c, t = held_x["stream", 0].double(), held_y["final:0"].double()
    mine, its = a - a.mean(0), b - b.mean(0)
    unit = float(torch.linalg.eigvalsh(mine.T @ mine).mean())
    errors, maps = [], []
    for ridge in RIDGES:
        weight = torch.linalg.solve(mine.T @ mine + ridge * unit * torch.eye(D).double(), mine.T @ its).T
        maps.append(weight)
        errors.append(float((t - b.mean(0) - (c - a.mean(0)) @ weight.T).square().sum()))
    best = min(range(len(RIDGES)), key=errors.__getitem__)
    assert found.ridge == RIDGES[best]
    assert 0 < best < len(RIDGES) - 1
    torch.testing.assert_close(found.transport.weight.double(), maps[best], atol=1e-4, rtol=1e-3)
    assert found.fvu_held == pytest.approx(errors[best] / float((t - t.mean(0)).square().sum()), rel=1e-4)
    own = float((its - mine @ maps[best].T).square().sum()) / float(its.square().sum())
    assert found.fvu_fit == pytest.approx(own, rel=1e-4)


def test_of_ridges_that_do_about_equally_well_rows_get_the_smallest():
    x, y, *_ = world(60, 0, noise=30.0)
    held_x, held_y, *_ = world(500, 1, noise=30.0)
    both = dict.fromkeys(("row:0", "final:0"), y["final:0"])
    fit = sums(x, both)
    held = sums(held_x, dict.fromkeys(both, held_y["final:0"]), fit.calibration)
    found = solve(fit, held)
    row, final = (found[("stream", 0), name] for name in both)
    assert row.ridge < final.ridge
    assert final.fvu_held < row.fvu_held <= 1.01 * final.fvu_held
    below = RIDGES[RIDGES.index(row.ridge) - 1]
    smaller = solve(fit, held, ridges=[below])[("stream", 0), "row:0"]
    assert smaller.ridge == below
    assert smaller.fvu_held > 1.01 * final.fvu_held


def test_fvu_of_any_map_from_sums_is_that_of_rows():
    fit, held, _ = fitted()
    x, y, *_ = world(1000, 1)
    transport = solve(fit, held)[("stream", 1), "final:0"].transport
    for key in x:
        error = (y["final:0"] - transport(x[key])).double().square().sum()
        variance = (y["final:0"] - y["final:0"].mean(0)).double().square().sum()
        assert fvu(held, key, "final:0", transport) == pytest.approx(float(error / variance), rel=1e-2)


def test_one_map_for_all_layers():
    """The shared map is the ridge map of all layers' rows put under one another."""
    fit, held, _ = fitted()
    best, by_layer = solve_shared(fit, held, "row:0")
    x, y, *_ = world(4000, 0)
    rows = torch.cat([x["stream", layer] for layer in range(2)]).double()
    target = torch.cat([y["row:0"]] * 2).double()
    mine, its = rows - rows.mean(0), target - target.mean(0)
    ridge = best.ridge * mine.square().sum() / D * torch.eye(D).double()
    weight = torch.linalg.solve(mine.T @ mine + ridge, mine.T @ its).T
    torch.testing.assert_close(best.transport.weight.double(), weight, atol=1e-3, rtol=1e-2)
    assert set(by_layer) == {("stream", 0), ("stream", 1)}
    assert sum(by_layer.values()) / 2 == pytest.approx(best.fvu_held, rel=0.05)


def test_too_little_text_says_what_it_has_and_needs():
    x, y, *_ = world(31, 0)
    with pytest.raises(RequestError, match=r"31 usable tokens .* at least 32 are needed"):
        solve(sums(x, y), sums(x, y))
    x, y, *_ = world(200, 0)
    few = world(100, 1)
    with pytest.raises(RequestError, match="has 100 usable tokens, beside 200 to fit with: at least 128"):
        solve(sums(x, y), sums(*few[:2]))
    with pytest.raises(RequestError, match="does not vary"):
        solve(sums({("stream", 0): torch.ones(200, D)}, y), sums({("stream", 0): torch.ones(200, D)}, y))
