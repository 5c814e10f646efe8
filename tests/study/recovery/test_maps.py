"""The maps that read: a lens's as least squares left it, those of the study, noise of equal R²."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midstream.lens.fit.least_squares import solve
from midstream.run.study_lenses import Shelf
from midstream.stream.capture import capture
from midstream.study.fitting import lenses
from midstream.study.recovery import maps
from midstream.study.recovery.plan import HELD, HELD_SHARE, KINDS, LESS, OTHER, OWN, SHARED, Cell
from midstream.study.recovery.token import unseen
from midstream.study.refit import _fitted
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
    found = maps.predicted(ground, Cell(OWN, lag, layer), h)
    move = lens.transports[layer]
    torch.testing.assert_close(found.scored, move(h))
    torch.testing.assert_close(found.row - found.row[:1], (move(h) - move(h)[:1]) / scale, atol=1e-4, rtol=1e-4)
    assert found.beta == lens.betas[layer]
    # and what the scale is taken off about is where the map sends the mean stream
    mean = maps.means(ground, lens)[layer]
    middle = maps.predicted(ground, Cell(OWN, lag, layer), mean[None])
    torch.testing.assert_close(middle.row, middle.scored, atol=1e-4, rtol=1e-4)


def test_each_reader_reads_with_its_own_map(ground):
    h, _ = stream(ground, 15)
    found = {name: maps.predicted(ground, Cell(name, 0, 15), h) for name in (OWN, SHARED, HELD, LESS, OTHER)}
    assert len({float(one.row.sum()) for name, one in found.items() if name != OTHER}) == 4
    torch.testing.assert_close(found[OTHER].row, found[OWN].row)  # layer 15 is half of 30
    later = maps.predicted(ground, Cell(OTHER, 0, 30), h)
    torch.testing.assert_close(later.row, found[OWN].row)
    torch.testing.assert_close(found[HELD].row, maps.disjoint(ground)[("stream", 15), maps.ROW].transport(h))
    torch.testing.assert_close(found[LESS].row, maps.refits(ground)[0][("stream", 15), maps.ROW].transport(h))
    assert [name for name, one in found.items() if one.beta is not None] == [OWN]


@pytest.mark.parametrize("cell", [Cell(SHARED, 0, 15), Cell(LESS, 0, 15), Cell(HELD, 0, 15), Cell(SHARED, 0, 15, 1)])
def test_every_reader_finds_the_nearest_row_to_what_is_scaled_away_from_its_mean(ground, cell):
    h, _ = stream(ground, 15)
    lens = ground.lenses["input:0:shared" if cell.reader == SHARED else "input:0"]
    scale = ground.lenses["input:0"].about["fit"]["scale"]["15"]
    assert abs(scale - 1) > 0.01  # else nothing is tested
    found = maps.predicted(ground, cell, h)
    torch.testing.assert_close(
        found.scored - found.scored[:1], scale * (found.row - found.row[:1]), atol=1e-4, rtol=1e-4
    )
    middle = maps.predicted(ground, cell, maps.means(ground, lens)[15][None])
    torch.testing.assert_close(middle.row, middle.scored, atol=1e-4, rtol=1e-4)


def test_refits_are_without_a_quarter_and_hold_a_map_for_all(ground):
    found = maps.refits(ground)
    assert len(found) == 5
    weights = [one[maps.ALL, maps.ROW].transport.weight for one in found]
    assert all(not torch.equal(weights[0], other) for other in weights[1:])
    h, _ = stream(ground, 15)
    one = maps.predicted(ground, Cell(SHARED, 0, 15, 2), h)
    torch.testing.assert_close(one.row, found[3][maps.ALL, maps.ROW].transport(h))


def test_types_that_are_kept_out_are_kept_out(ground):
    """What is made from sums that add up is what a fit of its own to the other positions finds."""
    held = unseen(ground, HELD_SHARE)

    def rows(texts):
        for ids, stream in maps.passes(ground, texts, [15]):
            yield (
                {("stream", 15): stream[15][~held[ids]]},
                {maps.ROW: ground.model.anatomy.input_rows(ids[~held[ids]])},
                None,
            )

    alone = _fitted(ground.texts["fit"], rows, solve)
    direct = next(alone)[("stream", 15), maps.ROW].transport
    h, ids = stream(ground, 15)
    assert 0.05 < float(held[ids].float().mean()) < 0.4
    found = maps.disjoint(ground)[("stream", 15), maps.ROW].transport(h)
    torch.testing.assert_close(found, direct(h), atol=1e-4, rtol=1e-3)


@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=8), st.floats(0.02, 0.98), st.integers(0, 5))
def test_noise_gives_the_r2_that_is_asked_for(values, r2, seed):
    variances = torch.tensor(values, dtype=torch.float64)
    draw = torch.Generator().manual_seed(seed)
    a = torch.randn(300, len(values), generator=draw, dtype=torch.float64) * variances.sqrt()
    drawn = torch.randn(a.shape, generator=draw, dtype=torch.float64)
    noise = maps.noise_of(a, drawn, variances, r2)
    error = (a - maps._shrunk(a, drawn, variances, noise)).square().sum()
    assert 1 - float(error / a.square().sum()) == pytest.approx(r2, abs=1e-6)


@pytest.mark.parametrize("r2", [-0.3, 1.2, float("nan")])
def test_no_noise_gives_an_impossible_r2(ground, r2):
    rows = ground.model.anatomy.input_rows(torch.arange(3, 80))
    assert maps.noisy(ground, rows, r2, 0).isnan().all()


def test_a_row_and_noise_are_predicted_as_well_as_is_asked(ground):
    draw = np.random.default_rng(5)
    ids = torch.tensor(draw.choice([i for text in ground.texts["fit"] for i in text.ids], 500))
    rows = ground.model.anatomy.input_rows(ids)
    found = maps.noisy(ground, rows, 0.4, 1)
    mean = maps.spread(ground)[0].float()
    r2 = 1 - float((rows - found).square().sum() / (rows - mean).square().sum())
    assert r2 == pytest.approx(0.4, abs=1e-3)
    assert torch.equal(found, maps.noisy(ground, rows, 0.4, 1))
    assert not torch.equal(found, maps.noisy(ground, rows, 0.4, 2))
