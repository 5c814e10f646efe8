"""Planted streams for is_the_input_stored_in_the_guess: what is read and what is told of the input are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from midstream.lens.lens import Lens, Transport
from midstream.model.anatomy import Anatomy, find
from midstream.study.guess import streams
from midstream.study.guess.fit import fit
from midstream.study.guess.setting import layers
from midstream.study.study import Ground, Text
from tests.tiny import tiny_config

V, D, T, LAST = 160, 32, 40, 4
READ = D // 2
"""The output reads the first half of the coordinates alone."""


def texts(count, first, works, tokens=T):
    draw = np.random.default_rng(first)
    return [Text(first + n, f"w{first}.{n % works}", tuple(draw.integers(0, V, tokens).tolist())) for n in range(count)]


def rows():
    """Input rows whose coordinates are uncorrelated over tokens, mean 0, variance 1."""
    x = np.random.default_rng(5).normal(size=(V, D))
    return torch.from_numpy(np.linalg.qr(x - x.mean(0))[0] * np.sqrt(V)).float()


def anatomy(weight):
    """A model without norm whose logits are ``weight`` times the stream."""
    ends = nn.Embedding.from_pretrained(rows()), nn.Linear(D, V, bias=False)
    ends[1].weight = nn.Parameter(weight)
    blocks = tuple(nn.Identity() for _ in range(LAST))
    return Anatomy(
        "planted", ends[0], 1.0, None, False, blocks, nn.Identity(), None, ends[1], 1.0, None, "different",
        ("resid_post",), (), (),
    )  # fmt: skip


def half_read():
    weight = torch.from_numpy(np.random.default_rng(6).normal(size=(V, D))).float() * 0.7
    weight[:, READ:] = 0
    return weight


def planted(monkeypatch, made, weight=None, move=None):
    """A ground whose streams are ``made(rows [b, t, d], noise [b, t, d], layer)``; ``move``: the lens's map."""

    def capture(_model, ids, layers):
        draws = [np.random.default_rng([0, *text]).normal(size=(len(text), D)) for text in ids.tolist()]
        noise = torch.from_numpy(np.stack(draws)).float()
        return {layer: made(rows()[ids], noise, layer) for layer in layers}

    monkeypatch.setattr(streams, "capture", capture)
    name = SimpleNamespace(
        anatomy=anatomy(half_read() if weight is None else weight), device=torch.device("cpu"), dtype=torch.float32,
        context=T, name="planted",
        tokenizer=TOKENIZER,
        fingerprint=SimpleNamespace(circumstances={"engine": "planted"}),
    )  # fmt: skip
    move = Transport(torch.eye(D) if move is None else move)
    lens = Lens("tuned", "output", 1, transports=dict.fromkeys(range(LAST), move))
    given = {"fit": texts(40, 1000, 10, 4 * T), "tune": texts(8, 2000, 8), "confirm": texts(48, 3000, 24)}
    return Ground(name, given, "quick", 0, {"tuned": lens})


def random_weights(family, seed=0):
    """A ground of a model with random weights, its lens the least squares of the last layer, on tokens as rare as in
    text."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "n_embd": 64, "vocab_size": 256, "intermediate_size": 128, "n_inner": 128}
    config = tiny_config(family, tie_word_embeddings=False, **{**sizes, "head_dim": 16})
    module = AutoModelForCausalLM.from_config(config).eval()
    ends = [id(module.get_input_embeddings().weight), id(module.get_output_embeddings().weight)]
    with torch.no_grad():
        for weight in module.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3 if id(weight) in ends else weight.shape[1] ** -0.5)

    def drawn(count, first, works, tokens=T):
        draw, p = np.random.default_rng(first), 1 / np.arange(1, 257)
        ids = draw.choice(256, (count, tokens), p=p / p.sum()).tolist()
        return [Text(first + n, f"w{first}.{n % works}", tuple(one)) for n, one in enumerate(ids)]

    model = SimpleNamespace(
        anatomy=find(module, module.config), module=module, device=torch.device("cpu"), dtype=torch.float32,
        context=128, name=family, tokenizer=TOKENIZER, fingerprint=SimpleNamespace(circumstances={}),
    )  # fmt: skip
    given = {"fit": drawn(60, 1000, 20, 4 * T), "tune": drawn(8, 2000, 8), "confirm": drawn(48, 3000, 24)}
    ground = Ground(model, given, "quick", seed, {"tuned": Lens("tuned", "output", 1)})
    transports = {}
    for layer in layers(ground).all[:-1]:
        known = fit(ground, layer)
        weight = (known.precision @ known.with_last).T
        transports[layer] = Transport(weight.float(), (known.last_mean - weight @ known.mean).float())
    return Ground(model, given, "quick", seed, {"tuned": Lens("tuned", "output", 1, transports=transports)})


TOKENIZER = SimpleNamespace(special_ids=frozenset(), encode=lambda text: SimpleNamespace(kinds=["text"]))


def measured(ground, arm):
    """All records of an arm, as the runner gathers them."""
    records = {}
    for stage in arm.stages:
        parts = [stage.measure(ground, unit) for unit in stage.units(ground, records)]
        records[stage.name] = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return records
