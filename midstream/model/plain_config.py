"""Which Hugging Face configs ``plain.py`` can run, and their translation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from midstream.errors import ModelError
from midstream.model.plain import PlainConfig

PLAIN_TYPES = ("gpt2", "llama", "qwen2")
"""Values of ``model_type`` that the plain engine runs; Qwen 2 is Llama with biases on queries, keys and values."""

_LARGEST = 1 << 24
"""No size in a real config comes near it; a larger one is a damaged or hostile file."""


def is_plain(config: Mapping[str, Any]) -> str | None:
    """Why ``plain.py`` cannot run a model with this ``config.json``; ``None`` if it can."""
    kind = config.get("model_type")
    if kind not in PLAIN_TYPES:
        return f"its model type is {kind!r}, and the plain engine runs {', '.join(PLAIN_TYPES)}"
    expected = _GPT2_ONLY if kind == "gpt2" else _LLAMA_ONLY
    for name, allowed in expected.items():
        if name in config and config[name] not in allowed:
            return f"its config has {name} = {config[name]!r}, which the plain engine does not know"
    for rope in (config.get("rope_scaling") or {}, config.get("rope_parameters") or {}):
        if not isinstance(rope, Mapping) or rope.get("rope_type", rope.get("type", "default")) != "default":
            return f"its positions are scaled ({rope}), which the plain engine does not know"
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            return "it turns only a part of each head by position, which the plain engine does not know"
    if any(layer != "full_attention" for layer in config.get("layer_types") or ()):
        return "some of its layers see a sliding window, which the plain engine does not know"
    return None


_GPT2_ONLY: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "quantization_config": (None,),
}
_LLAMA_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "use_sliding_window": (False, None),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
}


def plain_config(config: Mapping[str, Any]) -> PlainConfig:
    """The sizes in a ``config.json`` that ``is_plain`` accepts.

    Raises:
        ModelError: if one is missing, no number, or out of range.
    """
    return _gpt2(config) if config["model_type"] == "gpt2" else _llama(config)


def _gpt2(config: Mapping[str, Any]) -> PlainConfig:
    d, heads = _size(config, "n_embd", 768), _size(config, "n_head", 12)
    return PlainConfig(
        model_type="gpt2",
        vocab_size=_size(config, "vocab_size", 50257),
        hidden_size=d,
        intermediate_size=_size(config, "n_inner", 4 * d),
        num_hidden_layers=_size(config, "n_layer", 12),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=_divide(d, heads, "n_embd", "n_head"),
        max_position_embeddings=_size(config, "n_positions", 1024),
        norm_eps=_number(config, "layer_norm_epsilon", 1e-5),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", True)),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
    )


def _llama(config: Mapping[str, Any]) -> PlainConfig:
    d, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    groups = _size(config, "num_key_value_heads", heads)
    _divide(heads, groups, "num_attention_heads", "num_key_value_heads")
    head_dim = config.get("head_dim") or _divide(d, heads, "hidden_size", "num_attention_heads")
    qwen2 = config["model_type"] == "qwen2"
    return PlainConfig(
        model_type=config["model_type"],
        vocab_size=_size(config, "vocab_size"),
        hidden_size=d,
        intermediate_size=_size(config, "intermediate_size"),
        num_hidden_layers=_size(config, "num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=_size({"head_dim": head_dim}, "head_dim"),
        max_position_embeddings=_size(config, "max_position_embeddings", 2048),
        norm_eps=_number(config, "rms_norm_eps", 1e-6),
        rope_theta=_number(_rope(config), "rope_theta", 10000.0),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=qwen2 or bool(config.get("attention_bias", False)),
        output_bias=not qwen2 and bool(config.get("attention_bias", False)),
        mlp_bias=not qwen2 and bool(config.get("mlp_bias", False)),
    )


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says of rotary positions: transformers 5 has ``rope_parameters``, older files two fields."""
    rope: dict[str, Any] = {"rope_theta": config["rope_theta"]} if config.get("rope_theta") is not None else {}
    for name in ("rope_scaling", "rope_parameters"):
        found = config.get(name)
        rope |= found if isinstance(found, Mapping) else {}
    return rope


def _size(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = config.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LARGEST:
        raise ModelError(f"the model's config has {name} = {value!r}; expected a whole number from 1 to {_LARGEST}.")
    return value


def _number(config: Mapping[str, Any], name: str, default: float) -> float:
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise ModelError(f"the model's config has {name} = {value!r}; expected a positive number.")
    return float(value)


def _divide(whole: int, parts: int, *names: str) -> int:
    if whole % parts:
        raise ModelError(f"the model's config has {names[0]} = {whole}, no multiple of its {names[1]} = {parts}.")
    return whole // parts
