"""Sums kept in a file: the same when read again, and refused when damaged, hostile or of another plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from midstream.errors import RequestError
from midstream.lens.file.sums_file import Gathered, load, save
from midstream.lens.fit.back_off import Counts
from midstream.lens.fit.sums import Sums, calibrate
from midstream.stream import container

PLAN = "p" * 64


def gathered(seed=0, units=(0, 2)):
    draw = torch.Generator().manual_seed(seed)
    x = {("stream", 1): torch.randn(40, 3, generator=draw), ("tokens", 0): torch.randn(40, 5, generator=draw)}
    y = {"final:1": torch.randn(40, 3, generator=draw)}
    fixed = calibrate([({key: value * 0 + 1 for key, value in x.items()}, y, None)])
    sides = []
    for _ in range(2):
        sums = Sums.empty(fixed, "label")
        sums.add(x, y, None)
        sums.release()
        sides.append(sums)
    ids = torch.randint(7, (3, 40), generator=draw)
    return Gathered(PLAN, *sides, {"final:1": Counts.seen(7, *ids)}, torch.tensor(units))


def blank(of):
    fixed = of.fit.calibration
    return replace(of, fit=Sums(fixed, "label", {}), held=Sums(fixed, "label", {}))


def test_what_is_read_is_what_was_written(tmp_path):
    before = gathered()
    save(before, tmp_path / "a.sums")
    other = replace(blank(before), fit=Sums(before.fit.calibration.only([("stream", 1)]), "label", {}))
    number, after = load(tmp_path / "a.sums", [other, blank(before)])
    assert number == 1
    assert torch.equal(after.done, before.done)
    assert torch.equal(after.counts["final:1"].codes, before.counts["final:1"].codes)
    for mine, its in ((before.fit, after.fit), (before.held, after.held)):
        for key, moments in mine.moments.items():
            for name in ("x", "xx", "y", "xy", "yy"):
                assert torch.equal(getattr(moments, name), getattr(its.moments[key], name))
            assert (moments.count, moments.left_out) == (its.moments[key].count, its.moments[key].left_out)
    after.merged(replace(before, done=torch.tensor([1])))


def test_merging_refuses_what_overlaps_or_is_planned_otherwise():
    with pytest.raises(RequestError, match="same documents"):
        gathered().merged(gathered(units=(2, 3)))
    with pytest.raises(RequestError, match="another plan"):
        gathered().merged(replace(gathered(units=(1,)), plan="q"))
    assert gathered().merged(gathered(units=(1,))).done.tolist() == [0, 1, 2]


def test_another_plan_a_lens_and_a_broken_file_are_refused(tmp_path):
    before = gathered()
    path = tmp_path / "a.sums"
    save(before, path)
    with pytest.raises(RequestError, match="another plan"):
        load(path, [replace(blank(before), plan="q")])
    container.write(path, {"x": torch.zeros(1)}, {"kind": "tuned"})
    with pytest.raises(RequestError, match="holds no sums"):
        load(path, [blank(before)])
    path.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(RequestError):
        load(path, [blank(before)])
    with pytest.raises(RequestError, match="there is no file"):
        load(tmp_path / "none.sums", [blank(before)])


FAULTS = {
    "shape": lambda t: t.update({"fit.stream.1.xx": torch.zeros(2, 2, dtype=torch.float64)}),
    "missing": lambda t: t.pop("held.tokens.0.count"),
    "nan": lambda t: t["fit.stream.1.xy"].fill_(torch.nan),
    "negative count": lambda t: t["held.stream.1.count"].fill_(-1),
    "negative square": lambda t: t["fit.stream.1.xx"].fill_(-1),
    "units twice": lambda t: t["done"].fill_(1),
    "codes out of range": lambda t: t["codes.final:1"].add_(7**3),
    "codes out of order": lambda t: t.update({"codes.final:1": t["codes.final:1"].flip(0)}),
    "times of another length": lambda t: t.update({"times.final:1": t["times.final:1"][1:]}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_hostile_sums_are_a_sentence(tmp_path, fault):
    before = gathered()
    path = tmp_path / "a.sums"
    save(before, path)
    found = container.read(path)
    tensors = {name: tensor.clone() for name, tensor in found.tensors().items()}
    FAULTS[fault](tensors)
    container.write(path, tensors, found.text)  # sealed anew, as a hostile file would be
    with pytest.raises(RequestError, match=r"a\.sums holds no usable sums"):
        load(path, [blank(before)])
