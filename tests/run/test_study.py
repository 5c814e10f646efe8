"""Running a study: sets that share no work, records that are gone on with, refusals before anything is spent."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from conftest import SENTENCES
from study_toys import CLAIM, STUDY

from midstream.corpus.source import open_corpus
from midstream.errors import RequestError
from midstream.run import study as running
from midstream.run.study import StudyOptions, prepare, run, state
from midstream.run.study_text import gather, texts
from midstream.store.refuse import lock
from midstream.study.study import Need

OPTIONS = StudyOptions()


def corpus(folder, works=30, each=2, field=True, name="corpus.jsonl"):
    lines = []
    for work in range(works):
        split = {"split": ("fit", "reserve", "eval")[work % 3]} if field else {}
        for number in range(each):
            text = " ".join([SENTENCES[(work + number) % 4]] * 3) + f" {work} {number}"
            lines.append(json.dumps({"text": text, "work": f"w{work}"} | split))
    (folder / name).write_text("\n".join(lines))
    return folder / name


def wanted(documents, tokens=10):
    return {name: [Need(documents, tokens)] for name in ("fit", "tune", "confirm")}


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_sets_follow_the_field_and_share_no_work(tiny, tmp_path):
    sets = gather(open_corpus(corpus(tmp_path)), wanted(50), cluster=None, seed=0)
    needs = {"fit": Need(50, 10), "tune": Need(13, 10), "confirm": Need(4, 10)}
    found = texts(tiny, sets, needs)
    works = {name: [text.work for text in members] for name, members in found.items()}
    assert sets.by_field
    assert sets.unit == "work"
    assert all(int(work[1:]) % 3 == ("fit", "tune", "confirm").index(name) for name in works for work in works[name])
    assert len(works["tune"]) == 13
    assert len(set(works["tune"])) == 10  # ten works, three of them twice
    assert len(works["fit"]) == 20
    assert all(len(text.ids) == 10 for members in found.values() for text in members)


def test_without_a_field_whole_works_are_drawn(tiny, tmp_path):
    sets = gather(open_corpus(corpus(tmp_path, works=60, field=False)), wanted(60), cluster=None, seed=0)
    homes = {name: set(kept.works) for name, kept in sets.members.items()}
    assert set(homes) == {"fit", "tune", "confirm"}
    assert sum(map(len, homes.values())) == 60
    assert min(map(len, homes.values())) > 8
    other = gather(open_corpus(tmp_path / "corpus.jsonl"), wanted(60), cluster=None, seed=1)
    assert {name: set(kept.works) for name, kept in other.members.items()} != homes


def test_one_document_with_a_set_is_enough_for_the_field_to_count(tmp_path):
    lines = [
        {"text": "a b", "work": f"w{n}", "split": [None, "train", ["fit"], "fit", "eval"][n % 5]} for n in range(20)
    ]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, lines)))
    sets = gather(open_corpus(tmp_path / "some.jsonl"), wanted(9), cluster=None, seed=0)
    assert sets.by_field
    assert sets.outside == 12
    assert set(sets.members["fit"].works) == {f"w{n}" for n in range(3, 20, 5)}
    assert not sets.members["tune"].works


def test_works_are_a_draw_that_no_order_moves_and_memory_is_bounded(tmp_path):
    documents = list(open_corpus(corpus(tmp_path, works=300, each=3, field=False)))
    one = gather(documents, wanted(10), cluster=None, seed=0)
    two = gather(documents[::-1], wanted(10), cluster=None, seed=0)
    for name, kept in one.members.items():
        assert kept.order()[:40] == two.members[name].order()[:40]
        assert len(kept.works) < 80
        assert sum(map(len, kept.works.values())) <= 240
        assert max(len(one.text) for texts in kept.works.values() for one in texts) <= kept.characters


def test_short_documents_take_nobody_s_place(tiny, tmp_path):
    lines = [{"text": SENTENCES[0] * (9 if n % 4 == 0 else 1), "work": f"w{n}", "split": "eval"} for n in range(200)]
    (tmp_path / "short.jsonl").write_text("\n".join(map(json.dumps, lines)))
    needs = {"confirm": [Need(20, 60)]}
    sets = gather(open_corpus(tmp_path / "short.jsonl"), needs, cluster=None, seed=0)
    assert len(texts(tiny, sets, {"confirm": needs["confirm"][0]})["confirm"]) == 20


def test_what_belongs_together_is_named(tmp_path):
    (tmp_path / "plain.txt").write_text("one\n<|endofdoc|>\ntwo")
    assert gather(open_corpus(tmp_path / "plain.txt"), wanted(5), cluster=None, seed=0).unit == "document"
    assert gather(open_corpus(corpus(tmp_path)), wanted(5), cluster="split", seed=0).unit == "split"


def test_a_work_in_two_sets_is_refused(tmp_path):
    (tmp_path / "two.jsonl").write_text(
        "\n".join(json.dumps({"text": "a b", "work": "x", "split": split}) for split in ("fit", "eval"))
    )
    with pytest.raises(RequestError, match="'x' has documents in fit and in confirm"):
        gather(open_corpus(tmp_path / "two.jsonl"), wanted(5), cluster=None, seed=0)


def test_a_document_too_short_is_left_out_and_none_left_is_an_error(tiny, tmp_path):
    sets = gather(open_corpus(corpus(tmp_path)), wanted(50), cluster=None, seed=0)
    assert len(texts(tiny, sets, {"fit": Need(50, 5000, whole=False)})["fit"]) == 20
    with pytest.raises(RequestError, match="5000 tokens or more, with split=reserve"):
        texts(tiny, sets, {"tune": Need(50, 5000)})


def prepared(tiny, tmp_path, **changes):
    return prepare(tiny, STUDY, open_corpus(corpus(tmp_path)), replace(OPTIONS, **changes))


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(tiny, tmp_path, monkeypatch):
    whole = prepared(tiny, tmp_path)
    assert run(whole, tmp_path / "whole").verdicts
    job = prepared(tiny, tmp_path)
    measured = job.ground.keep.setdefault("measured", [])

    def stopped(*given):
        if len(measured) == 7:
            raise KeyboardInterrupt
        return real(*given)

    real = running.write_columns
    monkeypatch.setattr(running, "write_columns", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(job, tmp_path / "parts")
    assert state(tmp_path / "parts", STUDY) == "begun"
    monkeypatch.setattr(running, "write_columns", real)
    again = prepared(tiny, tmp_path)
    first, second = run(again, tmp_path / "parts"), run(whole, tmp_path / "whole")
    assert len(again.ground.keep["measured"]) == 16 - 6
    assert first.verdicts == second.verdicts
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


@pytest.mark.parametrize("damage", [lambda data: data, lambda data: data[:60], lambda data: b""])
def test_a_damaged_file_is_measured_again(tiny, tmp_path, damage):
    run(prepared(tiny, tmp_path), tmp_path / "out")
    before = files(tmp_path / "out")
    target = tmp_path / "out" / "main" / "count" / "confirm-03.parquet"
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 4
    target.write_bytes(damage(data))
    again = prepared(tiny, tmp_path)
    run(again, tmp_path / "out")
    assert again.ground.keep["measured"] == ["confirm-03"]
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("changes", [{"seed": 1}, {"size": "large"}, {"cluster": "split"}])
def test_records_of_another_run_are_not_gone_on_with(tiny, tmp_path, changes):
    run(prepared(tiny, tmp_path), tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(RequestError, match="another"):
        run(prepared(tiny, tmp_path, force=True, **changes), tmp_path / "out")
    assert files(tmp_path / "out") == before


def test_two_runs_do_not_share_a_folder(tiny, tmp_path):
    (tmp_path / "out" / "main").mkdir(parents=True)
    handle = lock(tmp_path / "out" / "main")
    with pytest.raises(RequestError, match="another study is writing"):
        run(prepared(tiny, tmp_path), tmp_path / "out")
    os.close(handle)
    assert run(prepared(tiny, tmp_path), tmp_path / "out")


def test_what_a_killed_run_left_half_done_is_no_matter(tiny, tmp_path):
    (tmp_path / "out" / "main" / ".midstream-0a0b").mkdir(parents=True)
    assert run(prepared(tiny, tmp_path), tmp_path / "out")


def test_a_damaged_plan_says_what_to_do(tiny, tmp_path):
    run(prepared(tiny, tmp_path), tmp_path / "out")
    (tmp_path / "out" / "main" / "plan.json").write_text("{}")
    with pytest.raises(RequestError, match="the study begins anew"):
        run(prepared(tiny, tmp_path), tmp_path / "out")


def test_another_folder_s_things_are_left_alone(tiny, tmp_path):
    (tmp_path / "out" / "main").mkdir(parents=True)
    (tmp_path / "out" / "main" / "thesis.tex").write_text("x")
    with pytest.raises(RequestError, match=r"holds 'thesis.tex' and no study"):
        run(prepared(tiny, tmp_path), tmp_path / "out")


def test_a_size_that_could_miss_what_matters_is_refused_unless_forced(tiny, tmp_path):
    wide = replace(STUDY, claims=(replace(CLAIM, spread=1.0),))
    job = prepare(tiny, wide, open_corpus(corpus(tmp_path)), OPTIONS)
    assert "in 80 % of runs" in " ".join(job.said)
    with pytest.raises(RequestError, match="too small to see an effect that matters"):
        run(job, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run(replace(job, options=replace(OPTIONS, force=True)), tmp_path / "out")
    quick = prepare(tiny, wide, open_corpus(tmp_path / "corpus.jsonl"), replace(OPTIONS, size="quick"))
    assert run(quick, tmp_path / "quick")


def test_a_claim_beside_the_primary_that_could_be_missed_is_named_not_refused(tiny, tmp_path):
    two = replace(STUDY, claims=(CLAIM, replace(CLAIM, name="beside", spread=1.0)))
    job = prepare(tiny, two, open_corpus(corpus(tmp_path)), OPTIONS)
    assert not job.short
    assert "of beside (" in job.weak
    job = replace(job, study=STUDY)  # its analysis decides one claim
    assert job.weak in run(job, tmp_path / "out").about


def test_an_arm_of_its_own_joins_the_report_of_the_main_one(tiny, tmp_path):
    assert run(prepared(tiny, tmp_path, arm="side"), tmp_path / "out") is None
    assert "side arm saw 32 tokens" in run(prepared(tiny, tmp_path), tmp_path / "out").answer
    assert "side arm saw 32 tokens" in run(prepared(tiny, tmp_path, arm="side"), tmp_path / "out").answer
    other = prepared(tiny, tmp_path, seed=5)
    assert "side arm" not in run(other, tmp_path / "new").answer


def test_an_arm_of_another_run_stays_out_of_the_report(tiny, tmp_path):
    run(prepared(tiny, tmp_path, arm="side"), tmp_path / "out")
    assert "side arm" not in run(prepared(tiny, tmp_path, cluster="split", force=True), tmp_path / "out").answer
    (tmp_path / "out" / "side" / "aside" / "tune-01.parquet").unlink()
    again = tmp_path / "again"
    run(prepared(tiny, tmp_path), again)
    run(prepared(tiny, tmp_path, arm="side"), again)
    (again / "side" / "aside" / "tune-01.parquet").unlink()
    assert "side arm" not in run(prepared(tiny, tmp_path), again).answer


def test_trouble_with_another_arm_costs_no_report(tiny, tmp_path):
    run(prepared(tiny, tmp_path, arm="side"), tmp_path / "out")
    (tmp_path / "out" / "side" / "plan.json").write_text("{}")
    found = run(prepared(tiny, tmp_path), tmp_path / "out")
    assert "side arm" not in found.answer
    assert "arm side of this folder is left out" in " ".join(found.about)


def test_reports_that_are_no_study_s_are_not_overwritten(tiny, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.md").write_text("mine")
    with pytest.raises(RequestError, match=r"report\.md"):
        run(prepared(tiny, tmp_path), tmp_path / "mine")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError, match="cannot write"):
        run(prepared(tiny, tmp_path), tmp_path / "file")


def test_quick_and_forced_runs_say_so_in_the_report(tiny, tmp_path):
    assert "quick run" in run(prepared(tiny, tmp_path, size="quick"), tmp_path / "quick").caveat
    wide = replace(STUDY, claims=(replace(CLAIM, spread=1.0),))
    job = prepare(tiny, wide, open_corpus(corpus(tmp_path)), replace(OPTIONS, force=True))
    assert "Forced" in run(job, tmp_path / "forced").caveat
    assert not run(prepared(tiny, tmp_path), tmp_path / "whole").caveat


def test_the_report_says_where_it_comes_from(tiny, tmp_path):
    job = prepared(tiny, tmp_path)
    made = run(job, tmp_path / "out", command="midstream study").provenance
    assert made.identity == tiny.fingerprint.identity
    assert made.corpus == job.sets.digest
    assert made.settings["size"] == "default"
    assert made.command == "midstream study"


@pytest.mark.parametrize(
    ("changes", "said"), [({"arm": "leg"}, "main"), ({"size": "huge"}, "quick"), ({"seed": -1}, "0")]
)
def test_what_is_asked_wrongly_is_refused_before_the_work(tiny, tmp_path, changes, said):
    with pytest.raises(RequestError, match=said):
        prepared(tiny, tmp_path, **changes)
