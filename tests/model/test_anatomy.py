"""The parts of every family are found, in every dtype, and what cannot be read is refused with a sentence."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from midstream.errors import ModelError
from midstream.model.addition import explain
from midstream.model.anatomy import find, logits
from midstream.model.observe import Event
from midstream.model.plain import PlainConfig, PlainLM
from midstream.model.proof import prove
from tests.tiny import shaken, tiny
from tests.walk import IDS, REQUIRED, Walked, streams

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
PARALLEL = {"gptj", "gpt_neox", "falcon", "phi", "cohere"}


def path_of(module, part):
    return next(name for name, child in module.named_modules() if child is part)


def taps_of(module, block=1):
    sites = find(module, module.config).taps[block]
    return {site: (path_of(module, tap.module), tap.side, tap.scale) for site, tap in sites.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("model_type", REQUIRED)
def test_required_families_are_proved_in_every_dtype(model_type, dtype):
    module = tiny(model_type).to(dtype)
    found = find(module, module.config)
    proof = prove(module, found, probe_ids=IDS, dtype=dtype)
    assert proof.error <= proof.bound
    assert (found.width, found.vocabulary, found.layers) == (32, 160, 4)
    assert ("resid_mid" in found.sites) == (model_type not in PARALLEL)
    assert {"attn_out", "mlp_out", "resid_post"} <= set(found.sites)
    exact = find(tiny(model_type), module.config)
    assert (found.logit_scale, found.embedding_scale) == pytest.approx((exact.logit_scale, exact.embedding_scale), 2e-3)


@pytest.mark.parametrize("model_type", REQUIRED)
def test_captured_layers_are_those_that_transformers_gives(model_type):
    module = tiny(model_type)
    found = Walked(module, find(module, module.config))
    with torch.inference_mode():
        theirs = module(IDS, output_hidden_states=True, use_cache=False)
    ours = streams(found, IDS)
    for layer, state in enumerate(theirs.hidden_states[:-1]):
        torch.testing.assert_close(ours[layer], state, rtol=1e-5, atol=1e-5)
    # their last state is normed already: norming it again is silent, and wrong
    assert not torch.allclose(ours[-1], theirs.hidden_states[-1], atol=1e-3)
    again = logits(found.anatomy, found.anatomy.final_norm(ours[-1][0]))
    torch.testing.assert_close(again.detach(), theirs.logits[0], rtol=1e-4, atol=1e-4)


def test_what_is_really_added_is_found():
    gemma = taps_of(tiny("gemma2"))
    assert gemma["attn_out"] == ("model.layers.1.post_attention_layernorm", "output", 1.0), "after the sandwich norm"
    assert gemma["mlp_out"] == ("model.layers.1.post_feedforward_layernorm", "output", 1.0)
    assert gemma["resid_mid"] == ("model.layers.1.pre_feedforward_layernorm", "input", 1.0)
    granite = taps_of(tiny("granite").bfloat16())
    assert granite["attn_out"] == ("model.layers.1.self_attn", "output", 0.22), "times the residual multiplier"
    bloom = taps_of(tiny("bloom"))
    assert bloom["attn_out"][0] == "transformer.h.1.self_attention.dense", "the module around it adds the stream"
    assert "resid_mid" not in taps_of(tiny("gpt_neox"))


def test_a_part_of_two_modules_is_their_sum():
    module = tiny("granitemoeshared")
    tap = find(module, module.config).taps[1]["mlp_out"]
    assert {path_of(module, tap.module), path_of(module, tap.also.module)} == {
        "model.layers.1.block_sparse_moe",
        "model.layers.1.shared_mlp",
    }
    assert (tap.scale, tap.also.scale) == (0.22, 0.22)


VARIANTS = {
    "gpt_neox": {"use_parallel_residual": False},
    "falcon": {"parallel_attn": False},
    "stablelm": {"use_parallel_residual": True},
    "gpt2": {"tie_word_embeddings": False},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 8.0},
    "gemma3_text": {"final_logit_softcapping": 20.0},
}


@pytest.mark.parametrize("model_type", VARIANTS)
def test_variants_of_a_family_are_seen_not_assumed(model_type):
    module = tiny(model_type, **VARIANTS[model_type])
    found = find(module, module.config)
    prove(module, found, probe_ids=IDS, dtype=torch.float32)
    if model_type in ("gpt_neox", "falcon", "stablelm"):
        assert ("resid_mid" in found.sites) == (model_type != "stablelm")
    assert found.logit_scale == {"cohere": 0.25, "granite": 0.125}.get(model_type, 1.0)
    assert found.soft_cap == (20.0 if model_type == "gemma3_text" else None)


def test_falcon_with_two_norms_is_proved():
    module = tiny("falcon", new_decoder_architecture=True, num_kv_heads=2)
    prove(module, find(module, module.config), probe_ids=IDS, dtype=torch.float32)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "granite", "bloom", "nanochat"])
def test_input_rows_are_what_enters_layer_0(model_type):
    module = tiny(model_type)
    found = find(module, module.config)
    assert not found.positions_added
    layer0 = streams(Walked(module, found), IDS)[0, 0]
    torch.testing.assert_close(found.input_rows()[IDS[0]], layer0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.input_rows(IDS[0]), layer0, rtol=1e-6, atol=1e-6)


def test_input_rows_leave_the_position_out():
    module = tiny("gpt2")
    found = find(module, module.config)
    assert found.positions_added
    layer0 = streams(Walked(module, found), IDS)[0, 0]
    rows = found.input_rows()[IDS[0]]
    torch.testing.assert_close(rows + module.transformer.wpe.weight[:16], layer0, rtol=1e-6, atol=1e-6)


def test_tied_says_how():
    module = tiny("llama", tie_word_embeddings=True)
    assert find(module, module.config).tied == "same tensor"
    module = tiny("llama", tie_word_embeddings=False)
    assert find(module, module.config).tied == "different"
    with torch.no_grad():
        module.lm_head.weight.copy_(module.model.embed_tokens.weight)
    assert find(module, module.config).tied == "equal values"


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_the_plain_engine_has_the_same_anatomy(model_type):
    torch.manual_seed(0)
    module = shaken(PlainLM(PlainConfig(model_type, 160, 32, 48, 3, 4, 4, 8, 64, 1e-5)))
    found = find(module, module.config)
    assert prove(module, found, probe_ids=IDS, dtype=torch.float32).error < 1e-5
    assert (found.family, found.layers, found.sites) == (
        model_type,
        3,
        ("attn_out", "resid_mid", "mlp_out", "resid_post"),
    )
    assert found.positions_added == (model_type == "gpt2")
    assert found.trunk is module.model
    assert find(module, module.config).final_norm is (module.model.ln_f if model_type == "gpt2" else module.model.norm)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: (tiny("llama"), SimpleNamespace(model_type="t5", is_encoder_decoder=True)), "encoder-decoder"),
        (lambda: (tiny("llama"), SimpleNamespace(model_type="deepseek_v4")), "several streams"),
        (lambda: (tiny("llama").model, tiny("llama").config), "no unembedding"),
        (lambda: ((m := tiny("bert", is_decoder=False)), m.config), "see later tokens"),
        (lambda: ((m := tiny("opt", word_embed_proj_dim=16)), m.config), "a projection stands between"),
        (lambda: ((m := tiny("roberta")), m.config), "one norm and one unembedding.*lm_head.dense"),
        (lambda: _looped(), "block 2 runs 3 times"),
        (lambda: _unsummed(), "no two parts of block 1 add up"),
        (lambda: (tiny("mamba"), None), "no two parts of block 1 add up"),
        (lambda: _vision(), "does not run on token ids alone"),
    ],
    ids=[
        "encoder-decoder",
        "streams",
        "headless",
        "bidirectional",
        "opt-350m",
        "roberta",
        "looped",
        "unsummed",
        "one part, unnamed",
        "vision",
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(build, words):
    module, config = build()
    with pytest.raises(ModelError, match=words):
        find(module, config)


def _looped():
    """A Llama that runs its second block twice."""
    module = tiny("llama")
    block = module.model.layers[1]
    module.model.layers[2].forward = lambda h, **given: block(block.forward(h, **given), **given)
    module.model.layers[3].forward = lambda h, **given: block(h, **given)
    return module, module.config


def _unsummed():
    """A Llama one of whose blocks scales the stream that it is given."""
    module = tiny("llama")
    block = module.model.layers[0]
    block.register_forward_hook(lambda _m, _a, output: output * 1.5)
    return module, module.config


@pytest.mark.parametrize("everything", [False, True])
def test_quantised_weights_are_named_with_a_way_out(everything):
    module = tiny("llama")
    for name, child in list(module.named_modules()):
        if isinstance(child, nn.Linear) and (everything or "mlp" in name):
            child.weight = nn.Parameter((child.weight * 20).round().to(torch.int8), requires_grad=False)
            child.forward = lambda x, child=child: nn.functional.linear(x, child.weight.float() / 20)
    with pytest.raises(ModelError, match=r"int8; expected float32.*without quantisation"):
        find(module, module.config)


def test_a_model_without_any_float_is_named():
    module = tiny("llama")
    for weight in list(module.parameters()):
        weight.requires_grad_(False).data = weight.data.to(torch.int8)
    with pytest.raises(ModelError, match="no floating-point weights"):
        find(module, module.config)


def _vision():
    module = tiny("llama")
    module.model.layers[2].mlp.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("no image")))
    return module, module.config


def test_a_live_module_needs_no_config():
    module = tiny("llama")
    found = find(module, None)
    assert (found.family, found.layers) == ("LlamaForCausalLM", 4)


def test_explain_needs_every_addend():
    draw = torch.Generator().manual_seed(0)
    values = [torch.randn(6, 8, generator=draw) for _ in range(3)]
    events = [Event(i, f"block.{i}", nn.Identity(), "output", value) for i, value in enumerate(values)]
    size = torch.full((6,), 1e-6)
    alone = explain(0.5 * values[1], events, size, (1.0, 0.5), 2)
    assert [(term.event.order, term.scale) for term in alone] == [(1, 0.5)], "a second addend of weight zero is none"
    both = explain(values[0] + 0.5 * values[2], events, size, (1.0, 0.5), 2)
    assert [(term.event.order, term.scale) for term in both] == [(0, 1.0), (2, 0.5)]
    assert explain(values[0] + 0.5 * values[2], events, size, (1.0,), 1) is None
    assert explain(torch.randn(6, 8, generator=draw), events, size, (1.0,), 2) is None
