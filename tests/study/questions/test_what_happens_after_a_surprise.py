"""what_happens_after_a_surprise: planted effects are found with their size, planted absences are not."""

from __future__ import annotations

import numpy as np
import pytest

from midstream.interval import ratio
from midstream.study.aftermath import analysis, condition, findings, lens_findings, repeats, slopes
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


def estimates(world, records):
    verdicts = question.analyse(world, {"main": records}).verdicts
    return {verdict.claim: verdict.estimate for verdict in verdicts}


def distance(world, records):
    return slopes.distance(Panel.of(world, records, "confirm"))


def test_planted_effects_are_found_with_their_size(tiny):
    world, records = planted(tiny, read=0.03, gain=0.2, back=-0.3)
    verdicts = question.analyse(world, {"main": records}).verdicts
    found = {verdict.claim: verdict for verdict in verdicts}
    assert {found[claim].found for claim in (READS, CHANCE, COPY)} == {"supported"}
    assert found[BACK].found == "refuted"
    times = distance(world, records)
    for claim, size in ((READS, 0.03 * times), (CHANCE, 0.03 * times), (COPY, 0.2), (BACK, -0.3)):
        estimate = found[claim].estimate
        assert estimate.low < size < estimate.high, claim.name
    assert question.analyse(*_main(planted(tiny, back=0.5))).verdicts[3].found == "supported"


def _main(made_):
    world, records = made_
    return world, {"main": records}


def test_planted_absences_are_not_found(tiny):
    every = [verdicts(tiny, seed=seed) for seed in range(8)]
    assert sum(found[GONE].found == "refuted" for found in every) <= 1
    for claim in (READS, CHANCE, COPY, BACK):
        # two-sided 5 %: of eight worlds hardly more than one
        assert sum(found[claim].found == "supported" for found in every) <= 1, claim.name


def test_what_the_samples_show_too_is_chance(tiny):
    found = verdicts(tiny, read=0.03, own=0.03)
    assert found[READS].found == "supported"
    assert found[CHANCE].found != "supported"


def test_what_any_position_costs_in_a_hard_place_is_not_reading(tiny):
    world, records = planted(tiny, hard=0.03)
    assert findings.Hidden.of(world, records).place.low < 0 < findings.Hidden.of(world, records).place.high
    assert estimates(world, records)[READS].low < 0


def test_what_hiding_costs_in_proportion_in_a_hard_place_is_taken_off_with_the_ratio(tiny):
    world, records = planted(tiny, hard=0.03)
    columns = records["confirm-hidden"]
    columns["cost"] = columns["cost"] * np.where(columns["hidden"] == condition.READ, 5.0, 1.0)
    found = findings.Hidden.of(world, records)
    assert found.read.low > 0
    assert found.ratio == pytest.approx(5, rel=0.2)
    assert found.scaled.low < 0 < found.scaled.high
    rows = [row[0] for row in findings.hidden(world, records, found).grid.rows]
    assert f"i + 1 less {found.ratio:.1f} times the near one, the texts" in rows


def test_verdicts_count_the_tokens_that_are_used(tiny):
    world, records = planted(tiny, read=0.03, gain=0.2)
    panel, found = Panel.of(world, records, "confirm"), estimates(world, records)
    used = panel.usable.sum(1)
    assert found[COPY].tokens == used.sum()
    assert found[COPY].largest_share == max(used.reshape(20, 2).sum(1)) / used.sum()
    again = (repeats.repeats(world, panel).second > 0).sum()
    for claim, most in ((READS, findings.usable(panel).sum()), (BACK, again), (GONE, panel.usable.sum())):
        assert 0.5 * most < found[claim].tokens <= most, claim.name


def test_the_layer_is_chosen_on_other_works_and_refits_are_counted(tiny):
    world, records = planted(tiny, gain=0.2, shaky=0.5)
    (_, other) = planted(tiny, gain=0.1)
    for refit in ("", *(f", refit {number}" for number in range(4))):
        # the works that choose like layer 15 best; those that decide would have had layer 22
        records["tune"][f"layer 22{refit}"] = records["tune"][f"without the stream{refit}"]
        records["tune"][f"layer 30{refit}"] = records["tune"][f"without the stream{refit}"]
        records["confirm"][f"layer 15{refit}"] = other["confirm"][f"without the stream{refit}"]
    panel = Panel.of(world, records, "confirm")
    assert analysis.best(panel, [0, 8, 15, 22, 30]) != 15
    found = estimates(world, records)[COPY]
    assert found.value == pytest.approx(analysis.gained(panel, 15).value, abs=1e-12)
    assert found.value < 0.05
    sums, counts = analysis.gain(panel, [22])
    bare = ratio(sums[0], counts, clusters=panel.works, generator=panel.draw(), unit="R²")
    wide = analysis.gained(panel, 22)
    assert wide.high - wide.low > 1.5 * (bare.high - bare.low)


