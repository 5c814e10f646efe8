"""The oracle of the read-out's tests: every statistic from all logits in float64, and what a rank may be."""

from __future__ import annotations

import torch

from midstream.readout import reference


def truth(reader, rows, final, top_k=10):
    z = None if final is None else reference.logits(reader, final)
    return [
        reference.statistics(
            reference.logits(reader, part.x, part.beta),
            part.tokens,
            reference=z,
            base=None if part.base is None else reference.logits(reader, part.base, part.beta),
            top_k=top_k,
        )
        for part in rows
    ]


def ranks_near(found, reader, part, slack=1e-3):
    z = reference.logits(reader, part.x, part.beta)
    own = z.gather(1, part.tokens.clamp(min=0))
    others = z[:, None, :].expand(-1, own.shape[1], -1).clone()
    others.scatter_(2, part.tokens.clamp(min=0)[:, :, None], -torch.inf)
    low = 1 + (others > own[:, :, None] + slack).sum(2)
    high = 1 + (others > own[:, :, None] - slack).sum(2)
    ranks, named = torch.from_numpy(found.rank), part.tokens >= 0
    assert ((low <= ranks) & (ranks <= high))[named].all()
    assert (ranks[~named] == -1).all()
