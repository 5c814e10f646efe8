"""does_anchoring_help: what is measured is what is said, planted effects are found, planted absences are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from midstream.errors import RequestError
from midstream.record import Estimate
from midstream.sample.anchor import Anchor, anchored
from midstream.stream.capture import capture
from midstream.stream.vector import sinks
from midstream.study.anchoring import generation, measure
from midstream.study.anchoring.analysis import Best, Panel, best_of
from midstream.study.anchoring.condition import (
    CONTROLS,
    GUESS,
    OWN,
    RANDOM,
    ROTATED,
    TRUE,
    Condition,
    declared,
    layers,
    refits,
    tried,
)
from midstream.study.displace import angle
from midstream.study.output import ids_of, logprobs
from midstream.study.questions import does_anchoring_help as question
from midstream.study.study import Ground, Text
from midstream.study.verdict import decide
from tests.sample.test_generate import model

T = 40


def texts(count, first=0, tokens=T):
    draw = np.random.default_rng(first)
    return [Text(first + n, f"w{first + n // 2}", tuple(draw.integers(3, 90, tokens).tolist())) for n in range(count)]


@pytest.fixture(scope="module")
def ground(tiny):
    return Ground(tiny, {"fit": texts(20, 100), "tune": texts(4, 200), "confirm": texts(14, 300)}, "quick", 0)


def rows(columns, name, count):
    at = columns["condition"] == name
    return columns["logprob"][at].reshape(count, -1)


def test_the_true_condition_is_the_anchor_of_generation_on_given_text(ground):
    four = ground.texts["tune"]
    ids = ids_of(ground, four)
    condition = Condition(15, 0.3, "embedding")
    h = capture(ground.model, ids, layers=[15])[15]
    final = anchored(
        ground.model, ids, Anchor(15, 0.3, ground.model.anatomy.input_rows), ~sinks(h), [(30, "resid_post")]
    )[30, "resid_post"]
    expected, _ = logprobs(ground, final[:, :-1], ids[:, 1:])
    found = measure.moved(ground, four, [condition], 5.0)
    np.testing.assert_allclose(rows(found, condition.name, 4), expected, atol=1e-4)


def test_strength_0_changes_nothing_and_sinks_do(ground):
    four = ground.texts["tune"]
    plain = measure.plain(ground, four)["logprob"].reshape(4, -1)
    none = [Condition(15, 0.0, vector, token) for vector in ("embedding", "expected") for token in (TRUE, *CONTROLS)]
    found = measure.moved(ground, four, none, 5.0)
    for condition in none:
        np.testing.assert_allclose(rows(found, condition.name, 4), plain, atol=1e-5)
    two = [Condition(15, 0.3, "embedding"), Condition(15, 0.3, "embedding", sinks=True)]
    found = measure.moved(ground, four, two, 5.0)
    left, moved = (rows(found, condition.name, 4) for condition in two)
    assert np.abs(left[:, 0] - moved[:, 0]).max() < 1e-6  # position 0 predicts from the stream as it is
    assert np.abs(left[:, 1] - moved[:, 1]).max() > 1e-4  # and position 1 sees it moved


def test_every_control_is_displaced_by_the_same_angle_at_the_same_length(ground):
    four = ground.texts["tune"]
    ids = ids_of(ground, four)
    h = capture(ground.model, ids, layers=[15])[15][:, :-1]
    draw = torch.Generator().manual_seed(0)
    other = torch.randint(3, 90, ids[:, 1:].shape, generator=draw)
    tokens = {TRUE: ids[:, 1:], OWN: ids[:, :-1], GUESS: other, RANDOM: other.roll(1), ROTATED: ids[:, 1:]}
    true = measure.moves(ground, h, Condition(15, 0.3, "embedding"), tokens)
    for token in CONTROLS:
        moved = measure.moves(ground, h, Condition(15, 0.3, "embedding", token), tokens)
        torch.testing.assert_close(angle(h, moved), angle(h, true), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(moved.norm(dim=-1), h.norm(dim=-1), rtol=1e-4, atol=0)
        assert float((moved - true).norm()) > 0.1


def test_the_rule_moves_only_after_surprises(ground):
    four = ground.texts["tune"]
    plain = measure.plain(ground, four)["logprob"].reshape(4, -1)
    some = Condition(15, 0.3, "embedding", rule="surprise")
    threshold = float(np.quantile(-plain, 0.9))
    found = rows(measure.moved(ground, four, [some], threshold), some.name, 4)
    for row in range(4):
        first = int(np.argmax(-plain[row] > threshold)) if (-plain[row] > threshold).any() else T
        np.testing.assert_allclose(found[row, : first + 1], plain[row, : first + 1], atol=1e-5)
    assert np.abs(found - plain).max() > 1e-4
    nothing = rows(measure.moved(ground, four, [some], 1e9), some.name, 4)
    np.testing.assert_allclose(nothing, plain, atol=1e-5)


def test_a_random_token_is_never_the_true_one_and_the_same_whatever_the_batch(ground):
    four = ground.texts["tune"]
    ids = ids_of(ground, four)
    drawn = measure._random(ground, four, ids)
    assert not bool((drawn == ids[:, 1:]).any())
    assert torch.equal(measure._random(ground, four[2:], ids[2:]), drawn[2:])


def test_expected_is_the_least_squares_of_the_stream_on_the_next_token(ground):
    layer = layers(30)[-1]
    maps = measure.maps(ground)
    # the same map, fitted again by the plainest way on the same positions: no ridge to speak of is chosen on this few
    kept = ground.texts["fit"]
    works = {work: n for n, work in enumerate(dict.fromkeys(text.work for text in kept))}
    seen = [text for text in kept if works[text.work] % 8 != 7]
    batches = list(measure._rows(ground, seen))
    x = torch.cat([rows["token", 1] for rows, _, _ in batches])
    y = torch.cat([targets[f"layer:{layer}"] for _, targets, _ in batches]).double()
    a = torch.cat([x, torch.ones(len(x), 1)], dim=1).double()
    got = maps[True, layer, -1](x).double()
    plain = a @ torch.linalg.lstsq(a, y).solution
    spread = (y - y.mean(0)).norm()
    assert float((got - plain).norm() / spread) < 0.5
    assert not torch.equal(maps[True, layer, 0].weight, maps[True, layer, 1].weight)
    assert not torch.equal(maps[True, layer, -1].weight, maps[False, layer, -1].weight)


def planted(ground, after_surprise=0.0, whole=0.0, seed=0):
    """Records as the stages would leave them, with effects of known size."""
    draw = np.random.default_rng(seed)
    members = {name: texts(30, start, 128) for name, start in (("tune", 2000), ("confirm", 4000))}
    world = Ground(ground.model, {"tune": members["tune"], "confirm": members["confirm"]}, "quick", seed)
    plain, moved = [], {"grid": [], "confirm": []}
    last = ground.model.anatomy.layers
    chosen = Condition(layers(last)[1], 0.1, "embedding")
    for name, stage in (("tune", "grid"), ("confirm", "confirm")):
        n, p = len(members[name]), 127
        surprise = draw.exponential(2.0, (n, p))
        own = np.repeat(draw.normal(0, 0.004, n // 2), 2)[:, None]
        target = draw.integers(0, 20, (n, p))
        threshold = np.quantile(surprise, 0.9)
        near = np.zeros((n, p))
        for lag in range(1, 17):
            near[:, lag:] += surprise[:, :-lag] > threshold
        columns = {
            "document": np.repeat([text.number for text in members[name]], p).astype(np.int32),
            "position": np.tile(np.arange(p, dtype=np.int32), n),
        }
        plain.append(
            columns
            | {
                "target": target.reshape(-1).astype(np.int32),
                "sink": np.zeros(n * p, np.int16),
                "logprob": -surprise.reshape(-1),
            }
        )
        first = declared(last)
        sunk = [replace(first, token=token, sinks=True) for token in (TRUE, RANDOM)]
        confirm = [first, *first.controls(), *sunk, chosen, *chosen.controls(), *tried(world)]
        for condition in list(tried(world)) if stage == "grid" else list(dict.fromkeys(confirm)):
            cost = own + draw.normal(0, 0.02, (n, p)) + 0.05 * (condition != chosen)
            if condition == chosen:
                cost = cost + whole + after_surprise * near
            moved[stage].append(
                columns | {"condition": np.full(n * p, condition.name), "logprob": (-surprise - cost).reshape(-1)}
            )
    gather = lambda parts: {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}  # noqa: E731
    names = [f"{how}, {name}" for how in generation.CHOICES for name in ("plain", first.name, chosen.name)]
    numbers = [text.number for text in members["confirm"][:12]]
    made = {"document": np.tile(np.array(numbers, np.int32), len(names)), "condition": np.repeat(names, 12)}
    made |= {key: draw.random(12 * len(names)) for key in ("distinct_2", "distinct_3", "repeated", "logprob")}
    records = {"plain": gather(plain), "grid": gather(moved["grid"]), "confirm": gather(moved["confirm"])}
    return world, records | {"generation": made}, chosen


def test_a_planted_effect_after_surprises_is_found_with_its_size(ground):
    world, records, chosen = planted(ground, after_surprise=-0.05)
    assert best_of(world, records) == (chosen, chosen)
    report = question.analyse(world, {"main": records})
    after = report.verdicts[0]
    assert after.found == "supported"
    # a surprise's own effect on the 16 tokens after it, as against positions with their share of others'
    assert after.estimate.low < -0.05 < after.estimate.high
    assert report.answer.startswith("After a surprise the true token's anchor gains more")


def test_a_planted_absence_is_not_found(ground):
    found = []
    for seed in range(8):
        world, records, _ = planted(ground, whole=0.002, seed=seed)
        found.append(question.analyse(world, {"main": records}))
    assert all(report.verdicts[1].found == "refuted" for report in found)
    # two-sided 5 %: of eight worlds hardly more than one
    assert sum(report.verdicts[0].found == "supported" for report in found) <= 1


def test_help_that_is_everywhere_helps_but_not_after_surprises_alone(ground):
    world, records, _ = planted(ground, whole=-0.03)
    report = question.analyse(world, {"main": records})
    assert report.verdicts[1].found == "supported"
    assert report.verdicts[1].estimate.value == pytest.approx(-0.03, abs=0.01)
    assert report.verdicts[0].found != "supported"


def test_refits_widen_the_interval(ground):
    world, records, chosen = planted(ground, whole=-0.03)
    panel = Panel.of(world, records, "confirm", "confirm")
    best = replace(chosen, vector="expected")
    for quarter, pair in enumerate(refits(best)):
        for one in pair:
            base = panel.moved[replace(one, vector="embedding", refit=-1).name].astype(float).copy()
            base[len(base) // 2 :] = np.nan  # only some texts are run again
            panel.moved[one.name] = base + 0.02 * (-1) ** quarter * (one.token == TRUE)
    for one in (best, replace(best, token=RANDOM)):
        panel.moved[one.name] = panel.moved[replace(one, vector="embedding").name]
    plain, wide = panel.whole(best), panel.whole(best, again=True)
    assert wide.value == plain.value
    assert wide.high - wide.low > 1.5 * (plain.high - plain.low)
    assert panel.gained(best, again=True).contrast.value == panel.gained(best).contrast.value


def test_refits_keep_the_surprises_of_all_texts(ground):
    world, records, chosen = planted(ground, after_surprise=-0.05)
    panel = Panel.of(world, records, "confirm", "confirm")
    best = replace(chosen, vector="expected")
    for pair in refits(best):
        for one in pair:
            base = panel.moved[replace(one, vector="embedding", refit=-1).name].astype(float).copy()
            base[4:] = np.nan
            panel.moved[one.name] = base
    part = panel._part([one for pair in refits(best) for one in pair])
    assert part.events.threshold == panel.events.threshold
    np.testing.assert_array_equal(part.events.high, panel.events.high[:4])


def test_an_output_without_numbers_is_refused_and_counts_for_no_effect(ground):
    two = ground.texts["tune"][:2]
    ids = ids_of(ground, two)
    h = torch.full((2, T, ground.model.anatomy.width), float("nan"))
    with pytest.raises(RequestError, match="NaN or infinity"):
        logprobs(ground, h[:, :-1], ids[:, 1:])


def test_where_both_do_exactly_the_same_nothing_is_divided(ground):
    world, records, _ = planted(ground)
    plain = records["plain"]["logprob"][: 30 * 127]
    times = len(records["grid"]["logprob"]) // len(plain)
    same = records["grid"] | {"logprob": np.tile(plain, times)}
    best_of(world, records | {"grid": same})


def test_sinks_are_in_no_number(ground):
    world, records, chosen = planted(ground, whole=-0.03)
    at = records["plain"]["position"] == 60
    records["plain"]["sink"][at] = 1
    shifted = records["confirm"]["logprob"].copy()
    shifted[records["confirm"]["position"] == 60] += 1000.0
    other = records | {"confirm": records["confirm"] | {"logprob": shifted}}
    for panel in (Panel.of(world, one, "confirm", "confirm") for one in (records, other)):
        assert panel.whole(chosen).value == pytest.approx(-0.03, abs=0.01)
        assert abs(panel.arms(chosen).surprise.value) < 0.1


def test_what_generation_counts(ground):
    two = ground.texts["confirm"][:2]
    columns = generation.continued(ground, two, Condition(15, 0.3, "embedding"), "greedy", 12, 5.0)
    assert columns["tokens"].tolist() == [12, 12]
    assert (columns["logprob"] < 0).all()
    again = generation.continued(ground, two, None, "sampled", 12, 5.0)
    same = generation.continued(ground, two, Condition(15, 0.0, "embedding"), "sampled", 12, 5.0)
    np.testing.assert_allclose(again["logprob"], same["logprob"], atol=1e-5)


def test_a_family_without_a_doubled_pass_is_refused_by_name(ground):
    reader = model("bloom")
    reader.name = "a bloom"
    with pytest.raises(RequestError, match="bloom"):
        measure.check(replace(ground, model=reader))


@pytest.mark.parametrize(
    ("after", "whole", "start"),
    [
        ("refuted", "refuted", "After a surprise the true token's anchor does not gain"),
        ("undecided", "supported", "Whether"),
    ],
)
def test_the_answer_leads_with_the_claim_whose_verdict_stands_beside_it(ground, after, whole, start):
    spans = {"refuted": (0.0, -0.001, 0.001), "undecided": (0.0, -0.1, 0.1), "supported": (-0.05, -0.06, -0.04)}
    verdicts = []
    for claim, found in zip(question.STUDY.claims, (after, whole), strict=True):
        value, low, high = spans[found]
        estimate = Estimate(value, low, high, 0.95, 30, 30, 1000, "t", "nats", 0.1)
        verdicts.append(decide(claim, estimate))
        assert verdicts[-1].found == found
    best = Best(Condition(15, 0.1, "embedding"), Condition(29, 0.1, "carried"))
    said = question._answer(best, tuple(verdicts))
    assert said.startswith(start)
    assert ("is not predicted better" in said) == (whole == "refuted")


def test_a_text_longer_than_the_context_is_refused(ground):
    reader = replace(ground.model, context=T - 1)
    with pytest.raises(RequestError, match=f"{T - 1} tokens"):
        measure.check(replace(ground, model=reader))
    few = {"fit": ground.texts["fit"][:4], "confirm": ground.texts["confirm"]}
    with pytest.raises(RequestError, match="2 works to fit"):
        measure.check(replace(ground, texts=few))


def test_half_way_is_half_way():
    assert [declared(last).layer for last in (2, 4, 12, 30)] == [1, 2, 6, 15]
