"""is_the_input_stored_in_the_guess: parts add up, planted worlds are told apart, chance and controls are as said."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import midstream
from midstream.errors import RequestError
from midstream.model.load import load
from midstream.record import Estimate
from midstream.study.displace import rotation
from midstream.study.guess import coordinates, measure, stages
from midstream.study.guess.analysis import TOLD, Panel, beyond
from midstream.study.guess.chance import OWN, deviation
from midstream.study.guess.cut import cuts
from midstream.study.guess.fit import fit, windows
from midstream.study.guess.outcome import SAYS, outcome
from midstream.study.guess.setting import FIRST, PREDICTED, PRIMARY, SIZES, THIN, layers
from midstream.study.guess.streams import gathered, streams
from midstream.study.questions import is_the_input_stored_in_the_guess as question
from midstream.study.study import Need
from midstream.study.verdict import decide
from midstream.view import study_file
from tests.conftest import SENTENCES, tiny_tokenizer
from tests.guess_world import LAST, READ, D, T, V, half_read, measured, planted, random_weights, texts
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


WORLDS = {"through": (1.0, 0.0, 1.0, 0.42), "beside": (0.0, 1.0, 0.0, -0.59), "even": (1.0, 1.0, 0.5, 0.0)}
"""Strengths in what is read and beside it; the share of S; what it is above that of outputs turned at random."""


@pytest.mark.parametrize("world", WORLDS)
def test_a_planted_world_is_recovered_within_its_interval(monkeypatch, world):
    read, beside, true, above = WORLDS[world]
    ground = planted(monkeypatch, told_through(read, beside))
    records = measured(ground, MAIN)
    panel, found = Panel.of(ground, records), cuts(ground, records)
    late = panel.layers.late
    assert found[late][PRIMARY].k == READ
    share = panel.estimate(panel.share(late, READ))
    assert share.low - 1e-9 <= true <= share.high + 1e-9
    assert share.high - share.low < 0.1
    # the final prediction is S of the last layer, which holds the elements that are read and no other
    assert panel.foretold(LAST, np.arange(READ)).value > 0.98
    assert panel.foretold(LAST, np.arange(READ, D)).value < 0.02
    report = question.analyse(ground, {"main": records})
    through, turned = report.verdicts[:2]
    assert through.estimate.value == pytest.approx(true - 0.5, abs=0.02)
    assert turned.estimate.value == pytest.approx(above, abs=0.03)
    assert outcome(through, turned) == world
    assert report.answer.startswith(SAYS[world])
    read_alone = shares_read(records["read"], late)
    assert read_alone["guess"] == pytest.approx(true, abs=0.02)
    assert read_alone["rest"] == pytest.approx(1 - true, abs=0.02)


def shares_read(columns, layer):
    """Part -> the R^2 of what is decoded from it alone, over that of all."""
    kept = columns["layer"] == layer
    explained = {
        part: 1 - columns["error"][at].sum() / columns["square"][at].sum()
        for part in np.unique(columns["part"])
        for at in [kept & (columns["part"] == part)]
    }
    return {part: value / explained["all"] for part, value in explained.items()}


@pytest.mark.parametrize("few", [6, D])
def test_large_directions_shared_by_input_and_guess_are_not_called_through(monkeypatch, few):
    """The input enlarges some directions, drawn without regard to what is read: S, which prefers those, tells more."""
    for number in range(3):
        q = rotation(D, 100 + number)
        size = torch.ones(D) if few < D else torch.linspace(2.5, 0.1, D)

        def made(row, noise, _layer, q=q, size=size):
            return noise + (row * size)[..., :few] @ q[:few]

        ground = planted(monkeypatch, made)
        through, turned = question.analyse(ground, {"main": measured(ground, MAIN)}).verdicts[:2]
        assert through.estimate.low > 0
        assert outcome(through, turned) in ("shared", "even", "undecided")
        assert abs(turned.estimate.value) < 0.08


def test_what_two_verdicts_say_together():
    def said(*ends):
        claims = question.THROUGH, question.TURNED
        return outcome(*(decide(claim, estimate(*one)) for claim, one in zip(claims, ends, strict=True)))

    def estimate(low, high):
        return Estimate((low + high) / 2, low, high, 0.95, 30, 30, 30, "", "", 0.1)

    up, down, none, open_ = (0.3, 0.5), (-0.5, -0.3), (-0.01, 0.01), (-0.2, 0.2)
    wanted = {(up, up): "through", (down, down): "beside", (up, none): "shared", (up, down): "turned away",
              (none, none): "even"}  # fmt: skip
    for one in (up, down, none, open_):
        for other in (up, down, none, open_):
            assert said(one, other) == wanted.get((one, other), "undecided")
    assert said((0.01, 0.09), up) == "undecided"  # above chance, but by less than matters
    assert said(up, (-0.04, -0.01)) == "shared"  # below outputs turned at random, but by less than matters
    assert not any(question.THROUGH.name in words for words in SAYS.values())  # a claim's mark is not the answer's


@pytest.mark.parametrize("needed", ["nearly all coordinates", "none of the coordinates"])
def test_nothing_is_told_where_the_guess_needs_all_coordinates_or_none(monkeypatch, tmp_path, needed):
    """No share lies far above a chance of 1, and none is told by no coordinate, whatever the model does."""
    every = torch.from_numpy(np.random.default_rng(6).normal(size=(160, D))).float()
    given = {"weight": every} if "all" in needed else {"move": torch.zeros(D, D)}
    ground = planted(monkeypatch, told_through(1.0, 1.0), **given)
    report = question.analyse(ground, {"main": measured(ground, MAIN)})
    assert [verdict.found for verdict in report.verdicts[:2]] == ["undecided", "undecided"]
    assert report.answer.startswith(f"{SAYS['undecided']}, since the guess needs {needed}")
    study_file.write(report, tmp_path)
    assert "nan" not in (tmp_path / "report.md").read_text()


def test_the_tokenizers_own_token_stands_before_every_window(monkeypatch):
    ground = planted(monkeypatch, told_through(0.7, 0.4))
    plain = [text.ids for part in windows(ground) for text in part]
    assert {len(ids) for ids in plain} == {T}
    begun = [replace(text, ids=(V, *text.ids)) for text in ground.texts["fit"]]
    ground = replace(ground, texts={**ground.texts, "fit": begun})
    ground.model.tokenizer = SimpleNamespace(special_ids=frozenset({V}))
    found = windows(ground)
    for members in found:
        for text in members:
            assert text.ids[0] == V
            assert len(text.ids) == T
    # what is read between them is the text, once and in order
    first = found[0][0].number
    read = tuple(token for text in found[0] if text.number == first for token in text.ids[1:])
    whole = next(text.ids for text in begun if text.number == first)
    assert read == whole[1 : len(read) + 1]
    assert len(read) == min(SIZES["quick"].windows, 4 * T // (T - 1)) * (T - 1)


def test_memory_counts_the_matrices_that_are_held_at_once(monkeypatch):
    every = torch.from_numpy(np.random.default_rng(6).normal(size=(160, D))).float()
    most = 0
    gc.collect()
    gc.freeze()  # what was there before is not looked at
    ground = planted(monkeypatch, told_through(0.7, 0.4), every)
    whole = coordinates.in_basis

    def in_basis(*given, **matrix):
        nonlocal most
        storages = (one.untyped_storage() for one in matrices())
        most = max(most, sum({one.data_ptr(): one.nbytes() for one in storages}.values()))
        return whole(*given, **matrix)

    monkeypatch.setattr(coordinates, "in_basis", in_basis)
    try:
        measured(ground, MAIN)
    finally:
        gc.unfreeze()
    expected = stages.memory(replace(ground, texts={"tune": [], "confirm": []}))
    assert most <= expected < 1.2 * most


def matrices():
    """Of the stream's width, as they live in float64: not the streams."""
    gc.collect()
    kept = [one for one in gc.get_objects() if type(one) is torch.Tensor and one.dtype == torch.float64]
    return [one for one in kept if one.dim() == 2 and max(one.shape) <= 2 * D]


