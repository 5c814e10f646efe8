"""Edits: the stream really changes, as by hand; at every site; in order; recorded; and nothing is left behind."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from midstream.errors import RequestError
from midstream.model.anatomy import find
from midstream.model.forward import new_cache
from midstream.model.plain import PlainConfig, PlainLM, begin, rotations
from midstream.stream.capture import capture_edited, capture_sites
from midstream.stream.change import Add
from midstream.stream.edit import Edit, Hit
from tests.tiny import shaken, tiny
from tests.walk import IDS

SUMMED = ("llama", "gpt2", "gemma2", "bloom", "granite", "granitemoeshared", "olmo2", "opt", "mixtral", "plain gpt2")
PARALLEL = ("gptj", "cohere", "phi", "falcon")
EVERY = [(layer, "resid_post") for layer in range(5)]
BOTH = torch.cat([IDS, IDS.flip(1)])
CHOSEN = (2, 7, 15)


def model(model_type):
    if model_type.startswith("plain"):
        config = PlainConfig(model_type.removeprefix("plain "), 160, 32, 48, 4, 4, 4, 8, 64, 1e-5)
        module = shaken(PlainLM(config))
    else:
        module = tiny(model_type)
    return SimpleNamespace(module=module, anatomy=find(module, module.config))


def vector(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hooks(module):
    return sum(len(child._forward_hooks) + len(child._forward_pre_hooks) for child in module.modules())


@dataclass(frozen=True)
class Times:
    """An edit that is not linear in what it is given together with ``Add``: order shows."""

    factor: float

    def apply(self, h):
        return h * self.factor

    def part(self, kept):
        return self


@pytest.mark.parametrize("model_type", [*SUMMED, *PARALLEL])
def test_adding_nothing_changes_nothing(model_type):
    reader = model(model_type)
    edits = [Edit(site, (1, 3), None, Add(torch.zeros(32))) for site in reader.anatomy.sites]
    wanted = [*EVERY, *((2, site) for site in reader.anatomy.sites)]
    plain, edited = capture_sites(reader, BOTH, wanted), capture_sites(reader, BOTH, wanted, edits=edits)
    for place in wanted:
        assert torch.equal(plain[place], edited[place]), place


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_the_rest_runs_from_the_edited_stream_as_by_hand(family, layer):
    reader, v = model(f"plain {family}"), vector(32)
    h = capture_sites(reader, IDS, [(layer, "resid_post")])[layer, "resid_post"].clone()
    h[:, list(CHOSEN)] += 2.5 * v
    now = begin(IDS, None, None, None)
    trunk = reader.module.model
    more = [rotations(now.positions, trunk.c, trunk.theta, h.dtype)] if family == "llama" else []
    with torch.no_grad():
        for block in reader.anatomy.blocks[layer:]:
            h = block(h, now, *more)
    edits = [Edit("resid_post", (layer,), CHOSEN, Add(v, 2.5))]
    got = capture_sites(reader, IDS, [(4, "resid_post")], edits=edits)[4, "resid_post"]
    torch.testing.assert_close(got, h, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", [*SUMMED, *PARALLEL])
@pytest.mark.parametrize("layer", [0, 2])
def test_what_leaves_a_block_is_replaced_in_every_family(model_type, layer):
    reader, v = model(model_type), vector(32)

    def by_hand(*given):
        value = given[-1][0] if isinstance(given[-1], tuple) else given[-1]
        value[:, list(CHOSEN)] += v

    block = reader.anatomy.blocks[max(layer - 1, 0)]
    handle = block.register_forward_pre_hook(by_hand) if layer == 0 else block.register_forward_hook(by_hand)
    expected = capture_sites(reader, BOTH, EVERY)
    handle.remove()
    got = capture_sites(reader, BOTH, EVERY, edits=[Edit("resid_post", (layer,), CHOSEN, Add(v))])
    for place in EVERY:
        torch.testing.assert_close(got[place], expected[place], rtol=1e-5, atol=1e-5)
    assert not torch.equal(got[layer, "resid_post"], capture_sites(reader, BOTH, EVERY)[layer, "resid_post"])
    assert hooks(reader.module) == 0


@pytest.mark.parametrize("model_type", [*SUMMED, *PARALLEL])
@pytest.mark.parametrize("site", ["attn_out", "resid_mid", "mlp_out"])
def test_each_site_moves_the_stream_by_the_vector(model_type, site):
    reader, v = model(model_type), torch.zeros(2, 16, 32)
    v[:, list(CHOSEN)] = vector(2, 1, 32)
    if site not in reader.anatomy.sites:
        with pytest.raises(RequestError, match="unknown site"):
            capture_sites(reader, BOTH, EVERY, edits=[Edit(site, (2,), CHOSEN, Add(vector(2, 1, 32)))])
        return
    wanted = [(2, name) for name in reader.anatomy.sites]
    plain = capture_sites(reader, BOTH, wanted)
    edited = capture_sites(reader, BOTH, wanted, edits=[Edit(site, (2,), CHOSEN, Add(vector(2, 1, 32)))])
    order = list(reader.anatomy.sites)
    torch.testing.assert_close(edited[2, site], plain[2, site] + v, rtol=1e-5, atol=1e-5)
    for before in order[: order.index(site)]:
        assert torch.equal(edited[2, before], plain[2, before]), before
    parallel = "resid_mid" not in order
    if site == "attn_out" and not parallel:
        torch.testing.assert_close(edited[2, "resid_mid"], plain[2, "resid_mid"] + v, rtol=1e-5, atol=1e-5)
    moved = edited[2, "resid_post"] - plain[2, "resid_post"]
    rest = 0 if site == "mlp_out" or parallel else edited[2, "mlp_out"] - plain[2, "mlp_out"]
    torch.testing.assert_close(moved, v + rest, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "granite", "granitemoeshared"])
@pytest.mark.parametrize("site", ["attn_out", "resid_mid", "mlp_out", "resid_post"])
def test_edits_at_a_place_compose_in_order(model_type, site):
    reader, v = model(model_type), vector(32)
    place = (3, site)
    plain = capture_sites(reader, IDS, [place])[place]

    def after(*whats):
        return capture_sites(reader, IDS, [place], edits=[Edit(site, (3,), None, what) for what in whats])[place]

    torch.testing.assert_close(after(Add(v), Times(3.0)), 3 * (plain + v), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after(Times(3.0), Add(v)), 3 * plain + v, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after(Add(v), Add(v, -2.0)), plain - v, rtol=1e-5, atol=1e-5)


def test_attention_is_edited_before_the_stream_after_it():
    reader, v = model("llama"), vector(32)
    wanted = [(2, "attn_out"), (2, "resid_mid")]
    plain = capture_sites(reader, IDS, wanted)
    edits = [Edit("resid_mid", (2,), None, Add(v)), Edit("attn_out", (2,), None, Times(2.0))]
    got = capture_sites(reader, IDS, wanted, edits=edits)
    torch.testing.assert_close(got[wanted[0]], 2 * plain[wanted[0]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got[wanted[1]], plain[wanted[1]] + plain[wanted[0]] + v, rtol=1e-5, atol=1e-5)


def test_rows_have_vectors_of_their_own():
    reader, rows = model("llama"), vector(2, 1, 32)
    rows[0] = 0
    got = capture_sites(reader, BOTH, EVERY, edits=[Edit("resid_post", (1,), (-1,), Add(rows))])
    plain = capture_sites(reader, BOTH, EVERY)
    for place in EVERY:
        assert torch.equal(got[place][0], plain[place][0])
    torch.testing.assert_close(got[1, "resid_post"][1, -1], plain[1, "resid_post"][1, -1] + rows[1, 0])
    assert torch.equal(got[4, "resid_post"][1, :-1], plain[4, "resid_post"][1, :-1]), "earlier positions see nothing"


def test_edits_apply_to_the_tokens_of_the_pass_over_a_cache():
    reader, edit = model("llama"), Edit("resid_post", (2,), (-1,), Add(vector(32)))
    whole = capture_sites(reader, IDS, EVERY, edits=[edit])
    cache = new_cache(reader.module, reader.anatomy)
    capture_sites(reader, IDS[:, :15], [], cache=cache)
    last = capture_sites(reader, IDS[:, 15:], EVERY, cache=cache, edits=[edit])
    for place in EVERY:
        torch.testing.assert_close(last[place], whole[place][:, 15:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_the_stream_keeps_its_dtype(dtype):
    reader, v = model("llama"), vector(32)
    reader.module.to(dtype)
    plain, got = (
        capture_sites(reader, IDS, EVERY, edits=edits) for edits in ((), [Edit("resid_post", (1,), None, Add(v))])
    )
    wide = torch.float32 if dtype == torch.bfloat16 else dtype
    assert torch.equal(got[1, "resid_post"], (plain[1, "resid_post"].to(wide) + v.to(wide)).to(dtype))


def test_the_record_says_what_was_hit():
    reader = model("llama")
    edits = [
        Edit("resid_post", (1, 2, 2), (0, -16, 3), Add(vector(32))),
        Edit("mlp_out", (4,), None, Add(vector(2, 1, 32))),
    ]
    _, hits = capture_edited(reader, BOTH, EVERY, edits)
    assert hits == (Hit(0, 1, "resid_post", 2), Hit(0, 2, "resid_post", 2), Hit(1, 4, "mlp_out", 16))


def test_edits_that_change_nothing_are_refused():
    reader, add = model("llama"), Add(vector(32))
    for edit, words in (
        (Edit("resid_post", (), None, add), "names no layer"),
        (Edit("resid_post", (1,), (), add), "names no position"),
        (Edit("resid_post", (1,), (3, 16), add), "position 16: there are 16 tokens, 0 to 15 or -16 to -1"),
        (Edit("resid_post", (1,), (-17,), add), "position -17"),
        (Edit("resid_post", (5,), None, add), "expected 0 to 4"),
        (Edit("nowhere", (1,), None, add), "unknown site"),
        (Edit("resid_post", (1,), None, Add(vector(31))), r"shape \[31\]: expected \[32\]"),
        (Edit("resid_post", (1,), "new", add), "is of new positions, and no text is generated"),
        (Edit("resid_post", (1,), None, add, (2,)), "names the texts"),
        (Edit("resid_post", (1,), None, add, ()), "names the texts"),
        (
            Edit("resid_post", (1,), None, Add(vector(3, 1, 32))),
            r"shape \[3, 1, 32\]: .*\[2, 16, 32\], 2 texts and 16 pos",
        ),
    ):
        with pytest.raises(RequestError, match=words):
            capture_sites(reader, BOTH, EVERY, edits=[edit])
    with pytest.raises(RequestError, match=r"edit 1 .layer 3, resid_post. comes after all that is read"):
        capture_sites(reader, BOTH, [(2, "resid_post")], edits=[Edit("resid_post", (3,), None, add)])
    assert hooks(reader.module) == 0


def test_places_may_be_any_whole_numbers():
    add = Add(vector(32))
    edit = Edit("resid_post", np.int64(1), np.array([2, 7]), add, torch.tensor([1]))
    assert (edit.layers, edit.positions, edit.texts) == ((1,), (2, 7), (1,))
    assert all(type(place) is int for place in (*edit.layers, *edit.positions, *edit.texts))
    for given, words in (
        (("resid_post", "one", None, add), "layers are 'one'"),
        (("resid_post", (1,), "old", add), "positions are 'old'"),
        (("resid_post", (1,), (0.5,), add), "expected whole numbers"),
        (("resid_post", (1,), None, Add), "change is <class"),
        (("resid_post", (1,), None, None), "change is None"),
    ):
        with pytest.raises(RequestError, match=words):
            Edit(*given)


def test_an_edit_that_overflows_is_refused_by_name():
    reader = model("llama")
    reader.module.half()
    edit = Edit("resid_post", (2,), None, Times(1e6))
    with pytest.raises(RequestError, match=r"edit 1 at layer 2 makes numbers larger than torch.float16 holds"):
        capture_sites(reader, IDS, EVERY, edits=[edit])
    assert hooks(reader.module) == 0
