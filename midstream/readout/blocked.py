"""The exact pass in plain torch, on any device: one block of the vocabulary at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from midstream.model.product import product
from midstream.readout.reader import Reader
from midstream.readout.rows import Stack
from midstream.readout.sums import Sums, best, empty, finish

BLOCK = 2048
"""Tokens in a block: 1,024 rows of one take 8 MB."""


def accumulate(reader: Reader, rows: Stack, logits: Tensor, top_k: int) -> Sums:
    """The sums over the whole vocabulary; ``logits``: ``[M, T]``, those of the named tokens."""
    sums = empty(rows, top_k)
    vocabulary = len(reader.weight)
    for start in range(0, vocabulary, BLOCK):
        stop = min(start + BLOCK, vocabulary)
        z = finish(product(rows.x, reader.weight[start:stop]), reader, rows.beta, slice(start, stop))
        sums = sums.merged(block_sums(z, start, rows, logits, top_k), rows)
    return sums


def block_sums(z: Tensor, start: int, rows: Stack, logits: Tensor, top_k: int) -> Sums:
    """The sums over one block: ``z`` ``[M, B]`` are the logits of the tokens ``start`` to ``start + B``.

    Added up in float32 with the maxima taken out, so that large logits cost no digits; in float64 from there on.
    """
    largest = z.amax(1, keepdim=True)
    m = largest[:, 0].cpu().double()
    below = z - largest
    e = below.exp()
    total = _sum(e)
    reference, base = (index.to(z.device) for index in (rows.reference, rows.base))
    top, top_ids = _top(z, start, top_k)
    return Sums(
        largest=m,
        total=total,
        own=_sum(e * below) + m * total,
        reference=_sum(e * below[reference]) + m[rows.reference] * total,
        by_reference=_sum(e[reference] * below) + m * total[rows.reference],
        by_base=_sum(e[base] * below) + m * total[rows.base],
        above=_above(z, start, rows.tokens, logits),
        top=top,
        top_ids=top_ids,
    )


def _sum(values: Tensor) -> Tensor:
    return values.sum(1).cpu().double()


def _above(z: Tensor, start: int, tokens: Tensor, logits: Tensor) -> Tensor:
    counts = torch.empty(tokens.shape, dtype=torch.int64)
    rows = torch.arange(len(z), device=z.device)
    for column in range(tokens.shape[1]):
        higher = z > logits[:, column, None].to(z.device)
        here = tokens[:, column].to(z.device) - start
        inside = (here >= 0) & (here < z.shape[1])
        higher[rows[inside], here[inside]] = False  # its own column rounds differently from its own dot product
        counts[:, column] = higher.sum(1).cpu()
    return counts


def _top(z: Tensor, start: int, top_k: int) -> tuple[Tensor, Tensor]:
    count = min(top_k, z.shape[1])
    values, ids = z.topk(count, dim=1)
    tied = (z >= values[:, -1:]).sum(1) > count  # topk keeps any of the equal ones; the smaller ids are wanted
    if tied.any():
        ordered, order = z[tied].sort(dim=1, descending=True, stable=True)
        values[tied], ids[tied] = ordered[:, :count], order[:, :count]
    values, ids = best(values.cpu(), ids.cpu() + start, count)
    missing = (0, top_k - count)
    return torch.nn.functional.pad(values, missing, value=-torch.inf), torch.nn.functional.pad(ids, missing, value=-1)
