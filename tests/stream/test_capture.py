"""Capture: any layers and sites, any dtype, padded or in chunks, and nothing left behind."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from midstream.errors import RequestError
from midstream.model.anatomy import find
from midstream.model.forward import new_cache
from midstream.stream.capture import capture, capture_sites
from tests.tiny import tiny
from tests.walk import IDS


def model(model_type, dtype=torch.float32):
    module = tiny(model_type).to(dtype)
    return SimpleNamespace(module=module, anatomy=find(module, module.config))


def hooks(module):
    return sum(len(child._forward_hooks) + len(child._forward_pre_hooks) for child in module.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_values_come_in_the_models_dtype(dtype):
    got = capture(model("gpt2", dtype), IDS, layers=[4, 0, 2])
    assert list(got) == [4, 0, 2]
    assert all(value.dtype == dtype and value.shape == (1, 16, 32) for value in got.values())


def test_a_subset_of_layers_has_the_values_of_all():
    llama = model("llama")
    every = capture(llama, IDS, layers=range(5))
    for layers in ([0], [2], [1, 3], [4]):
        for layer, value in capture(llama, IDS, layers=layers).items():
            assert torch.equal(value, every[layer])


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2", "bloom", "granite", "granitemoeshared", "olmo2"])
def test_sites_add_up_to_the_stream(model_type):
    reader = model(model_type)
    sites = ("resid_post", "resid_mid", "attn_out", "mlp_out")
    got = capture_sites(reader, IDS, [(0, "resid_post"), *((layer, site) for layer in (1, 2) for site in sites)])
    for layer in (1, 2):
        before, after = got[layer - 1, "resid_post"], got[layer, "resid_post"]
        torch.testing.assert_close(before + got[layer, "attn_out"], got[layer, "resid_mid"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got[layer, "resid_mid"] + got[layer, "mlp_out"], after, rtol=1e-5, atol=1e-5)


def test_parallel_parts_add_up_too():
    got = capture_sites(model("gptj"), IDS, [(1, "resid_post"), (2, "attn_out"), (2, "mlp_out"), (2, "resid_post")])
    total = got[1, "resid_post"] + got[2, "attn_out"] + got[2, "mlp_out"]
    torch.testing.assert_close(total, got[2, "resid_post"], rtol=1e-5, atol=1e-5)


def test_what_is_wanted_twice_is_given_once():
    got = capture_sites(model("llama"), IDS, [(1, "resid_post"), (1, "resid_post")])
    assert list(got) == [(1, "resid_post")]


def test_batches_keep_their_texts_apart():
    llama = model("llama")
    both = torch.cat([IDS, IDS.flip(1)])
    got = capture(llama, both, layers=[3])[3]
    for row in range(2):
        alone = capture(llama, both[row : row + 1], layers=[3])[3]
        torch.testing.assert_close(got[row : row + 1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gpt_neox"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_at_real_positions(model_type, side):
    reader, short = model(model_type), IDS[:, :11]
    padding = torch.full((1, 5), 3)
    row = torch.cat([padding, short] if side == "left" else [short, padding], dim=1)
    real = slice(5, 16) if side == "left" else slice(0, 11)
    mask = torch.ones(2, 16, dtype=torch.long)
    mask[1] = 0
    mask[1, real] = 1
    got = capture(reader, torch.cat([IDS, row]), layers=range(5), mask=mask)
    alone = capture(reader, short, layers=range(5))
    for layer in range(5):
        torch.testing.assert_close(got[layer][1:, real], alone[layer], rtol=1e-4, atol=1e-4)


def test_chunks_over_the_cache_equal_the_whole():
    llama = model("llama")
    cache = new_cache(llama.module, llama.anatomy)
    chunks = [capture(llama, chunk, layers=[4], cache=cache)[4] for chunk in IDS.split(5, dim=1)]
    torch.testing.assert_close(torch.cat(chunks, dim=1), capture(llama, IDS, layers=[4])[4], rtol=1e-4, atol=1e-4)


def test_values_are_safe_to_keep():
    llama = model("llama")
    kept = capture(llama, IDS, layers=[1])[1]
    before = kept.clone()
    capture(llama, IDS.flip(1), layers=[1])
    assert torch.equal(kept, before)
    assert kept.untyped_storage().nbytes() == kept.nbytes, "a copy of its own, not a view that holds more"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_hooks_are_removed_when_the_pass_breaks(error):
    llama = model("llama")

    def fail(*_):
        raise error

    handle = llama.module.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(error):
        capture(llama, IDS, layers=[3])
    handle.remove()
    assert hooks(llama.module) == 0
    assert capture(llama, IDS, layers=[3])[3].shape == (1, 16, 32)


def test_unknown_places_are_refused_before_anything_runs():
    llama = model("llama")
    with pytest.raises(RequestError, match="expected 0 to 4"):
        capture(llama, IDS, layers=[1, 9])
    with pytest.raises(RequestError, match="unknown site"):
        capture(llama, IDS, layers=[1], site="nowhere")
