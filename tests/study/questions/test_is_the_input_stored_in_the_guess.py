"""is_the_input_stored_in_the_guess: parts add up, planted worlds are told apart, chance and controls are as said."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import midstream
from midstream.errors import RequestError
from midstream.model.load import load
from midstream.study.guess import measure, stages
from midstream.study.guess.analysis import Panel, cuts
from midstream.study.guess.chance import OWN, deviation, share_of
from midstream.study.guess.fit import fit, windows
from midstream.study.guess.setting import PRIMARY, layers
from midstream.study.guess.streams import streams
from midstream.study.questions import is_the_input_stored_in_the_guess as question
from midstream.study.study import Need
from tests.conftest import SENTENCES, tiny_tokenizer
from tests.guess_world import LAST, READ, D, T, measured, planted, random_weights, texts
from tests.tiny import tiny as tiny_module

MAIN = question.STUDY.arms["main"]


def told_through(share_read, share_beside):
    """The first half of the rows' coordinates told in what is read, the second beside, at these strengths."""

    def made(row, noise, _layer):
        mixed = noise.clone()
        mixed[..., :READ] += share_read * row[..., :READ]
        mixed[..., READ:] += share_beside * row[..., READ:]
        return mixed

    return made


WORLDS = {"through": (1.0, 0.0, 1.0), "beside": (0.0, 1.0, 0.0), "half": (1.0, 1.0, 0.5)}


@pytest.mark.parametrize("world", WORLDS)
def test_a_planted_world_is_recovered_within_its_interval(monkeypatch, world):
    read, beside, true = WORLDS[world]
    ground = planted(monkeypatch, told_through(read, beside))
    records = measured(ground, MAIN)
    panel, found = Panel.of(ground, records), cuts(records)
    late = panel.layers.late
    assert found[late][PRIMARY].k == READ
    share = panel.estimate(panel.share(late, READ))
    assert share.low - 1e-9 <= true <= share.high + 1e-9
    assert share.high - share.low < 0.1
    report = question.analyse(ground, {"main": records})
    through = report.verdicts[0]
    assert through.found == {"through": "supported", "beside": "refuted", "half": "refuted"}[world]
    says = {"through": "through the guess, more", "beside": "beside the guess", "half": "neither"}[world]
    assert says in report.answer


def squared(x, y):
    """What least squares of y on x, with a constant, explains of y: R^2."""
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    left = y - x @ torch.linalg.lstsq(x, y, driver="gelsd").solution
    return 1 - float(left.square().sum() / (y - y.mean(0)).square().sum())


def test_parts_add_up_where_the_covariance_was_taken(monkeypatch):
    """R^2(S) + R^2(rest) = R^2(h) to 1e-6, each by a least squares of its own on the fit texts' positions."""
    ground = planted(monkeypatch, told_through(0.7, 0.4))
    fitted = [text for part in windows(ground) for text in part]
    seen = streams(ground, fitted)
    layer = layers(ground).late
    known, k = fit(ground, layer), 11
    z, y = known.relevant.coordinates(seen.h[layer]), seen.row
    whole, guess, rest = squared(seen.h[layer].double(), y), squared(z[:, :k], y), squared(z[:, k:], y)
    assert abs(guess + rest - whole) < 1e-6
    # and what the study's own columns say there is the same
    columns = measure.told(ground, fitted, k)
    at = (columns["layer"] == layer) & (columns["without"] == -1)
    told = np.bincount(columns["coordinate"][at], weights=columns["relevance"][at]) / columns["square"][at].sum()
    assert abs(told[:k].sum() - guess) < 1e-6
    assert abs(told[k:].sum() - rest) < 1e-6
    varied = columns["variance"][at].sum() / columns["square"][at].sum()
    assert abs(varied - whole) < 1e-6


def test_parts_add_up_on_texts_that_confirm(monkeypatch):
    ground = planted(monkeypatch, told_through(0.7, 0.4))
    panel = Panel.of(ground, measured(ground, MAIN))
    for layer in panel.layers.all:
        parts = [panel.estimate(panel.told_at(layer, part)).value for part in (slice(0, 9), slice(9, None))]
        assert abs(sum(parts) - panel.estimate(panel.told_at(layer)).value) < 1e-6


