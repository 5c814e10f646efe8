"""can_the_input_still_be_read: what is measured is what is said; planted effects are found, planted absences not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from midstream.errors import RequestError
from midstream.run.study_lenses import Shelf
from midstream.stream.capture import capture
from midstream.study.fitting import lenses
from midstream.study.questions import can_the_input_still_be_read as question
from midstream.study.recovery import measure
from midstream.study.recovery import token as known
from midstream.study.recovery.analysis import Panel
from midstream.study.recovery.maps import predicted, spread
from midstream.study.recovery.plan import (
    FIRST,
    FREQUENT,
    KINDS,
    LAGS,
    NOISY,
    OWN,
    SHARED,
    TABLE,
    Cell,
    again,
    cells,
    positions,
)
from midstream.study.study import Ground, Text
from midstream.study.verdict import decide
from tests.study_toys import random_model


def texts(count, first=0, tokens=60):
    draw = np.random.default_rng(first)
    return [Text(first + n, f"w{first + n}", tuple(draw.integers(3, 90, tokens).tolist())) for n in range(count)]


@pytest.fixture(scope="module")
def ground(tiny):
    fit = texts(40, tokens=120)
    made = Shelf(tiny, fit, lenses(*KINDS)["quick"], 0, lambda *_: None)
    return Ground(tiny, {"fit": fit, "confirm": texts(16, 500)}, "quick", 0, made)


@pytest.fixture(scope="module")
def records(ground):
    return measured(ground)


def test_what_is_found_is_the_nearest_row_in_float64(ground):
    some = ground.texts["confirm"][:2]
    cell = Cell(OWN, 1, 15)
    found = measure.recovered(ground, some, [cell], guesses=False)
    at = measure.seen(ground, some, [15])
    rows = ground.model.anatomy.input_rows().double()
    reading = predicted(ground, cell, at.stream[15])
    away = torch.cdist(reading.scored.double(), rows)
    truth = at.tokens[1]
    np.testing.assert_array_equal(found["right"], (away.argmin(1) == truth).numpy())
    np.testing.assert_allclose(found["error"], (rows[truth] - reading.row.double()).square().sum(1), rtol=1e-4)
    mean = spread(ground)[0]
    np.testing.assert_allclose(found["spread"], (rows[truth] - mean).square().sum(1), rtol=1e-4)
    scores = reading.beta * (reading.scored.double() @ rows.T - rows.square().sum(1) / 2)
    logprob = scores.log_softmax(1)[torch.arange(len(truth)), truth]
    np.testing.assert_allclose(found["gain"], logprob.numpy() - known.unigram(ground)[truth], atol=1e-3)


def test_the_token_that_is_looked_for_is_lag_tokens_back(ground):
    one = ground.texts["confirm"][:1]
    at = measure.seen(ground, one, [0])
    ids = np.array(one[0].ids)
    for lag in LAGS:
        np.testing.assert_array_equal(at.tokens[lag], ids[at.position - lag])
    assert at.position.min() >= FIRST > max(LAGS)
    # at layer 0 the stream is the token's own row
    torch.testing.assert_close(at.stream[0], ground.model.anatomy.input_rows(at.tokens[0]))


def test_places_are_spread_evenly_and_leave_sinks_out(ground):
    sunk = np.zeros(60, bool)
    sunk[[0, 20, 21]] = True
    found = positions(ground, sunk)
    assert len(found) == 25
    assert found[0] == FIRST
    assert found[-1] == 59
    assert not sunk[found].any()
    assert np.diff(found).max() <= 5
    assert positions(ground, np.ones(60, bool)).size == 0


def test_the_same_places_are_read_by_every_reader_and_by_refits(records, ground):
    panel = Panel.of(ground, records)
    for cell in cells(ground):
        # where a map explains nothing no noise is as good
        assert not np.isnan(panel.right(cell)).any() or cell.reader == NOISY
    assert panel.right(Cell(NOISY, 0, 0)).all()
    some = [~np.isnan(panel.right(cell)) for cell in again(ground)]
    assert all((one == some[0]).all() for one in some)
    assert 0 < some[0].mean() < 0.6
    numbers = {text.number: text for text in ground.texts["confirm"]}
    read = records["read"]
    tokens = [numbers[n].ids[p] for n, p in zip(read["document"][:20], read["position"][:20], strict=True)]
    np.testing.assert_array_equal(panel.known["token"][:20], tokens)


def test_at_layer_0_the_token_read_is_found_and_alone_there(records, ground):
    panel = Panel.of(ground, records)
    assert panel.accuracy(Cell(OWN, 0, 0)).value > 0.99
    assert panel.explained(Cell(OWN, 0, 0)).value > 0.99
    assert panel.accuracy(Cell(OWN, 1, 0)).value < 0.1  # random text: the token read says nothing of the one before
    assert panel.accuracy(Cell(TABLE, 0, 0)).value < 0.1
    assert panel.accuracy(Cell(FREQUENT, 2, 0)).value < 0.1


def test_first_tokens_are_read_apart(records, ground):
    """By the same maps, at the layers that everything is read at; at layer 0 the token is alone there."""
    found = records["first"]
    some = [text.number for text in ground.texts["confirm"]]
    assert found["document"][:16].tolist() == some
    panel = Panel.of(ground, records)
    assert panel.first_token(0).value == 1
    assert np.isnan(panel.first_token(5).value)
    ids = torch.tensor([text.ids[:2] for text in ground.texts["confirm"]])
    stream = capture(ground.model, ids, layers=[15])[15][:, 0]
    row = predicted(ground, Cell(OWN, 0, 15), stream.float()).scored
    best = torch.cdist(row.double(), ground.model.anatomy.input_rows().double()).argmin(1)
    np.testing.assert_array_equal(panel.first[15], (best == ids[:, 0]).numpy())
    # and no other number holds them
    assert records["read"]["position"].min() >= FIRST


def measured(ground):
    found = {}
    for stage in question.STUDY.arms["main"].stages:
        parts = [stage.measure(ground, unit) for unit in stage.units(ground, found)]
        found[stage.name] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return found


def test_a_model_of_random_weights_keeps_its_input_through_all_its_depth():
    """A residual network that has learnt nothing adds to the input and takes nothing of it away: it only fades.

    Written before: more than 95 % at the end. Its writes are three times as long as its rows, and it is 61 %.
    """
    model = random_model()
    fit = [replace(text, ids=tuple(i % 64 + 32 for i in text.ids)) for text in texts(40, tokens=120)]
    confirm = [replace(text, ids=tuple(i % 64 + 32 for i in text.ids)) for text in texts(16, 500)]
    made = Shelf(model, fit, lenses(*KINDS)["quick"], 0, lambda *_: None)
    here = Ground(model, {"fit": fit, "confirm": confirm}, "quick", 0, made)
    panel = Panel.of(here, measured(here))
    found = [panel.accuracy(Cell(OWN, 0, layer)).value for layer in (0, 2, 4, 6)]
    assert found == sorted(found, reverse=True)
    assert found[-1] > 0.4
    assert decide(question.STILL, panel.still()).found == "supported"
    assert panel.accuracy(Cell(OWN, 1, 6)).value < 0.2


def test_the_report_is_complete(records, ground):
    report = question.analyse(ground, {"main": records})
    assert len(report.verdicts) == 5
    assert report.sections[0].title == "The token read"
    assert "points over what the tokens before it tell" in report.answer
    for section in report.sections:
        grid = section.grid
        assert grid is None or all(len(row) == len(grid.heading) for row in grid.rows)
        assert grid is None or len(grid.rows) > 1
    assert all(
        "nan" not in cell for section in report.sections if section.grid for row in section.grid.rows for cell in row
    )


def test_layers_that_only_some_readers_read_are_shown(records, ground):
    read = records["read"]
    own = (read["reader"] == OWN) & (read["lag"] < 2) & (read["layer"] == 4)
    more = {name: np.concatenate([values, values[own]]) for name, values in read.items()}
    more["layer"][len(own) :] = 5
    report = question.analyse(replace(ground, keep={}), {"main": records | {"read": more}})
    rows = {row[0]: row for row in report.sections[0].grid.rows}
    assert rows["5"][4:] == ("–", "–", "–")
    assert rows["5"][1:4] == rows["4"][1:4]


def test_without_intervals_nothing_breaks(records, ground):
    few = ground.texts["confirm"][:5]
    kept = {text.number for text in few}
    parts = {
        stage: {name: values[np.isin(columns["document"], list(kept))] for name, values in columns.items()}
        for stage, columns in records.items()
    }
    report = question.analyse(
        replace(ground, texts={"fit": ground.texts["fit"], "confirm": few}, keep={}), {"main": parts}
    )
    assert {verdict.found for verdict in report.verdicts} == {"undecided"}


def world(early, late, shared=(0.0, 0.0), rare=0.0, noise=0.0, seed=0, works=30, places=60, refits=0.0):
    """A panel as the stages would leave it.

    Args:
        early, late: share found at a quarter of the depth and at its end.
        shared: what one map loses more than in the middle, at an eighth of the depth and at the end.
        rare: R² that rare tokens have more than others at the end; noise: that they have more under noise.
        refits: what a refit finds more at the last layer, by its number.
    """
    draw = np.random.default_rng(seed)
    blocks, n = 30, works * places
    document = np.repeat(np.arange(works), places)
    level = np.repeat(draw.normal(0, 0.03, works), places)
    frequency = draw.integers(0, 1000, n)
    is_rare = frequency < 333
    some = np.isin(document, np.arange(0, works, 4))
    lost = {0: 0.9, 4: 0.1 + shared[0], 30: 0.1 + shared[1]}

    def cell(share, more=0.0, luck=None):
        """``luck``: what a refit has in common with the map of all texts, at the same places."""
        luck = luck or (draw.random(n), draw.gamma(5, 1, n), draw.normal(0, 0.1, n))
        found = (luck[0] < np.clip(share, 0, 1)).astype(np.float32)
        spread = luck[1]
        error = spread * (0.5 - more * is_rare + luck[2])
        nothing = np.full(n, np.nan, np.float32)
        return {"right": found, "error": error, "spread": spread, "gain": nothing}

    found = {Cell(TABLE, 0, 0): cell(0.15), Cell(NOISY, 0, 30): cell(late + level, noise)}
    for layer in (0, 4, 8, 11, 15, 19, 22, 26, 30):
        share = early + (late - early) * max(layer - 8, 0) / 22 + level
        own, one = ((draw.random(n), draw.gamma(5, 1, n), draw.normal(0, 0.1, n)) for _ in range(2))
        for refit in range(-1, 4):
            more = refits * refit if layer == 30 and refit >= 0 else 0.0
            found[Cell(OWN, 0, layer, refit)] = cell(share + more, rare if layer == 30 else 0.0, own)
            found[Cell(SHARED, 0, layer, refit)] = cell(share - lost.get(layer, 0.1), luck=one)
            if refit >= 0:
                for name in (OWN, SHARED):
                    for column in ("right", "error", "spread"):
                        found[Cell(name, 0, layer, refit)][column][~some] = np.nan
    own, control = found[Cell(OWN, 0, 30)], found[Cell(NOISY, 0, 30)]
    control["error"] = control["error"] / control["spread"] * own["spread"]  # both are read at the same places
    rows = {"frequency": frequency, "nearest": draw.random(n), "norm": draw.random(n), "token": frequency}
    return Panel(found, rows, document, np.array([f"w{k}" for k in range(works)]), {}, blocks, seed)


def test_planted_effects_are_found_with_their_size():
    panel = world(0.8, 0.4, shared=(0.25, 0.2), rare=0.3)
    for claim, estimate, size in (
        (question.STILL, panel.still(), 0.25),
        (question.FADES, panel.fades(), -0.4),
        (question.EARLY, panel.early(), 0.25),
        (question.LATE, panel.late(), 0.2),
        (question.RARER, panel.rarer(), 0.3),
    ):
        verdict = decide(claim, estimate)
        assert verdict.found == "supported", (claim.name, verdict.reason)
        assert estimate.value == pytest.approx(size, abs=0.05)
        assert "refits" in estimate.method


def test_what_one_map_loses_at_layer_0_is_in_no_claim_and_the_middle_is_the_middle():
    assert abs(world(0.8, 0.8).early().value) < 0.05
    panel = world(0.8, 0.4, shared=(0.3, 0.0))
    assert abs(panel.late().value) < 0.05  # the loss at layer 4 is not in the middle it is held against


def test_what_noise_would_have_is_taken_off_rarer_tokens():
    assert abs(world(0.8, 0.4, rare=0.3, noise=0.3).rarer().value) < 0.05
    assert world(0.8, 0.4, noise=0.3).rarer().value == pytest.approx(-0.3, abs=0.05)


def test_maps_that_differ_between_refits_widen_the_interval():
    narrow, wide = world(0.8, 0.4).still(), world(0.8, 0.4, refits=0.15).still()
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)


def test_planted_absences_are_not_found():
    found = {"fades": 0, "early": 0, "late": 0, "rarer": 0, "still": 0}
    for seed in range(8):
        panel = world(0.5, 0.5, seed=seed)
        found["fades"] += decide(question.FADES, panel.fades()).found == "supported"
        found["early"] += decide(question.EARLY, panel.early()).found == "supported"
        found["late"] += decide(question.LATE, panel.late()).found == "supported"
        found["rarer"] += decide(question.RARER, panel.rarer()).found == "supported"
        found["still"] += decide(question.STILL, world(0.5, 0.15, seed=seed).still()).found == "supported"
    assert max(found.values()) <= 1


def test_the_interval_of_rare_tokens_counts_types_where_these_differ_more():
    panel = world(0.5, 0.5)
    draw = np.random.default_rng(3)
    of_type = draw.normal(0, 1, 12)
    token = np.where(panel.known["frequency"] < 333, 0, 6) + np.arange(len(panel.document)) % 6
    panel = replace(panel, known=panel.known | {"token": token})
    values = of_type[token]
    found = panel.rare_less_frequent(values, np.ones(len(values)), "1")
    assert "types" in found.method
    assert found.high - found.low > 0.5


def test_rare_and_frequent_places_are_matched():
    panel = world(0.5, 0.5)
    rare, frequent, alone = panel.rare
    assert rare.sum() == pytest.approx(frequent.sum())
    assert alone < 0.05
    assert panel.known["frequency"][rare > 0].max() < panel.known["frequency"][frequent > 0].min()
    # found for standing alone, and rare tokens mostly stand alone: that is no rarity
    draw, stands = np.random.default_rng(0), panel.known["nearest"]
    mostly = np.where((stands > 0.5) ^ (draw.random(len(stands)) < 0.2), 100, 900) + draw.integers(0, 90, len(stands))
    mixed = replace(panel, known=panel.known | {"frequency": mostly})
    values = (stands > 0.5).astype(float)
    one, other = mostly <= np.quantile(mostly, 1 / 3), mostly >= np.quantile(mostly, 2 / 3)
    assert values[one].mean() - values[other].mean() > 0.5
    assert abs(mixed.rare_less_frequent(values, np.ones(len(values)), "1").value) < 0.2


def test_what_it_cannot_be_asked_of_is_refused_in_a_sentence(ground):
    confirm = ground.texts["confirm"]
    few = replace(ground, texts={"fit": texts(5), "confirm": confirm})
    with pytest.raises(RequestError, match="5 works"):
        measure.check(few)
    short = replace(ground, texts={"fit": texts(20, tokens=10), "confirm": confirm})
    with pytest.raises(RequestError, match="200 tokens in windows"):
        measure.check(short)
    nothing = replace(ground, texts={"fit": ground.texts["fit"], "confirm": texts(3, tokens=12)})
    with pytest.raises(RequestError, match="no text to confirm on"):
        measure.check(nothing)
    measure.check(ground)


def test_texts_that_are_too_short_to_be_read_are_passed_over(ground):
    short = [*texts(2, 900, tokens=6), *texts(1, 950)]
    found = measure.recovered(ground, short, cells(ground), guesses=True)
    assert set(found["document"]) == {950}
    none = measure.recovered(ground, short[:2], cells(ground), guesses=True)
    assert len(none["right"]) == 0
    assert len(measure.places(ground, short[:2])["kind"]) == 0


def test_frequencies_are_those_of_the_texts_to_fit_on(ground):
    counts = known.frequencies(ground)
    assert counts.sum() == sum(len(text.ids) for text in ground.texts["fit"])


def test_the_cost_counts_what_is_read(ground):
    cost = measure.cost(ground)
    assert cost.readouts > 400 * len(cells(ground))
    assert cost.tokens > 16 * 60
    assert cost.seconds > 0
