"""The identity changes with whatever changes the model's function, and with nothing else."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny

from midstream.model.fingerprint import Fingerprint, circumstances, identity_of_files, identity_of_module


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MIDSTREAM_CACHE", str(tmp_path / "cache"))


def of(module) -> str:
    return identity_of_module(module, module.config.to_dict(), "tokenizer")


def test_the_same_model_twice_is_the_same():
    assert of(tiny("llama")) == of(tiny("llama"))


def test_a_changed_rope_base_is_caught():
    changed = tiny("llama", rope_parameters={"rope_type": "default", "rope_theta": 20000.0})
    assert of(changed) != of(tiny("llama"))


def test_a_rope_base_changed_behind_the_configs_back_is_caught():
    changed = tiny("llama")
    changed.model.rotary_emb.inv_freq *= 0.5
    assert of(changed) != of(tiny("llama"))


@torch.no_grad()
def test_one_number_in_one_tensor_is_caught():
    changed = tiny("gpt2")
    next(iter(changed.transformer.h[2].mlp.parameters())).view(-1)[-1] += 1e-3
    assert of(changed) != of(tiny("gpt2"))


def test_another_dtype_tokenizer_or_order_is_another_model():
    module = tiny("llama")
    config = module.config.to_dict()
    assert identity_of_module(module, config, "other") != of(module)
    before = of(module)
    assert of(module.to(torch.bfloat16)) != before


@torch.no_grad()
def test_large_tensors_are_hashed_to_their_end(monkeypatch):
    module = torch.nn.Linear(1, (1 << 26) + 8, bias=False)  # more than one part
    module.weight.zero_()
    before = identity_of_module(module, {}, "")
    module.weight[-1] = 1.0
    assert identity_of_module(module, {}, "") != before


def test_config_fields_without_a_function_do_not_count(tmp_path):
    weights = tmp_path / "w"
    weights.write_bytes(b"w")
    base = {"hidden_size": 32, "rope_parameters": {"rope_theta": 1e4}}
    same = {**base, "transformers_version": "9", "use_cache": True, "bos_token_id": 3, "_name_or_path": "x"}
    other = {"hidden_size": 32, "rope_parameters": {"rope_theta": 2e4}}
    of_files = lambda config: identity_of_files(config, "t", [weights])  # noqa: E731
    assert of_files(base) == of_files(same)
    assert of_files(base) != of_files(other)
    assert of_files({**base, "unknown_field": 1}) != of_files(base)
    before = of_files(base)
    weights.write_bytes(b"different")
    assert of_files(base) != before


def test_circumstances_are_told_apart_from_identity():
    cpu = Fingerprint("a", circumstances("plain", dtype=torch.float32, device=torch.device("cpu")))
    half = Fingerprint("a", circumstances("transformers", dtype=torch.bfloat16, device=torch.device("cpu")))
    assert cpu.matches(half)
    assert not cpu.matches(Fingerprint("b", cpu.circumstances))
    assert set(cpu.differences(half)) == {"engine", "dtype", "transformers"}
    assert cpu.differences(half)["dtype"] == ("float32", "bfloat16")
    assert "weights" not in cpu.circumstances
    assert circumstances("plain", dtype=torch.float32, device="cpu", weights="F32 x2")["weights"] == "F32 x2"
