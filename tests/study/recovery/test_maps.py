"""The maps that read: a lens's as least squares left it, those of the study, noise of equal R²."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midstream.run.study_lenses import Shelf
from midstream.stream.capture import capture
from midstream.study.fitting import lenses
from midstream.study.recovery import maps
from midstream.study.recovery.plan import HELD, HELD_SHARE, KINDS, NOISY, OTHER, OWN, SHARED, Cell
from midstream.study.recovery.token import unseen
from midstream.study.study import Ground, Text


@pytest.fixture(scope="module")
def ground(tiny):
    draw = np.random.default_rng(0)
    fit = [Text(n, f"w{n}", tuple(draw.integers(3, 90, 120).tolist())) for n in range(40)]
    made = Shelf(tiny, fit, lenses(*KINDS)["quick"], 0, lambda *_: None)
    return Ground(tiny, {"fit": fit}, "quick", 0, made)


def stream(ground, layer, count=6):
    draw = np.random.default_rng(1)
    ids = torch.tensor(draw.integers(3, 90, (count, 60)))
    h = capture(ground.model, ids, layers=[layer])[layer][:, 8:].reshape(-1, ground.model.anatomy.width).float()
    return h, ids[:, 8:].flatten()


def fvu(row, truth):
    return float((truth - row).square().sum() / (truth - truth.mean(0)).square().sum())


@pytest.mark.parametrize("lag", [0, 1])
def test_a_lens_is_read_as_least_squares_left_it(ground, lag):
    layer = 15
    lens = ground.lenses[f"input:{lag}"]
    scale = lens.about["fit"]["scale"][str(layer)]
    assert abs(scale - 1) > 0.01  # else nothing is tested
    h, _ = stream(ground, layer)
    found = maps.predicted(ground, Cell(OWN, lag, layer), h, h, 0)
    move = lens.transports[layer]
    torch.testing.assert_close(found.scored, move(h))
    torch.testing.assert_close(found.row - found.row[:1], (move(h) - move(h)[:1]) / scale, atol=1e-4, rtol=1e-4)
    assert found.beta == lens.betas[layer]
    # and what the scale is taken off about is where the map sends the mean stream
    mean = maps.means(ground, lens)[layer]
    middle = maps.predicted(ground, Cell(OWN, lag, layer), mean[None], mean[None], 0)
    torch.testing.assert_close(middle.row, middle.scored, atol=1e-4, rtol=1e-4)


def test_each_reader_reads_with_its_own_map(ground):
    h, ids = stream(ground, 15)
    rows = ground.model.anatomy.input_rows(ids)
    found = {name: maps.predicted(ground, Cell(name, 0, 15), h, rows, 0) for name in (OWN, SHARED, HELD, OTHER, NOISY)}
    assert len({float(one.row.sum()) for one in found.values() if one is not found[OTHER]}) == 4
    torch.testing.assert_close(found[OTHER].row, found[OWN].row)  # layer 15 is half of 30
    later = maps.predicted(ground, Cell(OTHER, 0, 30), h, rows, 0)
    torch.testing.assert_close(later.row, found[OWN].row)
    assert [name for name, one in found.items() if one.scored is not None] == [OWN]


def test_refits_are_without_a_quarter_and_hold_a_map_for_all(ground):
    found = maps.refits(ground)
    assert len(found) == 5
    weights = [one[maps.ALL, maps.ROW].transport.weight for one in found]
    assert all(not torch.equal(weights[0], other) for other in weights[1:])
    h, ids = stream(ground, 15)
    rows = ground.model.anatomy.input_rows(ids)
    one = maps.predicted(ground, Cell(SHARED, 0, 15, 2), h, rows, 0)
    torch.testing.assert_close(one.row, found[3][maps.ALL, maps.ROW].transport(h))


def test_types_that_are_kept_out_are_kept_out(ground):
    held = unseen(ground, HELD_SHARE)
    total = sum(len(ids) for ids, _ in maps.passes(ground, ground.texts["fit"], [0]))
    batches = list(maps._rows(ground, ground.texts["fit"], left_out=True))
    kept = sum(len(y[maps.ROW]) for _, y, _ in batches)
    assert 0.6 * total < kept < 0.95 * total
    rows = ground.model.anatomy.input_rows(torch.nonzero(held)[:, 0])
    seen = torch.cat([y[maps.ROW] for _, y, _ in batches])
    assert float(torch.cdist(seen.double(), rows.double()).min()) > 1e-6


@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=8), st.floats(0.02, 0.98))
def test_noise_gives_the_r2_that_is_asked_for(values, r2):
    variances = torch.tensor(values, dtype=torch.float64)
    noise = maps.noise_of(variances, r2)
    assert float((variances**2 / (variances + noise)).sum() / variances.sum()) == pytest.approx(r2, abs=1e-6)


@pytest.mark.parametrize("r2", [0.0, -0.3, 1.2, float("nan")])
def test_no_noise_gives_an_impossible_r2(r2):
    assert np.isnan(maps.noise_of(torch.ones(3, dtype=torch.float64), r2))


def test_a_row_and_noise_are_predicted_as_well_as_the_layer(ground):
    layer = 15
    draw = np.random.default_rng(5)
    ids = torch.tensor(draw.choice([i for text in ground.texts["fit"] for i in text.ids], 20_000))
    rows = ground.model.anatomy.input_rows(ids)
    found = maps._noisy(ground, layer, rows, 1)
    wanted = ground.lenses["input:0"].about["fit"]["fvu_held"][str(layer)]
    assert fvu(found, rows) == pytest.approx(wanted, abs=0.02)
    assert torch.equal(found, maps._noisy(ground, layer, rows, 1))
    assert not torch.equal(found, maps._noisy(ground, layer, rows, 2))
