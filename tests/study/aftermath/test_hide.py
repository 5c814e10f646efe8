"""Hiding a position: the same as mean keys and values in a cache, and nothing but what later positions read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from midstream.model.anatomy import find
from midstream.model.plain import PlainConfig, PlainLM, heads, rotate, rotations
from midstream.stream.capture import capture
from midstream.study.aftermath.hide import Branch, Hiding, entries, given, laid, unable
from tests.sample.test_generate import model


@pytest.fixture(scope="module")
def gpt2():
    torch.manual_seed(0)
    config = PlainConfig("gpt2", 160, 32, 64, 4, 4, 4, 8, 64, 1e-5, qkv_bias=True, output_bias=True, mlp_bias=True)
    module = PlainLM(config).eval()
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    return SimpleNamespace(
        module=module, anatomy=find(module, config), device=torch.device("cpu"), dtype=torch.float32, context=64
    )


def ids_of(reader, t=20, seed=1):
    return torch.randint(3, 90, (t,), generator=torch.Generator().manual_seed(seed))


def by_cache(reader, hiding, ids, layer, branch, span):
    """The same by the plainest way: keys and values exchanged in the cache of the text up to the branch's start."""
    cache, last = reader.module.new_cache(), reader.anatomy.layers
    capture(reader, ids[None, : branch.start], layers=[last], cache=cache)
    for block in range(layer, last):
        mean = hiding.mean[block, 0].float()[None, None]
        if hasattr(reader.anatomy.blocks[block], "self_attn"):
            attention = reader.anatomy.blocks[block].self_attn
            turn = rotations(torch.tensor([[branch.hidden]]), attention.c, reader.module.model.theta, torch.float32)
            k, v = rotate(heads(attention.k_proj(mean), attention.c), *turn), heads(attention.v_proj(mean), attention.c)
        else:
            attention = reader.anatomy.blocks[block].attn
            _, k, v = (heads(part, attention.c) for part in attention.c_attn(mean).chunk(3, dim=-1))
        keys, values = (held.clone() for held in cache.layers[block])
        keys[:, :, branch.hidden], values[:, :, branch.hidden] = k[:, :, 0], v[:, :, 0]
        cache.layers[block] = keys, values
    rest = ids[None, branch.start : branch.start + span]
    return capture(reader, rest, layers=[last], cache=cache)[last][0]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("layer", [0, 2])
def test_is_the_mean_of_keys_and_values(family, layer, tiny, gpt2):
    reader = {"llama": tiny, "gpt2": gpt2}[family]
    ids, other = ids_of(reader), ids_of(reader, seed=2)
    hiding, last = Hiding.of(reader, [other[None]]), reader.anatomy.layers
    stream = capture(reader, ids[None], layers=[layer, last])
    branches = [Branch(12, 11), Branch(9, 4), Branch(12, 10)]
    with torch.inference_mode():
        found = hiding.branched(ids, layer, stream[layer][0], branches, 5)
        for one, branch in zip(found, branches, strict=True):
            expected = by_cache(reader, hiding, ids, layer, branch, 5)
            torch.testing.assert_close(one, expected, rtol=2e-4, atol=2e-4)
            plain = stream[last][0, branch.start : branch.start + 5]
            assert float((one - plain).norm() / plain.norm()) > 1e-3
    again = capture(reader, ids[None], layers=[last])[last]
    assert torch.equal(again, stream[last])  # no hook is left


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "olmo2", "falcon"])
def test_what_was_there_put_back_changes_nothing_in_any_family(family):
    reader = model(family)
    ids = ids_of(reader)
    hiding, last = Hiding.of(reader, [ids[None]]), reader.anatomy.layers
    stream = capture(reader, ids[None], layers=[1, last])
    own = {key: value[0, [7, 8]] for key, value in given(reader, hiding.places, ids[None]).items()}
    found = hiding.branched(ids, 1, stream[1][0], [Branch(9, 7), Branch(9, 8)], 6, own)
    for one in found:
        torch.testing.assert_close(one, stream[last][0, 9:15], rtol=1e-3, atol=1e-3)
    assert unable(reader, 20) == ""


def test_the_mean_is_that_of_what_the_norm_gives(gpt2):
    ids = ids_of(gpt2)[None]
    hiding = Hiding.of(gpt2, [ids, ids])
    (place,) = hiding.places[2]
    assert place == (gpt2.anatomy.blocks[2].ln_1, "output")
    h = capture(gpt2, ids, layers=[2])[2]
    expected = gpt2.anatomy.blocks[2].ln_1(h)[0, 1:].mean(0)  # position 0 is a sink
    torch.testing.assert_close(hiding.mean[2, 0].float(), expected, rtol=1e-4, atol=1e-5)


def test_where_no_norm_opens_a_block_its_own_input_is_exchanged():
    reader = model("olmo2")
    assert [members[0][1] for members in entries(reader)] == ["input"] * reader.anatomy.layers
    assert len(entries(model("gpt_neox"))[0]) == 2


def test_the_text_itself_sees_nothing_of_branches():
    at, sight = laid(6, [Branch(4, 2), Branch(3, 1)], 2, torch.device("cpu"))
    assert at.tolist() == [0, 1, 2, 3, 4, 5, 2, 4, 5, 1, 3, 4]
    assert not bool(sight.seen[:6, 6:].any())
    assert sight.seen[7].nonzero()[:, 0].tolist() == [0, 1, 3, 6, 7]
    assert sight.seen[11].nonzero()[:, 0].tolist() == [0, 2, 9, 10, 11]


@pytest.mark.parametrize(("family", "why"), [("bloom", "bloom"), ("mamba", "mamba"), ("jamba", "more than a mask")])
def test_a_family_that_cannot_is_named(family, why):
    assert why in unable(model(family), 20)


def test_a_text_beyond_a_sliding_window_is_refused(gpt2):
    module = SimpleNamespace(config=SimpleNamespace(sliding_window=16))
    assert "sliding window of 16" in unable(SimpleNamespace(**{**vars(gpt2), "module": module}), 20)
