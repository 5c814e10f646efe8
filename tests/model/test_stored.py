"""Model folders: every stated size is checked, every damage is a sentence."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import tiny

from midstream.errors import ModelError
from midstream.model.stored import load_plain, open_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    tiny("llama", tie_word_embeddings=False).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(good, tmp_path):
    return shutil.copytree(good, tmp_path / "model")


def load(folder, dtype=torch.float32):
    return load_plain(open_folder(folder), dtype=dtype, device=CPU)


def config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@torch.inference_mode()
def test_tensors_are_those_of_the_file_and_stay_on_disk(folder):
    module = load(folder)
    stored = load_file(folder / "model.safetensors")
    assert {n: v.shape for n, v in module.state_dict().items()} == {n: v.shape for n, v in stored.items()}
    assert all(torch.equal(value, stored[name]) for name, value in module.state_dict().items())
    assert not any(weight.requires_grad for weight in module.parameters())
    assert load(folder, torch.bfloat16).lm_head.weight.dtype == torch.bfloat16


@torch.inference_mode()
def test_shards_and_old_gpt2_names(tmp_path):
    theirs = tiny("gpt2")
    state = {n.removeprefix("transformer."): v.clone() for n, v in theirs.state_dict().items() if n != "lm_head.weight"}
    state["h.0.attn.bias"] = torch.ones(1, 1, 8, 8)  # a mask that old checkpoints carry
    names = sorted(state)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in shards.items():
        save_file({name: state[name] for name in own}, tmp_path / file)
    weight_map = {name: file for file, own in shards.items() for name in own}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text(json.dumps(theirs.config.to_dict()))
    ids = torch.arange(9)[None]
    assert torch.allclose(load(tmp_path)(ids).logits, theirs(input_ids=ids).logits, atol=1e-4)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks b\.safetensors"):
        load(tmp_path)
    for outside in ("../b.safetensors", "/etc/passwd", 3):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": outside}}))
        with pytest.raises(ModelError, match="own folder"):
            load(tmp_path)


@torch.no_grad()
def test_a_tied_model_that_carries_its_unembedding(tmp_path):
    theirs = tiny("llama", tie_word_embeddings=True)
    state = {name: value.clone() for name, value in theirs.state_dict().items()}
    (tmp_path / "config.json").write_text(json.dumps(theirs.config.to_dict()))
    save_file(state, tmp_path / "model.safetensors")
    module = load(tmp_path)
    assert module.lm_head.weight is module.model.embed_tokens.weight
    state["lm_head.weight"] += 1
    save_file(state, tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path).lm_head.weight, state["lm_head.weight"])


def test_pickles_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickled checkpoint.*safetensors"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocab_size": 161}, "shape"),
        ({"num_hidden_layers": 3}, "has, unexpectedly"),
        ({"num_hidden_layers": 5}, "lacks"),
        ({"num_hidden_layers": 10_000_000}, "too few tensors"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers"),
        ({"hidden_size": 1 << 24}, "shape"),
        ({"model_type": None}, "model_type"),
    ],
)
def test_a_config_that_does_not_fit_the_tensors_is_named(folder, changes, said):
    config(folder, **changes)
    with pytest.raises(ModelError, match=said):
        load(folder)


def test_folders_without_a_model(tmp_path):
    with pytest.raises(ModelError, match=r"holds no config.json"):
        open_folder(tmp_path)
    for text in ("", "[]", "{" * 100_000, "\x00"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ModelError, match=r"config.json"):
            open_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        open_folder(tmp_path)


def test_a_shape_that_takes_long_to_multiply_is_refused_at_once(tmp_path, good):
    """Without a limit on dimensions the product of these takes minutes."""
    shutil.copy(good / "config.json", tmp_path)
    header = {"a": {"dtype": "F32", "shape": [10**9] * 200_000, "data_offsets": [0, 4]}}
    (tmp_path / "model.safetensors").write_bytes(file_of(header, b"1234"))
    with pytest.raises(ModelError, match="at most 8"):
        open_folder(tmp_path)


def test_types_of_quantised_models_are_not_refused(tmp_path, good):
    shutil.copy(good / "config.json", tmp_path)
    save_file({"a": torch.zeros(3, dtype=torch.int8), "b": torch.zeros(2, 0)}, tmp_path / "model.safetensors")
    assert open_folder(tmp_path).elements == 3


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not safetensors at all",
        (1 << 62).to_bytes(8, "little") + b"{}",
        file_of(b"{{{"),
        file_of([]),
        file_of({"a": 3}),
        file_of({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
        file_of({"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}, b"1234"),
        file_of({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
        file_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12345678"),
        file_of(b"[" * 100_000),
        file_of({"a": {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]}}, b"1234"),
        file_of({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
        file_of({"a": {"dtype": "F4", "shape": [9], "data_offsets": [0, 4]}}, b"1234"),
        file_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", 4]}}, b"1234"),
    ],
)
def test_damaged_safetensors_are_a_sentence(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="no usable safetensors"):
        load(folder)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_cut_or_changed_header_is_a_sentence(good, tmp_path_factory, data):
    folder = shutil.copytree(good, tmp_path_factory.mktemp("damaged") / "model")
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        at = data.draw(st.integers(0, 4000))
        content[at] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    said = str(folder)
    try:
        load(folder)
    except ModelError as error:
        said = str(error)
    assert str(folder) in said
