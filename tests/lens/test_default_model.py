"""The bundled model, read as a user reads it, against transformers' own forward pass in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import midstream as ms

pytestmark = pytest.mark.default_model
EIFFEL = "The Eiffel Tower is located in the city of"
TEXT = (
    "In 1815, M. Charles-François-Bienvenu Myriel was Bishop of D——. He was an old man of about seventy-five years of "
    "age; he had occupied the see of D—— since 1806.\n\n    def area(r):\n        return 3.14159 * r ** 2  # 12 naïve "
    "東京\n"
)


@pytest.fixture(scope="module")
def truth():
    """(our model, token ids, logits of every layer in float64 ``[L + 1, n, V]``)."""
    ours = ms.load()
    theirs = ms.load(engine="transformers").module.double()
    ids = torch.tensor([ours.tokenizer.encode(TEXT).ids])
    with torch.no_grad():
        out = theirs(ids, output_hidden_states=True)
        norm, head = theirs.model.norm, theirs.lm_head
        logits = [head(norm(h[0])) for h in out.hidden_states[:-1]]
    return ours, ids[0].numpy(), torch.stack([*logits, out.logits[0]])


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_every_statistic_agrees_with_float64(truth, precision):
    model, ids, z = truth
    table = ms.read(model, TEXT, precision=precision, watch=[" the"])
    layers, n = z.shape[:2]
    log_p = z.log_softmax(-1)
    p, log_q = log_p.exp(), log_p[-1]
    q = log_q.exp()

    def grid(name):
        return torch.from_numpy(table.columns[name].reshape(layers, n, *table.columns[name].shape[1:])).double()

    def off(name, expected):
        error = (grid(name)[..., : expected.shape[1]] - expected).abs()
        return error / expected.abs().clamp(min=1)

    entropy, forward = -(p * log_p).sum(-1), (q * (log_q - log_p)).sum(-1)
    backward, moved = (p * (log_p - log_q)).sum(-1), (p[0] * (log_p[0] - log_p)).sum(-1)
    target = torch.from_numpy(ids[1:].astype(np.int64))
    logprob = log_p[:, :-1].gather(-1, target.expand(layers, -1)[..., None])[..., 0]
    assert off("logprob", logprob).max() < 2e-3
    errors = {"entropy": entropy, "kl_final_lens": forward, "kl_lens_final": backward, "kl_input_lens": moved}
    for name, expected in errors.items():
        error = off(name, expected)
        assert error.mean() < 3e-3, name
        assert precision == "fast" or error.max() < 2e-3, name

    best, order = z.topk(11)
    clear = (best[..., :10] - best[..., 1:11] > 1e-3).all(-1)
    assert clear.float().mean() > 0.9
    assert (grid("top_ids").long()[clear] == order[..., :10][clear]).all()

    own = z[:, :-1].gather(-1, target.expand(layers, -1)[..., None])
    low, high = ((z[:, :-1] > own + e).sum(-1) + 1 for e in (1e-3, -1e-3))
    rank = grid("rank")[:, :-1]
    if precision == "fast":
        far = (high > 32) & (low > 32)
        low, high = torch.where(far, low * 0.8, low), torch.where(far, high * 1.2, high)
    assert ((low <= rank) & (rank <= high)).all()


def test_paris_appears_late_and_stays(truth):
    model, _, _ = truth
    table = ms.read(model, EIFFEL, watch=[" Paris"])
    n = len(table.positions["position"])
    last = table.columns["top_ids"].reshape(31, n, -1)[:, -1, 0]
    leads = [model.tokenizer.token(int(token)) == " Paris" for token in last]
    assert all(leads[28:])
    assert not any(leads[:25])
    assert table.watched["rank"].reshape(31, n)[30, -1] == 1


def test_final_layer_is_transformers_own(truth):
    model, _, _ = truth
    theirs = ms.load(engine="transformers")
    ids = torch.tensor([theirs.tokenizer.encode(EIFFEL).ids])
    own = theirs.module.double()(ids).logits[0].log_softmax(-1)
    table = ms.read(model, EIFFEL, layers=[-1], top_k=20)
    chosen = own.gather(-1, torch.from_numpy(table.columns["top_ids"]).long())
    assert np.abs(table.columns["top_logprobs"] - chosen.detach().numpy()).max() < 5e-4