def test_the_guess_is_what_the_lens_makes_of_the_stream(monkeypatch):
    """The last block exchanges the halves and the lens knows it: what is read lies in the second, with the input."""
    beside = told_through(0.0, 1.0)

    def made(row, noise, layer):
        return beside(row, noise, layer).roll(READ if layer == LAST else 0, -1)

    ground = planted(monkeypatch, made, move=torch.eye(D).roll(READ, 0))
    report = question.analyse(ground, {"main": measured(ground, MAIN)})
    assert outcome(*report.verdicts[:2]) == "through"


def test_the_cut_is_chosen_on_works_of_its_own_by_what_reading_adds_to_the_output(monkeypatch):
    def made(row, noise, layer):
        return noise if layer == LAST else 0.6 * noise + 0.8 * noise.flip(-1)

    ground = planted(monkeypatch, made)
    records, late = measured(ground, MAIN), layers(ground).late
    for stage, name in (("choose", "tune"), ("told", "confirm")):
        assert set(records[stage]["document"]) == {text.number for text in ground.texts[name]}
    seen = gathered(ground, "tune")
    h, last = (torch.cat([one.h[at] for one in seen])[::THIN] for at in (late, LAST))
    basis = fit(ground, late).relevant
    z = basis.coordinates(h)
    columns = {name: values[records["choose"]["layer"] == late] for name, values in records["choose"].items()}
    for k in np.unique(columns["k"]):
        added = divergence(last, basis.stream(z, slice(0, k))) - divergence(last, h)
        assert columns["added"][columns["k"] == k].sum() / len(h) == pytest.approx(added, abs=1e-4)


