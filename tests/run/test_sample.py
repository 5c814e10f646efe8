"""Continuations with readings: each is what a reading of the whole text says of that position; anchors from text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lens_sample import sample as fitted

import midstream as ms
from midstream.errors import RequestError
from midstream.lens.file.artifact import save
from midstream.lens.read.request import request
from midstream.model.tokenizer import Encoded
from midstream.run.anchor_spec import anchor_of
from midstream.run.edit_spec import edits_of
from midstream.run.edit_vector import Setting
from midstream.run.text import read_text

PROMPT = "The capital of France is"
NUMBERS = ("logprob", "entropy", "kl_final_lens", "lse", "rank", "top_ids", "target_id", "kl_input_lens")


def test_each_reading_is_that_of_the_whole_text(tiny):
    edits = ["layers=9 add=random length=0.2"]
    made = ms.generate(tiny, PROMPT, tokens=6, edits=edits, read={"layers": [3, 30], "lens": ["logit", "input"]})
    pieces = list(made)
    ids = tiny.tokenizer.encode(PROMPT).ids + [piece.step.token for piece in pieces]
    given = edits_of(Setting(tiny, ids), edits)
    wanted = request(tiny, {"layers": [3, 30], "lens": ["logit", "input"], "edits": given})
    whole = read_text(tiny, Encoded(ids, ["text"] * len(ids)), wanted, command="")
    for piece in pieces:
        rows = whole.pick(whole.columns["position"] == piece.step.position - 1)
        for name in NUMBERS:
            np.testing.assert_allclose(piece.reading.columns[name], rows.columns[name], rtol=1e-3, atol=1e-3)
        assert (piece.reading.columns["target_id"][:2] == piece.step.token).all()
        assert abs(piece.step.logprob - piece.reading.columns["logprob"][1]) < 1e-4


def test_texts_are_kept_and_go_on(tiny):
    made = ms.generate(tiny, PROMPT, tokens=7)
    steps = iter(made)
    first = [next(steps).step.token for _ in range(3)]
    assert [piece.step.token for piece in made.pieces] == first
    assert len(made.steps[0]) == 7
    assert [step.token for step in made.steps[0]][:3] == first
    assert made.text == ms.generate(tiny, PROMPT, tokens=7).text
    both = ms.generate(tiny, [PROMPT, "Once upon a time there"], tokens=4)
    assert both.texts[0] == ms.generate(tiny, PROMPT, tokens=4).text
    with pytest.raises(RequestError, match="there are 2 prompts"):
        _ = both.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tokens": 0}, "a whole number of 1 or more"),
        ({"read": {"edits": ["layers=3 scale=2"]}}, "edit was given as text"),
        ({"read": True}, "what to read as a dict"),
        ({"anchor": (15, 0.1)}, "expected an anchor like"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"temperature": -1.0}, "temperature is -1.0: expected 0"),
        ({"top_k": 0}, "top-k is 0"),
        ({"top_p": 0.0}, "top-p is 0.0"),
        ({"min_p": 2.0}, "min-p is 2.0"),
        ({"repetition_penalty": 0.0}, "repetition penalty is 0.0"),
        ({"beam": 3}, "unknown option 'beam'"),
        ({"edits": ["layers=3 scale=2 positions=99"]}, "names position 99"),
        ({"anchor": "0:0.1"}, "starts at layer 0"),
        ({"read": {"layers": [99]}}, "unknown layer 99"),
    ],
)
def test_what_cannot_be_is_refused_at_once(tiny, options, words):
    with pytest.raises(RequestError, match=words):
        ms.generate(tiny, PROMPT, **options)


@pytest.mark.parametrize("option", [{"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_what_changes_nothing_at_temperature_0_warns(tiny, option):
    name = next(iter(option)).replace("_", "-")
    with pytest.warns(UserWarning, match=f"taken, with or without {name}: give a temperature") as warned:
        made = ms.generate(tiny, PROMPT, tokens=5, **option)
    assert warned[0].filename == __file__
    assert made.text == ms.generate(tiny, PROMPT, tokens=5).text
    ms.generate(tiny, PROMPT, tokens=5, temperature=1.0, **option)
    ms.generate(tiny, PROMPT, tokens=5, top_p=1.0, min_p=0.0, top_k=None, repetition_penalty=1.2)


def test_what_was_made_before_an_interruption_stays(tiny, monkeypatch):
    from midstream.sample import generate as generation

    made = ms.generate(tiny, PROMPT, tokens=6)
    inner, calls = generation.capture_sites, []

    def interrupted(*given, **more):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return inner(*given, **more)

    monkeypatch.setattr(generation, "capture_sites", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _ = made.text
    assert len(made.pieces) == 2
    with pytest.raises(RequestError, match="was interrupted: what was made is in pieces"):
        _ = made.text


def test_the_text_may_be_asked_for_while_it_comes(tiny):
    made = ms.generate(tiny, PROMPT, tokens=5)
    assert [len(made.text) > 0 for _ in made] == [True] * 5


def test_an_anchor_is_what_its_text_says(tiny):
    anchor = anchor_of(tiny, "15:0.25 vector=unembedding keep_norm=no every_layer=yes surprise=2.5")
    assert (anchor.layer, anchor.alpha, anchor.name, anchor.keep_norm) == (15, 0.25, "unembedding", False)
    assert (anchor.every_layer, anchor.surprise) == (True, 2.5)
    tokens = torch.tensor([3, 7])
    assert torch.equal(anchor.rows(tokens), tiny.anatomy.output_rows(tokens))
    assert torch.equal(anchor_of(tiny, "15:0.1").rows(tokens), tiny.anatomy.input_rows(tokens))


def test_the_vector_that_a_lens_needs_is_taken_to_the_tokens_row(tiny, tmp_path):
    lens = fitted(tiny)
    save(lens, tmp_path / "t.safetensors")
    tokens = torch.tensor([3, 7, 11])
    layer = min(layer for layer in lens.transports if layer > 0)
    rows = anchor_of(tiny, f"{layer}:0.1 vector=lens:{tmp_path / 't.safetensors'}").rows(tokens)
    torch.testing.assert_close(
        rows @ lens.transports[layer].weight.T, tiny.anatomy.output_rows(tokens), rtol=1e-3, atol=1e-3
    )
    assert torch.equal(anchor_of(tiny, "15:0.1 vector=lens:logit").rows(tokens), tiny.anatomy.output_rows(tokens))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is none: expected LAYER:STRENGTH"),
        ("15", "is none"),
        ("15:x", "is none"),
        ("30:0.1", "starts at layer 30: expected 1 to 29"),
        ("15:2", "strength is 2.0"),
        ("15:nan", "strength is nan"),
        ("15:0.1 vector", "expected key=value"),
        ("15:0.1 colour=red", "unknown key of an anchor 'colour'"),
        ("15:0.1 vector=nothing", "unknown vector of an anchor"),
        ("15:0.1 vector=lens:nothing", "unknown lens 'nothing'"),
        ("15:0.1 surprise=lots", "surprise is 'lots'"),
        ("15:0.1 surprise=-1", "surprise is -1.0"),
        ("15:0.1 keep_norm=maybe", "unknown value of keep_norm"),
    ],
)
def test_what_is_no_anchor_is_a_sentence(tiny, text, words):
    with pytest.raises(RequestError, match=words):
        anchor_of(tiny, text)