def test_what_is_told_is_not_inflated_by_the_fit(monkeypatch):
    """Streams that hold nothing of the input tell nothing on other texts, though least squares fits their noise."""
    ground = planted(monkeypatch, told_through(0.0, 0.0))
    fitted = [text for part in windows(ground) for text in part]
    seen = streams(ground, fitted)
    assert squared(seen.h[LAST].double(), seen.row) > 0.005
    panel = Panel.of(ground, measured(ground, MAIN))
    found = panel.estimate(panel.told_at(LAST))
    assert found.low < 0 < found.high
    assert abs(found.value) < 0.003


def test_what_is_lost_with_a_coordinate_is_the_loss_of_a_refit(monkeypatch):
    ground = planted(monkeypatch, told_through(0.7, 0.4))
    fitted = [text for part in windows(ground) for text in part]
    seen, layer = streams(ground, fitted), layers(ground).late
    columns = measure.told(ground, fitted, 8)
    at = (columns["layer"] == layer) & (columns["without"] == -1)
    lost = np.bincount(columns["coordinate"][at], weights=columns["lost"][at]) / columns["square"][at].sum()
    whole = squared(seen.h[layer].double(), seen.row)
    for j in (0, 3, READ, D - 1):
        others = [i for i in range(D) if i != j]
        assert lost[j] == pytest.approx(whole - squared(seen.h[layer][:, others].double(), seen.row), abs=1e-6)


def test_chance_in_the_own_basis_is_what_is_measured_by_document(monkeypatch):
    ground = planted(monkeypatch, told_through(0.7, 0.4))
    records = measured(ground, MAIN)
    panel, chance = Panel.of(ground, records), records["chance"]
    for layer in panel.layers.all:
        own = (chance["layer"] == layer) & (chance["basis"] == OWN)
        turned = records["turned"]
        at = (turned["layer"] == layer) & (turned["turn"] == OWN)
        number = panel.share(layer, cuts(records)[layer][PRIMARY].k)
        assert turned[share_of(PRIMARY)][at][0] == pytest.approx(number.statistic(number.sums.sum(0)), abs=1e-9)
        number = panel.correlation(layer)
        assert chance["correlation"][own][0] == pytest.approx(number.statistic(number.sums.sum(0)), abs=1e-9)


def test_random_parts_tell_their_share_as_often_as_said():
    draw = np.random.default_rng(0)
    a = draw.normal(size=(12, 12)) * np.linspace(0.1, 2, 12)
    a = a @ a.T
    uneven = 12 * np.trace(a @ a) / np.trace(a) ** 2 - 1
    q = np.linalg.qr(draw.normal(size=(4000, 12, 12)))[0]
    for k in (1, 5, 12):
        shares = np.einsum("nik,ij,njk->n", q[:, :, :k], a, q[:, :, :k]) / np.trace(a)
        assert shares.mean() == pytest.approx(k / 12, abs=0.01)
        assert deviation(k, 12, uneven) == pytest.approx(shares.std(), rel=0.05, abs=1e-9)


def leaning(strength, seed=8):
    """Output weights that differ between coordinates, and the input told most where they are small (or anywhere)."""
    draw = np.random.default_rng(seed)
    scale = np.exp(draw.uniform(-1.5, 1.0, D))
    weight = torch.from_numpy(draw.normal(size=(160, D)) * scale).float()
    rank = np.argsort(np.argsort(scale)) / D
    other = draw.permutation(D) / D
    told = torch.from_numpy(np.where(strength > 0, 1 - rank, other)).float()

    def made(row, noise, _layer):
        return (told * row + noise) / (told**2 + 1).sqrt()

    return weight, made


def test_an_input_that_leans_on_what_is_read_little_is_found_and_one_that_does_not_is_not(monkeypatch):
    for strength, expected in ((1, "supported"), (0, "undecided")):
        weight, made = leaning(strength)
        ground = planted(monkeypatch, made, weight)
        report = question.analyse(ground, {"main": measured(ground, MAIN)})
        assert report.verdicts[2].found == expected
    assert report.verdicts[2].estimate.low < 0 < report.verdicts[1].estimate.high


