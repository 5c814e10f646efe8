"""The door of the read-out: rows of hidden vectors in, columns of statistics out."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from midstream.errors import MissingPackageError, RequestError, choices
from midstream.model.product import full_float32, product
from midstream.readout import blocked, statistic
from midstream.readout.reader import Reader
from midstream.readout.rows import Columns, Rows, Stack, stack
from midstream.readout.sums import Sums, finish, named

__all__ = ["Columns", "Precision", "Rows", "read", "top1"]

Precision = Literal["exact", "fast"]

STACK_ROWS = 1024
"""Rows multiplied at once: as many positions are taken as fit with all their layers."""

SCREENED_ROWS = 4096
"""The same for the fast precision, whose exact share would otherwise be too small to pay."""

COMPILED_ROWS = 1024
"""From this many rows on (layers x positions) numba is imported and its compiled pass used."""


class _Pass(Protocol):
    def __call__(self, reader: Reader, rows: Stack, logits: Tensor, top_k: int) -> Sums: ...


@torch.inference_mode()
def read(
    reader: Reader,
    rows: Sequence[Rows],
    *,
    reference: Tensor | None,
    top_k: int = 10,
    precision: Precision = "exact",
    job: int = 0,
) -> list[Columns]:
    """All statistics of all rows in one pass over the vocabulary; logits of all rows are never held together.

    Args:
        rows: what one lens reads at one layer and site, each; all of them share the pass.
        reference: ``[m, d]`` float32, the prepared vectors of the model's own output; ``None``: no comparison.
            A ``Rows`` whose ``x`` is this same tensor costs no product of its own; so does one that is a ``base``.
        top_k: how many of the best tokens to list (all, where the vocabulary has fewer).
        precision: ``exact`` (float32 products) or ``fast`` (8-bit products decide what float32 has to look at).
        job: rows of the whole job where this call is a part of one: decides whether to compile.

    Returns:
        The columns of each ``Rows``, in order.

    Raises:
        RequestError: shapes, dtypes or ids do not fit together, or ``fast`` cannot be had here.
        MissingPackageError: ``fast`` without numba.
    """
    top_k = _check(reader, rows, reference, top_k, precision)
    results = [statistic.blank(len(part.x), part.tokens.shape[1], top_k) for part in rows]
    longest = max((len(part.x) for part in rows), default=0)
    stacked = SCREENED_ROWS if precision == "fast" else STACK_ROWS
    step = max(1, stacked // (len(rows) + 1))
    accumulate = _choose(reader, max(job, sum(len(part.x) for part in rows)), precision, top_k)
    with full_float32():
        for start in range(0, longest, step):
            pile = stack(rows, reference, start, start + step)
            logits = named(reader, pile)
            found = statistic.columns(accumulate(reader, pile, logits, top_k), pile, logits)
            for result, part in zip(results, pile.parts, strict=True):
                count = part.stop - part.start
                statistic.put(result, slice(start, start + count), found, part)
    return results


@torch.inference_mode()
def top1(reader: Reader, x: Tensor, *, precision: Precision = "exact") -> Tensor:
    """The best token of each prepared row: ``[n, d]`` float32 -> ``[n]`` int64 on the CPU, equal logits by smaller id.

    Always by float32 products, whatever the precision: a row with NaN or infinity gets -1.
    """
    _check_precision(precision)
    _check_matrix("x", x, reader)
    best = torch.full((len(x),), -torch.inf, device=x.device)
    ids = torch.full((len(x),), -1, device=x.device)
    beta = torch.ones(len(x))
    with full_float32():
        for start in range(0, len(reader.weight), blocked.BLOCK):
            stop = min(start + blocked.BLOCK, len(reader.weight))
            z = finish(product(x, reader.weight[start:stop]), reader, beta, slice(start, stop))
            value, here = z.max(1)
            first = (z == value[:, None]).to(torch.uint8).argmax(1)  # max may give any of the equal ones
            higher = value > best
            best = torch.where(higher, value, best)
            ids = torch.where(higher, start + torch.where(value == value, first, here), ids)
    ids[~torch.isfinite(x).all(1)] = -1
    return ids.cpu()


def _choose(reader: Reader, count: int, precision: Precision, top_k: int) -> _Pass:
    on_cpu = reader.weight.device.type == "cpu"
    compiled = importlib.util.find_spec("numba") is not None
    if precision == "fast" and not on_cpu:
        raise RequestError(f"--precision fast is made for the CPU, not for {reader.weight.device}: use exact.")
    if precision == "fast" and not compiled:
        raise MissingPackageError("--precision fast needs numba: pip install numba, or use --precision exact.")
    if count < COMPILED_ROWS or not on_cpu or not compiled:
        return blocked.accumulate
    from midstream.readout import fused, screen  # numba: half a second, and the first time ever it compiles

    return screen.accumulate if precision == "fast" and screen.suits(reader, top_k) else fused.accumulate


def _check(reader: Reader, rows: Sequence[Rows], reference: Tensor | None, top_k: int, precision: str) -> int:
    _check_precision(precision)
    if top_k < 1:
        raise RequestError(f"top_k is {top_k}: expected 1 or more.")
    if reference is not None:
        _check_matrix("the reference", reference, reader)
    named_tokens = {part.tokens.shape[1:] for part in rows}
    if len(named_tokens) > 1:
        raise RequestError(f"rows name different numbers of tokens ({sorted(named_tokens)}): pad with -1.")
    for number, part in enumerate(rows):
        _check_rows(f"rows {number}", part, reader, reference)
    return min(top_k, len(reader.weight))


def _check_rows(name: str, part: Rows, reader: Reader, reference: Tensor | None) -> None:
    _check_matrix(f"x of {name}", part.x, reader)
    n = len(part.x)
    _check_ids(f"tokens of {name}", part.tokens, (n, part.tokens.shape[-1]), len(reader.weight))
    if part.base is not None:
        _check_matrix(f"base of {name}", part.base, reader)
        if len(part.base) != n:
            raise RequestError(f"base of {name} has {len(part.base)} rows and x has {n}: expected equal numbers.")
    if reference is None:
        return
    if part.reference is not None:
        _check_ids(f"reference of {name}", part.reference, (n,), len(reference))
    elif len(reference) != n:
        raise RequestError(
            f"{name} has {n} rows and the reference {len(reference)}: expected equal numbers, or the index `reference`."
        )


def _check_matrix(name: str, x: Tensor, reader: Reader) -> None:
    width, device = reader.weight.shape[1], reader.weight.device
    if x.ndim != 2 or x.shape[1] != width or x.dtype != torch.float32:
        raise RequestError(
            f"{name} is {x.dtype} {list(x.shape)}: expected float32 [n, {width}], as Reader.prepare makes it."
        )
    if x.device != device:
        raise RequestError(f"{name} is on {x.device} and the reader on {device}: move one to the other.")


def _check_ids(name: str, ids: Tensor, shape: tuple[int, ...], limit: int) -> None:
    if tuple(ids.shape) != shape or ids.dtype != torch.int64:
        raise RequestError(f"{name} are {ids.dtype} {list(ids.shape)}: expected int64 {list(shape)}.")
    if ids.numel() and (int(ids.min()) < -1 or int(ids.max()) >= limit):
        raise RequestError(f"{name} run from {int(ids.min())} to {int(ids.max())}: expected -1 to {limit - 1}.")


def _check_precision(precision: str) -> None:
    if precision not in ("exact", "fast"):
        raise choices("precision", precision, ("exact", "fast"))
