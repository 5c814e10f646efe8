"""The plain engine is transformers' GPT-2, Llama and Qwen 2, to float tolerance."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny

from midstream.model.plain import PlainLM, visible
from midstream.model.plain_config import plain_config

CASES = [
    ("gpt2", {"tie_word_embeddings": True}),
    ("gpt2", {"tie_word_embeddings": False}),
    ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ("llama", {"tie_word_embeddings": False, "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}),
    ("llama", {"head_dim": 12, "num_key_value_heads": 1}),
    ("qwen2", {"tie_word_embeddings": True}),
]
LEFT = torch.tensor([[1] * 12, [0] * 5 + [1] * 7, [0] + [1] * 11])
RIGHT = LEFT.flip(-1)


def pair(model_type: str, changes: dict) -> tuple[torch.nn.Module, PlainLM]:
    theirs = tiny(model_type, **changes)
    ours = PlainLM(plain_config(theirs.config.to_dict())).eval()
    ours.load_state_dict({n.replace("transformer.", "model.", 1): v for n, v in theirs.state_dict().items()})
    return theirs, ours


def ids() -> torch.Tensor:
    return torch.randint(0, 160, (3, 12), generator=torch.Generator().manual_seed(1))


def close(mine: torch.Tensor, theirs: torch.Tensor, real: torch.Tensor | None = None) -> bool:
    real = torch.ones(mine.shape[:2], dtype=torch.bool) if real is None else real.bool()
    return bool((mine - theirs)[real].abs().max() <= 1e-5 * theirs.abs().max())


@pytest.mark.parametrize(("model_type", "changes"), CASES)
@torch.inference_mode()
def test_logits_and_final_stream_equal_transformers(model_type, changes):
    theirs, ours = pair(model_type, changes)
    assert close(ours(ids()).logits, theirs(input_ids=ids()).logits)
    stream = theirs.base_model(input_ids=ids()).last_hidden_state
    assert close(ours.model(ids()).last_hidden_state, stream)


@pytest.mark.parametrize("mask", [LEFT, RIGHT], ids=["left", "right"])
@pytest.mark.parametrize(("model_type", "changes"), CASES[1:3])
@torch.inference_mode()
def test_padding_changes_no_real_position(model_type, changes, mask):
    theirs, ours = pair(model_type, changes)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    expected = theirs(input_ids=ids(), attention_mask=mask, position_ids=positions).logits
    found = ours(ids(), mask, positions).logits
    assert found.isfinite().all()
    assert close(found, expected, mask)
    alone = ids()[1][mask[1].bool()][None]  # the same text without padding
    assert close(found[1][mask[1].bool()][None], ours(alone).logits)


@pytest.mark.parametrize("sizes", [(5, 7), (1, 1, 10), (11, 1)])
@pytest.mark.parametrize(("model_type", "changes"), CASES[1:4])
@torch.inference_mode()
def test_chunks_over_the_cache_equal_one_pass(model_type, changes, sizes):
    _, ours = pair(model_type, changes)
    cache = ours.new_cache()
    chunks = [ours(chunk, past_key_values=cache).logits for chunk in ids().split(sizes, dim=1)]
    assert cache.get_seq_length() == 12
    assert close(torch.cat(chunks, dim=1), ours(ids()).logits)


@torch.inference_mode()
def test_chunks_with_padding_equal_one_pass():
    _, ours = pair("llama", {})
    positions, cache = (LEFT.cumsum(-1) - 1).clamp(min=0), ours.new_cache()
    first = ours(ids()[:, :6], LEFT[:, :6], positions[:, :6], cache).logits
    second = ours(ids()[:, 6:], LEFT, positions[:, 6:], cache).logits
    assert close(torch.cat([first, second], dim=1), ours(ids(), LEFT, positions).logits, LEFT)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2.0**-5), (torch.float16, 2.0**-8)])
@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
@torch.inference_mode()
def test_half_precision_stays_near_float32(model_type, dtype, tolerance):
    theirs, ours = pair(model_type, {})
    exact = ours(ids()).logits
    found, other = ours.to(dtype)(ids()).logits, theirs.to(dtype)(input_ids=ids()).logits
    assert found.dtype == dtype
    error, usual = (found.float() - exact).norm(), (other.float() - exact).norm()
    assert error <= max(2 * usual, tolerance * exact.norm())


def test_tied_embeddings_are_one_tensor():
    _, tied = pair("llama", {"tie_word_embeddings": True})
    _, apart = pair("llama", {"tie_word_embeddings": False})
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    assert apart.get_output_embeddings().weight is not apart.get_input_embeddings().weight


def test_every_position_sees_itself_and_no_padding_but_itself():
    """Also where only padding came before: a softmax over nothing is NaN on some devices."""
    seen = visible(LEFT, 9, 3, torch.device("cpu"))[:, 0]  # [3, 9, 12]
    rows = torch.arange(9)
    assert seen[:, rows, rows + 3].all()
    assert not torch.triu(seen, diagonal=4).any()
    seen[:, rows, rows + 3] = False
    assert not seen[~LEFT.bool()[:, None, :].expand_as(seen)].any()
