"""How gradually a small model changes the stream with depth: what successive layers share, and how alike they read out.

Letters for shapes: n windows, b of them in one pass, t bytes of each, p positions that count, d width, L blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.model.plain import GPT2Trunk, PlainLM, begin
from midstream.record import Array
from midstream.stream.vector import sinks
from midstream.study.displace import angle
from midstream.study.toy import TOGETHER

FIRST = 8
"""Positions before it have little to go on, and the first of them is what attention rests on: none of them counts."""


@dataclass(frozen=True, eq=False)
class Continuity:
    """Means over positions; entry l is of layer l, and of its step to layer l + 1.

    Attributes:
        cosine: ``[L]`` of h_l and h_{l+1}; dividing each by its root mean square changes nothing.
        centred: ``[L]`` the same of u_l − mean(u_l), u being h divided by its root mean square, the mean over
            positions. A vector that all positions share has a cosine of 1 with itself whatever is done to the rest.
        agreement: ``[L]`` share of positions at which the read-out of layer l (final norm and unembedding) has the
            same first choice as the model.
        positions: that count.
        sinks: share of the positions from ``FIRST`` on that are attention sinks at any layer, and do not count.
    """

    cosine: Array
    centred: Array
    agreement: Array
    positions: int
    sinks: float


@torch.inference_mode()
def continuity(module: PlainLM, ids: Tensor) -> Continuity:
    """Of a model, over windows ``[n, t]`` int64; they are read twice, first for the means that ``centred`` leaves out.

    Raises:
        RequestError: for another model than a GPT-2, and where no position counts.
    """
    trunk = module.model
    if not isinstance(trunk, GPT2Trunk):
        raise RequestError(f"a {module.config.model_type}: expected a GPT-2, as midstream.study.toy makes them.")
    total, p = torch.zeros(()), 0
    for h in _counted(trunk, ids):
        total, p = total + _scaled(h).sum(1), p + h.shape[1]
    if not p:
        raise RequestError(f"{len(ids)} windows of {ids.shape[1]} bytes: none has a position from {FIRST} on to count.")
    mean = (total / p)[:, None]  # [L+1, 1, d]
    sums = torch.zeros(3, len(trunk.h), dtype=torch.float64)
    for h in _counted(trunk, ids):
        u, first = _scaled(h), module.lm_head(trunk.ln_f(h)).argmax(-1)
        found = _cosine(u), _cosine(u - mean), first[:-1] == first[-1]  # each [L, p]
        sums += torch.stack([values.double().sum(1) for values in found])
    cosine, centred, agreement = (sums / p).numpy()
    return Continuity(cosine, centred, agreement, p, 1 - p / ids[:, FIRST:].numel())


def states(trunk: GPT2Trunk, ids: Tensor) -> Tensor:
    """The stream at every layer: ids ``[b, t]`` to ``[L + 1, b, t, d]``."""
    now = begin(ids, None, None, None)
    stream = [trunk.wte(ids) + trunk.wpe(now.positions)]
    for block in trunk.h:
        stream.append(block(stream[-1], now))
    return torch.stack(stream)


def _counted(trunk: GPT2Trunk, ids: Tensor) -> Iterator[Tensor]:
    """The stream at the positions that count, ``[L + 1, p, d]`` of ``TOGETHER`` windows at a time."""
    for part in ids.split(TOGETHER):
        stream = states(trunk, part)
        left = torch.stack([sinks(h) for h in stream]).any(0)
        left[:, :FIRST] = True
        yield stream[:, ~left]


def _scaled(h: Tensor) -> Tensor:
    return h / h.square().mean(-1, keepdim=True).sqrt()


def _cosine(h: Tensor) -> Tensor:
    """Of successive layers, ``[L + 1, p, d]`` to ``[L, p]``: exactly 1 of equal vectors, NaN of one that is 0."""
    some = (h != 0).any(-1)
    return torch.where(some[1:] & some[:-1], angle(h[:-1], h[1:]).cos(), torch.nan)