def divergence(h, other):
    """KL of what is read from the stream to what is read from another, in the plainest lines."""
    p, q = ((x.double() @ half_read().double().T).log_softmax(-1) for x in (h, other))
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_sinks_and_first_positions_are_left_out(monkeypatch):
    def made(row, noise, layer):
        h = row + noise
        h[:, 20] *= 100.0 if layer == LAST else 1.0
        return h

    seen = streams(planted(monkeypatch, made), texts(3, 1, 3))
    assert seen.document.tolist() == [n for n in (1, 2, 3) for _ in range(T - FIRST - 1)]
    assert max(float(h.norm(dim=1).max()) for h in seen.h.values()) < 100


def squared(x, y):
    """What least squares of y on x, with a constant, explains of y: R^2."""
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    left = y - x @ torch.linalg.lstsq(x, y, driver="gelsd").solution
    return 1 - float(left.square().sum() / (y - y.mean(0)).square().sum())


def test_parts_add_up_where_the_covariance_was_taken(monkeypatch):
    """R^2(S) + R^2(rest) = R^2(h) to 1e-6, each by a least squares of its own on the fit texts' positions."""
    ground = planted(monkeypatch, told_through(0.7, 0.4))
    seen = fitted(ground)
    layer = layers(ground).late
    known, k = fit(ground, layer), 11
    z, y = known.relevant.coordinates(seen.h[layer]), seen.row
    whole, guess, rest = squared(seen.h[layer].double(), y), squared(z[:, :k], y), squared(z[:, k:], y)
    assert abs(guess + rest - whole) < 1e-6
    # and what the study's own columns say there is the same
    columns = told_on_fit(ground, layer)
    told = columns["relevance"] / columns["square"].sum()
    assert abs(told[:k].sum() - guess) < 1e-6
    assert abs(told[k:].sum() - rest) < 1e-6
    assert abs(columns["variance"].sum() / columns["square"].sum() - whole) < 1e-6


def fitted(ground):
    """The streams that were fitted on."""
    return streams(ground, [text for part in windows(ground) for text in part])


def told_on_fit(ground, layer, guess=(8, 3)):
    """Name -> ``[d]``, what each coordinate tells there, where it is the R^2 of least squares."""
    columns = measure.told(ground, [fitted(ground)], layer, -1, dict(zip(PREDICTED, guess, strict=True)))
    return {name: np.bincount(columns["coordinate"], weights=columns[name]) for name in TOLD}


def test_what_the_final_prediction_foretells_is_least_squares_from_its_coordinates(monkeypatch):
    ground = planted(monkeypatch, lambda row, noise, layer: row + noise * (1 + layer))
    layer, seen = layers(ground).half, fitted(ground)
    z, columns = fit(ground, LAST).relevant.coordinates(seen.h[LAST]), told_on_fit(ground, layer)
    for epsilon, k in zip(PREDICTED, (8, 3), strict=True):
        for j in (0, READ, D - 1):
            foretold = squared(z[:, :k], seen.h[layer][:, [j]].double())
            assert columns[measure.held_of(epsilon)][j] / columns["own"][j] == pytest.approx(foretold, abs=1e-6)