def test_elements_that_are_filled_with_the_prediction_are_found_and_others_not(monkeypatch):
    weight, _ = leaning(0)
    little = np.argsort(weight.norm(dim=0).numpy())[: D // 10]

    def made(filled):
        def stream(row, noise, layer):
            h = row + noise
            if not (layer == LAST or (filled and layer == LAST - 1)):
                h[..., little] = noise.roll(1, dims=-2)[..., little]
            else:
                h[..., little] = h[..., [i for i in range(D) if i not in little][: len(little)]]
                h[..., little] += 0.3 * noise[..., little]
            return h

        return stream

    for filled, expected in ((True, "supported"), (False, "refuted")):
        ground = planted(monkeypatch, made(filled), weight)
        report = question.analyse(ground, {"main": measured(ground, MAIN)})
        assert report.verdicts[3].found == expected


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_of_random_weights_gives_what_was_predicted(family):
    """Large directions hold both guess and input: above chance, and no more than principal components are."""
    ground = random_weights(family)
    report = question.analyse(ground, {"main": measured(ground, MAIN)})
    through, turned, leans, filled = report.verdicts
    assert through.estimate.low > 0.02
    assert turned.found == "refuted"
    assert abs(turned.estimate.value) < 0.04
    assert leans.found != "supported"
    assert filled.found != "supported"
    assert "than an output turned at random would have it" in report.answer


def test_refits_widen_the_intervals_of_verdicts(monkeypatch):
    ground = planted(monkeypatch, told_through(0.7, 0.4))
    panel = Panel.of(ground, measured(ground, MAIN))
    late = panel.layers.late
    plain = panel.estimate(panel.share(late, READ))
    wide = panel.refitted(lambda quarter: panel.share(late, READ, without=quarter))
    assert wide.value == plain.value
    assert wide.high - wide.low > plain.high - plain.low


def test_units_are_the_same_whenever_they_are_asked_for(monkeypatch):
    ground = planted(monkeypatch, told_through(0.7, 0.4))
    records = measured(ground, MAIN)
    again = replace(ground, keep={})
    for stage in (MAIN.stages[1], MAIN.stages[3]):
        unit = stage.units(again, records)[-1]
        for name, values in stage.measure(again, unit).items():
            np.testing.assert_array_equal(values, records[stage.name][name][-len(values) :])


def test_what_it_cannot_be_asked_of_is_refused(monkeypatch):
    ground = planted(monkeypatch, told_through(0.7, 0.4))
    stages.check(ground)
    ground.model.context = T - 1
    with pytest.raises(RequestError, match=f"{T - 1} tokens"):
        stages.check(ground)
    ground.model.context = T
    few = {**ground.texts, "fit": texts(1, 1, 1)}
    with pytest.raises(RequestError, match="positions"):
        stages.check(replace(ground, texts=few))
    ground.model.anatomy = replace(ground.model.anatomy, blocks=ground.model.anatomy.blocks[:3])
    with pytest.raises(RequestError, match="3 blocks"):
        stages.check(ground)


@pytest.fixture
def gpt2_folder(tmp_path):
    """A GPT-2 of random weights as it lies on a disk."""
    tokenizer = tiny_tokenizer()
    folder = tmp_path / "gpt2"
    tiny_module("gpt2", vocab_size=tokenizer.get_vocab_size()).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_it_runs_from_text_to_report_with_lenses_of_its_own_on_either_family(family, tmp_path, request, monkeypatch):
    model = load(request.getfixturevalue("tiny_folder" if family == "llama" else "gpt2_folder"))
    draw, words = np.random.default_rng(0), " ".join(SENTENCES).split()
    documents = [
        {"text": " ".join(draw.choice(words, 60)), "work": f"w{n}", "split": ("fit", "reserve", "eval")[n % 3]}
        for n in range(90)
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    small = {"fit": Need(30, 120, whole=False), "tune": Need(6, 40), "confirm": Need(14, 40)}
    monkeypatch.setitem(MAIN.needs, "quick", small)
    report = midstream.run_study(model, question.STUDY.name, tmp_path / "corpus.jsonl", tmp_path / "out", size="quick")
    assert [verdict.claim for verdict in report.verdicts] == list(question.STUDY.claims)
    assert all(np.isfinite([verdict.estimate.low, verdict.estimate.high]).all() for verdict in report.verdicts)
    text = (tmp_path / "out" / "report.md").read_text()
    for name in ("Morris", "Carlini", "Finlayson", "Cancedda", "by definition"):
        assert name in text
    assert "nan" not in text
