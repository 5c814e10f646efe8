"""What a window gives to a fit: the right rows at the right positions; and what the KL stage samples."""

from __future__ import annotations

import random

import pytest
import torch
from conftest import SENTENCES

from midstream.corpus.source import open_corpus
from midstream.lens import passage as passages
from midstream.lens.fit.kl import STEP
from midstream.lens.kind import parse
from midstream.readout.read import top1
from midstream.readout.reader import output_reader
from midstream.run import fit_pass
from midstream.run.fit_pass import Lookout, calibration, usable
from midstream.run.fit_plan import FitOptions, plan
from midstream.run.fit_refine import EPOCHS, SAMPLE, _View, planned, sample


@pytest.fixture(scope="module")
def lookout(tiny, tmp_path_factory):
    draw = random.Random(0)
    words = " ".join(SENTENCES).split()
    texts = [" ".join(draw.choice(words) for _ in range(draw.randint(10, 300))) for _ in range(30)]
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n<|endofdoc|>\n".join(texts))
    kinds = tuple(map(parse, ("tuned", "future:2", "input:3")))
    return Lookout(tiny, plan(tiny, open_corpus(path), FitOptions(kinds, layers=(0, 4, 30), tokens=4000)))


def test_rows_stand_where_they_should(lookout, tiny):
    windows = [unit for unit in lookout.plan.units if unit.window.start > 0]
    assert windows  # a document longer than the context
    keys, targets = lookout.plan.inputs(), lookout.plan.targets
    assert targets == ("final:0", "final:2", "row:3")
    for unit in (windows[0], lookout.plan.units[0]):
        seen = lookout.passage(unit, lookout.places(keys))
        at = usable(lookout.plan, seen)
        assert len(at) == unit.usable
        rows = lookout.rows(seen, at, keys, targets)
        ids = torch.from_numpy(unit.document.ids[unit.window.start : unit.window.stop]).long()
        final = seen.stream[30, "resid_post"]
        for row, position in enumerate(at.tolist()):
            torch.testing.assert_close(rows.x["stream", 4][row], seen.stream[4, "resid_post"][position])
            torch.testing.assert_close(rows.y["final:0"][row], final[position])
            torch.testing.assert_close(rows.y["final:2"][row], final[position + 2])
            torch.testing.assert_close(rows.y["row:3"][row], tiny.anatomy.input_rows(ids[position - 3]))
            newest = tiny.anatomy.input_rows(ids[[position, position - 1, position - 2, position - 3]])
            torch.testing.assert_close(rows.x["tokens", 0][row], newest.flatten())
            torch.testing.assert_close(rows.x["token", 0][row], newest[0])
            norms = torch.stack([final[position], final[position + 2]]).norm(dim=1)
            assert float(rows.last[row]) == pytest.approx(float(norms.max()))


def test_rows_that_follow_each_other_are_not_copied():
    rows = torch.randn(20, 3)
    together = fit_pass._taken(rows, torch.arange(4, 17))
    assert torch.equal(together, rows[4:17])
    assert together.untyped_storage().data_ptr() == rows.untyped_storage().data_ptr()
    for at in ([3, 5, 6], [5, 4, 3], [3, 3, 5], [7], []):
        at = torch.tensor(at, dtype=torch.int64)
        assert torch.equal(fit_pass._taken(rows, at), rows[at])


def test_every_window_gives_back_what_the_last_has_freed(lookout, monkeypatch):
    calls = []
    monkeypatch.setattr(passages, "give_back", lambda: calls.append(1))
    for unit in lookout.plan.units[:3]:
        lookout.passage(unit, [(0, "resid_post")])
    assert len(calls) == 3


def test_answers_are_the_models_own_later_choice_and_the_earlier_token(lookout, tiny):
    unit = lookout.plan.units[0]
    seen = lookout.passage(unit, lookout.places(lookout.plan.inputs()))
    at = usable(lookout.plan, seen)[:1]
    reader = output_reader(tiny.anatomy)
    found = lookout.answers(reader, seen, at, ["final:2", "row:3"])
    size, here = tiny.anatomy.vocabulary, int(at)
    choice = int(top1(reader, reader.prepare(seen.stream[30, "resid_post"][here + 2 : here + 3])))
    pair = int(seen.ids[here - 1]) * size + int(seen.ids[here])
    assert found["final:2"].codes.tolist() == [pair * size + choice]
    assert found["row:3"].codes.tolist() == [pair * size + int(seen.ids[here - 3])]


@pytest.mark.parametrize(("wanted", "stride"), [(600, 2), (1500, 2), (10**6, 1)])
def test_the_sample_is_spread_over_documents(lookout, wanted, stride):
    chosen = sample(lookout, held=False, wanted=wanted)
    assert chosen.stride == stride
    assert chosen.most == min(wanted, chosen.most)
    assert not any(unit.document.held for unit in chosen.units)
    numbers = [unit.document.number for unit in chosen.units]
    assert numbers == sorted(numbers)
    if stride == 2:  # the openings of documents suffice
        assert all(unit.window.start == 0 for unit in chosen.units)
    else:
        usable_ones = sum(unit.usable for unit in lookout.plan.units if not unit.document.held)
        assert chosen.most == usable_ones
    fitted = [document.number for document in lookout.plan.documents if not document.held]
    assert max(numbers) > fitted[len(fitted) * 2 // 3]
    fixed = calibration(lookout, lambda _: None)
    view = _View(lookout, output_reader(lookout.model.anatomy), 2, (("stream", 4), ("token", 0)), fixed)
    sizes = [len(batch.final) for batch in view.batches(chosen, torch.Generator().manual_seed(0), STEP)]
    assert sum(sizes) == chosen.most
    assert all(size == STEP for size in sizes[:-1])
    twice = [len(batch.final) for batch in view.epochs(chosen, torch.Generator().manual_seed(0), 2 * chosen.most + 1)]
    assert sum(twice) == 2 * chosen.most + 1


def test_a_cheap_model_sees_its_text_several_times_and_a_dear_one_the_sample():
    assert planned("tuned", 90_000, 1e6) == EPOCHS * 90_000
    assert planned("tuned", 90_000, 1e12) == SAMPLE["tuned"]
    assert planned("tuned", 48_000, 1e12) == 12_000
    assert planned("future", 500, 1e12) == 500
