"""The toys compared: changes from their own starts at equal loss, paired by seed; what is missed is said."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import study_toys
from rich.console import Console

from midstream.corpus.source import open_corpus
from midstream.run.study import StudyOptions, prepare, run
from midstream.study.aftermath import condition, training
from midstream.study.aftermath.toy import (
    ARM,
    CLAIM,
    PAIRS,
    by_layer,
    difference,
    models,
    overall,
    paired,
    section,
    verdict,
)
from midstream.study.aftermath.training import RECIPES, START, UNSEEN, Size
from midstream.study.questions import what_happens_after_a_surprise as question
from midstream.study.toy import Shape, Training
from midstream.view import study_text
from midstream.view.study_table import table
from tests.study.aftermath import world

SIZE = Size(Shape(16, 3, 2, 12), Training(40, 3, 0.01, 2, last=1.0), (5.0, 4.2), look=3, seeds=2)
ONE, OTHER = PAIRS["decay 0.3 − 0"]
UNSCALED = "decay 0.1, unscaled"


def planted(effect=0.0, seeds=5, missed=(), draw=1):
    """Records of models that differ by seed and layer; the first recipe of the primary pair changes by more."""
    rows = []
    draw = np.random.default_rng(draw)
    for seed in range(UNSEEN, UNSEEN + seeds):
        base, gain = draw.normal(-1, 0.3, 4), draw.normal(-2, 0.5, 4)
        for recipe in RECIPES:
            start = base + 0.8 * (not recipe.scaled)
            noise = draw.normal(0, 0.02, 4)
            more = (effect if recipe.name == ONE else 0.0) * np.arange(4) / 2  # 0, 1/2, 1, 3/2: 1 without the first
            for at, values in ((START, start), (2.35, start + gain / 2), (2.2, start + gain + more + noise)):
                left = np.nan if (recipe.name, seed, at) in missed else 1.0
                rows += [
                    (
                        seed,
                        recipe.name,
                        at,
                        layer,
                        *(left * np.array([value, 1 - np.exp(value), 0.9, 0.5, min(at, 5.6)])),
                    )
                    for layer, value in enumerate(values)
                ]
    names = ("seed", "recipe", "level", "layer", "distance", "centred", "cosine", "agreement", "tune")
    columns = {name: np.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
    n, there = len(rows), columns["tune"] / columns["tune"]
    also = {"step": 400 * there, "positions": 900 * there, "sinks": 0 * there, "matrices": 0.12 * there}
    also |= {"confirm": columns["tune"] + 0.1, "apart": 0.02 * there, "parameters": np.full(n, 420480)}
    return {"toy": {"toy": {**columns, **also, "size": np.full(n, "default")}}}


def cell(made, row, column):
    (found,) = [cells for cells in made.grid.rows if cells[0].startswith(row)]
    return found[made.grid.heading.index(column)]


@pytest.mark.parametrize(
    ("effect", "word", "decided"),
    [
        (-0.4, "more gradually", "supported"),
        (0.4, "less gradually", "refuted"),
        (0.0, "is not told from no difference", "refuted"),
    ],
)
def test_a_planted_effect_is_found_and_a_planted_absence_is_not(effect, word, decided):
    records = planted(effect)
    found = models(records["toy"]["toy"])
    made = overall(difference(found, (ONE, OTHER), 2.2, "distance"))
    assert made.value == pytest.approx(effect, abs=0.03)
    assert made.clusters == 5
    assert made.high - made.low < 0.1  # seeds differ by far more: only paired are they alike
    on = verdict(records)
    assert on.found == decided
    assert (on.estimate.value, on.estimate.low, on.estimate.high) == (made.value, made.low, made.high)
    said = study_text.interval(on.estimate, counts=on.claim.counts)
    assert said == "95 % interval, 5 seeds; t over 5 paired runs"
    assert word in section(records).text[-1]
    assert f"{made.value:+.3f}" in cell(section(records), "decay 0.3 − 0, at 2.2", "log(1 − cosine), no means")
    # an arm without the scale starts 0.8 higher and changes by as much
    other = overall(difference(found, PAIRS["scaled − unscaled"], 2.2, "distance"))
    assert abs(other.value) < 0.03
    chart = section(records).chart
    assert [line.name for line in chart.lines] == [*PAIRS]
    for layer in range(4):
        assert chart.lines[0].y[layer] == pytest.approx(effect * layer / 2, abs=0.04)


def test_what_is_told_from_nothing_is_decided_though_it_is_small():
    assert verdict(planted(-0.1)).found == "supported"
    assert verdict(planted(0.05)).found == "refuted"
    assert pytest.approx(np.log(1.25)) == CLAIM.matters
    assert CLAIM.side == "below"


def test_intervals_hold_as_often_as_they_say_those_of_a_curve_together():
    alone, together = [], []
    for draw in range(200):
        differences = difference(models(planted(0.3, draw=draw)["toy"]["toy"]), (ONE, OTHER), 2.2, "distance")
        one, curve = overall(differences), by_layer(differences)
        assert len(curve) == 4
        alone.append(one.low < 0.3 < one.high)
        together.append(all(made.low < 0.15 * layer < made.high for layer, made in enumerate(curve)))
    assert 0.9 < np.mean(alone) < 0.99
    assert 0.9 < np.mean(together) < 0.99
    first = differences[:, 0]
    reach = 4.3147 * first.std(ddof=1) / 5**0.5  # t with 4 degrees of freedom at 1 - 0.05 / 4 / 2
    assert curve[0].high - curve[0].value == pytest.approx(reach, rel=1e-4)
    assert one.value == pytest.approx(differences[:, 1:].mean())


def test_models_that_missed_a_level_are_left_out_with_their_pair_and_named():
    missed = [(ONE, 3, 2.2), (OTHER, 5, 2.2), (UNSCALED, 2, 2.35)]
    records = planted(-0.4, missed=missed)
    found = models(records["toy"]["toy"])
    assert paired(found, (ONE, OTHER), 2.2) == [2, 4, 6]
    assert paired(found, (ONE, OTHER), 2.35) == [2, 3, 4, 5, 6]
    made = section(records)
    assert "decay 0.1, unscaled, seed 2, 2.35; decay 0, seed 5, 2.2; decay 0.3, seed 3, 2.2. " in made.text[1]
    assert cell(made, "decay 0.3 − 0, at 2.2", "seeds") == "3"
    assert cell(made, "decay 0.3, start to 2.2", "seeds") == "4"
    assert "0.020 nats a byte apart" in made.text[1]
    assert "left out" not in section(planted()).text[1]
    on = verdict(records)
    assert on.found == "undecided"
    assert on.reason == "3 seeds are too few for an interval: at least 5 are needed."
    assert verdict(planted(-0.4, missed=missed[2:])).found == "supported"


def test_a_level_that_nobody_reached_says_nothing():
    records = planted(missed=[(recipe.name, seed, 2.2) for recipe in RECIPES for seed in range(9)])
    made = section(records)
    assert "nothing can be said" in made.text[-1]
    assert made.chart is None
    assert cell(made, "decay 0.3 − 0, at 2.2", "cosine") == "–"
    assert cell(made, "decay 0.3 − 0, at 2.35", "seeds") == "5"
    assert verdict(records).found == "undecided"
    assert verdict(records).estimate.clusters == 0


def test_two_seeds_have_no_interval_and_this_is_said():
    made = section(planted(0.03, seeds=2))
    assert "too few seeds for an interval" in made.text[-1]
    assert "no interval" in cell(made, "decay 0.3 − 0, at 2.2", "cosine")
    assert verdict(planted(0.03, seeds=2)).found == "undecided"


def test_the_section_says_what_was_trained_or_how():
    text = " ".join(section(planted()).text)
    for words in ("420,480 parameters, not GPT-2", "8 blocks of width 64", "5 seeds", "windows of 64", "sqrt(16)"):
        assert words in text
    assert section({"main": {}}).text == (
        "Not run here. midstream study what_happens_after_a_surprise --arm toy trains small models to see.",
    )
    assert verdict({"main": {}}).found == "undecided"
    assert verdict({"main": {}}).reason.startswith("Not run here.")


# ---------------------------------------------------------------- the arm in a study


@pytest.fixture
def study():
    def analyse(on, records):
        made = study_toys.STUDY.analyse(on, {"main": records["main"]})
        return replace(made, sections=(section(records),), verdicts=(*made.verdicts, verdict(records)))

    arms = {"main": study_toys.STUDY.arms["main"], "toy": ARM}
    return replace(study_toys.STUDY, arms=arms, claims=(*study_toys.STUDY.claims, CLAIM), analyse=analyse)


def terminal(report):
    console = Console(width=200, file=io.StringIO())
    console.print(table(report))
    return " ".join(console.file.getvalue().split())


def test_the_arm_runs_is_kept_and_is_taken_into_the_report(tiny, tmp_path, monkeypatch, study):
    monkeypatch.setitem(training.SIZES, "quick", SIZE)
    words = "the quick brown fox jumps over the lazy dog and runs away from it "
    lines = [
        {"text": f"{words}{number} {words}", "work": f"w{number}", "split": ("fit", "reserve", "eval")[number % 3]}
        for number in range(60)
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, lines)))
    corpus = open_corpus(tmp_path / "corpus.jsonl")
    reports = []
    for arm in ("main", "toy", "toy"):
        made = prepare(tiny, study, corpus, StudyOptions(size="quick", arm=arm, force=True))
        assert CLAIM.name not in " ".join((*made.said, made.short))  # its power is not that of works
        reports.append(run(made, tmp_path / "out"))
        if arm == "toy":  # what is kept is not trained again
            monkeypatch.setattr(training, "train", None)
    assert "Not run here" in reports[0].sections[0].text[0]
    (lines, other) = (terminal(report) for report in reports[:2])
    assert "no interval, 0 seeds" in lines
    assert "2 seeds are too few for an interval" in other
    assert "too few for an interval" not in lines
    assert repr(reports[1].sections) == repr(reports[2].sections)  # NaN is not equal to itself
    assert cell(reports[1].sections[0], "decay 0.3 − 0, at 5", "seeds") == "2"
    assert len([*(tmp_path / "out" / "toy" / "toy").glob("*.parquet")]) == 8


def test_the_study_decides_the_claim(tiny, monkeypatch):
    monkeypatch.setitem(condition.SIZES, "quick", world.SIZE)
    on, records = world.planted(tiny)
    for arms, found in (({}, "undecided"), (planted(-0.4), "supported"), (planted(0.4), "refuted")):
        report = question.analyse(on, {"main": records, **arms})
        assert [made.claim for made in report.verdicts] == [*question.STUDY.claims]
        assert report.verdicts[-1].claim == CLAIM
        assert report.verdicts[-1].found == found
