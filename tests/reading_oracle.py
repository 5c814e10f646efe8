"""What the tests of readings share: random models, and what a number or a rank may be."""

from __future__ import annotations

import numpy as np
import torch
from conftest import tiny_tokenizer

FAMILIES = {
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}, "transformer.ln_f"),
    "gpt_neox": (
        "GPTNeoXConfig",
        {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64},
        "gpt_neox.final_layer_norm",
    ),
    "gemma2": (
        "Gemma2Config",
        {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
         "intermediate_size": 64, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8, "sliding_window": 16},
        "model.norm",
    ),
    "qwen3": (
        "Qwen3Config",
        {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
         "intermediate_size": 64, "tie_word_embeddings": False},
        "model.norm",
    ),
}  # fmt: skip


def build(family: str):
    """A random model with biases and norms that matter, its tokenizer, and the name of its final norm."""
    import transformers

    name, sizes, norm = FAMILIES[family]
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer())
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = getattr(transformers, name)(vocab_size=len(tokenizer), **ends, **sizes)
    torch.manual_seed(3)
    module = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return module, tokenizer, norm


def close(values, truth):
    np.testing.assert_array_less(np.abs(values - truth), 2e-3 * np.maximum(1, np.abs(truth)))


def rank_is_right(ranks, z, ids):
    """Ranks within those of z_t plus and minus 1e-3; ``ids`` broadcast over layers."""
    own = np.take_along_axis(z, np.broadcast_to(ids[..., None], (*z.shape[:-1], 1)), -1)
    best = 1 + (z > own + 1e-3).sum(-1)
    worst = 1 + (z > own - 1e-3).sum(-1) - 1  # the token itself is above its own logit less a thousandth
    assert (best <= ranks).all()
    assert (ranks <= worst).all()
