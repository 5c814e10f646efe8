"""Streamed sums against float64 sums of everything, adding and taking off, the norm rule."""

from __future__ import annotations

import pytest
import torch

from midstream.errors import RequestError
from midstream.lens.fit.sums import Sums, calibrate

KEYS = {("stream", 1): 7, ("stream", 2): 7, ("tokens", 0): 12}
TARGETS = {"final:0": 7, "row:1": 7}


def text(n, seed=0, scale=1.0):
    """Inputs far from zero and targets that follow from them, as a stream has them."""
    draw = torch.Generator().manual_seed(seed)
    x = {key: 30 + scale * torch.randn(n, width, generator=draw) for key, width in KEYS.items()}
    y = {name: 5 + x["stream", 1] + torch.randn(n, width, generator=draw) for name, width in TARGETS.items()}
    return x, y, y["final:0"].norm(dim=1)


def summed(parts, calibration, label="a"):
    sums = Sums.empty(calibration, label)
    for part in parts:
        sums.add(*part)
    sums.release()
    return sums


def rows(part, start, stop):
    x, y, last = part
    return {k: v[start:stop] for k, v in x.items()}, {k: v[start:stop] for k, v in y.items()}, last[start:stop]


def direct(part, calibration, keep):
    """The moments in float64 from all rows at once: key -> (count, x, xx, y, xy, yy)."""
    x, y, _ = part
    target = torch.cat([(y[name].double() - shift.double()) for name, shift in calibration.targets.items()], 1)
    squares = [(y[name].double() - shift.double()).square().sum(1) for name, shift in calibration.targets.items()]
    found = {}
    for key, shift in calibration.shifts.items():
        mine, its = (x[key].double() - shift.double())[keep[key]], target[keep[key]]
        yy = torch.stack([square[keep[key]].sum() for square in squares])
        found[key] = (len(mine), mine.sum(0), mine.T @ mine, its.sum(0), mine.T @ its, yy)
    return found


def assert_same(moments, expected, tolerance):
    count, *sums = expected
    assert moments.count == count
    for mine, its in zip((moments.x, moments.xx, moments.y, moments.xy, moments.yy), sums, strict=True):
        assert float((mine - its).norm()) <= tolerance * float(its.norm() + count**0.5)


def assert_equal(one, two, tolerance):
    for key, moments in one.moments.items():
        its = two.moments[key]
        assert moments.left_out == its.left_out
        assert_same(moments, (its.count, its.x, its.xx, its.y, its.xy, its.yy), tolerance)


def test_tiles_agree_with_everything_at_once():
    part = text(4999)  # no number of tiles divides it
    part[0]["stream", 2][17] *= 1e3  # a sink at one layer only
    part[0]["stream", 1][[40, 41]] = torch.nan
    part[1]["final:0"][99] *= 1e3  # and one that every layer's target sees
    part = (*part[:2], part[1]["final:0"].norm(dim=1))
    calibration = calibrate(rows(part, start, start + 250) for start in range(0, 1000, 250))
    keep = {key: torch.ones(4999, dtype=torch.bool) for key in KEYS}
    for kept in keep.values():
        kept[99] = False
    keep["stream", 2][17] = False
    keep["stream", 1][[40, 41]] = False
    expected = direct(part, calibration, keep)
    sums = summed([rows(part, start, start + 313) for start in range(0, 4999, 313)], calibration)
    for key in KEYS:
        assert_same(sums.moments[key], expected[key], 1e-6)
        assert sums.moments[key].left_out == int((~keep[key]).sum())


def test_a_sink_or_a_broken_row_spoils_no_calibration():
    part = text(500)
    clean = calibrate([part])
    part[0]["stream", 1][3] = 1e6
    part[0]["stream", 2][4] = torch.nan
    again = calibrate([part])
    for key, shift in clean.shifts.items():
        torch.testing.assert_close(again.shifts[key], shift, atol=0.05, rtol=0)
        assert again.limits[key] == pytest.approx(clean.limits[key], rel=0.02)


def test_parts_add_up_and_come_off():
    part = text(4000)
    calibration = calibrate([rows(part, 0, 500)])
    whole = summed([part], calibration)
    quarters = [summed([rows(part, start, start + 1000)], calibration) for start in range(0, 4000, 1000)]
    added = quarters[0]
    for quarter in quarters[1:]:
        added = added.merged(quarter)
    assert_equal(added, whole, 1e-6)
    assert_equal(added.without(quarters[3]), summed([rows(part, 0, 3000)], calibration), 1e-6)
    with pytest.raises(RequestError, match="fewer positions"):
        quarters[0].without(whole)


def test_a_calibration_that_differs_by_rounding_is_moved_not_refused():
    part = text(2000)
    calibration = calibrate([rows(part, 0, 500)])
    near = calibrate([rows(part, 0, 500)])
    for shift in (*near.shifts.values(), *near.targets.values()):
        shift *= 1 + 1e-4
    halves = summed([rows(part, 0, 1000)], calibration), summed([rows(part, 1000, 2000)], near)
    assert_equal(halves[0].merged(halves[1]), summed([part], calibration), 1e-6)


@pytest.mark.parametrize("fault", ["label", "shift", "targets", "keys"])
def test_sums_of_another_kind_are_refused(fault):
    part = text(300)
    mine = summed([part], calibrate([part]))
    x, y, last = text(300, seed=1, scale=3.0)
    if fault == "label":
        its = summed([part], calibrate([part]), "b")
    elif fault == "shift":
        its = summed([(x, y, last)], calibrate([({key: value + 9 for key, value in x.items()}, y, last)]))
    elif fault == "targets":
        y = {"final:0": y["final:0"]}
        its = summed([(x, y, last)], calibrate([(x, y, last)]))
    else:
        x = {("stream", 1): x["stream", 1]}
        its = summed([(x, y, last)], calibrate([(x, y, last)]))
    with pytest.raises(RequestError, match="cannot be added"):
        mine.merged(its)
