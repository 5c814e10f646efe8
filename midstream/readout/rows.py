"""What is read: rows of hidden vectors, the distributions they are compared with, and the columns that come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one lens at one layer and site.

    Attributes:
        x: ``[n, d]`` float32, prepared by the reader.
        tokens: ``[n, T]`` int64 named tokens, -1 for none; the same T for all rows of one read.
        reference: ``[n]`` int64, which row of the reference output each is compared with (-1: none);
            ``None`` for the row of the same number.
        base: ``[n, d]`` float32, prepared: the same lens's reading at layer 0, for ``KL(base || row)``.
        beta: factor on the reader's bias (for ``base`` as well); 1 for output readers.
    """

    x: Tensor
    tokens: Tensor
    reference: Tensor | None = None
    base: Tensor | None = None
    beta: float = 1.0


@dataclass(frozen=True, eq=False)
class Columns:
    """Statistics, one entry a row; nats; undefined is NaN in floats and -1 in integers.

    Attributes:
        kl_final_lens, kl_lens_final: ``[n]`` KL(reference || row) and KL(row || reference).
        kl_base: ``[n]`` KL(base || row).
        logprob, rank: ``[n, T]`` of the named tokens; rank 1 is the best.
        top_ids, top_logprobs: ``[n, k]`` best first, equal logits by smaller id.
    """

    lse: Floats
    entropy: Floats
    kl_final_lens: Floats
    kl_lens_final: Floats
    kl_base: Floats
    logprob: Floats
    rank: Ints
    top_ids: Ints
    top_logprobs: Floats


@dataclass(frozen=True, eq=False)
class Stack:
    """The rows of all layers and lenses at some positions as one matrix, with every row they are compared with.

    Attributes:
        x: ``[M, d]`` float32.
        beta: ``[M]`` float32.
        tokens: ``[M, T]`` int64, -1 for none.
        reference, base: ``[M]`` int64, which row of this stack each is compared with, -1 for none.
        parts: where the rows of each ``Rows`` lie: they are ``x[slice]``; what follows them is only compared with.
        broken: ``[M]`` bool, rows that held NaN or infinity; zeros here, undefined in the result.
    """

    x: Tensor
    beta: Tensor
    tokens: Tensor
    reference: Tensor
    base: Tensor
    parts: tuple[slice, ...]
    broken: Tensor


def stack(rows: Sequence[Rows], reference: Tensor | None, start: int, stop: int) -> Stack:
    """Positions ``start`` to ``stop`` of all ``rows`` as one matrix; a row that occurs twice is kept once."""
    pieces = [part.x[start:stop] for part in rows]
    ends = torch.tensor([0, *(len(piece) for piece in pieces)]).cumsum(0).tolist()
    parts = tuple(slice(a, b) for a, b in pairwise(ends))
    pile = _Pile(rows, pieces, parts, start)
    final = [pile.find(reference, _compared(part, piece, start), 1.0) for part, piece in zip(rows, pieces, strict=True)]
    base = [pile.find(part.base, _same(piece, start), part.beta) for part, piece in zip(rows, pieces, strict=True)]
    x = torch.cat(pile.pieces)
    extra = len(x) - ends[-1]
    broken = ~torch.isfinite(x).all(1)
    x[broken] = 0
    none = torch.full((extra,), -1)
    tokens = torch.cat([part.tokens[start:stop].cpu() for part in rows])
    return Stack(
        x=x,
        beta=torch.cat([torch.full((len(p),), b) for p, b in zip(pile.pieces, pile.betas, strict=True)]),
        tokens=torch.cat([tokens, torch.full((extra, tokens.shape[1]), -1)]),
        reference=torch.cat([*final, none]),
        base=torch.cat([*base, none]),
        parts=parts,
        broken=broken.cpu(),
    )


def select(rows: Stack, at: Tensor) -> Stack:
    """The rows ``at`` of a stack; one whose reference or base is not among them is compared with none."""
    place = torch.full((len(rows.x) + 1,), -1)  # the last entry is where -1 points
    place[at] = torch.arange(len(at))
    return Stack(
        x=rows.x[at],
        beta=rows.beta[at],
        tokens=rows.tokens[at],
        reference=place[rows.reference[at]],
        base=place[rows.base[at]],
        parts=(),
        broken=rows.broken[at],
    )


class _Pile:
    """Pieces of the stack so far, and where the rows of each compared-with tensor lie in it."""

    def __init__(self, rows: Sequence[Rows], pieces: list[Tensor], parts: tuple[slice, ...], start: int) -> None:
        self.pieces = list(pieces)
        self.betas = [part.beta for part in rows]
        self.height = sum(len(piece) for piece in pieces)
        self.where: dict[tuple[object, ...], Tensor] = {}
        for part, rows_here in zip(rows, parts, strict=True):
            if rows_here.stop > rows_here.start:
                lies = torch.full((len(part.x),), -1)
                lies[start : start + rows_here.stop - rows_here.start] = torch.arange(rows_here.start, rows_here.stop)
                self.where.setdefault(_name(part.x, part.beta), lies)

    def find(self, source: Tensor | None, wanted: Tensor, beta: float) -> Tensor:
        """Stack rows of ``source[wanted]`` (-1 stays -1); those not there yet are put on top."""
        if source is None:
            return torch.full_like(wanted, -1)
        lies = self.where.setdefault(_name(source, beta), torch.full((len(source),), -1))
        needed = wanted[wanted >= 0].unique()
        missing = needed[lies[needed] < 0]
        if len(missing):
            lies[missing] = self.height + torch.arange(len(missing))
            self.pieces.append(source[missing.to(source.device)])
            self.betas.append(beta)
            self.height += len(missing)
        return torch.where(wanted < 0, wanted, lies[wanted.clamp(min=0)])


def _compared(part: Rows, piece: Tensor, start: int) -> Tensor:
    if part.reference is None:
        return _same(piece, start)
    return part.reference[start : start + len(piece)].cpu()


def _same(piece: Tensor, start: int) -> Tensor:
    return torch.arange(start, start + len(piece))


def _name(tensor: Tensor, beta: float) -> tuple[object, ...]:
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), beta)
