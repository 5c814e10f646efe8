"""Turns a ``.gguf`` file into a folder that both engines load: config, float32 tensors and tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from midstream.errors import ModelError
from midstream.model.gguf_file import GGUFFile, read_gguf
from midstream.model.plain_config import plain_config
from midstream.model.stored import Entry, Stored, counted, fitted

GGUF_ARCHITECTURES = ("llama", "gpt2", "qwen2")
"""Values of ``general.architecture`` that midstream converts itself."""

WEIGHTS = "gguf_weights"
"""Field of a converted ``config.json``: the types that the tensors have in the file, in words."""

_TOP = {
    "token_embd.weight": "embed_tokens.weight",
    "output_norm.weight": "norm.weight",
}
_TOP_GPT2 = {
    "token_embd.weight": "wte.weight",
    "position_embd.weight": "wpe.weight",
    "output_norm.weight": "ln_f.weight",
    "output_norm.bias": "ln_f.bias",
}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK_GPT2 = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
"""ggml's names of a block's parts -> Hugging Face's."""

_NUMBERS: dict[str, Any] = {
    "block_count": int,
    "context_length": int,
    "embedding_length": int,
    "feed_forward_length": int,
    "vocab_size": int,
    "attention.head_count": int,
    "attention.head_count_kv": int,
    "attention.key_length": int,
    "attention.value_length": int,
    "attention.layer_norm_rms_epsilon": int | float,
    "attention.layer_norm_epsilon": int | float,
    "rope.freq_base": int | float,
    "rope.dimension_count": int,
}
_KNOWN_FIELDS = (*_NUMBERS, "attention.causal", "tensor_data_layout")
"""Any other field of an architecture (scaled positions, experts, ...) may change the function, so it is refused."""


def convert_gguf(path: Path, folder: Path) -> None:
    """Writes ``config.json``, ``model.safetensors``, ``tokenizer.json`` and its config into ``folder``.

    Tensors are dequantised to float32 one at a time, after everything else has been checked. Raises ModelError, naming
    the file, if it is damaged or of a kind that midstream does not convert.
    """
    from gguf.constants import GGMLQuantizationType

    from midstream.model.gguf_tokenizer import tokenizer_from_gguf

    file = read_gguf(path)
    config = gguf_config(file)
    names = _names(file, config)
    try:
        plain_config(config)
        backend, tokenizer_config = tokenizer_from_gguf(file.fields)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    shapes = _shapes(file, names, config)
    fitted(Stored(path, config, (), {names[name]: Entry(path, "F32", shape) for name, shape in shapes.items()}))
    write_tensors(folder / "model.safetensors", file, names, config)
    config[WEIGHTS] = counted(GGMLQuantizationType(tensor.kind).name for tensor in file.tensors.values())
    backend.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def architecture(file: GGUFFile) -> str:
    """The file's ``general.architecture``; ModelError if it has none."""
    found = file.fields.get("general.architecture")
    if not isinstance(found, str):
        raise ModelError(f"{file.path} does not say which architecture it is (field general.architecture).")
    return found


def gguf_config(file: GGUFFile) -> dict[str, Any]:
    """The ``config.json`` that a file's metadata amounts to, in Hugging Face's names.

    Raises:
        ModelError: for an architecture other than ``GGUF_ARCHITECTURES``, or fields that midstream does not know.
    """
    kind = architecture(file)
    if kind not in GGUF_ARCHITECTURES:
        raise ModelError(
            f"{file.path} is of architecture {kind!r}; expected one of {', '.join(GGUF_ARCHITECTURES)}. "
            "Load the original model by its hub name or folder instead."
        )
    fields = _fields(file, kind)
    unknown = [name for name in fields if name not in _KNOWN_FIELDS]
    unknown += [name for name in ("rope_freqs.weight",) if name in file.tensors]
    if unknown:
        raise ModelError(
            f"{file.path} describes its {kind} model with {', '.join(unknown)}, which midstream cannot convert. "
            "Load the original model by its hub name or folder instead."
        )
    try:
        config = _gpt2_config(fields, file) if kind == "gpt2" else _llama_config(kind, fields, file)
    except KeyError as error:
        raise ModelError(f"{file.path} lacks {error.args[0]!r}, which a {kind} model needs.") from error
    for name in ("bos", "eos"):
        index = file.fields.get(f"tokenizer.ggml.{name}_token_id")
        config[f"{name}_token_id"] = index if isinstance(index, int) else None
    return config | {"dtype": "float32", "tie_word_embeddings": "output.weight" not in file.tensors}


