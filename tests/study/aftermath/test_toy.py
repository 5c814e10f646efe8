"""The toys: read at equal losses, compared by their changes from their own starts; what is missed is said."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import study_toys
import torch
from rich.console import Console

from midstream.corpus.source import open_corpus
from midstream.errors import RequestError
from midstream.model.plain import PlainLM
from midstream.run.study import StudyOptions, prepare, run
from midstream.study.aftermath import training
from midstream.study.aftermath.continuity import continuity
from midstream.study.aftermath.toy import (
    ARM,
    CLAIM,
    MEASURES,
    PAIRS,
    by_layer,
    difference,
    models,
    overall,
    paired,
    section,
    verdict,
)
from midstream.study.aftermath.training import RECIPES, SIZES, START, UNSEEN, Look, Size, cut, watched
from midstream.study.study import Ground, Text
from midstream.study.toy import AGAIN, Shape, Training, batches, evaluate, fresh, next_byte, plain_scores, train
from midstream.view import study_text
from midstream.view.study_table import table

SHAPE = Shape(width=16, blocks=3, heads=2, window=12)
SIZE = Size(SHAPE, Training(40, 3, 0.01, 2, last=1.0), (5.0, 4.2), look=3, seeds=2)
ONE, OTHER = PAIRS["decay 0.3 − 0"]
UNSCALED = "decay 0.1, unscaled"


def ground(seed=0, size="quick"):
    draw = np.random.default_rng(0)
    texts = {
        name: [Text(10 * row + 3, "w", tuple(draw.integers(97, 110, 30 + row).tolist())) for row in range(rows)]
        for name, rows in (("fit", 9), ("tune", 2), ("confirm", 3))
    }
    reader = SimpleNamespace(tokenizer=SimpleNamespace(token_bytes=lambda token: bytes([token, token % 7])))
    return Ground(reader, texts, size, seed)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(training.SIZES, "quick", SIZE)
    return ground()


def text_of(on, name):
    return [bytes(b for token in text.ids for b in (token, token % 7)) for text in on.texts[name]]


def measured(on):
    (stage,) = ARM.stages
    units = stage.units(on, {})
    found = [stage.measure(on, unit) for unit in units]
    joined = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    return units, found, {"toy": {stage.name: joined}}


# ---------------------------------------------------------------- when a model is read


def looked_at(losses, look=1, levels=(3.0, 2.0)):
    """What is seen of a model whose loss after so many steps is given, the steps it takes, and when it is looked at."""
    given, seen, looks = [], [], []

    def now(step):
        assert step == len(given)
        looks.append(step)
        return Look(step, losses[step], None)

    def see(level, above, below):
        seen.append((level, above.step, below.step))
        assert above.loss > level >= below.loss

    size = Size(SHAPE, Training(1, 1, 1, 1), levels, look, 1)
    for batch in watched(range(len(losses)), size, now, see):
        given.append(batch)
    return seen, len(given), looks


def test_a_level_lies_between_two_looks_and_training_ends_with_the_last():
    losses = [4.004 - 0.01 * step for step in range(300)]
    assert looked_at(losses) == ([(3.0, 100, 101), (2.0, 200, 201)], 201, [*range(202)])
    seen, steps, looks = looked_at(losses, look=7)
    assert seen == [(3.0, 98, 105), (2.0, 196, 203)]
    assert steps == 203
    assert looks == [*range(0, 204, 7)]


def test_the_first_time_that_the_loss_comes_below_counts():
    assert looked_at([4, 3.1, 2.9, 3.2, 2.8, 2.5, 1.9, 1.8])[0] == [(3.0, 1, 2), (2.0, 5, 6)]
    assert looked_at([4, 3.1, 1.9, 3.2])[0] == [(3.0, 1, 2), (2.0, 1, 2)]  # both at once
    assert looked_at([4, 3, 2])[0] == [(3.0, 0, 1), (2.0, 1, 2)]


def test_without_its_level_a_training_takes_all_its_steps():
    assert looked_at([4.0] * 50)[:2] == ([], 50)
    assert looked_at([4.0] * 9 + [2.9] * 41)[:2] == ([(3.0, 8, 9)], 50)
    assert looked_at([2.5] * 9 + [2.1] * 41)[:2] == ([], 50)  # it never was above the first


# ---------------------------------------------------------------- what a unit gives


def trained(on, number, recipe, steps):
    """The model of a recipe after so many steps, trained in one go, and its loss on the texts that choose."""
    module = fresh(SHAPE, number, scaled=recipe.scaled)
    how = replace(SIZE.training, steps=steps, decay=recipe.decay)
    train(module, batches(text_of(on, "fit"), 12, how, number), next_byte(plain_scores), how)
    nats, count = evaluate(module, text_of(on, "tune"), plain_scores, 12)
    return module, nats.sum() / count.sum()


def test_a_unit_reads_the_models_on_both_sides_of_a_level(small):
    units, found, _ = measured(small)
    assert [(unit.what[0], unit.what[1].name) for unit in units] == [
        (n, one.name) for n in (UNSEEN, UNSEEN + 1) for one in RECIPES
    ]
    assert len({unit.name for unit in units}) == 8
    for unit, rows in list(zip(units, found, strict=True))[2:4]:  # much decay; unscaled
        assert rows["level"].tolist() == [level for level in (START, 5.0, 4.2) for _ in range(3)]
        assert rows["layer"].tolist() == [0, 1, 2] * 3
        looks = [trained(small, *unit.what, steps) for steps in range(0, 40, 3)]
        losses = np.array([loss for _, loss in looks])
        for level in (START, 5.0, 4.2):
            at = rows["level"] == level
            above = 0 if level == START else np.flatnonzero(losses <= level)[0] - 1
            share = 0 if level == START else (losses[above] - level) / (losses[above] - losses[above + 1])
            assert 0 <= share < 1
            made = [continuity(module, cut(text_of(small, "confirm"), 12)) for module, _ in looks[above : above + 2]]
            for name in ("centred", "cosine", "agreement"):
                expected = (1 - share) * getattr(made[0], name) + share * getattr(made[1], name)
                assert rows[name][at] == pytest.approx(expected, abs=1e-9)
            expected = (1 - share) * np.log(1 - made[0].centred) + share * np.log(1 - made[1].centred)
            assert rows["distance"][at] == pytest.approx(expected, abs=1e-9)
            assert rows["step"][at] == pytest.approx(3 * (above + share))
            assert rows["tune"][at] == pytest.approx(losses[0] if level == START else level)
            assert rows["apart"][at] == pytest.approx(0 if level == START else losses[above] - losses[above + 1])
        flat = torch.cat([w.detach().flatten() for w in looks[0][0].parameters() if w.dim() > 1])
        assert rows["matrices"][0] == pytest.approx(float(flat.square().mean().sqrt()), rel=1e-5)
        assert rows["parameters"][0] == sum(w.numel() for w in looks[0][0].parameters())
        nats, count = evaluate(looks[0][0], text_of(small, "confirm"), plain_scores, 12)
        assert rows["confirm"][0] == nats.sum() / count.sum()


def test_a_level_that_was_not_reached_is_undefined(small, monkeypatch):
    monkeypatch.setitem(training.SIZES, "quick", replace(SIZE, levels=(5.0, 0.1)))
    _, found, _ = measured(small)
    for rows in found:
        there = rows["level"] == 0.1
        assert there.sum() == 3
        for name in (*MEASURES, "centred", "step", "tune", "confirm", "matrices"):
            assert np.isnan(rows[name][there]).all()
            assert np.isfinite(rows[name][~there]).all()


def test_models_of_one_seed_differ_by_their_recipe_alone(small, monkeypatch):
    seen = []

    def spy(module, data, loss, training):
        seen.append(({name: weight.detach().clone() for name, weight in module.named_parameters()}, training))

        def kept():
            for batch in data:
                seen[-1] += (batch,)
                yield batch

        return train(module, kept(), loss, training)

    monkeypatch.setattr(training, "train", spy)
    measured(small)
    assert len(seen) == 8
    for number, (start, how, *data) in enumerate(seen):
        recipe, first = RECIPES[number % 4], seen[number - number % 4]
        assert how == replace(SIZE.training, decay=recipe.decay)
        assert len(data) > 3
        assert all(map(torch.equal, data, first[2:]))  # as far as both go
        factor = 1 if recipe.scaled else 6**0.5
        for name, weight in start.items():
            torch.testing.assert_close(weight, first[0][name] * (factor if "c_proj.weight" in name else 1))
    assert not torch.equal(seen[0][2], seen[4][2])


def test_equal_trainings_differ_by_exactly_nothing_and_decay_by_something(small, monkeypatch):
    monkeypatch.setattr(training, "RECIPES", (RECIPES[0], replace(RECIPES[2], decay=0.0), RECIPES[3]))
    _, _, records = measured(small)
    found = models(records["toy"]["toy"])
    for level in SIZE.levels:
        for name in MEASURES:
            made = difference(found, (ONE, OTHER), level, name)
            assert made.shape == (2, 3)
            assert (made == 0).all()
    assert verdict(records).estimate.value == 0
    monkeypatch.setattr(training, "RECIPES", RECIPES)
    found = models(measured(small)[2]["toy"]["toy"])
    made = difference(found, (ONE, OTHER), 4.2, "distance")
    assert made.shape == (2, 3)
    assert (made != 0).all()


# ---------------------------------------------------------------- what is made of it


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


def test_too_little_text_is_refused(small, monkeypatch):
    ARM.check(small)
    monkeypatch.setitem(training.SIZES, "quick", replace(SIZE, training=Training(400, 10, 0.01, 2)))
    with pytest.raises(RequestError, match=r"places for a window of 12 bytes, and training reads 48,000 bytes"):
        ARM.check(small)
    monkeypatch.setitem(training.SIZES, "quick", SIZE)
    for name, fewest in (("tune", 2), ("confirm", 12)):
        with pytest.raises(RequestError, match=f"longest document to {name} has 0 bytes: expected {fewest}"):
            ARM.check(Ground(small.model, {**small.texts, name: []}, "quick", 0))


def test_the_cost_is_about_what_is_done(small, monkeypatch):
    passes, plain = [], PlainLM.forward

    def spy(module, ids, *rest):
        passes.append(len(ids))
        return plain(module, ids, *rest)

    monkeypatch.setattr(PlainLM, "forward", spy)
    found = ARM.cost(small)
    passes.clear()
    _, rows, _ = measured(small)
    read = sum(2 * 15 * (1 + 2 * 2) for _ in rows)  # twice 15 windows of the texts that confirm, beside its two levels
    done = sum(passes) + read
    assert done / 2 < found.forwards < 2 * done
    assert found.tokens == int(found.forwards * 12)
    assert 0 < found.readouts < 5 * found.tokens
    assert found.seconds > 0


def test_sizes_fit_their_needs():
    assert ARM.needs.keys() == SIZES.keys() == {"quick", "default", "large"}
    for name, size in SIZES.items():
        assert size.training.last == 1
        assert list(size.levels) == sorted(size.levels, reverse=True)
        assert size.levels[0] < np.log(256)
        read = size.training.steps * size.training.batch * size.shape.window
        # at about 3 bytes a token, were every document that long
        assert read < AGAIN * 3 * ARM.needs[name]["fit"].documents * ARM.needs[name]["fit"].tokens
    assert sum(weight.numel() for weight in fresh(SIZES["large"].shape, 0).parameters()) == pytest.approx(1e7, rel=0.06)