def followed(world, records):
    panel = Panel.of(world, records, "confirm")
    return slopes.excess(panel, [(step, step) for step in range(1, 33)], slopes.distance(panel))


def test_an_excess_is_followed_until_it_is_gone(tiny):
    world, records = planted(tiny, after=0.3)
    found = followed(world, records)
    assert [one.low > 0 for one in found[:4]] == [True] * 4
    # each token is 0.3 of four before it: by a moving average's covariances, 0.3 + 0.27 of 1.36 at the first
    assert found[0].low < 0.57 / 1.36 * distance(world, records) < found[0].high
    assert slopes.untold(found) == 4
    assert slopes.untold(followed(*planted(tiny))) == 0


@pytest.mark.parametrize(("last", "token"), [(1, "2"), (2, "3 to 4")])
def test_the_report_counts_from_the_first_token_after(tiny, last, token):
    world, records = planted(tiny, after=0.3, steps=range(1, last + 1))
    text = findings.excess(world, records, GONE.matters).text[1]
    assert f"in the texts it first cannot be told from 0 at token {token}, " in text


def test_an_excess_that_stays_is_not_soon_gone(tiny):
    world, records = planted(tiny, after=0.1, steps=range(17, 33))
    found = {verdict.claim: verdict for verdict in question.analyse(world, {"main": records}).verdicts}[GONE]
    assert found.found != "supported"
    assert found.estimate.low > 0
    assert found.estimate.value > GONE.matters


def test_a_level_of_each_document_is_no_excess(tiny):
    every = [planted(tiny, documents=1.0, seed=seed) for seed in range(4)]
    found = [estimates(world, records)[GONE] for world, records in every]
    assert abs(np.mean([one.value for one in found])) < 0.06
    assert sum(one.low > 0 for one in found) <= 1
    bare = []
    for world, records in every:
        panel = Panel.of(world, records, "confirm")
        sums = slopes.slopes(panel, [slopes.later(panel, (17, 32))], panel.usable)
        bare.append(slopes.effects(panel, sums, distance(world, records))[0].value)
    assert np.mean(bare) > 0.15  # works alone have levels there


def test_the_curves_are_of_the_sides_that_they_name(tiny):
    world, records = planted(tiny, kept=0.7)
    shares, writes = (section.chart for section in lens_findings.kept(world, records))
    level = {line.name: np.mean(line.y) for line in shares.lines}
    assert level["the token at i + 1, surprising"] > 0.5 > level["the token at i + 1, matched"]
    assert {line.role for line in shares.lines if line.name.endswith("surprising")} == {"main"}
    assert len(writes.lines) == 4
    rows = {(row[0], row[1]): row for row in lens_findings.kept(world, records)[0].grid.rows}
    assert rows["the texts", "15"][2].startswith("+0.")
    records["confirm-deep"]["attn_out"][:] = np.nan  # a family that adds both at once and does not tell them apart
    records["confirm-deep"]["mlp_out"][:] = np.nan
    assert len(lens_findings.kept(world, records)) == 1


def test_the_halved_ratio_is_the_difference(tiny):
    world, records = planted(tiny, read=0.03)
    panel = Panel.of(world, records, "confirm")
    weights = analysis.Weights.of(panel, panel.hidden)
    values = findings.costs(panel, records, "confirm", 10, condition.READ)
    whole = analysis.arms(values, weights, 0, "nats").difference
    (one,) = analysis.curve([values], weights, 0, "nats")
    assert one.value == pytest.approx(whole.value, abs=1e-12)
    assert one.high - one.low == pytest.approx(whole.high - whole.low, rel=0.1)


def test_sinks_are_in_no_number(tiny):
    world, records = planted(tiny, read=0.03, gain=0.2)
    plain = records["confirm"]
    at = plain["position"] == 60
    plain["sink"][at] = 1
    broken = {
        name: np.where(at, 1e4, values) for name, values in plain.items() if name.startswith(("layer", "without"))
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
    estimate = slopes.returned(panel, found)
    assert estimate.value == pytest.approx(-0.4, abs=1e-6)


def test_the_report_says_what_it_found(tiny):
    world, records = planted(tiny, read=0.03)
    report = question.analyse(world, {"main": records})
    assert len({section.chart.name for section in report.sections if section.chart}) == sum(
        1 for section in report.sections if section.chart
    )
    assert report.answer.startswith("Later positions read")
    assert "more than at the position that guessed it wrongly (difference +0." in report.answer
    assert "show less of it (difference +0." in report.answer
    assert "17 to 32 tokens later" in report.answer
    assert report.answer.count(". ") == 2
    same = question.analyse(*_main(planted(tiny, read=0.03, own=0.05))).answer
    assert "Text does not show it more, by 0.05 nats, than the model's own samples" in same
    without = records | {"confirm-hidden": {}, "sampled-hidden": {}}
    assert question.analyse(world, {"main": without}).verdicts[0].found == "undecided"