def test_parts_add_up_on_texts_that_confirm(monkeypatch):
    ground = planted(monkeypatch, told_through(0.7, 0.4))
    panel = Panel.of(ground, measured(ground, MAIN))
    for layer in panel.layers.all:
        parts = [panel.estimate(panel.told_at(layer, part)).value for part in (slice(0, 9), slice(9, None))]
        assert abs(sum(parts) - panel.estimate(panel.told_at(layer)).value) < 1e-6


def test_what_is_told_is_not_inflated_by_the_fit(monkeypatch):
    """Streams that hold nothing of the input tell nothing on other texts, though least squares fits their noise."""
    ground = planted(monkeypatch, told_through(0.0, 0.0))
    seen = fitted(ground)
    assert squared(seen.h[LAST].double(), seen.row) > 0.005
    panel = Panel.of(ground, measured(ground, MAIN))
    found = panel.estimate(panel.told_at(LAST))
    assert found.low < 0 < found.high
    assert abs(found.value) < 0.003


def test_what_is_lost_with_a_coordinate_is_the_loss_of_a_refit(monkeypatch):
    ground = planted(monkeypatch, told_through(0.7, 0.4))
    seen, layer = fitted(ground), layers(ground).late
    columns = told_on_fit(ground, layer)
    lost = columns["lost"] / columns["square"].sum()
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
        whole = [panel.share(layer, int(k)).value for k in turned["k"][at]]
        np.testing.assert_allclose(turned["share"][at], whole, atol=1e-9)
        assert chance["correlation"][own][0] == pytest.approx(panel.correlation(layer).value, abs=1e-9)
        # and it is none of those that chance makes
        assert len(panel.random_correlations(layer)) == SIZES["quick"].bases
        assert len(panel.turned_shares(layer, 5)) == SIZES["quick"].turns


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
        records = measured(ground, MAIN)
        panel, report = Panel.of(ground, records), question.analyse(ground, {"main": records})
        assert report.verdicts[2].found == expected
        # less what random bases give
        late = panel.layers.late
        above = report.verdicts[2].estimate.value - panel.correlation(late).value
        assert above == pytest.approx(-panel.random_correlations(late).mean(), abs=1e-9)
        assert abs(above) > 0.01
    assert report.verdicts[2].estimate.low < 0 < report.verdicts[2].estimate.high


def filling(filled):
    """Streams in which some elements hold what the output reads, from one layer before the last on."""
    _, made = leaning(0)

    def stream(row, noise, layer):
        h = made(row, noise, layer)
        read = [j for j in range(D) if j not in filled]
        for place, j in enumerate(filled):
            late = h[..., read[place]] + 0.3 * noise[..., j]
            h[..., j] = late if layer >= LAST - 1 else noise.roll(1, dims=-2)[..., j]
        return h

    return stream