def _fields(file: GGUFFile, kind: str) -> dict[str, Any]:
    """What a file says of its architecture; ModelError unless all numbers are positive ones."""
    found = {name.removeprefix(f"{kind}."): value for name, value in file.fields.items() if name.startswith(f"{kind}.")}
    for name in found.keys() & _NUMBERS.keys():
        value, expected = found[name], _NUMBERS[name]
        if isinstance(value, bool) or not isinstance(value, expected) or not 0 < value < 1e12:
            what = "whole number" if expected is int else "number"
            raise ModelError(f"{file.path} has {name} = {repr(value)[:80]}; expected a positive {what}.")
    return found


def _llama_config(kind: str, fields: Mapping[str, Any], file: GGUFFile) -> dict[str, Any]:
    d, heads = fields["embedding_length"], fields["attention.head_count"]
    head_dim = fields.get("attention.key_length", d // heads)
    if head_dim % 2:
        raise ModelError(f"{file.path} has heads of width {head_dim}; expected an even number: positions turn pairs.")
    for name in ("rope.dimension_count", "attention.value_length"):
        if fields.get(name, head_dim) != head_dim:
            raise ModelError(f"{file.path} has {name} = {fields[name]}, expected its head width, {head_dim}.")
    biased = kind == "llama" and "blk.0.attn_q.bias" in file.tensors
    return {
        "model_type": kind,
        "architectures": ["LlamaForCausalLM" if kind == "llama" else "Qwen2ForCausalLM"],
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_size": d,
        "intermediate_size": fields["feed_forward_length"],
        "num_hidden_layers": fields["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": fields["context_length"],
        "rms_norm_eps": fields["attention.layer_norm_rms_epsilon"],
        "rope_theta": fields.get("rope.freq_base", 10000.0),
        "hidden_act": "silu",
        **({"attention_bias": True} if biased else {}),
    }


def _gpt2_config(fields: Mapping[str, Any], file: GGUFFile) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "n_embd": fields["embedding_length"],
        "n_inner": fields["feed_forward_length"],
        "n_layer": fields["block_count"],
        "n_head": fields["attention.head_count"],
        "n_positions": fields["context_length"],
        "layer_norm_epsilon": fields["attention.layer_norm_epsilon"],
        "activation_function": "gelu_new",
    }


def _names(file: GGUFFile, config: Mapping[str, Any]) -> dict[str, str]:
    """Each tensor's name in the file -> its name in Hugging Face's checkpoints."""
    gpt2 = config["model_type"] == "gpt2"
    top, block, trunk, blocks = (
        (_TOP_GPT2, _BLOCK_GPT2, "transformer", "h") if gpt2 else (_TOP, _BLOCK, "model", "layers")
    )
    names: dict[str, str] = {}
    for name in file.tensors:
        part = re.fullmatch(r"blk\.(\d{1,4})\.(\w+)\.(weight|bias)", name)
        if name == "output.weight":
            names[name] = "lm_head.weight"
        elif name in top:
            names[name] = f"{trunk}.{top[name]}"
        elif part and part[2] in block:
            names[name] = f"{trunk}.{blocks}.{part[1]}.{block[part[2]]}.{part[3]}"
        else:
            raise ModelError(f"{file.path} has a tensor {name!r}, which a plain {config['model_type']} model has not.")
    return names


def write_tensors(path: Path, file: GGUFFile, names: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Writes the tensors as float32 safetensors, one at a time, so that only the largest is ever held."""
    shapes = _shapes(file, names, config)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, hf_name in names.items():
        start, end = end, end + 4 * int(np.prod(shapes[name], dtype=object))
        header[hf_name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            out.write(np.ascontiguousarray(_as_hf(file, name, config), "<f4").data)


def _shapes(file: GGUFFile, names: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors' shapes in Hugging Face's checkpoints, by the file's names."""
    shapes = {name: file.tensors[name].shape for name in names}
    if config["model_type"] == "gpt2":  # GPT-2's checkpoints have their maps the other way round
        shapes = {name: shape[::-1] if _transposed(name, shape) else shape for name, shape in shapes.items()}
    return shapes


def _as_hf(file: GGUFFile, name: str, config: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    values = file.values(name)
    if config["model_type"] == "gpt2":
        return values.T if _transposed(name, values.shape) else values
    if config["model_type"] == "llama" and ".attn_q." in name:
        return _unpermute(values, config["num_attention_heads"])
    if config["model_type"] == "llama" and ".attn_k." in name:
        return _unpermute(values, config["num_key_value_heads"])
    return values


def _transposed(name: str, shape: tuple[int, ...]) -> bool:
    return name.startswith("blk.") and len(shape) == 2


def _unpermute(values: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Rows of Llama's q and k back in the order of Hugging Face's.

    llama.cpp turns neighbouring pairs of a head's coordinates, Hugging Face pairs i with i + c/2, so its converter
    interleaves the two halves of every head (``LlamaModel.permute`` in convert_hf_to_gguf.py); this undoes it.
    """
    return (
        values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    )
