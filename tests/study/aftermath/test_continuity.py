"""What successive layers share: against a loop over positions, and in models whose blocks do what is planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from midstream.errors import RequestError
from midstream.model.plain import PlainConfig, PlainLM
from midstream.study.aftermath import continuity as module_under_test
from midstream.study.aftermath.continuity import FIRST, continuity, states
from midstream.study.toy import Shape, fresh

SHAPE = Shape(width=16, blocks=4, heads=2, window=20)
IDS = torch.randint(0, 256, (9, 20), generator=torch.Generator().manual_seed(0))


def quiet(module, blocks):
    """Of these blocks nothing reaches the stream."""
    for number in blocks:
        for part in (module.model.h[number].attn, module.model.h[number].mlp):
            torch.nn.init.zeros_(part.c_proj.weight)
    return module


def wide(module, blocks, factor):
    """The writes of these blocks are so many times as large, as drawn."""
    with torch.no_grad():
        for number in blocks:
            for part in (module.model.h[number].attn, module.model.h[number].mlp):
                part.c_proj.weight.mul_(factor)
    return module


def test_states_are_the_models_own():
    module = fresh(SHAPE, 0)
    with torch.no_grad():
        stream = states(module.model, IDS)
        assert stream.shape == (5, 9, 20, 16)
        torch.testing.assert_close(module.lm_head(module.model.ln_f(stream[-1])), module(IDS).logits)
        torch.testing.assert_close(stream[0], module.model.wte(IDS) + module.model.wpe.weight[:20])


def test_the_means_are_those_of_a_loop(monkeypatch):
    module = fresh(SHAPE, 1)
    whole = continuity(module, IDS)
    monkeypatch.setattr(module_under_test, "TOGETHER", 4)
    found = continuity(module, IDS)
    assert found.positions == 9 * (20 - FIRST)
    assert found.sinks == 0
    with torch.no_grad():
        h = states(module.model, IDS)[:, :, FIRST:].flatten(1, 2).double().numpy()  # [L+1, p, d]
        logits = (
            module.lm_head(module.model.ln_f(states(module.model, IDS)))[:, :, FIRST:].flatten(1, 2).argmax(-1).numpy()
        )
    u = h / np.sqrt((h**2).mean(-1, keepdims=True))
    for layer in range(4):
        one, other = h[layer], h[layer + 1]
        cosine = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(one, other, strict=True)]
        left = [
            a @ b / np.sqrt((a @ a) * (b @ b))
            for a, b in zip(u[layer] - u[layer].mean(0), u[layer + 1] - u[layer + 1].mean(0), strict=True)
        ]
        for made in (found, whole):
            assert made.cosine[layer] == pytest.approx(np.mean(cosine), abs=1e-6)
            assert made.centred[layer] == pytest.approx(np.mean(left), abs=1e-6)
            assert made.agreement[layer] == pytest.approx((logits[layer] == logits[4]).mean())


def test_blocks_that_write_nothing_keep_everything():
    found = continuity(quiet(fresh(SHAPE, 2), (2, 3)), IDS)
    assert found.cosine[2:].tolist() == found.centred[2:].tolist() == found.agreement[2:].tolist() == [1, 1]
    assert (found.cosine[:2] < 0.99).all()
    assert (found.agreement[:2] < 1).all()


def test_the_larger_the_writes_the_less_is_kept():
    made = [continuity(wide(fresh(SHAPE, 2), (2,), factor), IDS) for factor in (0.1, 1, 4)]
    for name in ("cosine", "centred"):
        values = [getattr(one, name) for one in made]
        assert values[0][2] > values[1][2] + 0.02 > values[2][2] + 0.04
        assert all(np.array_equal(one[:2], values[0][:2]) for one in values)  # what comes before is as it was


@pytest.mark.parametrize("kept", [0.0, 0.6])
def test_what_all_positions_share_moves_the_plain_cosine_alone(monkeypatch, kept):
    """Planted: a vector that is everywhere, and one of each position, of which a share goes on to the next layer."""
    draw = torch.Generator().manual_seed(0)
    z = [torch.randn(9, 20, 400, generator=draw)]
    for _ in range(4):
        z.append(kept * z[-1] + (1 - kept**2) ** 0.5 * torch.randn(9, 20, 400, generator=draw))
    constant = 5 * torch.randn(400, generator=draw)
    monkeypatch.setattr(module_under_test, "states", lambda trunk, ids: torch.stack(z) + constant)
    module = fresh(Shape(width=400, blocks=4, heads=2, window=20), 0)
    found = continuity(module, IDS)
    assert found.centred == pytest.approx(kept, abs=0.02)
    assert found.cosine == pytest.approx((25 + kept) / 26, abs=0.01)


def test_sinks_and_first_positions_do_not_count():
    module = fresh(SHAPE, 4)
    alone = continuity(module, IDS)
    with torch.no_grad():
        module.model.wpe.weight[3] *= 1000  # before the first that counts
    moved = continuity(module, IDS)
    assert moved.positions == alone.positions
    with torch.no_grad():
        module.model.wpe.weight[12] *= 1000
    found = continuity(module, IDS)
    assert found.positions == alone.positions - 9
    assert found.sinks == pytest.approx(1 / (20 - FIRST))
    assert found.cosine.max() < 0.999


def test_a_sink_of_one_layer_counts_at_none(monkeypatch):
    stream = torch.randn(5, 9, 20, 16, generator=torch.Generator().manual_seed(0))
    stream[2, 4, 15] *= 1000
    monkeypatch.setattr(module_under_test, "states", lambda trunk, ids: stream)
    assert continuity(fresh(SHAPE, 0), IDS).positions == 9 * (20 - FIRST) - 1


def test_what_is_not_defined_is_nan():
    one = continuity(fresh(SHAPE, 0), IDS[:1, : FIRST + 1])  # a position is its own mean
    assert one.positions == 1
    assert np.isnan(one.centred).all()
    assert np.isfinite(one.cosine).all()
    empty = fresh(SHAPE, 0)
    torch.nn.init.zeros_(empty.model.wte.weight)
    torch.nn.init.zeros_(empty.model.wpe.weight)
    assert np.isnan(continuity(empty, IDS).cosine[0])


def test_other_models_and_no_positions_are_refused():
    with pytest.raises(RequestError, match="9 windows of 8 bytes: none has a position from 8 on"):
        continuity(fresh(SHAPE, 0), IDS[:, :FIRST])
    llama = PlainLM(PlainConfig("llama", 256, 16, 32, 2, 2, 2, 8, 20, 1e-5))
    with pytest.raises(RequestError, match="a llama: expected a GPT-2"):
        continuity(llama, IDS)
