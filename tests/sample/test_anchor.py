"""Anchoring: the loop over the cache and the one doubled pass are what the definition says, and generation is it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from midstream.errors import RequestError
from midstream.sample.anchor import Anchor, anchored, anchored_loop, parallel, resumed, skips
from midstream.sample.choose import Choice
from midstream.sample.generate import Options, generate
from midstream.stream.capture import capture_sites
from midstream.stream.change import Interpolate
from midstream.stream.edit import Edit
from tests.sample.test_generate import PROMPT, model
from tests.walk import REQUIRED

IDS = torch.tensor([list(range(20, 34)), [9, 3, 77, 5, 9, 120, 44, 44, 8, 1, 60, 61, 62, 63]])
CHOSEN = torch.rand(IDS.shape, generator=torch.Generator().manual_seed(2)) < 0.7
CHOSEN[:, 0] = False
FINAL = (4, "resid_post")
WANTED = [(2, "resid_post"), (3, "mlp_out"), FINAL]
MASKED = ("gpt2", "gpt_neox", "llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "mistral", "olmo2", "phi3")
"""Families that must have the parallel form."""


def anchor(reader, **changes):
    return replace(Anchor(2, 0.4, reader.anatomy.input_rows), **changes)


def towards(given, token):
    return Interpolate(given.rows(token)[0], given.alpha, given.keep_norm)


def by_definition(reader, ids, given, chosen, place):
    """Position i from a run of its own, in which the positions before it are moved towards what came after them."""
    rows = []
    for i in range(ids.shape[1]):
        layers = range(given.layer, reader.anatomy.layers if given.every_layer else given.layer + 1)
        edits = [
            Edit("resid_post", (layer,), (j,), towards(given, ids[b, j + 1 : j + 2]), (b,))
            for layer in layers for j in range(i) for b in range(len(ids)) if chosen[b, j]
        ]  # fmt: skip
        rows.append(capture_sites(reader, ids[:, : i + 1], [place, FINAL], edits=edits)[place][:, -1])
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize(
    "changes", [{}, {"keep_norm": False}, {"every_layer": True, "layer": 1}, {"alpha": 1.0}], ids=str
)
@pytest.mark.parametrize("model_type", ["gpt2", "gemma2", "bloom", "qwen3"])
def test_the_loop_is_what_the_definition_says(model_type, changes):
    reader = model(model_type)
    given = anchor(reader, **changes)
    got = anchored_loop(reader, IDS, given, CHOSEN, WANTED)
    for place in WANTED:
        expected = by_definition(reader, IDS, given, CHOSEN, place)
        torch.testing.assert_close(got[place], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", REQUIRED)
def test_the_doubled_pass_equals_the_loop_or_is_not_offered(model_type):
    reader = model(model_type)
    given = anchor(reader)
    reason = parallel(reader, given, IDS.shape[1])
    if reason:
        assert model_type not in MASKED
        assert model_type in reason
        return
    for changes in ({}, {"every_layer": True}, {"keep_norm": False, "layer": 3}):
        one, other = (
            make(reader, IDS, replace(given, **changes), CHOSEN, WANTED) for make in (anchored_loop, anchored)
        )
        for place in WANTED:
            torch.testing.assert_close(one[place], other[place], rtol=1e-4, atol=2e-4)


def test_strength_0_and_nothing_chosen_change_nothing():
    reader = model("llama")
    plain = capture_sites(reader, IDS, WANTED)
    for make in (anchored_loop, anchored):
        for given, chosen in ((anchor(reader, alpha=0.0), CHOSEN), (anchor(reader), torch.zeros_like(CHOSEN))):
            got = make(reader, IDS, given, chosen, WANTED)
            for place in WANTED:
                torch.testing.assert_close(got[place], plain[place], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "mistral"])
def test_a_sliding_window_moves_on_under_the_loop(model_type):
    reader = model(model_type)
    if model_type != "llama":
        assert reader.module.config.sliding_window >= IDS.shape[1]
    from midstream.model.anatomy import find
    from tests.tiny import tiny

    changes = {} if model_type == "llama" else {"sliding_window": 5}
    module = tiny(model_type, tie_word_embeddings=False, **changes)
    reader.module, reader.anatomy = module, find(module, module.config)
    given = anchor(reader)
    if changes:
        assert "sliding window of 5" in parallel(reader, given, IDS.shape[1])
    got = anchored_loop(reader, IDS, given, CHOSEN, [FINAL])[FINAL]
    torch.testing.assert_close(got, by_definition(reader, IDS, given, CHOSEN, FINAL), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("surprise", [0.0, 5.0])
def test_generation_is_the_loop(surprise):
    reader = model("llama")
    given = anchor(reader, surprise=surprise)
    steps = list(generate(reader, [PROMPT], Options(tokens=20, anchor=given, choice=Choice(temperature=9.0))))
    ids = torch.tensor([PROMPT + [step.token for step in steps]])
    chosen = torch.zeros(ids.shape, dtype=torch.bool)
    for step in steps:
        chosen[0, step.position - 1] = -step.logprob > surprise
    assert surprise == 0.0 or 0 < chosen.sum() < len(steps)
    h = anchored_loop(reader, ids, given, chosen, [FINAL])[FINAL]
    with torch.no_grad():
        logits = reader.module.lm_head(reader.module.model.norm(h))[0]
        plain = reader.module(ids).logits[0].log_softmax(-1)
    moved = 0.0
    for step in steps:
        assert abs(step.logprob - float(logits.log_softmax(-1)[step.position - 1, step.token])) < 1e-4
        moved = max(moved, abs(step.logprob - float(plain[step.position - 1, step.token])))
    assert moved > 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer": 0}, "starts at layer 0: expected 1 to 3"),
        ({"layer": 4}, "starts at layer 4: expected 1 to 3"),
        ({"alpha": -0.1}, "strength is -0.1"),
        ({"alpha": 1.2}, "strength is 1.2"),
    ],
)
def test_what_cannot_be_anchored_is_refused(changes, words):
    reader = model("llama")
    for run in (
        lambda given: anchored(reader, IDS, given, CHOSEN, [FINAL]),
        lambda given: anchored_loop(reader, IDS, given, CHOSEN, [FINAL]),
        lambda given: next(generate(reader, [PROMPT], Options(anchor=given))),
    ):
        with pytest.raises(RequestError, match=words):
            run(anchor(reader, **changes))


def test_a_recurrent_model_is_refused_by_name():
    reader = model("mamba2")
    with pytest.raises(RequestError, match="a mamba2 model cannot be anchored"):
        anchored_loop(reader, IDS, anchor(reader), CHOSEN, [FINAL])


@pytest.mark.parametrize("model_type", MASKED)
def test_a_pass_begun_in_the_middle_is_the_doubled_pass(model_type):
    reader = model(model_type)
    assert skips(reader)
    given = anchor(reader)
    expected = anchored(reader, IDS, given, CHOSEN, [FINAL])[FINAL]
    h = capture_sites(reader, IDS, [(2, "resid_post")])[2, "resid_post"]
    chosen = CHOSEN.clone()
    chosen[:, -1] = False
    target = torch.cat([IDS[:, 1:], IDS[:, -1:]], dim=1)
    (edit,) = given.edits(reader.anatomy, target, chosen, tuple(range(IDS.shape[1])))
    streams = edit.what.apply(h.float()), h.float()
    for skip in (True, False):
        got = resumed(reader, IDS, 2, streams, [FINAL], skip=skip)[FINAL]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    # and the blocks are as they were
    assert not any("forward" in vars(block) for block in reader.anatomy.blocks)


def test_blocks_are_themselves_again_after_a_failure():
    reader = model("llama")
    h = torch.zeros(2, 3, 32)
    with pytest.raises(RequestError):
        resumed(reader, IDS, 2, (h, h), [FINAL], skip=True)
    assert not any("forward" in vars(block) for block in reader.anatomy.blocks)
