"""Every way to name a model ends in a proved one, or in a sentence."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_tokenizer
from gguf_fixture import write_gguf
from tiny import tiny

from midstream.errors import ModelError, RequestError
from midstream.model import load as load_file
from midstream.model.gguf_model import convert_gguf
from midstream.model.load import load

TEXT = "The capital of France is Paris"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MIDSTREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MIDSTREAM_MODEL", raising=False)


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def logits(model):
    with torch.inference_mode():
        return model.module(torch.tensor([model.tokenizer.encode(TEXT).ids])).logits


def test_both_engines_are_the_same_model(tiny_folder):
    plain, other = load(tiny_folder), load(tiny_folder, engine="transformers")
    assert (plain.engine, other.engine) == ("plain", "transformers")
    assert torch.allclose(logits(plain), logits(other), rtol=1e-4, atol=1e-3)
    assert plain.tokenizer.encode(TEXT) == other.tokenizer.encode(TEXT)
    assert plain.fingerprint.matches(other.fingerprint)
    assert plain.fingerprint.differences(other.fingerprint)["engine"] == ("plain", "transformers")
    assert plain.context == other.context == 256


def test_a_changed_rope_base_is_another_model(folder, tiny):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rope_theta": 20000.0}))
    assert not load(folder).fingerprint.matches(tiny.fingerprint)


def test_a_gguf_is_converted_once_and_both_engines_read_it(tmp_path, monkeypatch):
    module = tiny_module()
    path = write_gguf(tmp_path / "m.gguf", module, tokenizer=tiny_tokenizer())
    plain = load(path)
    monkeypatch.setattr("midstream.model.gguf_model.convert_gguf", lambda *_: pytest.fail("converted again"))
    other = load(str(path), engine="transformers")
    ids = torch.tensor([plain.tokenizer.encode(TEXT).ids])
    with torch.inference_mode():
        expected = module(input_ids=ids).logits
    for model in (plain, other):
        assert torch.allclose(logits(model), expected, atol=1e-3)
    assert plain.fingerprint.matches(other.fingerprint)
    assert plain.name == str(path)


def test_a_ggufs_identity_is_its_own_whatever_the_conversion_writes(tmp_path, monkeypatch):
    """Another version of the tokenizers library may write the same tokenizer in other bytes."""
    path = write_gguf(tmp_path / "m.gguf", tiny_module(), tokenizer=tiny_tokenizer())
    first = load(path)

    def otherwise(source, folder):
        convert_gguf(source, folder)
        definition = folder / "tokenizer.json"
        definition.write_text(json.dumps(json.loads(definition.read_text()), indent=1))

    monkeypatch.setattr("midstream.model.gguf_model.convert_gguf", otherwise)
    monkeypatch.setattr(load_file, "_FORMAT", 99)
    again = load(path)
    assert again.tokenizer.identity != first.tokenizer.identity
    assert again.fingerprint.matches(first.fingerprint)


def tiny_module(**changes):
    return tiny("llama", vocab_size=tiny_tokenizer().get_vocab_size(), **changes)


def test_a_live_pair_is_taken_as_it_is():
    from transformers import PreTrainedTokenizerFast

    module = tiny_module().train()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer())
    model = load((module, tokenizer))
    assert model.module is module
    assert not module.training
    assert model.name == "LlamaForCausalLM"
    assert load((module, model.tokenizer)).fingerprint.matches(model.fingerprint)
    for wrong in ({"dtype": "bfloat16"}, {"device": "cpu"}, {"engine": "plain"}):
        with pytest.raises(RequestError, match=r"already|keeps"):
            load((module, tokenizer), **wrong)
    with pytest.raises(RequestError, match="type int"):
        load((3, tokenizer))
    with pytest.raises(RequestError, match="pair"):
        load((module,))


def test_a_loaded_module_is_put_into_eval_mode_as_said():
    assert "eval mode" in str(load.__doc__)


def test_how_the_weights_were_stored_is_a_circumstance(tmp_path, folder):
    path = write_gguf(tmp_path / "m.gguf", tiny_module(intermediate_size=64), tokenizer=tiny_tokenizer(), kind="Q8_0")
    for engine in ("plain", "transformers"):
        assert load(path, engine=engine).fingerprint.circumstances["weights"].startswith("Q8_0 x")
    entries = load(folder).fingerprint.circumstances["weights"]
    assert re.fullmatch(r"F32 x\d+", entries)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SimpleNamespace(max_position_embeddings=100_000), 100_000),
        (SimpleNamespace(max_target_positions=448, n_positions=9), 448),
        (SimpleNamespace(n_positions=0, n_ctx=77), 77),
        (SimpleNamespace(max_seq_len="9"), 2048),
        (SimpleNamespace(get_text_config=lambda **_: SimpleNamespace(n_positions=512)), 512),
        (None, 2048),
    ],
)
def test_the_context_is_the_models_own(config, expected):
    assert load_file._context(config) == expected


def test_the_context_of_nested_and_speech_configs():
    from transformers import Gemma3Config, WhisperConfig

    assert load_file._context(WhisperConfig(max_target_positions=33)) == 33
    assert load_file._context(Gemma3Config(text_config={"max_position_embeddings": 3000})) == 3000


def test_the_environment_names_the_default(folder, monkeypatch):
    monkeypatch.setenv("MIDSTREAM_MODEL", str(folder))
    assert load().name == str(folder)


def test_dtypes_asked_for_and_dtypes_that_fit(tiny_folder, monkeypatch):
    assert load(tiny_folder).dtype is torch.float32
    assert load(tiny_folder).notes == ()
    assert load(tiny_folder, dtype="bfloat16").dtype is torch.bfloat16
    monkeypatch.setattr(load_file, "fitting_dtype", lambda *_: (torch.float16, "a note"))
    fitted = load(tiny_folder)
    assert fitted.dtype is torch.float16
    assert fitted.notes == ("a note",)
    assert load(tiny_folder, dtype="float32").notes == ()


def test_what_is_not_plain_goes_to_transformers(folder):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_act": "gelu"}))
    assert load(folder).engine == "transformers"
    with pytest.raises(ModelError, match="hidden_act"):
        load(folder, engine="plain")


def test_ids_that_the_model_has_no_row_for_are_a_sentence(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    definition = json.loads((folder / "tokenizer.json").read_text())
    definition["added_tokens"].append(
        {**definition["added_tokens"][-1], "id": config["vocab_size"], "content": "<|more|>"}
    )
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    model = load(folder)
    with pytest.raises(RequestError, match="do not belong together"):
        model.tokenizer.encode("<|more|>", special=True)


@pytest.mark.parametrize(
    "name",
    [
        "no/such/folder/at/all",
        "./missing",
        "missing.gguf",
        "owner/missing.gguf",
        "/nowhere",
        "weights.bin",
        "a b",
        "~nobody/x",
    ],
)
def test_names_of_nothing_are_a_sentence(name):
    with pytest.raises(ModelError, match=r"no file or folder|pickled"):
        load(name)


def test_files_that_are_no_models(tmp_path, folder):
    for name, content in (("a.gguf", b"GGUF"), ("b.txt", b"hello"), ("c.bin", b"x"), ("d", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError):
            load(tmp_path / name)
    with pytest.raises(ModelError, match="name its folder"):
        load(folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"config.json"):
        load(tmp_path / "cache")  # a folder without a model


def test_encoder_decoders_are_refused(tmp_path, folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    with pytest.raises(ModelError, match="encoder-decoder"):
        load(folder)


def test_a_name_too_long_for_the_file_system():
    with pytest.raises(ModelError, match="cannot open"):
        load("a" * 5000)


def test_without_a_tokenizer_file_transformers_builds_one(folder, tmp_path):
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(ModelError, match="no tokenizer"):
        load(folder, engine="plain")
    with pytest.raises(ModelError):  # nothing to build it from either
        load(folder)


def test_wrong_options_list_the_valid_ones(tiny_folder):
    for option, value in (("engine", "jax"), ("dtype", "int4"), ("device", "tpu")):
        with pytest.raises(RequestError, match=option):
            load(tiny_folder, **{option: value})


def test_a_hub_model_that_is_here_already_is_a_folder(tmp_path, tiny_folder, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(tiny_folder))
    model = load("owner/name")
    assert model.engine == "plain"
    assert model.name == "owner/name"
    assert model.fingerprint.matches(load(tiny_folder).fingerprint)


def test_a_hub_model_that_cannot_be_had_is_a_sentence():
    with pytest.raises(ModelError, match="'owner/name': it is not on this machine"):
        load("owner/name")


@pytest.mark.default_model
def test_the_default_says_paris_and_imports_nothing_heavy(monkeypatch):
    monkeypatch.delenv("MIDSTREAM_CACHE")
    load()  # the cache is warm from here on
    program = """if 1:
        import sys, torch
        from midstream.model.load import load
        model = load()
        ids = model.tokenizer.encode("The Eiffel Tower is located in the city of").ids
        with torch.inference_mode():
            print(model.tokenizer.token(int(model.module(torch.tensor([ids])).logits[0, -1].argmax())))
        heavy = ("transformers", "numba", "gguf", "huggingface_hub", "scipy", "jinja2", "sympy", "torch._dynamo")
        print([name for name in heavy if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [" Paris", "[]"]


@pytest.mark.default_model
@torch.inference_mode()
def test_the_default_equals_transformers_on_the_same_tensors(default_model):
    from transformers import LlamaConfig, LlamaForCausalLM

    from midstream.model.bundled import bundled
    from midstream.model.gguf_file import read_gguf
    from midstream.model.gguf_model import gguf_config

    theirs = LlamaForCausalLM(LlamaConfig(**gguf_config(read_gguf(bundled())))).eval()
    theirs.load_state_dict(default_model.module.state_dict())
    ids = torch.tensor([default_model.tokenizer.encode("Four score and seven years ago, in 1863:\n\n  12").ids])
    expected, found = theirs(input_ids=ids).logits, default_model.module(ids).logits
    assert (expected - found).abs().max() < 2e-4  # float32 rounding at logits of some 40
    assert default_model.anatomy.tied == "same tensor"
