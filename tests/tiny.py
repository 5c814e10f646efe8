"""Tiny models of every family, built offline from their configs: seeded, biases not zero, norms not one."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
from torch import nn

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

VOCABULARY = 160

SIZES: dict[str, int] = {
    **dict.fromkeys(
        ("vocab_size", "unpadded_vocab_size", "decoder_vocab_size", "vocab_size_per_layer_input"), VOCABULARY
    ),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_dim", "embedding_size"), 32),
    **dict.fromkeys(("word_embed_proj_dim", "lru_width", "attention_hidden_size", "input_embedding_size"), 32),
    **dict.fromkeys(("output_embedding_size", "backbone_hidden_size", "mamba_d_ssm"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_blocks"), 4),
    **dict.fromkeys(("encoder_layers", "num_encoder_layers", "num_decoder_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "num_encoder_attention_heads"), 4),
    **dict.fromkeys(("num_decoder_attention_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "attention_head_dim", "swa_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "kv_lora_rank", "q_lora_rank", "index_head_dim"), 8),
    **dict.fromkeys(("attention_head_size", "dim_head", "d_head", "mamba_d_head", "mamba_head_dim"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "dff"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "ffn_hidden_size", "dim_ff"), 48),
    **dict.fromkeys(("shared_intermediate_size", "expert_ffn_hidden_size", "intermediate_size_mlp", "d_inner"), 48),
    **dict.fromkeys(("dense_intermediate_size", "moe_shared_expert_intermediate_size", "feed_forward_size"), 48),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "n_group", "topk_group", "num_expert_group"), 2),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads", "index_n_heads"), 4),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 4),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size", "mamba_dt_rank", "time_step_rank"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions"), 128),
    **dict.fromkeys(("context_length", "original_max_position_embeddings"), 128),
    **dict.fromkeys(("mamba_n_groups", "n_groups"), 1),
    **dict.fromkeys(("expand", "mamba_expand"), 1),
    "num_moe_experts": 4,
    "chunk_size": 8,
    "mamba_chunk_size": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "index_topk": 64,
}
"""What a field of this name is set to, in any config that has it with a number in its place."""

ROPE = {"rope_type": "default", "rope_theta": 10000.0}
MIXED = ["linear_attention", "linear_attention", "full_attention", "linear_attention"]

PARTICULAR: dict[str, dict[str, Any]] = {
    "granite": {"residual_multiplier": 0.22, "logits_scaling": 3.0, "embedding_multiplier": 12.0},
    "granitemoe": {"residual_multiplier": 0.22, "logits_scaling": 3.0, "embedding_multiplier": 12.0},
    "granitemoeshared": {"residual_multiplier": 0.22, "shared_intermediate_size": 48},
    "granitemoehybrid": {"residual_multiplier": 0.22, "layer_types": MIXED},
    "minicpm3": {"scale_emb": 12, "dim_model_base": 16, "scale_depth": 1.4},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1},
    "dots3_note": {
        "vision_config": {
            "pyramid_num_routed": [0, 4, 4, 4],
            "adapter_in_dim": 32,
            "adapter_out_dim": 32,
        },
        "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 32},
    },
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "kimi_linear": {"num_experts_per_token": 2, "num_expert_group": 1, "topk_group": 1, "layer_types": MIXED},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"], "num_dense_layers": 2},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "layers_block_type": ["linear_attention", "linear_attention", "hybrid", "hybrid"],
    },
    "zamba2": {"layers_block_type": ["linear_attention", "linear_attention", "hybrid", "linear_attention"]},
    "gemma4_text": {"final_logit_softcapping": 30.0},
    "bailing_hybrid": {"layer_types": MIXED},
    "bamba": {"attn_layer_indices": [2]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "zaya": {"num_experts_per_tok": 1},
}
"""What some families need besides, by ``model_type``."""


def causal_models() -> dict[str, str]:
    """Every ``model_type`` of transformers' causal-language-model mapping, with its class."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type: str, **changes: Any) -> Any:
    """A tiny config of this type; ``changes`` go on top."""
    from transformers import CONFIG_MAPPING

    return _shrunk(CONFIG_MAPPING[model_type], {**PARTICULAR.get(model_type, {}), **changes})


def tiny(model_type: str, *, seed: int = 0, **changes: Any) -> nn.Module:
    """A model of this type with random weights, in eval mode, float32."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    return shaken(AutoModelForCausalLM.from_config(tiny_config(model_type, **changes)), seed=seed)


def shaken(module: nn.Module, *, seed: int = 0) -> nn.Module:
    """The model with every weight moved at random, and embeddings so large that a soft cap is felt."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        constants = [buffer for buffer in module.buffers() if buffer.is_floating_point() and buffer.numel() == 1]
        for weight in [*module.parameters(), *constants]:
            weight.add_(torch.randn(weight.shape, generator=draw) * 0.1)
        ends = [module.get_input_embeddings(), module.get_output_embeddings()]  # pyright: ignore
        for weight in {id(end.weight): end.weight for end in ends if hasattr(end, "weight")}.values():
            weight.mul_(5.0)
    return module.eval()


@cache
def _defaults(config_class: type[Any]) -> dict[str, Any]:
    import inspect

    given = inspect.signature(config_class).parameters
    default = vars(config_class())
    return {name: default.get(name) for name in given if name in default}


def _shrunk(config_class: type[Any], changes: dict[str, Any]) -> Any:
    settings: dict[str, Any] = {}
    for name, value in _defaults(config_class).items():
        if hasattr(value, "model_type"):
            settings[name] = _shrunk(type(value), changes.get(name, {})).to_dict()
        elif name in SIZES and isinstance(value, int) and not isinstance(value, bool):
            settings[name] = SIZES[name]
        elif name == "is_decoder":
            settings[name] = True
    if "kv_lora_rank" in settings:
        settings["num_key_value_heads"] = settings["num_attention_heads"]
    nested = {name for name in changes if isinstance(settings.get(name), dict)}
    settings.update({name: value for name, value in changes.items() if name not in nested})
    return config_class(**settings)
