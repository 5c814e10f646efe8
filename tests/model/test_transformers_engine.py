"""The transformers engine loads folders without a network, and says in a sentence what it cannot load."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from midstream.errors import ModelError
from midstream.model.transformers_engine import load_transformers
from tests.conftest import tiny_tokenizer
from tests.tiny import tiny, tiny_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen3")
    tiny("qwen3").save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_is_loaded_with_its_very_weights(saved, capfd):
    module, tokenizer = load_transformers(str(saved), dtype=torch.float32, device=CPU)
    assert not module.training
    for name, value in tiny("qwen3").state_dict().items():
        assert torch.equal(module.state_dict()[name], value)
    assert tokenizer("Paris").input_ids
    assert capfd.readouterr() == ("", ""), "the library keeps quiet"
    half, _ = load_transformers(str(saved), dtype=torch.bfloat16, device=CPU)
    assert half.lm_head.weight.dtype == torch.bfloat16


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:4000])


def rubbish(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 1000)


def lost_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def wrong_shape(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(7)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def half_config(folder):
    (folder / "config.json").write_text((folder / "config.json").read_text()[:50])


def own_code(folder):
    change_config(folder, model_type="homemade", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    (folder / "evil.py").write_text("import os\nos.environ['MIDSTREAM_EVIL'] = '1'\nclass C: pass\nclass M: pass\n")


def no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "damaged or cut short"),
        (rubbish, "damaged or cut short"),
        (lost_tensor, "1 tensors that the model needs are not in its files, such as model.norm.weight"),
        (wrong_shape, "shapes of its tensors"),
        (pickled, r"no file named model\.safetensors|only a pickle"),
        (half_config, "JSON files is damaged"),
        (own_code, "code of its own"),
        (no_tokenizer, "no tokenizer files"),
        (lambda folder: change_config(folder, model_type="nonesuch"), "nonesuch"),
        (lambda folder: change_config(folder, model_type="t5"), "encoder-decoder"),
        (lambda folder: change_config(folder, model_type="vit"), "no causal language model"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_loaded_is_a_sentence(folder, damage, words):
    damage(folder)
    with pytest.raises(ModelError, match=words) as caught:
        load_transformers(str(folder), dtype=torch.float32, device=CPU)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert "MIDSTREAM_EVIL" not in os.environ


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("named", ["somebody/kernel", "flash_attention_2", {"": "somebody/kernel"}])
def test_attention_that_a_config_names_is_not_fetched(folder, key, named):
    change_config(folder, **{key: named, key.replace("attn", "experts"): "somebody/kernel"})
    module, _ = load_transformers(str(folder), dtype=torch.float32, device=CPU)
    assert module.config._attn_implementation == "sdpa"
    assert module.config._experts_implementation in (None, "eager", "grouped_mm")


def test_nor_is_that_of_a_config_inside(tmp_path, monkeypatch):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = tiny_config("gemma3").to_dict()
    config["attn_implementation"] = {"text_config": "somebody/kernel"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert AutoConfig.from_pretrained(tmp_path).text_config._attn_implementation == "somebody/kernel"
    seen = []

    def stop(*_, config, **__):
        seen.append(config)
        raise ValueError("far enough")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", stop)
    with pytest.raises(ModelError, match="far enough"):
        load_transformers(str(tmp_path), dtype=torch.float32, device=CPU)
    assert seen[0]._attn_implementation is seen[0].text_config._attn_implementation is None


def test_a_pickle_is_not_opened(folder):
    tensors = load_file(folder / "model.safetensors")
    pickled(folder)
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no file named model\.safetensors|only a pickle"):
        load_transformers(str(folder), dtype=torch.float32, device=CPU)


def test_a_name_that_is_not_here_needs_the_hub():
    with pytest.raises(ModelError, match="not on this machine"):
        load_transformers("nobody/nothing-of-the-kind", dtype=torch.float32, device=CPU)


def test_the_library_speaks_as_before_afterwards(saved):
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_transformers(str(saved), dtype=torch.float32, device=CPU)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)
    assert "DISABLE_SAFETENSORS_CONVERSION" not in os.environ
