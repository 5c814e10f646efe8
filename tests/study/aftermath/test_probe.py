"""Maps to the surprise say nothing wild of what no text to fit on had."""

from __future__ import annotations

import numpy as np
import torch

from midstream.study.aftermath import condition, probe
from midstream.study.aftermath.condition import layers
from tests.study.aftermath import world as made

FEW = 12
"""Fewer types than the model is wide: their rows leave directions that the fit knows by rounding only."""


def test_a_token_that_was_never_seen_is_told_by_the_mean(tiny, monkeypatch):
    monkeypatch.setitem(condition.SIZES, "quick", made.SIZE)
    ground = made.ground(tiny)
    draw = np.random.default_rng(0)
    ground.texts["fit"] = made.texts(44, 1000, 64, draw, highest=FEW)
    ids = torch.arange(FEW + 1, FEW + 101)[None]
    stream = {layer: torch.zeros(1, 100, tiny.anatomy.width) for layer in layers(ground)}
    # of the stream nothing, so that what is read is of the token's row
    found = probe.read(ground, ids, stream, np.full(99, 5.0))
    usual = probe.expected(ground).mean.mean()
    for name, said in found.items():
        assert np.isfinite(said).all()
        assert np.abs(said - usual).max() < 10, name
