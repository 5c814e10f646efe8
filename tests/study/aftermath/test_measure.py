"""What is measured is what is said, on a tiny model with random weights; and what such a model must give."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from midstream.errors import RequestError
from midstream.lens.lens import Lens, Transport
from midstream.stream.capture import capture, capture_sites
from midstream.study.aftermath import analysis, condition, findings, hide, measure, probe, repeats, stages
from midstream.study.aftermath.condition import FIRST, GUESS, HIDDEN, NEAR, PROMPT, READ, SPAN, decided, layers, starts
from midstream.study.aftermath.measure import Spots
from midstream.study.aftermath.panel import OWN, Panel, samples
from midstream.study.output import ids_of, logprobs
from midstream.study.questions import what_happens_after_a_surprise as question
from midstream.study.questions.what_happens_after_a_surprise import BACK, CHANCE, COPY, READS
from midstream.study.study import Ground, Text
from tests.sample.test_generate import model
from tests.study.aftermath import world as made

QUICK = condition.SIZES["quick"]


@pytest.fixture(scope="module")
def ground(tiny):
    return made.ground(tiny)


@pytest.fixture(scope="module")
def records(ground):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(condition.SIZES, "quick", made.SIZE)
        return run(ground)


def run(world):
    """All stages, as a run makes them."""
    found = {}
    for stage in stages.MAIN:
        parts = [stage.measure(world, unit) for unit in stage.units(world, found)]
        found[stage.name] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return found


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_runs_on_models_of_other_families(family):
    reader = model(family)
    reader.tokenizer.special_ids = frozenset()
    world = made.ground(reader, highest=150)
    found = run(world)
    assert not np.isnan(found["confirm-hidden"]["cost"]).any()
    if family == "gpt2":
        assert np.nanmax(found["confirm-deep"]["attn_out"]) > 0


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(condition.SIZES, "quick", made.SIZE)


def test_samples_go_on_from_the_texts_and_are_drawn_from_seeds(ground, records):
    found = samples(ground, records)
    for text, own in zip(ground.texts["confirm"], found, strict=True):
        assert own.ids[:PROMPT] == text.ids[:PROMPT]
        assert len(own.ids) == len(text.ids)
        assert own.work == text.work
    again = measure.sampled(ground, ground.texts["confirm"][: made.SIZE.together], ground.seed)
    np.testing.assert_array_equal(again["token"].reshape(-1, 96), [one.ids for one in found[: made.SIZE.together]])
    # the seed of a unit is its first text's number in the set: no two texts of one run share their draws
    assert sorted(set(records["samples"]["seed"].tolist())) == [0, made.SIZE.together]


def test_the_surprise_at_i_is_of_the_token_read_at_i_plus_1(ground, records):
    text = ground.texts["confirm"][3]
    panel = Panel.of(ground, records, "confirm")
    ids = ids_of(ground, [text])
    last = ground.model.anatomy.layers
    logits = ground.model.anatomy.unembedding(
        ground.model.anatomy.final_norm(capture(ground.model, ids, layers=[last])[last])
    )
    expected = -logits.log_softmax(-1)[0, 20, text.ids[21]]
    assert panel.surprise[3, 20] == pytest.approx(float(expected), abs=1e-4)
    assert (panel.token[3, 20], panel.target[3, 20]) == (text.ids[20], text.ids[21])
    assert not panel.usable[:, :FIRST].any()


def test_hidden_costs_are_those_of_the_positions_said(ground, records):
    text = ground.texts["confirm"][1]
    ids, last = ids_of(ground, [text]), ground.model.anatomy.layers
    start = decided(last)
    at, near = np.array([30, 41]), np.array([22, 39])
    columns = measure.hidden(ground, text, at, near, [(0, GUESS), (start, READ), (start, NEAR), (start, GUESS)])
    assert columns["position"].tolist() == [30, 41] * 4
    stream = capture(ground.model, ids, layers=[start, last])
    plain, _ = logprobs(ground, stream[last][:, 43 : 43 + SPAN], ids[:, 44 : 44 + SPAN])
    for which, place in ((READ, 42), (GUESS, 41), (NEAR, 39)):
        final = measure.hiding(ground).branched(ids[0], start, stream[start][0], [hide.Branch(43, place)], SPAN)
        under, _ = logprobs(ground, final, ids[:, 44 : 44 + SPAN])
        row = (columns["hidden"] == which) & (columns["position"] == 41) & (columns["layer"] == start)
        assert columns["cost"][row][0] == pytest.approx(float((plain - under).mean()), abs=1e-5)


def test_means_are_those_of_fit_texts(ground):
    other = replace(ground, texts={**ground.texts, "confirm": ground.texts["tune"], "tune": ()}, keep={})
    for key, value in measure.hiding(ground).mean.items():
        torch.testing.assert_close(measure.hiding(other).mean[key], value)


def test_sinks_and_special_tokens_are_no_positions(ground, records):
    plain = {name: values.copy() for name, values in records["confirm"].items()}
    special = min(ground.model.tokenizer.special_ids)
    of = plain["document"] == ground.texts["confirm"][2].number
    plain["sink"][of & (plain["position"] == 39)] = 1  # position 40
    plain["target"][of & (plain["position"] == 59)] = special  # position 60
    panel = Panel.of(ground, records | {"confirm": plain}, "confirm")
    assert np.flatnonzero(~panel.ordinary[2]).tolist() == [0, 40, 60]
    assert np.flatnonzero(~panel.usable[2]).tolist() == [*range(FIRST), 39, 40, 59, 60]
    at = np.arange(FIRST, panel.near.shape[1])
    near = panel.near[:, at]
    assert ((near >= at - 15) & (near < at)).all()
    assert panel.ordinary[np.arange(len(near))[:, None], near].all()
    assert len(np.unique(at - near)) == 15


def test_stages_measure_every_condition_of_every_position_chosen(ground, records):
    panel = Panel.of(ground, records, "confirm")
    wanted = int(((panel.hidden.high > 0) | (panel.hidden.low > 0)).sum())
    last = ground.model.anatomy.layers
    assert len(records["confirm-hidden"]["cost"]) == wanted * len(starts(last)) * len(HIDDEN) > 0
    own = Panel.of(ground, records, OWN)
    assert len(records["sampled-hidden"]["cost"]) == 2 * int(((own.hidden.high > 0) | (own.hidden.low > 0)).sum())
    assert set(records["confirm-deep"]["layer"].tolist()) == set(layers(ground))


def test_lenses_and_writes_are_read_where_they_are_said_to(ground):
    move = Lens("moved", "output", 1, transports={15: Transport(2 * torch.eye(32), torch.ones(32))})
    world = replace(ground, lenses={**ground.lenses, "tuned": move}, keep={})
    two = ground.texts["confirm"][:2]
    spots = Spots(np.array([0, 1]), np.array([20, 50]), np.array([True, False]))
    columns = measure.deep(world, two, spots)
    ids = ids_of(world, two)
    at = (columns["layer"] == 15) & (columns["position"] == 20)
    where = [(15, "resid_post"), (14, "resid_post"), (15, "resid_mid"), (15, "attn_out"), (15, "mlp_out")]
    h, before, middle, attention, mlp = (value[0] for value in capture_sites(world.model, ids, where).values())
    expected, _ = logprobs(world, (2 * h[None, 20:21] + 1), ids[:1, 21:22])
    assert columns["guess_logprob"][at][0] == pytest.approx(float(expected[0, 0]), abs=1e-4)
    distance = (world.model.anatomy.input_rows() - h[21]).norm(dim=1)
    for name, token in (("token_rank", ids[0, 21]), ("previous_rank", ids[0, 20])):
        assert columns[name][at][0] == 1 + int((distance < distance[token]).sum())
    for name, written, onto in (("attn_out", attention, before), ("mlp_out", mlp, middle)):
        assert columns[name][at][0] == pytest.approx(float(written[21].norm() / onto[21].norm()), rel=1e-4)
    other = (columns["layer"] == 15) & (columns["position"] == 50)
    assert np.isnan(columns["token_rank"][other]).all()
    assert not np.isnan(columns["guess_rank"][other]).any()


def test_a_model_with_random_weights_gives_what_was_written_down(ground, records):
    report = question.analyse(ground, {"main": records})
    found = {verdict.claim: verdict.found for verdict in report.verdicts}
    assert "supported" not in [found[claim] for claim in (READS, CHANCE, COPY, BACK)]


def test_bigrams_are_a_distribution_and_know_what_they_saw():
    known = probe.Expected.of(6, [[0, 1, 0, 1, 0, 2, 3]], [(1, 2.0), (1, 4.0), (2, 7.0)])
    for x in range(6):
        p = np.exp(-known.bigram(np.full(6, x), np.arange(6)))
        assert p.sum() == pytest.approx(1)
    assert known.bigram(np.array([0]), np.array([1]))[0] < known.bigram(np.array([0]), np.array([4]))[0]
    assert 3.0 < known.mean[1] < 13 / 3  # drawn towards the mean of all
    assert known.mean[5] == pytest.approx(13 / 3)


def test_what_is_known_without_the_stream_is_of_the_token_and_the_guess(ground):
    text = ground.texts["confirm"][0]
    ids, known = ids_of(ground, [text]), probe.expected(ground)
    entropy = np.linspace(0, 3, len(text.ids) - 1)
    found = probe.features(ground, ids, capture(ground.model, ids, layers=layers(ground)), entropy)
    told = found[probe.KNOWN][0, :, 32:].double().numpy() * 3
    x, y = np.array(text.ids[:-1]), np.array(text.ids[1:])
    expected = np.stack([known.bigram(x, y), known.mean[y], entropy], axis=1)
    np.testing.assert_allclose(told, expected, rtol=1e-5, atol=1e-6)
    assert {rows.shape[-1] for rows in found.values()} == {35, probe.columns(32)}


def test_maps_are_not_of_the_documents_that_counts_are_of(ground):
    taken = {text.number for text in probe.cut(ground)}
    assert len(taken) == made.SIZE.probe[0]
    known = probe.expected(ground)
    others = [text for text in ground.texts["fit"] if text.number not in taken]
    assert known.single.sum() == sum(len(text.ids) for text in others)


def test_what_repeats_is_rare_apart_and_matched(ground, records):
    panel = Panel.of(ground, records, "confirm")
    found = repeats.repeats(ground, panel)
    at = np.argwhere(found.second > 0)
    assert len(at) > 10
    for row, i in at:
        ids = ground.texts["confirm"][row].ids
        token = ids[i + 1]
        before = [place for place in range(i + 1) if ids[place] == token]
        assert len(before) == 1
        assert i + 1 - before[0] >= repeats.GAP
        assert found.first[row, i] == panel.surprise[row, before[0] - 1]
        assert token >= 90  # the others are in the fit documents
    for row, i in np.argwhere(found.fresh > 0):
        assert ground.texts["confirm"][row].ids[i + 1] not in ground.texts["confirm"][row].ids[: i + 1]
    for key in np.unique(found.keys[found.second > 0]):
        of = found.keys == key
        assert found.second[of].sum() == pytest.approx(found.fresh[of].sum())
    for part in range(4):  # 95 positions
        quarter = np.arange(95) * 4 // 95 == part
        assert found.second[:, quarter].sum() == pytest.approx(found.fresh[:, quarter].sum())


def test_what_cannot_be_asked_is_refused(ground, monkeypatch):
    with pytest.raises(RequestError, match="reads 50 tokens"):
        measure.check(replace(ground, model=replace(ground.model, context=50)))
    few = {**ground.texts, "fit": ground.texts["fit"][:20]}
    with pytest.raises(RequestError, match="20 documents to fit on"):
        measure.check(replace(ground, texts=few))
    wide = SimpleNamespace(anatomy=SimpleNamespace(width=70))
    assert probe.tokens(replace(ground, model=wide)) > len(ground.texts["fit"][0].ids) >= probe.tokens(ground)
    alike = {**ground.texts, "fit": [replace(text, work="one") for text in ground.texts["fit"]]}
    with pytest.raises(
        RequestError, match="about 0 positions in the smallest refit and 0 to choose a ridge: expected 268"
    ):
        measure.check(replace(ground, texts=alike))
    monkeypatch.setitem(condition.SIZES, "quick", replace(made.SIZE, probe=(32, 20)))
    with pytest.raises(RequestError, match="0 of them of 81 tokens, with about 0 positions"):
        measure.check(ground)
    monkeypatch.setitem(condition.SIZES, "quick", made.SIZE)
    reader = model("bloom")
    reader.name = "a bloom"
    with pytest.raises(RequestError, match="bloom"):
        measure.check(replace(ground, model=reader))
    measure.check(ground)


@pytest.fixture
def wide(ground, monkeypatch):
    """A width and a size -> the ground of a model that reads 1,024 tokens, with fit documents as long."""
    monkeypatch.setitem(condition.SIZES, "quick", QUICK)
    monkeypatch.setattr(measure, "unable", lambda *_: "")  # which runs the model: it is not as wide as it says
    anatomy = type(ground.model.anatomy)

    def made_of(width, size):
        monkeypatch.setattr(anatomy, "width", width)
        draw, count = np.random.default_rng(0), condition.SIZES[size].probe[0] + 4
        fit = [Text(n, f"w{n}", tuple(draw.integers(3, 90, 1024).tolist())) for n in range(count)]
        return replace(ground, model=replace(ground.model, context=1024), texts={**ground.texts, "fit": fit}, size=size)

    return made_of


@pytest.mark.parametrize("size", ["quick", "default", "large"])
@pytest.mark.parametrize("width", [32, 64, 96, 576])
def test_each_size_reads_enough_of_its_documents_for_models_of_any_width(size, width, wide):
    measure.check(wide(width, size))


@pytest.mark.parametrize(
    ("width", "size", "why"),
    [
        (2048, "large", "1059 of each document. Give --size quick."),
        (6000, "large", "No --size asks for as few: ask a narrower model."),
        (2048, "default", "of width 2,048, would take 10 GB"),
    ],
)
def test_what_is_too_wide_is_refused_with_advice_that_helps(width, size, why, wide):
    with pytest.raises(RequestError, match=why):
        measure.check(wide(width, size))


def test_the_cost_is_predicted(ground):
    cost = stages.cost(ground)
    assert cost.forwards > 0
    assert cost.seconds > 0


@pytest.mark.parametrize("blocks", [1, 2, 4, 30])
def test_layers_fit_any_depth(blocks, ground):
    class Depth:
        layers = blocks

    world = Ground(replace(ground.model, anatomy=Depth), {}, "default", 0)
    found = layers(world)
    assert (found[0], found[-1]) == (0, blocks)
    assert decided(blocks) in starts(blocks)


@pytest.mark.parametrize("written", [True, False])
def test_a_surprise_that_is_written_in_the_stream_is_read_and_one_of_the_token_alone_is_not(
    ground, monkeypatch, written
):
    draw = np.random.default_rng(3)
    w, level = torch.from_numpy(draw.normal(size=32)).float(), draw.normal(6, 1, ground.model.anatomy.vocabulary)
    seen = {}

    def looked(model, ids, **wanted):
        seen["stream"] = capture(model, ids, **wanted)
        return seen["stream"]

    def surprised(_ground, _h, targets):
        token = torch.from_numpy(level[targets.numpy()])
        h = seen["stream"].get(15)
        said = 0.0 if h is None or not written else h[:, 1:].float() @ w / h[:, 1:].norm(dim=-1).median()
        return -(token + said).numpy().astype(np.float32), None

    def whole(*of):
        return SimpleNamespace(logprob=surprised(*of)[0].reshape(-1, 1), entropy=np.zeros(of[2].numel()))

    monkeypatch.setattr(probe, "logprobs", surprised)
    for module in (probe, measure):
        monkeypatch.setattr(module, "capture", looked)
        monkeypatch.setattr(module, "predicted", whole)
    world = replace(ground, keep={})
    found = {}
    for own in ("tune", "confirm"):
        found[own] = measure.plain(world, ground.texts[own])
    panel = Panel.of(world, found, "confirm")
    estimate = analysis.gained(panel, 15)
    if written:
        assert estimate.low > findings.NOTICEABLE
        assert analysis.best(Panel.of(world, found, "tune"), layers(world)) == 15
    else:
        assert estimate.high < findings.NOTICEABLE
