"""A text read under edits: as the edited run is, whichever way it is cut; and beside the run without them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reading_oracle import build

import midstream as ms
from midstream.errors import RequestError
from midstream.lens.read import chunks
from midstream.stream.capture import capture
from midstream.stream.change import Add, Replace, Scale
from midstream.stream.edit import Edit

TEXT = "Once upon a time there was a king; the capital of France is Paris, said Zoë — 1234567 times."
OTHER = TEXT.replace("king", "duke").replace("Paris", "Milan")
NUMBERS = ("logprob", "entropy", "kl_final_lens", "kl_lens_final", "lse", "input_logprob", "top_logprobs")


@pytest.fixture(scope="module")
def model():
    module, tokenizer, _ = build("gpt2")
    return ms.load((module, tokenizer))


def vector(*shape, width=32):
    return torch.randn(*shape, width, generator=torch.Generator().manual_seed(4))


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def same(a, b, names=NUMBERS):
    for name in names:
        close(a.columns[name], b.columns[name])


def test_an_edit_that_changes_nothing_leaves_every_number(model):
    zero = Add(torch.zeros(model.anatomy.width))
    edits = [Edit(site, (1, 2), None, zero) for site in model.anatomy.sites]
    same(ms.read(model, TEXT, edits=edits), ms.read(model, TEXT))


def test_a_change_of_the_users_own_is_read_under_and_stated(model):
    class Halve:
        def apply(self, h):
            return h / 2

        def part(self, kept):
            return self

    own, known = (ms.read(model, TEXT, edits=[Edit("mlp_out", (1,), None, what)]) for what in (Halve(), Scale(0.5)))
    same(own, known)
    assert own.provenance.settings["edits"][0]["what"]["kind"].endswith("Halve")
    assert own.json()


def test_the_stream_of_another_run_gives_that_runs_output(model):
    ids, other = (model.tokenizer.encode(text).ids for text in (TEXT, OTHER))
    n = min(len(ids), len(other))
    last = model.anatomy.layers
    h = capture(model, torch.tensor([other[:n]]), layers=[last])[last]
    edits = [Edit("resid_post", (last,), tuple(range(n)), Replace(h))]
    got, there = ms.read(model, TEXT, edits=edits), ms.read(model, OTHER)
    for name in ("entropy", "lse", "top_ids", "top_logprobs"):
        a, b = (table.columns[name][table.columns["layer"] == last][:n] for table in (got, there))
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_chunks_and_windows_see_the_edits_at_their_own_positions(model, monkeypatch):
    text = TEXT * 4
    n = len(model.tokenizer.encode(text).ids)
    assert n > model.context
    at = (3, 20, 21, 40, 41, 100)
    edits = [Edit("resid_post", (1,), at, Add(vector(1, len(at)))), Edit("mlp_out", (2,), (-30,), Scale(3.0))]
    whole = ms.read(model, text, edits=edits)
    monkeypatch.setattr(chunks, "CHUNK", 16)
    same(whole, ms.read(model, text, edits=edits))
    assert (whole.columns["entropy"] != ms.read(model, text).columns["entropy"]).any()


def test_versus_stands_beside_the_reading_without_edits(model):
    vocabulary = model.anatomy.vocabulary
    edits = [Edit("resid_post", (1,), (5, 9), Add(vector()))]
    for lens in ("logit", "input"):
        both = ms.read(model, TEXT, edits=edits, versus=True, lens=lens, top_k=min(vocabulary, 1024))
        edited = ms.read(model, TEXT, edits=edits, lens=lens, top_k=min(vocabulary, 1024))
        plain = ms.read(model, TEXT, lens=lens, top_k=min(vocabulary, 1024))
        same(both, edited)
        assert [column.name for column in both.declared][-1] == "kl_unedited"
        close(both.columns["unedited_logprob"], plain.columns["logprob"])
        close(both.columns["unedited_entropy"], plain.columns["entropy"])
        assert np.array_equal(both.columns["unedited_rank"], plain.columns["rank"])
        assert np.array_equal(both.columns["unedited_top_id"], plain.columns["top_ids"][:, 0])
        assert np.isnan(both.columns["kl_input_lens"]).all()
        if lens == "logit":
            close(both.columns["kl_unedited"], divergence(plain, edited))
            before = both.columns["kl_unedited"][(both.columns["layer"] == 0) | (both.columns["position"] < 5)]
            assert np.abs(before).max() < 1e-5
        else:
            assert np.isnan(both.columns["kl_unedited"]).all(), "an uncalibrated lens has no divergence"
    assert both.arrow().column_names[-1] == "kl_unedited"


def divergence(plain, edited):
    """KL(plain || edited) of every row, from all log-probabilities."""
    found = []
    for a, b, p, q in zip(
        *(table.columns[name] for name in ("top_ids", "top_logprobs") for table in (plain, edited)), strict=True
    ):
        p, q = p[np.argsort(a)].astype(float), q[np.argsort(b)].astype(float)
        found.append((np.exp(p) * (p - q)).sum())
    return np.array(found)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"edits": [Edit("resid_post", (1,), (500,), Scale(2.0))]}, "names position 500: there are"),
        ({"edits": [Edit("resid_post", (9,), None, Scale(2.0))]}, "unknown layer 9"),
        ({"edits": [Edit("resid_post", (1,), "new", Scale(2.0))]}, "no text is generated"),
        ({"edits": [Edit("resid_post", (1,), None, Add(torch.ones(7)))]}, r"shape \[7\]"),
        ({"edits": [Edit("resid_post", (3,), None, Scale(2.0))], "layers": [2], "lens": "input"}, "comes after all"),
        ({"edits": ["scale"]}, "expected key=value"),
        ({"edits": [3]}, "was given as int"),
        ({"versus": True}, "nothing to compare with"),
    ],
)
def test_what_cannot_be_edited_is_refused(model, options, words):
    with pytest.raises(RequestError, match=words):
        ms.read(model, TEXT, **options)
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.module.modules())
    assert hooks == 0