def test_elements_that_are_filled_with_the_prediction_are_found_and_others_not(monkeypatch):
    weight, _ = leaning(0)
    little = np.argsort(weight.norm(dim=0).numpy())[: D // 10]
    for filled, expected in ((little, "supported"), ((), "refuted")):
        ground = planted(monkeypatch, filling(filled), weight)
        report = question.analyse(ground, {"main": measured(ground, MAIN)})
        assert report.verdicts[3].found == expected


def test_what_large_elements_are_filled_with_is_not_put_down_to_their_weight(monkeypatch):
    """Elements of large variance are filled, whether the output weights them least or much: the control is too."""
    weight, _ = leaning(0)
    order = np.argsort(weight.norm(dim=0).numpy())
    large = [*order[: D // 10], *sorted(order[D // 2 :])[-(D // 10) :]]
    made = filling(large)

    def stream(row, noise, layer):
        h = made(row, noise, layer)
        h[..., large] *= 3.0
        return h

    ground = planted(monkeypatch, stream, weight)
    panel = Panel.of(ground, measured(ground, MAIN))
    assert set(panel.little) | set(panel.control) == set(large)
    assert panel.risen(panel.little).value > 0.3
    assert abs(panel.slotted().value) < 0.1


def test_a_coordinate_without_variance_is_left_out_and_what_it_makes_undefined_is_undecided(monkeypatch, tmp_path):
    weight = half_read()
    dead = int(np.argsort(weight.norm(dim=0).numpy(), kind="stable")[0])

    def made(row, noise, _layer):
        h = row + noise
        h[..., dead] = 2.0
        return h

    ground = planted(monkeypatch, made, weight)
    records = measured(ground, MAIN)
    report = question.analyse(ground, {"main": records})
    panel = Panel.of(ground, records)
    assert dead not in {*panel.little, *panel.control}
    assert [verdict.found == "undecided" for verdict in report.verdicts] == [False, False, True, False]
    study_file.write(report, tmp_path)
    assert "nan" not in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_of_random_weights_gives_what_was_predicted(family):
    """Large directions hold both guess and input: above chance, and no more than principal components are."""
    ground = random_weights(family)
    report = question.analyse(ground, {"main": measured(ground, MAIN)})
    through, turned, leans, filled = report.verdicts
    assert through.estimate.value > 0.05
    assert abs(turned.estimate.value) < 0.05
    assert outcome(through, turned) in ("shared", "even", "undecided")
    assert leans.found != "supported"
    assert filled.found != "supported"


def test_intervals_hold_what_works_refits_cuts_and_chance_add(monkeypatch):
    ground = planted(monkeypatch, told_through(0.7, 0.4))
    records = measured(ground, MAIN)
    panel, late = Panel.of(ground, records), layers(ground).late
    cut = cuts(ground, records)[late][PRIMARY]
    plain = panel.estimate(panel.share(late, cut.k, less=cut.chance))
    fits = panel.refitted(lambda quarter: panel.share(late, cut.k, less=cut.chance, without=quarter))
    moved = replace(cut, again=(cut.k - 2, cut.k, cut.k, cut.k + 2))
    all_, most = panel.through(moved), panel.through(replace(cut, again=(cut.k,) * 4))
    assert plain.value == fits.value == all_.value
    assert width(plain) < width(fits) < width(most) < width(all_)
    assert width(panel.more_than_turned(moved)) > width(panel.more_than_turned(replace(cut, again=(cut.k,) * 4)))
    assert np.isnan(panel.through(replace(cut, again=())).low)


def width(estimate):
    return estimate.high - estimate.low


def test_one_more_draw_lies_within_the_widened_interval_as_often_as_said():
    draw = np.random.default_rng(0)
    exact = Estimate(0.0, 0.0, 0.0, 0.95, 30, 30, 30, "", "", 0.1)
    held = [
        abs(one - others.mean()) < width(beyond(exact, others, "draws")) / 2
        for one, *rest in draw.normal(size=(4000, 5))
        for others in [np.array(rest)]
    ]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)


def test_a_cut_is_as_sure_as_the_works_that_chose_it_agree(monkeypatch):
    ground = planted(monkeypatch, told_through(0.7, 0.4))
    records = measured(ground, MAIN)
    found = cuts(ground, records)[layers(ground).late][0.3]
    assert len(found.again) == 8
    columns = dict(records["choose"])
    rough = columns["document"] == columns["document"].min()
    columns["added"] = np.where(rough, 40 * columns["added"], columns["added"])  # a text for which more is needed
    moved = cuts(ground, {"choose": columns})[layers(ground).late][0.3]
    assert moved.k > found.k
    assert min(moved.again) == min(found.again)


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
    monkeypatch.setattr(stages, "MOST", stages.memory(ground) - 1)
    with pytest.raises(RequestError, match="GB"):
        stages.check(ground)
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
    made = report.verdicts[2 * ("since the guess needs" in report.answer) :]
    assert all(np.isfinite([verdict.estimate.low, verdict.estimate.high]).all() for verdict in made)
    text = (tmp_path / "out" / "report.md").read_text()
    for name in ("Morris", "Carlini", "Finlayson", "Cancedda", "by definition"):
        assert name in text
    assert "nan" not in text
