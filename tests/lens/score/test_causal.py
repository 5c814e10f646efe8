"""The causal score: a lens that is the rest of the model's linearisation scores 1, a shuffled one 0."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from midstream.errors import RequestError
from midstream.lens.lens import INPUT, LOGIT, Lens, Transport
from midstream.lens.score import causal as module
from midstream.lens.score.causal import TOP, causal, spearman, spread
from midstream.model.anatomy import find
from midstream.model.forward import differentiable
from midstream.model.plain import PlainConfig, PlainLM
from tests.tiny import shaken, tiny


def model(model_type):
    if model_type.startswith("plain"):
        net = shaken(PlainLM(PlainConfig(model_type.removeprefix("plain "), 160, 32, 48, 4, 4, 4, 8, 64, 1e-5)))
    else:
        net = tiny(model_type)
    return SimpleNamespace(module=net, anatomy=find(net, net.config), device=torch.device("cpu"))


def texts(count, length=40, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 160, (length,), generator=draw).tolist() for _ in range(count)]


def linearised(reader, ids, layers):
    """The lens that at this text's last position is the rest of the model to first order."""
    h = differentiable(reader.anatomy, torch.tensor([ids]))
    maps = {layer: torch.zeros(32, 32) for layer in layers}
    for row in range(32):
        found = torch.autograd.grad(h[-1][0, -1, row], [h[layer] for layer in layers], retain_graph=True)
        for layer, g in zip(layers, found, strict=True):
            maps[layer][row] = g[0, -1]
    final = h[-1][0, -1].detach()
    return {layer: Transport(weight, final - weight @ h[layer][0, -1].detach()) for layer, weight in maps.items()}


def scored(reader, layers, *, shuffle=False, count=6, **options):
    """[texts, layers] scores, each text under a lens of its own."""
    draw, found = torch.Generator().manual_seed(1), []
    for ids in texts(count):
        maps = linearised(reader, ids, layers)
        if shuffle:
            maps = {
                layer: Transport(move.weight[torch.randperm(32, generator=draw)], move.bias)
                for layer, move in maps.items()
            }
        found.append(causal(reader, Lens("linear", "output", 1, maps), [ids], layers=layers))
    return SimpleNamespace(
        **{
            name: np.stack([getattr(score, name)[0] for score in found])
            for name in ("correlation", "lens_change", "model_change", "random_change", "excess")
        }
    )


@pytest.mark.parametrize("model_type", ["plain llama", "gemma2", "gpt2"])
def test_the_linearised_rest_of_the_model_predicts_small_moves(model_type, monkeypatch):
    monkeypatch.setattr(module, "STEP", 1e-3)
    got = scored(model(model_type), (0, 2, 3), count=2)
    assert got.correlation.min() > 0.98
    np.testing.assert_allclose(got.lens_change, got.model_change, rtol=0.05)
    assert (got.excess > 0).all()


def test_a_shuffled_lens_predicts_nothing(monkeypatch):
    monkeypatch.setattr(module, "STEP", 1e-3)
    reader = model("plain llama")
    right, wrong = scored(reader, (2, 3)), scored(reader, (2, 3), shuffle=True)
    assert abs(wrong.correlation.mean()) < 0.3
    assert right.correlation.mean() > 0.95
    assert abs(wrong.model_change.mean()) < 0.3 * right.model_change.mean()


def test_random_directions_move_nothing_on_average(monkeypatch):
    monkeypatch.setattr(module, "STEP", 1e-3)
    got = scored(model("plain llama"), (1, 2, 3))
    spread_ = got.random_change.std() / np.sqrt(got.random_change.size)
    assert abs(got.random_change.mean()) < 4 * spread_
    assert got.random_change.std() < 0.5 * got.model_change.mean()


@pytest.mark.parametrize("model_type", ["plain llama", "plain gpt2", "llama", "gemma2", "gpt_neox"])
def test_the_cache_changes_nothing(model_type, monkeypatch):
    reader = model(model_type)
    with_cache = causal(reader, LOGIT, texts(2), layers=(0, 1, 3))
    monkeypatch.setattr(module, "new_cache", lambda *_: None)
    whole = causal(reader, LOGIT, texts(2), layers=(0, 1, 3))
    for name in ("correlation", "lens_change", "model_change", "random_change"):
        assert getattr(whole, name).shape == (2, 3)
        near = 0.05 if name == "correlation" else 1e-4  # two changes that are nearly equal may change places
        np.testing.assert_allclose(getattr(with_cache, name), getattr(whole, name), rtol=1e-2, atol=near)


@pytest.mark.parametrize("model_type", ["recurrent_gemma", "qwen3_next"])
def test_families_whose_cache_cannot_be_copied_run_whole(model_type):
    got = causal(model(model_type), LOGIT, texts(2, length=12), layers=(1, 3))
    assert np.isfinite(got.correlation).all()


def test_rows_are_cut_anywhere_and_seeds_repeat(monkeypatch):
    reader = model("plain llama")
    one = causal(reader, LOGIT, texts(2), layers=(1, 2), seed=3)
    monkeypatch.setattr(module, "_ROWS", 7)
    two, other = (causal(reader, LOGIT, texts(2), layers=(1, 2), seed=seed) for seed in (3, 4))
    np.testing.assert_allclose(one.model_change, two.model_change, rtol=1e-3, atol=1e-5)
    assert not np.allclose(one.model_change, other.model_change, rtol=1e-3)


def test_a_lens_of_another_site_moves_that_site():
    reader = model("llama")
    lens = Lens("mid", "output", 1, site="resid_mid", layers=(1, 2, 4))
    assert spread(reader, lens) == (1, 2)
    got = causal(reader, lens, texts(2))
    assert got.layers == (1, 2)
    assert (got.excess > 0).all()


def test_layers_are_chosen_evenly():
    deep = SimpleNamespace(anatomy=SimpleNamespace(layers=30))
    assert spread(deep, LOGIT) == (0, 4, 8, 12, 17, 21, 25, 29)
    assert spread(model("plain llama"), LOGIT) == (0, 1, 2, 3)


def test_what_has_no_causal_score_is_refused():
    reader = model("plain llama")
    for lens, layers, words in (
        (INPUT, None, "no causal score: expected a lens that reads the next token"),
        (Lens("f", "output", 2), None, "no causal score"),
        (LOGIT, (4,), "layer 4: expected layers below 4"),
        (Lens("part", "output", 1, layers=(1,)), (2,), "layer 2"),
    ):
        with pytest.raises(RequestError, match=words):
            causal(reader, lens, texts(2), layers=layers)
    with pytest.raises(RequestError, match=r"1 prefixes hold 2 different"):
        causal(reader, LOGIT, [[5, 6] * 10])


@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=20))
def test_spearman_is_scipys(pairs):
    a, b = np.array(pairs, dtype=float).T
    if (a == a[0]).all() or (b == b[0]).all():
        assert np.isnan(spearman(a, b))
    else:
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_spearman_of_what_is_no_number_is_undefined():
    assert np.isnan(spearman(np.array([1.0, np.nan, 2.0]), np.arange(3.0)))
    assert TOP == 10
