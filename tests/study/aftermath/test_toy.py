"""The toys: read at equal losses, compared by their changes from their own starts; what is missed is said."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import study_toys
import torch

from midstream.corpus.source import open_corpus
from midstream.errors import RequestError
from midstream.model.plain import PlainLM
from midstream.run.study import StudyOptions, prepare, run
from midstream.study.aftermath import toy, training
from midstream.study.aftermath.continuity import continuity
from midstream.study.aftermath.toy import ARM, MEASURES, PAIRS, by_layer, difference, models, overall, paired, section
from midstream.study.aftermath.training import HIT, NEAR, RECIPES, SELDOM, SIZES, START, Size, cut, watched
from midstream.study.study import Ground, Text
from midstream.study.toy import AGAIN, Shape, Training, batches, evaluate, fresh, next_byte, plain_scores, train

SHAPE = Shape(width=16, blocks=3, heads=2, window=12)
SIZE = Size(SHAPE, Training(40, 3, 0.01, 2, last=1.0), (5.0, 4.2), look=1, seeds=2)
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
    wide(monkeypatch, 0.25)
    return ground()


def wide(monkeypatch, hit):
    """So few steps take a model so far that none would be found near a level."""
    for module in (training, toy):
        monkeypatch.setattr(module, "HIT", hit)


def text_of(on, name):
    return [bytes(b for token in text.ids for b in (token, token % 7)) for text in on.texts[name]]


def measured(on):
    (stage,) = ARM.stages
    units = stage.units(on, {})
    found = [stage.measure(on, unit) for unit in units]
    joined = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    return units, found, {"toy": {stage.name: joined}}


# ---------------------------------------------------------------- when a model is read


def looked_at(losses, look=1):
    """What is read of a model whose loss after so many steps is given, the steps it takes, and when it is looked at."""
    given, seen, looks = [], [], []

    def loss():
        looks.append(len(given))
        return losses[len(given)]

    size = Size(SHAPE, Training(1, 1, 1, 1), (3.0, 2.0), look, 1)
    for batch in watched(range(len(losses)), size, loss, lambda *what: seen.append(what)):
        given.append(batch)
    return seen, len(given), looks


def test_a_model_is_read_at_its_start_and_at_each_level_and_training_ends_with_the_last():
    losses = [4 - 0.01 * step for step in range(300)]
    seen, steps, looks = looked_at(losses)
    assert [row[:2] for row in seen] == [(START, 0), (3.0, 100), (2.0, 200)]
    assert [row[2] for row in seen] == [losses[0], losses[100], losses[200]]
    assert steps == 200
    assert looks[:3] == [0, SELDOM, 2 * SELDOM]
    assert looks[-6:] == [*range(196 - SELDOM, 196, SELDOM), *range(196, 201)]  # near it, each step is looked at
    assert looked_at(losses, look=5)[2][:2] == [0, 5 * SELDOM]


def test_a_level_may_be_hit_from_below_but_not_after_it_is_far_behind():
    there = [3.3] * 8 + [3.02, 2.97, 2.98, 3.004, 2.5]
    assert [row[:2] for row in looked_at(there)[0]] == [(START, 0), (3.0, 11)]
    behind = [3.3] * 8 + [3.02, 2.5, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0] + [2.0] * 9
    seen, steps, _ = looked_at(behind)
    assert [row[0] for row in seen] == [START, 2.0]
    assert behind[steps] == 2.0


def test_without_its_level_a_training_takes_all_its_steps():
    seen, steps, _ = looked_at([4.0] * 50)
    assert [row[0] for row in seen] == [START]
    assert steps == 50


# ---------------------------------------------------------------- what a unit gives


def test_a_unit_reads_the_model_that_was_trained_so_far(small):
    units, found, _ = measured(small)
    assert [(unit.what[0], unit.what[1].name) for unit in units] == [(n, one.name) for n in (0, 1) for one in RECIPES]
    assert len({unit.name for unit in units}) == 8
    for unit, rows in list(zip(units, found, strict=True))[2:4]:  # much decay; unscaled
        number, recipe = unit.what
        levels = sorted(set(rows["level"]), reverse=True)
        assert levels == [START, 5.0, 4.2]
        for level in levels:
            at = rows["level"] == level
            assert rows["layer"][at].tolist() == [0, 1, 2]
            module = fresh(SHAPE, number, scaled=recipe.scaled)
            how = replace(SIZE.training, steps=int(rows["step"][at][0]), decay=recipe.decay)
            train(module, batches(text_of(small, "fit"), 12, how, number), next_byte(plain_scores), how)
            expected = continuity(module, cut(text_of(small, "confirm"), 12))
            for name in MEASURES:
                assert np.array_equal(rows[name][at], getattr(expected, name))
            for name in ("tune", "confirm"):
                nats, count = evaluate(module, text_of(small, name), plain_scores, 12)
                assert rows[name][at].tolist() == [nats.sum() / count.sum()] * 3
            flat = torch.cat([w.detach().flatten() for w in module.parameters() if w.dim() > 1])
            assert rows["matrices"][at][0] == pytest.approx(float(flat.square().mean().sqrt()), rel=1e-5)
            assert rows["parameters"][0] == sum(w.numel() for w in module.parameters())
            assert level == START or abs(rows["tune"][at][0] - level) <= 0.25


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
    for number, (start, how, *data) in enumerate(seen):
        recipe, first = RECIPES[number % 4], seen[number - number % 4]
        assert how == replace(SIZE.training, decay=recipe.decay)
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
    monkeypatch.setattr(training, "RECIPES", RECIPES)
    found = models(measured(small)[2]["toy"]["toy"])
    made = difference(found, (ONE, OTHER), 4.2, "centred")
    assert made.shape == (2, 3)
    assert (made != 0).all()


# ---------------------------------------------------------------- what is made of it


def planted(effect=0.0, seeds=5, missed=(), apart=(), draw=1):
    """Records of models that differ by seed and layer; the first recipe of the primary pair changes by more."""
    rows = []
    draw = np.random.default_rng(draw)
    for seed in range(seeds):
        base, gain = draw.normal(0.5, 0.1, 4), draw.normal(0.2, 0.05, 4)
        for recipe in RECIPES:
            start = base - 0.3 * (not recipe.scaled)
            noise = draw.normal(0, 0.002, 4)
            more = (effect if recipe.name == ONE else 0.0) * np.arange(4) / 2  # 0, 1/2, 1, 3/2: 1 without the first
            for at, values in ((START, start), (2.35, start + gain / 2), (2.2, start + gain + more + noise)):
                if (recipe.name, seed, at) in missed:
                    continue
                tune = min(at, 5.6) + (0.011 if (recipe.name, seed) in apart else 0.0)
                rows += [
                    (seed, recipe.name, at, layer, value, 0.9 * value, 0.5 * value, tune)
                    for layer, value in enumerate(values)
                ]
    names = ("seed", "recipe", "level", "layer", "centred", "cosine", "agreement", "tune")
    columns = {name: np.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
    n = len(rows)
    also = {"step": np.full(n, 400), "positions": np.full(n, 900), "parameters": np.full(n, 420480)}
    also |= {"sinks": np.zeros(n), "confirm": columns["tune"] + 0.1, "matrices": np.full(n, 0.12)}
    return {"toy": {"toy": {**columns, **also, "size": np.full(n, "default")}}}


def cell(made, row, column):
    (found,) = [cells for cells in made.grid.rows if cells[0].startswith(row)]
    return found[made.grid.heading.index(column)]


def test_a_planted_effect_is_found_and_a_planted_absence_is_not():
    for effect, words in ((0.03, "more gradually"), (-0.03, "less gradually"), (0.0, "is not told from no difference")):
        records = planted(effect)
        found = models(records["toy"]["toy"])
        made = overall(difference(found, (ONE, OTHER), 2.2, "centred"))
        assert made.value == pytest.approx(effect, abs=0.003)
        assert made.clusters == 5
        assert words in section(records).text[-1]
        room = 1 - np.mean([found[OTHER, seed, 2.2]["centred"][1:].mean() for seed in range(5)])
        assert f"no more than {room:.3f} could" in section(records).text[-1]
        assert f"{made.value:+.3f}" in cell(section(records), "decay 0.3 − 0, at 2.2", "cosine without means")
        # an arm without the scale starts 0.3 lower and gains as much: its change is the same
        other = overall(difference(found, PAIRS["scaled − unscaled"], 2.2, "centred"))
        assert abs(other.value) < 0.003
        chart = section(records).chart
        assert [line.name for line in chart.lines] == [*PAIRS]
        for layer in range(4):
            assert chart.lines[0].y[layer] == pytest.approx(effect * layer / 2, abs=0.004)


def test_intervals_hold_as_often_as_they_say_those_of_a_curve_together():
    alone, together = [], []
    for draw in range(200):
        differences = difference(models(planted(0.03, draw=draw)["toy"]["toy"]), (ONE, OTHER), 2.2, "centred")
        one, curve = overall(differences), by_layer(differences)
        assert len(curve) == 4
        alone.append(one.low < 0.03 < one.high)
        together.append(all(made.low < 0.015 * layer < made.high for layer, made in enumerate(curve)))
    assert 0.9 < np.mean(alone) < 0.99
    assert 0.9 < np.mean(together) < 0.99
    first = differences[:, 0]
    reach = 4.3147 * first.std(ddof=1) / 5**0.5  # t with 4 degrees of freedom at 1 - 0.05 / 4 / 2
    assert curve[0].high - curve[0].value == pytest.approx(reach, rel=1e-4)
    assert one.value == pytest.approx(differences[:, 1:].mean())


def test_models_that_missed_a_level_are_left_out_with_their_pair_and_named():
    missed = [(ONE, 1, 2.2), (OTHER, 3, 2.2), (UNSCALED, 0, 2.35)]
    records = planted(0.03, missed=missed)
    found = models(records["toy"]["toy"])
    assert paired(found, (ONE, OTHER), 2.2) == [0, 2, 4]
    assert paired(found, (ONE, OTHER), 2.35) == [0, 1, 2, 3, 4]
    made = section(records)
    assert (
        "seed 0 of scaled − unscaled at 2.35; seed 1 of decay 0.3 − 0 at 2.2; seed 3 of decay 0.3 − 0 at 2.2; "
        "seed 3 of decay 0.1 − 0 at 2.2. "
    ) in made.text[1]
    assert cell(made, "decay 0.3 − 0, at 2.2", "seeds") == "3"
    assert cell(made, "decay 0.3, start to 2.2", "seeds") == "4"
    assert "Left out" not in section(planted()).text[1]


def test_a_pair_that_lies_further_apart_is_no_pair():
    found = models(planted(apart=[(ONE, 2)])["toy"]["toy"])
    assert paired(found, (ONE, OTHER), 2.2) == [0, 1, 3, 4]
    assert 2 * HIT == 0.01
    assert "seed 2 of decay 0.3 − 0 at 2.2" in section(planted(apart=[(ONE, 2)])).text[1]


def test_a_level_that_nobody_reached_says_nothing():
    records = planted(missed=[(recipe.name, seed, 2.2) for recipe in RECIPES for seed in range(5)])
    made = section(records)
    assert "nothing can be said" in made.text[-1]
    assert made.chart is None
    assert cell(made, "decay 0.3 − 0, at 2.2", "cosine") == "–"
    assert cell(made, "decay 0.3 − 0, at 2.35", "seeds") == "5"


def test_two_seeds_have_no_interval_and_this_is_said():
    made = section(planted(0.03, seeds=2))
    assert "too few seeds for an interval" in made.text[-1]
    assert "no interval" in cell(made, "decay 0.3 − 0, at 2.2", "cosine")


def test_the_section_says_what_was_trained_or_how():
    text = " ".join(section(planted()).text)
    for words in ("420,480 parameters, not GPT-2", "8 blocks of width 64", "5 seeds", "windows of 64", "sqrt(16)"):
        assert words in text
    assert section({"main": {}}).text == (
        "Not run here. midstream study what_happens_after_a_surprise --arm toy trains small models to see.",
    )


# ---------------------------------------------------------------- the arm in a study


@pytest.fixture
def study():
    def analyse(on, records):
        return replace(study_toys.STUDY.analyse(on, {"main": records["main"]}), sections=(section(records),))

    return replace(study_toys.STUDY, arms={"main": study_toys.STUDY.arms["main"], "toy": ARM}, analyse=analyse)


def test_the_arm_runs_is_kept_and_is_taken_into_the_report(tiny, tmp_path, monkeypatch, study):
    monkeypatch.setitem(training.SIZES, "quick", SIZE)
    wide(monkeypatch, 0.4)
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
        reports.append(run(made, tmp_path / "out"))
        if arm == "toy":  # what is kept is not trained again
            monkeypatch.setattr(training, "train", None)
    assert "Not run here" in reports[0].sections[0].text[0]
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
    read = sum(2 * 15 * len(set(part["level"])) for part in rows)  # twice 15 windows of the texts that confirm
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
        assert all(one - other > NEAR for one, other in zip(size.levels, size.levels[1:], strict=False))
        read = size.training.steps * size.training.batch * size.shape.window
        # at about 3 bytes a token, were every document that long
        assert read < AGAIN * 3 * ARM.needs[name]["fit"].documents * ARM.needs[name]["fit"].tokens
    assert sum(weight.numel() for weight in fresh(SIZES["large"].shape, 0).parameters()) == pytest.approx(1e7, rel=0.06)
