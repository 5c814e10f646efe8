"""Training with the anchor: its pass is generation's, its gradients are right, and planted effects are found."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from midstream.errors import RequestError
from midstream.model.anatomy import find
from midstream.model.hook import hooked
from midstream.model.plain import PlainConfig, PlainLM
from midstream.sample.anchor import Anchor, anchored, anchored_loop
from midstream.study.anchoring import toy
from midstream.study.anchoring.toy import (
    ARM,
    ARMS,
    OWN,
    PLAIN,
    TRUE,
    UNTRAINED,
    Size,
    anchored_scores,
    findings,
    levels,
    scoring,
    setting,
)
from midstream.study.study import Ground, Text
from midstream.study.toy import AGAIN, Shape, Training, batches, evaluate, fresh, next_byte, plain_scores, train
from tests.tiny import shaken

IDS = torch.tensor([[3, 14, 15, 92, 65, 35, 89, 79], [32, 38, 46, 26, 43, 38, 32, 7]])
SIZE = Size(Shape(width=16, blocks=2, heads=2, window=12), Training(steps=4, batch=3, rate=0.01, warmup=2), seeds=2)


def tiny():
    return shaken(PlainLM(PlainConfig("gpt2", 160, 32, 48, 4, 4, 4, 8, 64, 1e-5, tie_word_embeddings=False)))


def ground(seed=0, size="quick"):
    draw = np.random.default_rng(0)
    texts = {
        name: [Text(10 * row + 3, "w", tuple(draw.integers(97, 110, 30 + row).tolist())) for row in range(rows)]
        for name, rows in (("fit", 6), ("confirm", 3))
    }
    reader = SimpleNamespace(tokenizer=SimpleNamespace(token_bytes=lambda token: bytes([token, token % 7])))
    return Ground(reader, texts, size, seed)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(toy.SIZES, "quick", SIZE)
    return ground()


def measured(on):
    (stage,) = ARM.stages
    units = stage.units(on, {})
    found = [stage.measure(on, unit) for unit in units]
    return units, {"toy": {name: np.concatenate([columns[name] for columns in found]) for name in found[0]}}


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("toward", [TRUE, OWN])
def test_the_pass_is_the_anchored_pass_and_the_loop(toward, alpha, layer):
    module = tiny()
    anatomy = find(module, module.config)
    reader = SimpleNamespace(
        module=module, anatomy=anatomy, device=torch.device("cpu"), dtype=torch.float32, context=64
    )
    chosen = torch.ones(IDS.shape, dtype=torch.bool)
    chosen[:, 0] = False
    last = (4, "resid_post")
    # towards the token read: the loop and the pass ask for different positions, so only the pass is held against
    rows = anatomy.input_rows if toward == TRUE else (lambda _tokens: anatomy.input_rows(IDS.flatten()))
    given = Anchor(layer, alpha, rows)
    found = anchored_scores(module, IDS, layer, alpha, toward)
    for make in (anchored, anchored_loop) if toward == TRUE else (anchored,):
        h = make(reader, IDS, given, chosen, [last])[last]
        torch.testing.assert_close(found, module.lm_head(module.model.ln_f(h)), rtol=1e-4, atol=1e-4)
    assert float((found - module(IDS).logits).detach().abs().max()) > 0.1


@pytest.mark.parametrize("toward", [TRUE, OWN])
def test_gradients_are_those_of_finite_differences(toward):
    module = fresh(Shape(16, 4, 2, 12), 0).double()
    loss = next_byte(scoring(toward, 2))
    value = loss(module, IDS)
    value.backward()
    for name in ("wte.weight", "wpe.weight", "h.1.mlp.c_fc.weight", "h.2.attn.c_attn.weight", "h.3.ln_1.bias"):
        weight = module.model.get_parameter(name)
        flat = weight.data.view(-1)
        at = int(weight.grad.view(-1).abs().argmax())
        ends, start = [], float(flat[at])
        for step in (1e-5, -1e-5):
            flat[at] = start + step
            with torch.no_grad():
                ends.append(float(loss(module, IDS)))
        flat[at] = start
        slope = float(weight.grad.view(-1)[at])
        assert abs(slope) > 1e-4
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-5)


def at_the_layer(module, see):
    return hooked([(module.model.h[2], "input", see)])


def test_every_prediction_is_made_of_the_moved_ones_before_it_and_of_no_other():
    module, kept, t = tiny(), [], IDS.shape[1]

    def see(h):
        kept.append(h.detach().requires_grad_())
        return kept[0]

    with at_the_layer(module, see):
        logits = anchored_scores(module, IDS, 2, 0.4, TRUE)
    assert kept[0].shape == (2, 2 * t, 32)
    for i in range(t):
        (slope,) = torch.autograd.grad(logits[:, i].square().sum(), kept[0], retain_graph=True)
        felt = slope.norm(dim=-1) > 0
        copies, own = felt[:, :t], felt[:, t:]
        for row in range(2):
            assert copies[row].tolist() == [j < i for j in range(t)]
            assert own[row].tolist() == [j == i for j in range(t)]


def test_the_ends_stay_and_the_others_keep_their_length():
    module, kept, t = tiny(), [], IDS.shape[1]
    with at_the_layer(module, lambda h: kept.append(h.detach())):
        anchored_scores(module, IDS, 2, 0.4, TRUE)
    copies, own = kept[0][:, :t], kept[0][:, t:]
    same = (copies == own).all(-1)
    assert same.tolist() == [[True] + [False] * (t - 2) + [True]] * 2
    torch.testing.assert_close(copies.norm(dim=-1), own.norm(dim=-1))


def test_no_prediction_knows_a_later_token_and_later_ones_know_the_move():
    module, at = tiny(), 4
    changed = IDS.clone()
    changed[:, at] = 120
    one, other = (anchored_scores(module, ids, 2, 0.4, TRUE) for ids in (IDS, changed))
    torch.testing.assert_close(one[:, :at], other[:, :at], rtol=0, atol=1e-5)
    assert float((one[:, at:] - other[:, at:]).detach().abs().amax(-1).min()) > 1e-3

    def push(h):
        h = h.clone()
        h[:, at, :3] += 3.0  # among the copies that are moved
        return h

    with at_the_layer(module, push):
        pushed = anchored_scores(module, IDS, 2, 0.4, TRUE)
    torch.testing.assert_close(one[:, : at + 1], pushed[:, : at + 1], rtol=0, atol=1e-5)
    assert float((one[:, at + 1 :] - pushed[:, at + 1 :]).detach().abs().amax(-1).min()) > 1e-3


def recall(documents, seed):
    """Texts of keys with their values: each has a table of its own, 4 keys to 8 values, and draws keys from it."""
    draw = np.random.default_rng(seed)
    for _ in range(documents):
        table, keys = draw.integers(0, 8, 4), draw.integers(0, 4, 12)
        pairs = np.stack([65 + keys, 97 + table[keys]], axis=1)
        yield bytes(pairs.reshape(-1).astype(np.uint8)) + b"A"


def test_a_planted_effect_is_found_with_its_sign():
    """One block that works, after the anchor: it finds an earlier key, but only the anchor puts the value beside it."""
    fit, confirm = list(recall(2500, 0)), list(recall(30, 1))
    training = Training(steps=220, batch=32, rate=0.01, warmup=10)
    columns = {"seed": [], "arm": [], "nats": [], "bytes": []}
    for arm in ARMS:
        module = fresh(Shape(width=32, blocks=2, heads=2, window=24), 1)
        first = module.model.h[0].requires_grad_(False)
        for part in (first.attn, first.mlp):
            torch.nn.init.zeros_(part.c_proj.weight)  # it adds nothing to the stream
        train(module, batches(fit, 24, training, 1), next_byte(scoring(arm, 1)), training)
        nats, count = evaluate(module, confirm, scoring(arm, 1), 24)
        for name, values in (("seed", [1] * 30), ("arm", [arm] * 30), ("nats", nats), ("bytes", count)):
            columns[name].extend(values)
    found = dict(findings({"toy": {name: np.array(values) for name, values in columns.items()}}))
    assert found["true − plain"].value < -0.25
    assert found["true − token read"].value < -0.25
    assert abs(found["token read − plain"].value) < 0.1


def test_strength_0_is_the_plain_training_bit_for_bit_and_hardly_any_is_nearly():
    documents = [bytes(text.ids) for text in ground().texts["fit"]]
    losses, scores = {}, {}
    for name, reading in {
        PLAIN: scoring(PLAIN, 1),
        "zero": scoring(TRUE, 1, alpha=0.0),
        "hardly": scoring(TRUE, 1, alpha=1e-7),
        "half": scoring(TRUE, 1),
    }.items():
        module = fresh(SIZE.shape, 0)
        losses[name] = train(module, batches(documents, 12, SIZE.training, 0), next_byte(reading), SIZE.training)
        scores[name] = evaluate(module, documents, reading, 12)[0]
    assert np.array_equal(losses[PLAIN], losses["zero"])
    assert np.array_equal(scores[PLAIN], scores["zero"])
    np.testing.assert_allclose(losses["hardly"], losses[PLAIN], rtol=1e-5)
    assert np.abs(losses["half"] - losses[PLAIN]).min() > 1e-4


def test_arms_of_one_seed_differ_in_their_loss_alone(small, monkeypatch):
    seen = {}

    def spy(module, data, loss, training):
        data = list(data)
        start = {name: weight.detach().clone() for name, weight in module.named_parameters()}
        seen[len(seen)] = start, torch.stack(data)
        return train(module, data, loss, training)

    monkeypatch.setattr(toy, "train", spy)
    units, records = measured(small)
    assert [unit.what for unit in units] == [(seed, arm) for seed in (0, 1) for arm in ARMS]
    assert len({unit.name for unit in units}) == 6
    for number in range(6):
        first = number - number % 3
        assert torch.equal(seen[number][1], seen[first][1])
        assert all(map(torch.equal, seen[number][0].values(), seen[first][0].values()))
    assert not torch.equal(seen[0][1], seen[3][1])
    assert not torch.equal(seen[0][0]["model.wpe.weight"], seen[3][0]["model.wpe.weight"])
    values = {(arm, seed): value for arm, seeds in toy._by_seed(records).items() for seed, value in seeds.items()}
    assert len(values) == len(set(values.values())) == 8


def test_a_unit_gives_the_same_rows_again(small):
    (stage,) = ARM.stages
    unit = stage.units(small, {})[0]
    one, same = stage.measure(small, unit), stage.measure(ground(), unit)
    assert one.keys() == same.keys() == {"seed", "arm", "document", "nats", "bytes", "size"}
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert one["document"].tolist() == [3, 13, 23] * 2
    assert one["arm"].tolist() == [PLAIN] * 3 + [UNTRAINED] * 3
    assert one["bytes"].tolist() == [59, 61, 63] * 2
    assert (np.abs(one["nats"][:3] - one["nats"][3:]) > 1e-3).all()
    other = stage.measure(ground(seed=2**31 - 1), unit)
    assert not np.array_equal(one["nats"], other["nats"])
    assert np.array_equal(one["seed"], other["seed"])  # the number among the study's seeds


def test_what_is_read_is_read_with_the_arms_own_move(small):
    (stage,) = ARM.stages
    confirm = [bytes(b for token in text.ids for b in (token, token % 7)) for text in small.texts["confirm"]]
    fit = [bytes(b for token in text.ids for b in (token, token % 7)) for text in small.texts["fit"]]
    for unit in stage.units(small, {})[:3]:
        seed, arm = unit.what
        module = fresh(SIZE.shape, seed)
        reading = plain_scores if arm == PLAIN else (lambda m, ids, arm=arm: anchored_scores(m, ids, 1, 0.5, arm))
        train(module, batches(fit, 12, SIZE.training, seed), next_byte(reading), SIZE.training)
        found = stage.measure(small, unit)
        for name, way in ((arm, reading), (UNTRAINED, lambda m, ids: anchored_scores(m, ids, 1, 0.5, TRUE))):
            if rows := (found["arm"] == name).sum():
                assert rows == 3
                assert np.array_equal(found["nats"][found["arm"] == name], evaluate(module, confirm, way, 12)[0])


def planted(values):
    """Records of two documents of 10 and 90 bytes; arm -> seed -> nats a byte of both together."""
    rows = [
        (seed, arm, number, share * value, count)
        for arm, seeds in values.items()
        for seed, value in seeds.items()
        for number, share, count in ((0, 30.0, 10), (1, 70.0, 90))
    ]
    seed, arm, number, nats, count = zip(*rows, strict=True)
    return {
        "toy": {
            "seed": np.array(seed, np.int32),
            "arm": np.array(arm),
            "document": np.array(number, np.int32),
            "nats": np.array(nats),
            "bytes": np.array(count, np.int32),
            "size": np.full(len(rows), "default"),
        }
    }


def test_differences_are_paired_by_seed_and_weigh_by_bytes():
    noise = {0: 0.31, 1: -0.2, 2: 0.05, 3: 0.4}
    values = {
        PLAIN: {seed: 2.0 + more for seed, more in noise.items()},
        TRUE: {seed: 1.9 + more + 0.01 * (seed % 2) for seed, more in noise.items()},
        OWN: {seed: 2.0 + more for seed, more in noise.items() if seed < 2},
        UNTRAINED: {seed: 2.5 + more for seed, more in noise.items()},
    }
    values[TRUE][9] = 100.0  # a seed whose plain model has not run
    found = dict(findings(planted(values)))
    assert [*found] == ["true − plain", "true − token read", "token read − plain", "plain, moved − plain"]
    first = found["true − plain"]
    assert first.value == pytest.approx(-0.095)
    reach = 3.182446 * 0.01 / np.sqrt(3) / 2  # t with 3 degrees of freedom; 0, 0.01, 0, 0.01
    assert (first.low, first.high) == pytest.approx((-0.095 - reach, -0.095 + reach))
    assert (first.clusters, first.unit) == (4, "nats a byte")
    assert found["token read − plain"].value == pytest.approx(0, abs=1e-12)
    assert np.isnan(found["token read − plain"].low)
    assert found["plain, moved − plain"].value == pytest.approx(0.5)
    levelled = dict(levels(planted(values)))
    assert levelled[PLAIN].value == pytest.approx(2.14)
    assert levelled[PLAIN].method == "t over 4 runs"


def test_the_setting_says_what_ran():
    text = setting(planted({PLAIN: {0: 1.0, 4: 1.0}}))
    for words in ("4 blocks of width 64", "windows of 96", "1,000 steps of 16", "2 seeds", "block 2", "2 documents"):
        assert words in text
    assert "100 bytes" in text


def test_too_little_text_is_refused(small, monkeypatch):
    ARM.check(small)
    monkeypatch.setitem(toy.SIZES, "quick", Size(SIZE.shape, Training(400, 10, 0.01, 2), 2))
    with pytest.raises(RequestError, match=r"have 318 places .* reads 48,000 bytes: expected 12,000 or more"):
        ARM.check(small)
    monkeypatch.setitem(toy.SIZES, "quick", SIZE)
    with pytest.raises(RequestError, match="has two bytes"):
        ARM.check(Ground(small.model, {"fit": small.texts["fit"], "confirm": []}, "quick", 0))


def test_the_cost_is_counted(small):
    found = ARM.cost(small)
    # 60, 62 and 64 bytes: 59 predictions in windows of 12 that begin at 0, 6, .., 42 and 47; 61; 63
    read = 9 + 10 + 10
    trained = 4 * 3
    # of each seed one plain training and two of half as many blocks again; one plain evaluation and three others
    assert found.forwards == 2 * (trained * (1 + 2 * 1.5) + read * (1 + 3 * 1.5))
    assert found.readouts == 2 * (3 * trained * 12 + 4 * read * 12)
    assert found.tokens == found.forwards * 12
    assert found.seconds > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer": 0}, "layer 0 of 4 GPT-2 blocks"),
        ({"layer": 4}, "expected a GPT-2 and layer 1 to 3"),
        ({"alpha": 1.1}, "strength 1.1"),
        ({"toward": "plain"}, "towards 'plain'"),
    ],
)
def test_what_cannot_be_anchored_is_refused(changes, words):
    with pytest.raises(RequestError, match=words):
        anchored_scores(tiny(), IDS, **{"layer": 2, "alpha": 0.5, "toward": TRUE, **changes})


def test_sizes_fit_their_needs():
    assert ARM.needs.keys() == toy.SIZES.keys() == {"quick", "default", "large"}
    for name, size in toy.SIZES.items():
        assert 1 <= size.layer < size.shape.blocks
        read = size.training.steps * size.training.batch * size.shape.window
        # at about 3 bytes a token, were every document that long
        assert read < AGAIN * 3 * ARM.needs[name]["fit"].documents * ARM.needs[name]["fit"].tokens
