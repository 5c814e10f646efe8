"""A config that plain.py does not compute exactly is refused with its reason."""

from __future__ import annotations

import pytest
from tiny import tiny_config

from midstream.errors import ModelError
from midstream.model.plain_config import is_plain, plain_config


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "qwen2"])
def test_ordinary_configs_are_plain(model_type):
    assert is_plain(tiny_config(model_type).to_dict()) is None


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("mistral", {}),
        ("gpt2", {"activation_function": "relu"}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"add_cross_attention": True}),
        ("llama", {"hidden_act": "gelu"}),
        ("llama", {"quantization_config": {"bits": 4}}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
        ("qwen2", {"use_sliding_window": True}),
        ("qwen2", {"layer_types": ["sliding_attention"]}),
    ],
)
def test_anything_else_is_named(model_type, changes):
    assert is_plain({**tiny_config(model_type).to_dict(), **changes})


def test_old_and_new_ways_to_state_the_rope_base():
    base = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "vocab_size": 9,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
    }
    old = plain_config({**base, "model_type": "llama", "rope_theta": 500.0})
    new = plain_config({**base, "model_type": "llama", "rope_parameters": {"rope_theta": 500.0}})
    assert old == new
    assert old.rope_theta == 500.0


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": None},
        {"hidden_size": "32"},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": True},
        {"vocab_size": 1 << 60},
        {"num_attention_heads": 5, "head_dim": None},
        {"num_key_value_heads": 3},
        {"rms_norm_eps": -1.0},
        {"rope_theta": float("nan"), "rope_parameters": None},
    ],
)
def test_impossible_sizes_are_a_sentence(changes):
    with pytest.raises(ModelError, match="config has"):
        plain_config({**tiny_config("llama").to_dict(), **changes})
