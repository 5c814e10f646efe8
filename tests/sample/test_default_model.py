"""The bundled model continued, anchored and steered."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import midstream as ms
from midstream.interval import ratio
from midstream.readout.reader import output_reader
from midstream.sample.anchor import Anchor, anchored, anchored_loop, parallel
from midstream.sample.generate import Options, generate
from midstream.stream.capture import capture_sites
from midstream.stream.change import Add, Replace
from midstream.stream.edit import Edit
from midstream.stream.vector import mean_difference, random_like

pytestmark = pytest.mark.default_model
FINAL = (30, "resid_post")
TEXT = "In 1815, M. Myriel was Bishop of D——. He was an old man of about seventy-five years of age; he had occupied"

GOOD = (
    "I loved every minute of it; it was wonderful.", "What a delightful and brilliant evening we had.",
    "The food was delicious and the staff were kind.", "She is happy, proud and full of joy today.",
    "A beautiful, moving and excellent film.", "Thank you, this is the best gift I ever got.",
)  # fmt: skip
BAD = (
    "I hated every minute of it; it was awful.", "What a dreadful and boring evening we had.",
    "The food was disgusting and the staff were rude.", "She is sad, ashamed and full of grief today.",
    "An ugly, tedious and terrible film.", "Go away, this is the worst gift I ever got.",
)  # fmt: skip
PROMPTS = (
    "The film was", "I thought the book was", "Her new song is", "The hotel room was", "My day at work was",
    "The weather there is", "His speech was", "The service in this shop is", "Our holiday was", "The soup tasted",
    "The game last night was", "This phone is", "The lecture was", "Their house is", "The concert was",
    "My first impression was",
)  # fmt: skip


def encoded(model, text):
    return model.tokenizer.encode(text).ids


def test_greedy_tokens_are_those_of_transformers(default_model):
    ids = encoded(default_model, "The history of the city begins in the ninth century, when")
    module = ms.load(engine="transformers").module
    with torch.no_grad():
        theirs = module.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=24,
            do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    assert [step.token for step in generate(default_model, [ids], Options(tokens=24))] == theirs[0, len(ids) :].tolist()


def test_loop_and_parallel_anchoring_agree(default_model):
    model = default_model
    ids = torch.tensor([encoded(model, TEXT)[:24]])
    chosen = torch.ones(ids.shape, dtype=torch.bool)
    chosen[:, 0] = False
    anchor = Anchor(15, 0.1, model.anatomy.input_rows)
    assert parallel(model, anchor, ids.shape[1]) == ""
    reader = output_reader(model.anatomy)
    one, other, plain = (
        (reader.prepare(h[FINAL][0]) @ reader.weight.T).log_softmax(-1)
        for h in (
            anchored_loop(model, ids, anchor, chosen, [FINAL]),
            anchored(model, ids, anchor, chosen, [FINAL]),
            capture_sites(model, ids, [FINAL]),
        )
    )
    assert (one - other).abs().max() < 1e-4
    assert (one - plain).abs().max() > 0.1


def test_the_stream_of_another_run_gives_that_runs_output(default_model):
    ids, other = (torch.tensor([encoded(default_model, f"The capital of {c} is")]) for c in ("France", "Italy"))
    h = capture_sites(default_model, other, [FINAL])[FINAL]
    edits = [Edit("resid_post", (30,), None, Replace(h))]
    assert torch.equal(capture_sites(default_model, ids, [FINAL], edits=edits)[FINAL], h)


def test_a_mean_difference_steers_beyond_random_directions(default_model):
    model, layer = default_model, 12
    vector = mean_difference(
        model, (encoded(model, text) for text in GOOD), (encoded(model, text) for text in BAD), [layer]
    )[layer]
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.zeros_like(vector), vector, *(random_like(vector, generator) for _ in range(4))]
    reader = output_reader(model.anatomy)
    words = reader.weight[[model.tokenizer.single(" great"), model.tokenizer.single(" terrible")]]

    def preference(prompt):
        """[vectors] logit of great less that of terrible, one text a vector."""
        ids = torch.tensor([encoded(model, prompt)]).expand(len(vectors), -1)
        edit = Edit("resid_post", (layer,), tuple(range(1, ids.shape[1])), Add(torch.stack(vectors)[:, None]))
        z = reader.prepare(capture_sites(model, ids, [FINAL], edits=[edit])[FINAL][:, -1]) @ words.T
        return (z[:, 0] - z[:, 1]).numpy()

    moved = np.stack([preference(prompt) for prompt in PROMPTS])
    beyond = moved[:, 1] - moved[:, 0] - (moved[:, 2:].mean(1) - moved[:, 0])
    apart = np.arange(len(beyond))
    estimate = ratio(beyond, np.ones(len(beyond)), clusters=apart, generator=np.random.default_rng(0), unit="nats")
    assert estimate.low > 0, estimate
