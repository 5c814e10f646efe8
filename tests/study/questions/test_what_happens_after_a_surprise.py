"""what_happens_after_a_surprise: planted effects are found with their size, planted absences are not."""

from __future__ import annotations

import numpy as np
import pytest

from midstream.study.aftermath import analysis, condition, findings, repeats
from midstream.study.aftermath.panel import Panel
from midstream.study.questions import what_happens_after_a_surprise as question
from midstream.study.questions.what_happens_after_a_surprise import BACK, CHANCE, COPY, GONE, READS
from tests.study.aftermath import world as made
from tests.study.aftermath.world import planted


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(condition.SIZES, "quick", made.SIZE)


def verdicts(model, **effects):
    world, records = planted(model, **effects)
    return {verdict.claim: verdict for verdict in question.analyse(world, {"main": records}).verdicts}


def test_planted_effects_are_found_with_their_size(tiny):
    found = verdicts(tiny, read=0.1, gain=0.2, back=1.5)
    assert {found[claim].found for claim in (READS, CHANCE, COPY, BACK)} == {"supported"}
    for claim, size in ((READS, 0.1), (CHANCE, 0.1), (COPY, 0.2)):
        estimate = found[claim].estimate
        assert estimate.low < size < estimate.high, claim.name
    assert found[BACK].estimate.value == pytest.approx(1.5, abs=1.0)


def test_planted_absences_are_not_found(tiny):
    every = [verdicts(tiny, seed=seed) for seed in range(8)]
    assert sum(found[GONE].found == "refuted" for found in every) <= 1
    for claim in (READS, CHANCE, COPY, BACK):
        # two-sided 5 %: of eight worlds hardly more than one
        assert sum(found[claim].found == "supported" for found in every) <= 1, claim.name


def test_what_the_samples_show_too_is_chance(tiny):
    found = verdicts(tiny, read=0.1, own=0.1)
    assert found[READS].found == "supported"
    assert found[CHANCE].found != "supported"


def followed(world, records):
    return analysis.excess(Panel.of(world, records, "confirm"), [(step, step) for step in range(1, 33)])


def distance(world, records):
    panel = Panel.of(world, records, "confirm")
    one, other = (np.average(panel.surprise, weights=side) for side in (panel.events.high, panel.events.low))
    return one - other


def test_an_excess_is_followed_until_it_is_gone(tiny):
    world, records = planted(tiny, after=0.3)
    found = followed(world, records)
    assert [one.low > 0 for one in found[:4]] == [True] * 4
    # each token is 0.3 of four before it: by a moving average's covariances, 0.3 + 0.27 of 1.36 at the first
    assert found[0].low < 0.57 / 1.36 * distance(world, records) < found[0].high
    assert analysis.gone(found, findings.NOTICEABLE) == 5
    assert analysis.gone(followed(*planted(tiny)), findings.NOTICEABLE) == 1


def test_an_excess_that_stays_is_not_soon_gone(tiny):
    world, records = planted(tiny, after=0.1, steps=range(17, 33))
    found = {verdict.claim: verdict for verdict in question.analyse(world, {"main": records}).verdicts}[GONE]
    assert found.found == "refuted"
    # 0.1 of the 16 from 17 before on, of a variance of 1.16, of which the works' levels take a part
    assert 0.4 < found.estimate.value / (0.1 / 1.16 * distance(world, records)) < 1.1


def test_a_level_of_each_work_is_no_excess(tiny):
    world, records = planted(tiny)
    plain = records["confirm"]
    before = followed(world, records)
    shift = 5.0 * ((plain["document"] - 4000) // 2 % 3)
    moved = records | {"confirm": plain | {"logprob": plain["logprob"] - 1e-3 * shift}}
    after = followed(world, moved)
    assert abs(after[10].value - before[10].value) < 0.05


def test_the_halved_ratio_is_the_difference(tiny):
    world, records = planted(tiny, read=0.1)
    panel = Panel.of(world, records, "confirm")
    weights = analysis.Weights.of(panel, panel.hidden)
    values = findings.costs(panel, records, "confirm", 10, condition.READ)
    whole = analysis.arms(values, weights, 0, "nats").difference
    (one,) = analysis.curve([values], weights, 0, "nats")
    assert one.value == pytest.approx(whole.value, abs=1e-12)
    assert one.high - one.low == pytest.approx(whole.high - whole.low, rel=0.1)


def test_sinks_are_in_no_number(tiny):
    world, records = planted(tiny, read=0.1, gain=0.2)
    plain = records["confirm"]
    at = plain["position"] == 60
    plain["sink"][at] = 1
    broken = {
        name: np.where(at, 1e4, values) for name, values in plain.items() if name.startswith(("layer", "token alone"))
    }
    other = records | {"confirm": plain | broken}
    one, two = (Panel.of(world, each, "confirm") for each in (records, other))
    assert not one.usable[:, 60:62].any()
    assert analysis.gained(one, 15).value == pytest.approx(analysis.gained(two, 15).value, abs=1e-12)
    assert not one.events.high[:, 60:62].any()
    assert not one.events.low[:, 60:62].any()


def test_the_slope_is_found_within_class_and_work(tiny):
    world, records = planted(tiny)
    panel = Panel.of(world, records, "confirm")
    found = repeats.repeats(world, panel)
    used = found.second > 0
    panel.surprise[used] = (2.0 + 0.4 * found.first + found.keys / 10 + np.arange(40)[:, None] // 2)[used]
    estimate = analysis.slope(panel, found)
    assert estimate.value == pytest.approx(-0.4, abs=1e-6)


def test_the_report_says_what_it_found(tiny):
    world, records = planted(tiny, read=0.1)
    report = question.analyse(world, {"main": records})
    assert len({section.chart.name for section in report.sections if section.chart}) == sum(
        1 for section in report.sections if section.chart
    )
    assert report.answer.startswith("Later positions read")
    without = records | {"confirm-hidden": {}, "sampled-hidden": {}}
    assert question.analyse(world, {"main": without}).verdicts[0].found == "undecided"
