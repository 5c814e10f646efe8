"""A model written as .gguf and converted back gives transformers' logits."""

from __future__ import annotations

import json
from contextlib import suppress

import numpy as np
import pytest
import torch
from conftest import tiny_tokenizer
from gguf_fixture import write_gguf
from safetensors.torch import load_file
from tiny import tiny

from midstream.errors import ModelError
from midstream.model.gguf_file import read_gguf
from midstream.model.gguf_model import WEIGHTS, convert_gguf, gguf_config
from midstream.model.stored import load_plain, open_folder

CASES = [
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"tie_word_embeddings": False, "attention_bias": True, "head_dim": 12}),
    ("gpt2", {"tie_word_embeddings": True}),
    ("gpt2", {"tie_word_embeddings": False}),
    ("qwen2", {"tie_word_embeddings": False}),
]


def model(model_type: str, changes: dict):
    return tiny(model_type, vocab_size=tiny_tokenizer().get_vocab_size(), **changes)


@pytest.mark.parametrize(("model_type", "changes"), CASES)
@torch.inference_mode()
def test_round_trip_gives_the_same_tensors_and_logits(tmp_path, model_type, changes):
    theirs = model(model_type, changes)
    pre = "qwen2" if model_type == "qwen2" else "gpt-2"
    convert_gguf(write_gguf(tmp_path / "m.gguf", theirs, tokenizer=tiny_tokenizer(), pre=pre), tmp_path)
    expected = theirs.state_dict()
    if theirs.config.tie_word_embeddings:
        expected.pop("lm_head.weight")
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    ours = load_plain(open_folder(tmp_path), dtype=torch.float32, device=torch.device("cpu"))
    ids = torch.arange(20)[None]
    assert torch.allclose(ours(ids).logits, theirs(input_ids=ids).logits, atol=1e-4)


@pytest.mark.parametrize(("model_type", "changes"), CASES[:3])
@torch.inference_mode()
def test_the_converted_folder_is_one_that_transformers_loads(tmp_path, model_type, changes):
    from transformers import AutoModelForCausalLM

    theirs = model(model_type, changes)
    convert_gguf(write_gguf(tmp_path / "m.gguf", theirs, tokenizer=tiny_tokenizer()), tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.arange(20)[None]
    assert torch.allclose(again(input_ids=ids).logits, theirs(input_ids=ids).logits, atol=1e-4)


def test_quantised_weights_are_the_dequantised_ones(tmp_path):
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    theirs = model("qwen2", {"intermediate_size": 64})  # without the permutation of Llama's
    convert_gguf(
        write_gguf(tmp_path / "m.gguf", theirs, tokenizer=tiny_tokenizer(), pre="qwen2", kind="Q4_1"), tmp_path
    )
    name = "model.layers.0.self_attn.q_proj.weight"
    original = theirs.state_dict()[name].numpy()
    expected = dequantize(quantize(original, GGMLQuantizationType.Q4_1), GGMLQuantizationType.Q4_1)
    np.testing.assert_array_equal(load_file(tmp_path / "model.safetensors")[name].numpy(), expected)
    assert np.abs(expected - original).max() > 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("llama.rope.scaling.type", "linear"),
        ("llama.expert_count", 4),
        ("llama.rope.dimension_count", 4),
        ("llama.attention.sliding_window", 16),
    ],
)
def test_fields_that_change_the_function_are_refused_by_name(tmp_path, field, value):
    path = write_gguf(tmp_path / "m.gguf", tiny("llama"), more={field: value})
    with pytest.raises(ModelError, match=field.removeprefix("llama.")):
        gguf_config(read_gguf(path))


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attention.head_count", 0),
        ("attention.head_count", np.array([4, 4], np.int32)),
        ("attention.head_count", "4"),
        ("attention.head_count", True),
        ("attention.head_count_kv", 0),
        ("attention.head_count_kv", 3),
        ("attention.key_length", 0),
        ("attention.key_length", 7),
        ("block_count", -1),
        ("block_count", 5),
        ("embedding_length", "32"),
        ("embedding_length", 64),
        ("context_length", 1.5),
        ("attention.layer_norm_rms_epsilon", "x"),
        ("attention.layer_norm_epsilon", float("nan")),
        ("rope.freq_base", 0.0),
        ("rope.dimension_count", "x"),
    ],
)
def test_bad_numbers_name_the_users_file_before_anything_is_dequantised(
    tmp_path, monkeypatch, model_type, field, value
):
    if model_type == "gpt2" and field in ("attention.head_count_kv", "attention.key_length") and value:
        pytest.skip("GPT-2 has no such number")
    path = write_gguf(tmp_path / "m.gguf", model(model_type, {}), tokenizer=tiny_tokenizer())
    file = read_gguf(path)
    file.fields[f"{model_type}.{field}"] = value
    monkeypatch.setattr("midstream.model.gguf_model.read_gguf", lambda _: file)
    monkeypatch.setattr(type(file), "values", lambda *_: pytest.fail("dequantised"))
    with pytest.raises(ModelError) as caught:
        convert_gguf(path, tmp_path / "cache")
    assert str(path) in str(caught.value)
    assert "cache" not in str(caught.value)


@pytest.mark.parametrize("field", ["bos_token_id", "eos_token_id", "add_bos_token", "add_eos_token", "pre"])
def test_arrays_in_place_of_one_value_are_no_traceback(tmp_path, monkeypatch, field):
    path = write_gguf(tmp_path / "m.gguf", model("llama", {}), tokenizer=tiny_tokenizer())
    file = read_gguf(path)
    file.fields[f"tokenizer.ggml.{field}"] = np.array([1, 2], np.int32)
    monkeypatch.setattr("midstream.model.gguf_model.read_gguf", lambda _: file)
    with suppress(ModelError):
        convert_gguf(path, tmp_path)


def test_the_types_of_the_tensors_are_kept(tmp_path):
    theirs = model("qwen2", {"intermediate_size": 64})
    path = write_gguf(tmp_path / "m.gguf", theirs, tokenizer=tiny_tokenizer(), pre="qwen2", kind="Q4_1")
    convert_gguf(path, tmp_path)
    matrices = sum(weight.dim() == 2 for weight in theirs.state_dict().values())
    others = len(theirs.state_dict()) - matrices
    expected = {f"Q4_1 x{matrices - theirs.config.tie_word_embeddings}", f"F32 x{others}"}
    assert set(json.loads((tmp_path / "config.json").read_text())[WEIGHTS].split(", ")) == expected


def test_other_architectures_are_refused_with_the_list(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", tiny("mistral"))
    with pytest.raises(ModelError, match="'mistral'; expected one of llama, gpt2, qwen2"):
        convert_gguf(path, tmp_path)


def test_a_missing_and_an_unknown_tensor_are_named(tmp_path):
    theirs = tiny("llama")
    path = write_gguf(tmp_path / "m.gguf", theirs)
    path.write_bytes(path.read_bytes().replace(b"blk.1.attn_norm.weight", b"blk.1.attn_mess.weight"))
    with pytest.raises(ModelError, match="attn_mess"):
        convert_gguf(path, tmp_path)


def test_chat_template_and_marks_are_kept(tmp_path):
    more = {"tokenizer.chat_template": "{{ x }}", "tokenizer.ggml.eos_token_id": 3}
    path = write_gguf(tmp_path / "m.gguf", model("llama", {}), tokenizer=tiny_tokenizer(), more=more)
    convert_gguf(path, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["chat_template"] == "{{ x }}"
    assert config["eos_token"] == tiny_tokenizer().id_to_token(3)
