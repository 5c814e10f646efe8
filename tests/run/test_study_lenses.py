"""The lenses of studies: of the study's own texts, made once, gone on with, apart from the user's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midstream.errors import FitError
from midstream.lens.file import folder
from midstream.run import fit_pass, study_lenses
from midstream.run.fit_plan import HELD_OUT_SHARES, _in_turn
from midstream.run.study_lenses import Shelf, digests, missing, place
from midstream.study.study import Lenses, Text

WANTED = Lenses(("input:0", "input:1"), 3000, lambda blocks: (0, blocks))


@pytest.fixture
def texts(monkeypatch, tmp_path):
    monkeypatch.setenv("MIDSTREAM_LENSES", str(tmp_path))
    draw = np.random.default_rng(0)
    return [Text(n, f"w{n // 2}", tuple(draw.integers(3, 90, 100).tolist())) for n in range(40)]


def shelf(model, texts, said=None, wanted=WANTED):
    return Shelf(model, texts, wanted, 0, lambda *told: said.append(told) if said is not None else None)


def test_are_made_when_asked_for_and_only_once(tiny, texts):
    said = []
    made = shelf(tiny, texts, said)
    assert list(made) == ["input:0", "input:1"]
    assert len(made) == 2
    assert not said  # nothing is fitted for a look at the names
    lens = made["input:1"]
    assert said[-1][1:] == (100, 100)
    assert lens.kind == "input:1"
    assert lens.layers == (0, tiny.anatomy.layers)
    assert lens.back_off is not None
    said.clear()
    again = shelf(tiny, texts, said)["input:1"]
    assert not said
    torch.testing.assert_close(again.transports[0].weight, lens.transports[0].weight, rtol=0, atol=0)
    more = shelf(tiny, texts, said, Lenses(("input:0", "shortcut"), 3000, WANTED.layers))
    assert missing(tiny, texts, more._given[2], 0)[0].name == "shortcut"  # what another study made is not made again
    assert more["shortcut"].kind == "shortcut"
    assert said[0][0] == "lenses: shortcut"


def test_are_named_by_the_digests_of_their_files(tiny, texts):
    assert digests(tiny, texts, WANTED, 0) == {}
    made = shelf(tiny, texts)
    assert made["input:0"].digest
    assert digests(tiny, texts, WANTED, 0) == {kind: made[kind].digest for kind in WANTED.kinds}


def test_depend_on_what_they_were_fitted_on_and_are_not_the_users(tiny, texts):
    here = place(tiny, texts, WANTED, 0)
    others = [
        place(tiny, texts[1:], WANTED, 0),
        place(tiny, texts, WANTED, 1),
        place(tiny, texts, Lenses(WANTED.kinds, 2000, WANTED.layers), 0),
        place(tiny, texts, Lenses(WANTED.kinds, 3000, lambda blocks: (0,)), 0),
    ]
    assert len({here, *others}) == 5
    assert place(tiny, texts, Lenses(("tuned",), 3000, WANTED.layers), 0) == here
    assert shelf(tiny, texts)["input:0"].about["corpus"]["tokens"] <= 3000
    assert folder.available(tiny) == []


def test_a_fit_that_was_stopped_is_gone_on_with(tiny, texts, monkeypatch):
    read = []
    plain = fit_pass.passage

    def broken(model, ids, window, places):
        read.append(len(ids))
        if len(read) == 60:
            raise RuntimeError("the power went")
        return plain(model, ids, window, places)

    monkeypatch.setattr(fit_pass, "passage", broken)
    with pytest.raises(FitError, match="the power went"):
        shelf(tiny, texts)["input:0"]
    first = len(read)
    lens = shelf(tiny, texts)["input:0"]
    monkeypatch.setattr(fit_pass, "passage", plain)
    assert len(read) - first < first
    home = place(tiny, texts, WANTED, 0)
    assert not list(home.glob("unfinished*"))
    for file in home.glob("*.safetensors"):
        file.unlink()
    whole = shelf(tiny, texts)["input:0"]
    assert lens.about["fit"]["positions"] == whole.about["fit"]["positions"]
    assert lens.about["fit"]["fvu_held"] == pytest.approx(whole.about["fit"]["fvu_held"], rel=1e-4)


def test_what_another_run_fits_is_waited_for_and_not_made_again(tiny, texts, monkeypatch):
    """The lock of another run is held while this one looks; then that run ends, once with the lenses, once without."""
    home, said = place(tiny, texts, WANTED, 0), []
    home.mkdir(parents=True)
    monkeypatch.setattr(study_lenses.time, "sleep", lambda _: study_lenses.os.close(held.pop()))
    held = [study_lenses.lock(home)]
    assert shelf(tiny, texts, said)["input:0"].kind == "input:0"
    assert said[0] == ("waiting for lenses that another run fits", 0, 100)
    assert said[-1] == ("lenses: input:0, input:1", 100, 100)
    digest = digests(tiny, texts, WANTED, 0)
    kept = {kind: (home / study_lenses.parse(kind).file).read_bytes() for kind in WANTED.kinds}
    for kind in WANTED.kinds:
        (home / study_lenses.parse(kind).file).unlink()

    def end(_):
        for kind, data in kept.items():
            (home / study_lenses.parse(kind).file).write_bytes(data)
        study_lenses.os.close(held.pop())

    monkeypatch.setattr(study_lenses.time, "sleep", end)
    held, told = [study_lenses.lock(home)], []
    assert shelf(tiny, texts, told)["input:0"].kind == "input:0"
    assert [what for what, *_ in told] == ["waiting for lenses that another run fits"]
    assert digests(tiny, texts, WANTED, 0) == digest


def test_few_works_are_held_out_of_few(tiny, texts):
    """In turn, no more than the fit needs, whatever a hash of their names would take: once it took 7 of 20."""
    about = shelf(tiny, texts[:20])["input:0"].about
    assert about["corpus"]["documents"] == 20
    assert about["corpus"]["held_out"] == 2  # the two texts of one work of ten, 0.1 of them
    renamed = [Text(text.number, f"another {text.work}", text.ids) for text in texts[:20]]
    held = shelf(tiny, renamed)["input:0"].about["held_out_documents"]
    assert held == about["held_out_documents"]


@given(st.integers(2, 300), st.sampled_from(HELD_OUT_SHARES))
def test_works_are_held_out_in_turn(count, share):
    """As many as the share says and at least one, spread evenly, whatever they are called."""
    names = [f"w{number}" for number in range(count)]
    held = [number for number, name in enumerate(names) if name in _in_turn(names, share)]
    assert len(held) == max(round(share * count), 1)
    gaps = np.diff(held)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
