"""What becomes of generated text: repetition, and how likely it is to the model as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from midstream.lens.lens import Transport
from midstream.record import Array
from midstream.sample.anchor import Anchor
from midstream.sample.choose import Choice
from midstream.sample.generate import Options, generate
from midstream.stream.capture import capture
from midstream.study.anchoring.condition import Condition, fitted
from midstream.study.anchoring.measure import maps
from midstream.study.output import logprobs
from midstream.study.repetition import distinct, longest_repeated
from midstream.study.study import Columns, Ground, Text

PROMPT = 32
"""Tokens of a document that are continued."""

CHOICES = {"greedy": Choice(), "sampled": Choice(temperature=1.0)}


def continued(
    ground: Ground, texts: Sequence[Text], condition: Condition | None, how: str, length: int, threshold: float
) -> Columns:
    """Continues the start of each text, one row a text.

    Args:
        condition: how the stream behind each new token is moved; None: not at all.
        how: one of ``CHOICES``; draws of a text are the same under every condition.
        threshold: surprise, nats, from which on the rule ``surprise`` moves.
    """
    prompts = [list(text.ids[:PROMPT]) for text in texts]
    anchor = None if condition is None else anchor_of(ground, condition, threshold)
    options = Options(tokens=length, choice=CHOICES[how], seed=ground.seed, anchor=anchor)
    new: list[list[int]] = [[] for _ in texts]
    for step in generate(ground.model, prompts, options):
        new[step.text].append(step.token)
    name = "plain" if condition is None else condition.name
    likely = [_likelihood(ground, prompt, tokens) for prompt, tokens in zip(prompts, new, strict=True)]
    return {
        "document": np.array([text.number for text in texts], np.int32),
        "condition": np.full(len(texts), f"{how}, {name}"),
        "distinct_2": np.array([distinct(tokens, 2) for tokens in new]),
        "distinct_3": np.array([distinct(tokens, 3) for tokens in new]),
        "repeated": np.array([longest_repeated(tokens) for tokens in new], np.float64),
        "logprob": np.array(likely),
        "tokens": np.array([len(tokens) for tokens in new], np.int32),
    }


def anchor_of(ground: Ground, condition: Condition, threshold: float) -> Anchor:
    """The anchor of generation that a condition is on given text, but that the prompt is not anchored."""
    anatomy = ground.model.anatomy
    rows = anatomy.output_rows if condition.vector == "unembedding" else anatomy.input_rows
    if fitted(condition):
        move = maps(ground)[condition.vector == "expected", condition.layer, condition.refit]
        rows = _after(rows, move)
    surprise = threshold if condition.rule == "surprise" else 0.0
    return Anchor(condition.layer, condition.strength, rows, condition.vector, surprise=surprise)


def _after(rows: Callable[[Tensor], Tensor], move: Transport) -> Callable[[Tensor], Tensor]:
    return lambda tokens: move(rows(tokens))


def _likelihood(ground: Ground, prompt: list[int], new: list[int]) -> float:
    """Mean log-probability of the new tokens under the model as it is, nats."""
    ids = torch.tensor([prompt + new], device=ground.model.device)
    last = ground.model.anatomy.layers
    h = capture(ground.model, ids, layers=[last])[last]
    found: Array = logprobs(ground, h[:, len(prompt) - 1 : -1], ids[:, len(prompt) :])[0]
    return float(found.mean())
