"""Readings of fitted lenses, whatever their offset, site and source, against float64 made window by window."""

from __future__ import annotations

import copy
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from reading_oracle import build, close, rank_is_right

import midstream as ms
from midstream.corpus.window import windows
from midstream.errors import RequestError
from midstream.lens.lens import LOGIT, Lens, Transport
from midstream.lens.read import chunks as cutting
from midstream.lens.read.reading import read_chunks
from midstream.lens.read.request import request
from midstream.lens.read.table import join
from midstream.model.tokenizer import Encoded
from midstream.readout.reference import statistics
from midstream.stream.capture import capture_sites

TOKENS, WINDOW, CHUNK, LAST = 83, 30, 7, 3
SITES = ("attn_out", "resid_mid", "mlp_out", "resid_post")
FLOATS = ("logprob", "entropy", "kl_final_lens", "kl_lens_final", "kl_input_lens", "final_top1_logprob",
          "input_logprob", "lse")  # fmt: skip


@pytest.fixture(scope="module", params=["gemma2", "qwen3"])
def model(request):
    """A model with or without a soft cap."""
    module, tokenizer, _ = build(request.param)
    return ms.load((module, tokenizer))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Windows and chunks so small that what a reading is compared with lies in later ones."""
    monkeypatch.setattr(cutting, "LONGEST", WINDOW)
    monkeypatch.setattr(cutting, "CHUNK", CHUNK)


@pytest.fixture(scope="module")
def encoded(model):
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(model.anatomy.vocabulary, (TOKENS,), generator=generator).tolist()
    return Encoded(ids, ["text"] * TOKENS)


def fitted(name, offset, *, reader="output", site="resid_post", layers=None, source="stream", seed=0):
    """A lens with random maps at some of its layers."""
    generator = torch.Generator().manual_seed(100 + 7 * offset + seed)
    width = 32 * (4 if source == "tokens" else 1)

    def move():
        weight = torch.randn(32, width, generator=generator) / width**0.5
        return Transport(weight, torch.randn(32, generator=generator))

    lowest = 0 if site == "resid_post" else 1
    at = (0,) if source != "stream" else layers or range(lowest, LAST + 1 - (offset == 1))
    betas = {layer: 0.5 + layer for layer in at if layer != 2} if reader == "input" else {}
    return Lens(
        name, reader, offset, {layer: move() for layer in at}, site=site, layers=layers, betas=betas, source=source
    )


def rows(model, encoded, lenses, positions=None, **options):
    wanted = request(model, {"lens": lenses, "top_k": 5, **options})
    return join(list(read_chunks(model, encoded, wanted, positions=positions)))


def pick(table, lens, layer, site="resid_post"):
    of = table.columns
    return table.pick((of["lens"] == lens.name) & (of["layer"] == layer) & (of["site"] == site)).columns


class Slow:
    """All logits of a document in float64, each position in the window that reads it."""

    def __init__(self, model, ids, reach=4):
        self.model, self.ids = model, torch.tensor(ids)
        places = [(layer, site) for layer in range(1, LAST + 1) for site in SITES] + [(0, "resid_post")]
        parts = []
        for window in windows(len(ids), WINDOW, reach=reach):
            seen = capture_sites(model, self.ids[None, window.start : window.stop], places)
            parts.append({place: h[0, window.first - window.start :] for place, h in seen.items()})
        self.stream = {place: torch.cat([part[place] for part in parts]).double() for place in places}
        anatomy = model.anatomy
        self.norm, self.head = (copy.deepcopy(part).double() for part in (anatomy.final_norm, anatomy.unembedding))
        self.rows = anatomy.input_rows().double()

    def logits(self, lens, layer, site):
        h = self.stream[layer, site]
        if lens.source != "stream":
            lags = range(4 if lens.source == "tokens" else 1)
            own = self.rows[self.ids]
            h = torch.cat([torch.cat([torch.zeros(lag, 32).double(), own[: len(own) - lag]]) for lag in lags], 1)
        if layer in lens.transports:
            move = lens.transports[layer]
            h = h @ move.weight.double().T + move.bias.double()
        if lens.reader == "input":
            return lens.betas.get(layer, 1.0) * (h @ self.rows.T - self.rows.square().sum(1) / 2)
        z = self.head(self.norm(h)).detach()
        cap = self.model.anatomy.soft_cap
        return z if cap is None else cap * torch.tanh(z / cap)

    def columns(self, lens, layer, site):
        """(what every column should be, all logits, ids of the target, the model's choice and the input)."""
        z, n = self.logits(lens, layer, site), len(self.ids)
        final, choice = torch.full_like(z, torch.nan), torch.full((n,), -1)
        if lens.reader == "output" and lens.offset > 0:
            ahead = self.logits(LOGIT, LAST, "resid_post")[lens.offset - 1 :]
            final[: len(ahead)], choice[: len(ahead)] = ahead, ahead.argmax(1)
        based = lens.reader == "output" and lens.reads(0, "resid_post")
        base = self.logits(lens, 0, "resid_post") if based else None
        at = torch.arange(n) + lens.offset
        target = torch.where((at >= 0) & (at < n), self.ids[at.clamp(0, n - 1)], -1)
        named = torch.stack([target, choice, self.ids], 1)
        return statistics(z, named, reference=final, base=base, top_k=5), z, named


def agrees(slow, table, lens, layer, site):
    found = pick(table, lens, layer, site)
    true, z, named = slow.columns(lens, layer, site)
    expected = {name: getattr(true, name) for name in ("entropy", "kl_final_lens", "kl_lens_final", "lse")}
    expected |= {"kl_input_lens": true.kl_base, "logprob": true.logprob[:, 0]}
    expected |= {"final_top1_logprob": true.logprob[:, 1], "input_logprob": true.logprob[:, 2]}
    for name, values in expected.items():
        assert (np.isnan(found[name]) == np.isnan(values)).all(), (name, lens.name, layer, site)
        defined = ~np.isnan(values)
        close(found[name][defined], values[defined])
    for column, name in enumerate(("rank", "final_top1_rank", "input_rank")):
        there = named[:, column].numpy() >= 0
        assert (found[name][~there] == -1).all(), name
        rank_is_right(found[name][there], z.numpy()[there], named[there, column].numpy())
    assert (found["target_id"] == named[:, 0].numpy()).all()


def test_every_offset_at_every_site_agrees_with_float64(model, encoded):
    lenses = [fitted(f"{site} {offset}", offset, site=site) for site in SITES for offset in range(-3, 5)]
    lenses += [fitted(f"input {offset}", offset, reader="input") for offset in range(-3, 2)]
    lenses += [fitted("few", 3, layers=(1, 3)), LOGIT, replace(LOGIT, name="plain", offset=3)]
    table = rows(model, encoded, lenses)
    slow = Slow(model, encoded.ids)
    wanted = request(model, {"lens": lenses})
    assert sum(len(wanted.places(lens)) for lens in lenses) * TOKENS == len(table)
    for lens in lenses:
        for layer, site in wanted.places(lens):
            agrees(slow, table, lens, layer, site)
    assert len({w.first for w in windows(TOKENS, WINDOW)}) > 3, "references cross windows"


@pytest.mark.parametrize("source", ["token", "tokens"])
@pytest.mark.parametrize(("reader", "offset"), [("output", 1), ("output", 3), ("input", -1)])
def test_a_baseline_reads_the_input_rows(model, encoded, source, reader, offset):
    lens = fitted("base", offset, reader=reader, source=source)
    table = rows(model, encoded, [lens, "logit"], layers=[2, 3], site="mlp_out")
    agrees(Slow(model, encoded.ids), table, lens, 0, "resid_post")


@pytest.mark.parametrize("offsets", [(1,), (4,), (1, 3), (-2, 0), (1, 2, 4, -3)])
def test_some_positions_read_as_all_do(model, encoded, offsets):
    lenses = [fitted(f"to {offset}", offset) for offset in offsets]
    whole = rows(model, encoded, lenses, watch=["a"])
    generator = np.random.default_rng(1)
    for size in (1, 2, 9, 40):
        at = np.sort(generator.permutation(TOKENS)[:size])
        part = rows(model, encoded, lenses, at, watch=["a"])
        kept = np.isin(whole.columns["position"], at)
        for name, values in part.columns.items():
            expected = whole.columns[name][kept]
            if values.dtype.kind == "f":
                np.testing.assert_allclose(values, expected, atol=2e-5, err_msg=name)
            else:
                assert (values == expected).all(), name
        assert part.positions["position"].tolist() == at.tolist()
        np.testing.assert_allclose(
            part.watched["logprob"], whole.watched["logprob"][np.isin(whole.watched["position"], at)], atol=2e-5
        )


def test_lenses_in_one_pass_read_as_each_alone(model, encoded):
    lenses = [fitted("far", 4), fitted("mid", 2, site="mlp_out"), fitted("back", -2, reader="input"), LOGIT]
    together = rows(model, encoded, lenses, watch=["a"])
    for lens in lenses:
        alone = rows(model, encoded, [lens], watch=["a"])
        both = together.pick(together.columns["lens"] == lens.name).columns
        for name in FLOATS:
            np.testing.assert_allclose(both[name], alone.columns[name], atol=2e-5, err_msg=name)
        own = together.watched["lens"] == lens.name
        np.testing.assert_allclose(together.watched["logprob"][own], alone.watched["logprob"], atol=2e-5)


def test_no_more_is_run_than_the_positions_need(model, encoded, monkeypatch):
    run = []

    def count(model, ids, places, *, cache, edits):
        run.append((ids.shape[1], len(places)))
        return capture_sites(model, ids, places, cache=cache, edits=edits)

    monkeypatch.setattr(cutting, "capture_sites", count)
    wanted = request(model, {"lens": ["logit", fitted("far", 4)]})
    for last in (10, 20):  # a later window has position 20 as context
        run.clear()
        list(read_chunks(model, encoded, wanted, positions=np.array([3, last])))
        assert sum(tokens for tokens, _ in run) == last + 3 + 1
    run.clear()
    list(read_chunks(model, encoded, wanted, positions=np.array([TOKENS - 1])))
    assert sum(tokens for tokens, _ in run) <= WINDOW
    assert [places for _, places in run if places] == [4], "context is run, not kept"


@pytest.mark.parametrize(("offset", "layer", "most"), [(1, 1, 1), (2, 1, 2), (2, LAST, 3)])
def test_at_most_two_chunks_are_held(model, encoded, monkeypatch, offset, layer, most):
    """Three of the last layer: the rows that the chunk just read was compared with lie in the next one."""
    alive: list[int] = []
    held: list[weakref.ref] = []

    def watch(model, ids, places, *, cache, edits):
        seen = capture_sites(model, ids, places, cache=cache, edits=edits)
        held.extend(weakref.ref(seen[place]) for place in places if place[0] == layer)
        alive.append(sum(ref() is not None for ref in held))
        return seen

    monkeypatch.setattr(cutting, "capture_sites", watch)
    list(read_chunks(model, encoded, request(model, {"lens": ["logit", fitted("far", offset)]})))
    assert len(alive) > 10
    assert max(alive) <= most


def test_a_broken_vector_is_undefined_wherever_it_is_compared():
    module, tokenizer, _ = build("qwen3")
    model = ms.load((module, tokenizer))
    ids = list(range(100, 120))
    with torch.no_grad():
        module.get_input_embeddings().weight[0] = torch.nan
    lens = fitted("far", 3)
    table = rows(model, Encoded([*ids, 0], ["text"] * 21), [lens, "logit"])
    final = np.isnan(pick(table, LOGIT, LAST)["entropy"])
    ahead = np.append(final[2:], [True, True])  # past the end there is none
    for layer in range(LAST + 1):
        found = pick(table, lens, layer)
        own = np.isnan(found["entropy"])
        assert own[20]
        assert not own[:12].any()
        assert (np.isnan(found["kl_final_lens"]) == (own | ahead)).all()
        assert ((found["final_top1_rank"] < 0) == (own | ahead)).all()
        assert (found["top_ids"][own] == -1).all()
    assert (ahead[:19] & ~final[:19]).any(), "the broken one lies in another chunk"


def test_positions_outside_are_refused(tiny):
    for wrong in ([0, TOKENS], [-1], [3, 3], [4, 2]):
        with pytest.raises(RequestError, match="ascending"):
            rows(tiny, Encoded([1] * TOKENS, ["text"] * TOKENS), ["logit"], np.array(wrong))
