"""The proof fails at the piece that is wrong, whichever it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from midstream.errors import ProofError
from midstream.model.anatomy import find
from midstream.model.proof import prove
from tests.tiny import tiny
from tests.walk import IDS


def built(model_type, **changes):
    module = tiny(model_type, **changes)
    return module, find(module, module.config)


def proved(module, anatomy):
    return prove(module, anatomy, probe_ids=IDS, dtype=torch.float32)


def without_bias(unembedding):
    bare = nn.Linear(32, 160, bias=False)
    bare.weight = unembedding.weight
    return bare


def other_weight(unembedding):
    wrong = nn.Linear(32, 160, bias=False)
    wrong.weight = nn.Parameter(unembedding.weight.roll(1, dims=0))
    return wrong


def swapped(items, one, two):
    items = list(items)
    items[one], items[two] = items[two], items[one]
    return tuple(items)


def retapped(found, site, other):
    """Every block's ``site`` seen where ``other`` is."""
    return replace(found, taps=tuple({**taps, site: taps[other]} for taps in found.taps))


def scaled(found, site):
    return replace(found, taps=tuple({**taps, site: replace(taps[site], scale=1.01)} for taps in found.taps))


FAULTS = {
    "another norm": ("llama", "final norm", lambda m, a: replace(a, final_norm=m.model.layers[0].input_layernorm)),
    "no norm": ("llama", "final norm", lambda m, a: replace(a, final_norm=None)),
    "norm twice": (
        "llama",
        "final norm",
        lambda m, a: replace(a, final_norm=nn.Sequential(a.final_norm, a.final_norm)),
    ),
    "norm without the one added to its weight": ("gemma2", "final norm", lambda m, a: replace(a, final_norm=plain(m))),
    "dropped bias": ("phi", "bias", lambda m, a: replace(a, unembedding=without_bias(a.unembedding))),
    "other weight": ("llama", "unembedding's weight", lambda m, a: replace(a, unembedding=other_weight(a.unembedding))),
    "wrong scale": ("cohere", "logit scale", lambda m, a: replace(a, logit_scale=1.0)),
    "scale off by a thousandth": ("granite", "logit scale", lambda m, a: replace(a, logit_scale=a.logit_scale * 1.001)),
    "forgotten soft cap": ("gemma2", "soft cap", lambda m, a: replace(a, soft_cap=None)),
    "invented soft cap": ("llama", "soft cap", lambda m, a: replace(a, soft_cap=10.0)),
    "swapped blocks": ("llama", "order of the blocks", lambda m, a: replace(a, blocks=swapped(a.blocks, 0, 1))),
    "swapped taps": ("llama", "order of the blocks", lambda m, a: replace(a, taps=swapped(a.taps, 1, 2))),
    "missing block": ("llama", "final norm", lambda m, a: replace(a, blocks=a.blocks[:-1], taps=a.taps[:-1])),
    "forgotten embedding scale": ("gemma2", "input embedding", lambda m, a: replace(a, embedding_scale=1.0)),
    "forgotten embedding norm": ("bloom", "input embedding", lambda m, a: replace(a, embedding_norm=None)),
    "attention before its post-norm": ("gemma2", "attn_out = resid_mid", lambda m, a: raw_attention(m, a)),
    "mlp for attention": ("gpt_neox", "attn_out", lambda m, a: retapped(a, "attn_out", "mlp_out")),
    "middle seen after the norm": ("llama", "resid_mid", lambda m, a: retapped(a, "resid_mid", "attn_out")),
    "multiplier off by a hundredth": ("llama", "block 1", lambda m, a: scaled(a, "mlp_out")),
}


def plain(module):
    """Gemma's weight in a norm that does not add one to it."""
    norm = nn.RMSNorm(32, eps=module.config.rms_norm_eps)
    norm.weight = module.model.norm.weight
    return norm


def raw_attention(module, found):
    taps = zip(found.taps, module.model.layers, strict=True)
    return replace(
        found, taps=tuple({**t, "attn_out": replace(t["attn_out"], module=layer.self_attn)} for t, layer in taps)
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(fault):
    model_type, words, plant = FAULTS[fault]
    module, found = built(model_type)
    proved(module, found)
    with pytest.raises(ProofError, match=words):
        proved(module, plant(module, found))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("fault", ["another norm", "dropped bias", "wrong scale", "swapped blocks", "norm twice"])
def test_gross_faults_are_caught_in_half_precision(fault, dtype):
    model_type, _, plant = FAULTS[fault]
    module = tiny(model_type).to(dtype)
    found = find(module, module.config)
    with pytest.raises(ProofError):
        prove(module, plant(module, found), probe_ids=IDS, dtype=dtype)


def test_a_model_that_computes_nonsense_is_no_proof():
    module, found = built("llama")
    with torch.no_grad():
        module.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(ProofError):
        proved(module, found)


def test_a_common_offset_does_not_hide_a_fault():
    module, found = built("phi")
    with torch.no_grad():
        module.lm_head.bias.add_(1e4)
    wrong = nn.Linear(32, 160)
    wrong.weight, wrong.bias = module.lm_head.weight, nn.Parameter(module.lm_head.bias.roll(1))
    with pytest.raises(ProofError):
        proved(module, replace(found, unembedding=wrong))


def test_the_proof_says_what_was_checked_and_what_not():
    proof = proved(*built("llama"))
    assert proof.skipped == ()
    assert "layer l-1 + attn_out = resid_mid" in proof.checked
    assert "layer 0 = input rows" in proof.checked
    parallel = proved(*built("gpt_neox"))
    assert "layer l-1 + attn_out + mlp_out = resid_post" in parallel.checked
    assert any("position embedding" in words for words in proved(*built("gpt2")).skipped)
    assert any("post-norm" in words for words in proved(*built("openai-gpt")).skipped)
