"""Lenses with random maps and everything that a fit could give them."""

from __future__ import annotations

from dataclasses import replace

import torch

from midstream.lens.file.artifact import about
from midstream.lens.kind import parse
from midstream.lens.lens import BackOff, Lens, Transport

KINDS = ("shortcut", "tuned", "jacobian", "future:2", "input:0", "input:3", "input:1:shared")
DOCUMENT = "0f" * 32


def sample(model, kind="tuned", *, seed=0, size=0.3):
    """A lens of that kind for ``model``; its maps are the identity and noise of that size."""
    draw = torch.Generator().manual_seed(seed)
    known, last, d = parse(kind), model.anatomy.layers, model.anatomy.width

    def move(wide=1, bias=True):
        weight = torch.eye(d, d * wide) + size * torch.randn(d, d * wide, generator=draw) / d**0.5
        return Transport(weight, torch.randn(d, generator=draw) if bias else None)

    if known.shared:
        one = move()
        moves = dict.fromkeys(range(last + 1), one)
    elif known.name in ("input", "future"):
        moves = {layer: move() for layer in range(last + 1)}
    else:
        moves = {layer: move(bias=kind != "jacobian") for layer in range(last)}
    lens = Lens(
        kind,
        known.reader,
        known.offset,
        moves,
        kind=kind,
        site="resid_post",
        layers=tuple(range(last + 1)),
        betas={layer: 0.1 + layer / 7 for layer in range(last + 1)} if known.name == "input" else {},
        about={
            **about(model),
            "corpus": {"name": "corpus.txt", "digest": "ab" * 32, "documents": 2, "tokens": 1234},
            "documents": [DOCUMENT, "ff" * 32],
            "seed": 0,
            "held_out_documents": ["0f" * 32] * 20,
            "fit": {"ridge": [0.1, float("nan")], "positions": {str(layer): layer + 4 for layer in range(last + 1)}},
            "scores": scores(kind, last),
            "versions": {"midstream": "0.1.0"},
            "licence": "Apache-2.0",
        },
    )
    if known.name not in ("input", "future"):
        return lens
    bases = [
        Lens(
            f"{kind} from {source}",
            known.reader,
            known.offset,
            {0: move(wide)},
            kind=kind,
            layers=(0,),
            betas={0: 1.5} if known.name == "input" else {},
            source=source,
        )
        for source, wide in (("token", 1), ("tokens", 4))
    ]
    pairs, singles = torch.tensor([3, 900, 4000]), torch.tensor([0, 7])
    table = BackOff(pairs, torch.tensor([5, 6, 7]), singles, torch.tensor([1, 2]), 9, model.anatomy.vocabulary)
    return replace(lens, baselines=tuple(bases), back_off=table)


def scores(lens, last):
    """A score table by columns: the KL of every layer, and of all together."""
    layers = [*range(last + 1), -1]
    rows = len(layers)
    value = [round(2.5 - 0.05 * max(layer, 0), 3) for layer in layers]
    return {
        "lens": [lens] * rows,
        "layer": layers,
        "measure": ["kl"] * rows,
        "against": [""] * rows,
        "value": value,
        "low": [one - 0.1 for one in value],
        "high": [one + 0.1 for one in value],
    }
