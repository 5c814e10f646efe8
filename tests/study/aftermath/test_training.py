"""Training the toys: read at equal losses; models of one seed differ by their recipe alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from midstream.errors import RequestError
from midstream.model.plain import PlainLM
from midstream.study.aftermath import training
from midstream.study.aftermath.continuity import continuity
from midstream.study.aftermath.toy import ARM, MEASURES, PAIRS, difference, models, verdict
from midstream.study.aftermath.training import RECIPES, SIZES, START, UNSEEN, Look, Size, cut, watched
from midstream.study.study import Ground, Text
from midstream.study.toy import AGAIN, Shape, Training, batches, evaluate, fresh, next_byte, plain_scores, train

SHAPE = Shape(width=16, blocks=3, heads=2, window=12)
SIZE = Size(SHAPE, Training(40, 3, 0.01, 2, last=1.0), (5.0, 4.2), look=3, seeds=2)


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
            made = difference(found, PAIRS["decay 0.3 − 0"], level, name)
            assert made.shape == (2, 3)
            assert (made == 0).all()
    assert verdict(records).estimate.value == 0
    monkeypatch.setattr(training, "RECIPES", RECIPES)
    found = models(measured(small)[2]["toy"]["toy"])
    made = difference(found, PAIRS["decay 0.3 − 0"], 4.2, "distance")
    assert made.shape == (2, 3)
    assert (made != 0).all()


# ---------------------------------------------------------------- what the arm asks and takes


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
