"""Fixed random projections of the stream on the probe text: what tells a model that computes something else."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from midstream.model.addition import Tap
from midstream.model.forward import seen
from midstream.model.load import PROBE
from midstream.model.model import Model

PROJECTIONS = 64
"""Numbers kept for each layer."""

FLOAT32, HALF = 1e-3, 3e-2
"""Largest relative difference of a layer's projections between two runs of one model, by dtype."""


def projections(model: Model) -> Tensor:
    """The stream at every layer after the probe text, projected: ``[L + 1, 64]`` float32.

    Number j of a layer is ``s_j . h log(1 + |h|) / (|h| sqrt(d))``: s_j is the j-th row of signs, h the stream at
    position ``j mod t``. So an attention sink, a hundred times longer than the others, does not hide them, a change
    of scale still shows, and a position on the verge of becoming a sink touches few of the 64.
    """
    ids = model.tokenizer.encode(PROBE).ids[: model.context]
    parts = model.anatomy
    taps = [Tap(parts.blocks[0], "input"), *(block["resid_post"] for block in parts.taps)]
    layers = seen(parts, torch.tensor([ids], device=model.device), taps)
    spread = [number % len(ids) for number in range(PROJECTIONS)]
    rows = torch.stack([layer[0, spread].to("cpu", torch.float64) for layer in layers])  # [L + 1, 64, d]
    size = rows.norm(dim=-1, keepdim=True)
    rows = rows * (torch.log1p(size) / (size.clamp(min=1e-30) * parts.width**0.5))
    return (rows * _signs(parts.width)).sum(-1).float()


def difference(found: Tensor, expected: Tensor) -> Tensor:
    """Relative difference of each layer, ``[L + 1]``: the median of ``|found - expected|`` over that of ``|expected|``.

    Medians, since in bfloat16 a few positions of an ordinary model go their own way (18 % at one of the default's 21).
    """
    expected = expected.double()
    return (found.double() - expected).abs().median(1).values / expected.abs().median(1).values.clamp(min=1e-30)


def _signs(width: int) -> Tensor:
    """``[64, width]`` of ±1: the bits of SHAKE-256, which no library's version and no machine changes."""
    bits = hashlib.shake_256(f"midstream probe {width}".encode()).digest(PROJECTIONS * width // 8)
    ones = np.unpackbits(np.frombuffer(bits, np.uint8)).reshape(PROJECTIONS, width)
    return torch.from_numpy(ones * 2.0 - 1.0)
