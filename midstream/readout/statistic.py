"""Every statistic of a reading from its running sums (docs/design.md, section 3)."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midstream.readout.rows import Columns, Stack
from midstream.readout.sums import Sums


def columns(sums: Sums, rows: Stack, logits: Tensor) -> Columns:
    """The statistics of all M rows of a stack; ``logits``: ``[M, T]``, those of the named tokens.

    A row that is broken or whose sums are not finite is undefined in every column; so is a divergence from or to
    such a row.
    """
    lse = sums.largest + sums.total.log()
    lse[rows.broken] = torch.nan
    mean = sums.own / sums.total
    entropy = lse - mean
    undefined = ~torch.isfinite(entropy)
    lse[undefined] = torch.nan
    z, above = _consistent(sums, rows.tokens, logits)
    unnamed = (rows.tokens < 0) | undefined[:, None]
    return Columns(
        lse=_floats(lse, undefined),
        entropy=_floats(entropy, undefined),
        kl_final_lens=_divergence_from(rows.reference, sums.by_reference, sums, entropy, lse),
        kl_lens_final=_floats(lse[rows.reference] - sums.reference / sums.total - entropy, rows.reference < 0),
        kl_base=_divergence_from(rows.base, sums.by_base, sums, entropy, lse),
        logprob=_floats(z - lse[:, None], unnamed),
        rank=_ints(above + 1, unnamed),
        top_ids=_ints(sums.top_ids, undefined[:, None]),
        top_logprobs=_floats(sums.top - lse[:, None], undefined[:, None]),
    )


def blank(count: int, named: int, top_k: int) -> Columns:
    """Columns of ``count`` rows, every entry undefined."""
    floats = [np.full(count, np.nan, np.float32) for _ in range(5)]
    return Columns(
        *floats,
        logprob=np.full((count, named), np.nan, np.float32),
        rank=np.full((count, named), -1, np.int32),
        top_ids=np.full((count, top_k), -1, np.int32),
        top_logprobs=np.full((count, top_k), np.nan, np.float32),
    )


def put(target: Columns, at: slice | np.ndarray[Any, Any], source: Columns, rows: slice | np.ndarray[Any, Any]) -> None:
    """Rows ``rows`` of ``source`` written to rows ``at`` of ``target``."""
    for field in fields(Columns):
        getattr(target, field.name)[at] = getattr(source, field.name)[rows]


def _divergence_from(other: Tensor, cross: Tensor, sums: Sums, entropy: Tensor, lse: Tensor) -> Any:
    # KL(other || row) = -H(other) - E_other[z] + lse, with E_other[z] = cross / S of the other row
    return _floats(lse - cross / sums.total[other] - entropy[other], other < 0)


def _consistent(sums: Sums, tokens: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    # A named token that is in the top list takes its logit and rank from there: its own dot product rounds
    # differently, and the two would contradict each other where neighbours are closer than that.
    found = (sums.top_ids[:, None, :] == tokens[:, :, None]) & (tokens >= 0)[:, :, None]
    listed = found.any(2)
    z = torch.where(found, sums.top[:, None, :], 0.0).sum(2)
    above = (sums.top[:, None, :] > z[:, :, None]).sum(2)
    return torch.where(listed, z, logits).double(), torch.where(listed, above, sums.above)


def _floats(values: Tensor, undefined: Tensor) -> Any:
    return values.masked_fill(undefined, torch.nan).to(torch.float32).numpy()


def _ints(values: Tensor, undefined: Tensor) -> Any:
    return values.masked_fill(undefined, -1).to(torch.int32).numpy()
