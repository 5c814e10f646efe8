"""Running sums over the vocabulary from which every statistic follows; they merge, so blocks may come one by one."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from midstream.readout.reader import Reader
from midstream.readout.rows import Stack


@dataclass(eq=False)
class Sums:
    """Sums over the vocabulary seen so far, for each of M rows with logits z; r and q are the logits of the rows
    it is compared with (reference and base).

    Attributes:
        largest: ``[M]`` float64, ``m = max z``.
        total: ``[M]`` float64, ``S = sum e^(z-m)``.
        own: ``[M]`` float64, ``Z = sum e^(z-m) z``.
        reference: ``[M]`` float64, ``R = sum e^(z-m) r``.
        by_reference: ``[M]`` float64, ``Q = sum e^(r-m_r) z``.
        by_base: ``[M]`` float64, ``Q_0 = sum e^(q-m_q) z``.
        above: ``[M, T]`` int64, ``#{v != t : z_v > z_t}`` for the named tokens t.
        top, top_ids: ``[M, k]`` float32 and int64, the best logits; -inf and -1 while fewer than k were seen.
    """

    largest: Tensor
    total: Tensor
    own: Tensor
    reference: Tensor
    by_reference: Tensor
    by_base: Tensor
    above: Tensor
    top: Tensor
    top_ids: Tensor

    def put(self, at: Tensor, part: Sums) -> None:
        """The sums of the rows ``at`` taken from ``part``."""
        for field in fields(Sums):
            getattr(self, field.name)[at] = getattr(part, field.name)

    def first(self, count: int) -> Sums:
        """The sums of the first ``count`` rows."""
        return Sums(*(getattr(self, field.name)[:count] for field in fields(Sums)))

    def merged(self, other: Sums, rows: Stack) -> Sums:
        """The sums over both parts of the vocabulary, all ids of ``self`` smaller than those of ``other``."""
        largest = torch.maximum(self.largest, other.largest)
        a, b = ((part.largest - largest).exp().nan_to_num(0.0) for part in (self, other))
        candidates = torch.cat([self.top_ids, other.top_ids], 1)
        values, ids = best(torch.cat([self.top, other.top], 1), candidates, self.top.shape[1])
        return Sums(
            largest=largest,
            total=a * self.total + b * other.total,
            own=a * self.own + b * other.own,
            reference=a * self.reference + b * other.reference,
            by_reference=a[rows.reference] * self.by_reference + b[rows.reference] * other.by_reference,
            by_base=a[rows.base] * self.by_base + b[rows.base] * other.by_base,
            above=self.above + other.above,
            top=values,
            top_ids=ids,
        )


def empty(rows: Stack, top_k: int) -> Sums:
    """The sums over no token at all."""
    count = len(rows.x)
    zero = torch.zeros(count, dtype=torch.float64)
    return Sums(
        largest=torch.full_like(zero, -torch.inf),
        total=zero,
        own=zero.clone(),
        reference=zero.clone(),
        by_reference=zero.clone(),
        by_base=zero.clone(),
        above=torch.zeros(rows.tokens.shape, dtype=torch.int64),
        top=torch.full((count, top_k), -torch.inf),
        top_ids=torch.full((count, top_k), -1),
    )


def best(values: Tensor, ids: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The ``top_k`` largest of each row and their ids, largest first, equal values by smaller id."""
    order = ids.argsort(dim=1)
    values, ids = values.gather(1, order), ids.gather(1, order)
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values[:, :top_k], ids.gather(1, order[:, :top_k])


def finish(z: Tensor, reader: Reader, beta: Tensor, ids: slice | Tensor) -> Tensor:
    """Bias and soft cap put on the products ``z`` (in place): ``[M, B]``, columns being the tokens ``ids``."""
    if reader.bias is not None:
        z += beta.to(z.device)[:, None] * reader.bias[ids]
    if reader.soft_cap is not None:
        z.div_(reader.soft_cap).tanh_().mul_(reader.soft_cap)
    return z


def named(reader: Reader, rows: Stack) -> Tensor:
    """``[M, T]`` float32 on the CPU: the logit of each named token; +inf where there is none: nothing is above it."""
    logits = torch.empty(rows.tokens.shape)
    for column, tokens in enumerate(rows.tokens.T):
        ids = tokens.clamp(min=0).to(rows.x.device)
        z = (rows.x * reader.weight[ids]).sum(1, keepdim=True)
        logits[:, column] = finish(z, reader, rows.beta, ids[:, None])[:, 0].cpu()
    return logits.masked_fill(rows.tokens < 0, torch.inf)
