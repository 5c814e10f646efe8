"""``midstream study``: lists, runs, goes on, refuses."""

from __future__ import annotations

import json

import pytest
from study_toys import STUDY

from midstream.study import catalog
from midstream.study.study import Need
from tests.run.test_study import corpus


@pytest.fixture
def even(monkeypatch):
    """A study that costs nothing in the place of the real ones."""
    monkeypatch.setattr(catalog, "study", lambda name: STUDY)
    return "even_tokens"


@pytest.fixture
def study(midstream, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus(tmp_path)
    return lambda *words: midstream("study", *words, "--model", str(tiny_folder))


def test_all_are_listed_with_their_questions_and_minutes(midstream, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = midstream("study")
    assert done.exit_code == 0
    for name in catalog.NAMES:
        assert name in done.stdout
    assert "not run" in done.stdout


def test_a_run_says_what_it_takes_and_leaves_a_report(study, even, tmp_path):
    done = study(even, "--corpus", "corpus.jsonl")
    assert done.exit_code == 0, done.stderr
    assert "12 passes of a text" in done.stderr
    assert "in 80 % of runs" in done.stderr
    assert (tmp_path / "studies" / even / "report.html").stat().st_size > 1000
    before = (tmp_path / "studies" / even / "report.json").read_text()
    assert json.loads(before)["name"] == even
    assert study(even, "--corpus", "corpus.jsonl").exit_code == 0
    listed = study()
    assert "even_tokens" not in listed.stdout  # only what NAMES holds is listed
    assert study("--report", "studies").exit_code == 0
    assert (tmp_path / "studies" / "index.html").exists()


def test_ctrl_c_says_that_what_was_measured_is_kept(study, even, monkeypatch):
    def stopped(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("midstream.run.study.write_columns", stopped)
    done = study(even, "--corpus", "corpus.jsonl")
    assert done.exit_code == 130
    assert "the same command goes on" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("no_such_study", "--corpus", "corpus.jsonl"), "does_anchoring_help"),
        (("does_anchoring_help",), "--corpus FILE"),
        (("does_anchoring_help", "--corpus", "nothing.jsonl"), "nothing.jsonl"),
        (("does_anchoring_help", "--corpus", "corpus.jsonl", "--arm", "leg"), "main"),
        (("does_anchoring_help", "--corpus", "corpus.jsonl", "--seed", "-1"), "seed"),
        (("--report", "nowhere"), "no such folder"),
    ],
)
def test_a_wrong_request_is_a_sentence(study, words, said):
    done = study(*words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_real_one_runs_from_text_to_report(study, tmp_path, monkeypatch):
    from midstream.study.questions import does_anchoring_help as question

    small = {"fit": Need(16, 24), "tune": Need(6, 48), "confirm": Need(10, 48)}
    monkeypatch.setitem(question.STUDY.arms["main"].needs, "quick", small)
    corpus(tmp_path, works=60)
    done = study("does_anchoring_help", "--corpus", "corpus.jsonl", "--quick", "--out", "here")
    assert done.exit_code == 0, done.stderr
    report = json.loads((tmp_path / "here" / "report.json").read_text())
    assert [verdict["claim"]["name"] for verdict in report["verdicts"]] == ["after a surprise", "helps"]
    assert {section["title"] for section in report["sections"]} >= {"Attention sinks", "In generation"}
    text = (tmp_path / "here" / "report.md").read_text()
    for name in ("Feedback Transformer", "XLNet", "Xiao"):
        assert name in text
