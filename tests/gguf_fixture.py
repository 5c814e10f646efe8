"""Writes a transformers model as llama.cpp's converter would, with the ``gguf`` package's writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize

LLAMA = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GPT2 = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
TOP = {
    "model.embed_tokens": "token_embd",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "model.norm": "output_norm",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
}


def write_gguf(
    path: Path,
    module: Any,
    *,
    tokenizer: Any = None,
    pre: str = "gpt-2",
    kind: str = "F32",
    more: dict[str, Any] | None = None,
) -> Path:
    """The module as a ``.gguf``; matrices of the quantisation ``kind``, tokens of the given tokenizer."""
    config = module.config
    writer = GGUFWriter(path, config.model_type)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    wide = config.n_inner or 4 * config.n_embd if config.model_type == "gpt2" else config.intermediate_size
    writer.add_feed_forward_length(wide)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(config.head_dim) if getattr(config, "head_dim", None) else None
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    _add_tokens(writer, tokenizer, config.vocab_size, pre)
    for name, value in (more or {}).items():
        (
            writer.add_float32
            if isinstance(value, float)
            else writer.add_uint32
            if isinstance(value, int)
            else writer.add_string
        )(name, value)
    for name, tensor in module.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        _add_tensor(writer, name, tensor.numpy(), module.config, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tensor(writer: Any, name: str, values: np.ndarray, config: Any, kind: str) -> None:
    stem, leaf = name.rsplit(".", 1)
    parts = stem.split(".", 3)
    gpt2 = config.model_type == "gpt2"
    new = TOP.get(stem) or f"blk.{parts[2]}.{(GPT2 if gpt2 else LLAMA)[parts[3]]}"
    if gpt2 and new.startswith("blk.") and values.ndim == 2:
        values = values.T
    if config.model_type == "llama" and new.endswith(("attn_q", "attn_k")):
        heads = config.num_attention_heads if new.endswith("attn_q") else config.num_key_value_heads
        rows = values.shape[0]
        values = values.reshape(heads, 2, rows // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    values = np.ascontiguousarray(values, np.float32)
    quantised = GGMLQuantizationType[kind] if values.ndim == 2 else GGMLQuantizationType.F32
    writer.add_tensor(f"{new}.{leaf}", quantize(values, quantised), raw_dtype=quantised)


def _add_tokens(writer: Any, tokenizer: Any, vocabulary: int, pre: str) -> None:
    import json

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    if tokenizer is None:
        writer.add_token_list([f"t{index}" for index in range(vocabulary)])
        writer.add_token_types([TokenType.NORMAL] * vocabulary)
        writer.add_token_merges(["t 0"])
        return
    model = json.loads(tokenizer.to_str())["model"]
    special = set(tokenizer.get_added_tokens_decoder())
    tokens = [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())]
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if i in special else TokenType.NORMAL for i in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
