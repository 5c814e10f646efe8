"""Projections on the probe text: equal for equal models, and different for any that computes something else."""

from __future__ import annotations

import hashlib

import pytest
import torch
from conftest import tiny_tokenizer
from tiny import tiny as random_model

from midstream.model.load import PROBE, load
from midstream.model.probe import FLOAT32, HALF, _signs, difference, projections


@pytest.fixture
def live():
    """A random Llama in memory, its own owner free to change it."""
    from transformers import PreTrainedTokenizerFast

    module = random_model("llama", vocab_size=tiny_tokenizer().get_vocab_size())
    return load((module, PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer())))


def rotary(model):
    return next(part for part in model.module.modules() if hasattr(part, "inv_freq"))


def test_the_formula_by_hand(live):
    found = projections(live)
    assert found.shape == (5, 64)
    assert found.dtype == torch.float32
    ids = live.tokenizer.encode(PROBE).ids
    with torch.no_grad():
        states = live.module.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    bits = hashlib.shake_256(b"midstream probe 32").digest(64 * 32 // 8)
    for number in (0, 1, 63):
        signs = [2 * (bits[(number * 32 + i) // 8] >> (7 - (number * 32 + i) % 8) & 1) - 1 for i in range(32)]
        h = states[2][0, number % len(ids)].double()
        expected = (torch.tensor(signs).double() @ h) * torch.log(1 + h.norm()) / (h.norm() * 32**0.5)
        assert float(found[2, number]) == pytest.approx(float(expected), rel=1e-5)


def test_the_signs_are_the_same_everywhere_and_for_ever():
    assert hashlib.sha256(_signs(576).numpy().tobytes()).hexdigest().startswith("f01bedd3ed8bed77")
    assert _signs(33).abs().eq(1).all()
    assert abs(float(_signs(4096).mean())) < 0.01


def test_engines_agree_and_training_mode_does_not_matter(tiny, tiny_folder, live):
    theirs = projections(load(tiny_folder, engine="transformers"))
    assert difference(theirs, projections(tiny)).max() < FLOAT32 / 10
    before = projections(live)
    live.module.train()
    assert torch.equal(projections(live), before)
    assert live.module.training


@pytest.mark.parametrize("factor", [1.5, 4.0])
def test_another_rope_base_is_seen(live, factor):
    before = projections(live)
    inverse = rotary(live).inv_freq
    with torch.no_grad():
        inverse.mul_(factor ** (-torch.arange(len(inverse)) / len(inverse)))
    error = difference(projections(live), before)
    assert error[0] == 0
    assert (error[1:] > FLOAT32).any()


def test_another_norm_epsilon_is_seen(live):
    before = projections(live)
    for part in live.module.modules():
        if hasattr(part, "variance_epsilon"):
            part.variance_epsilon = 1e-3
    assert difference(projections(live), before).max() > FLOAT32


def test_a_shifted_layer_and_another_scale_are_seen(tiny):
    found = projections(tiny)
    assert (difference(found[1:], found[:-1]) > 2 * HALF).all()
    assert (difference(found.roll(1, 1), found) > HALF).all()


def test_one_position_that_goes_its_own_way_is_not_another_model(tiny):
    found = projections(tiny)
    odd = found.clone()
    odd[:, 7::31] += 1.0
    assert (difference(odd, found) == 0).all()
    assert difference(torch.full_like(found, torch.nan), found).isnan().all()
