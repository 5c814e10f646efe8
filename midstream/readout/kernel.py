"""Compiled loops over one row of a block of logits. numba is imported at the top here, and this file only on demand.

LLVM vectorises each inner loop to the machine's full width; nothing needs Intel's vector math library. Sums may be
reordered (`reassoc`); NaN and infinity keep their meaning everywhere but in the maxima, and reach the sums.
"""

# pyright: reportUntypedFunctionDecorator=false, reportCallIssue=false, reportOperatorIssue=false
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]

GROUP = 64
"""Tokens whose maximum is taken before any of them is compared with the best so far."""

NEGLIGIBLE = 25.0
"""Logits this far below the largest so far add nothing that float32 could hold: e^-25 is 1.4e-11."""

PART: Any = {"nogil": True, "cache": True, "forceinline": True}
"""How a loop that another one calls is compiled: inlined always. Else the process that compiles calls one machine copy
and later ones, from the cache, another, with other last bits."""

_SUMS = {"reassoc", "contract", "nsz", "arcp"}
_MAXIMA = {"reassoc", "nsz", "nnan"}
_f = np.float32
_i = np.int32


class Running(NamedTuple):
    """What the rows of a block are compared with, and what is summed over the blocks.

    Attributes:
        compared: ``[2, M]`` int64, reference and base row of each row, -1 for none.
        tokens, logits: ``[M, T]`` named tokens and their logits.
        largest: ``[M]`` float64, the largest logit so far.
        block: ``[6, M]`` float64, the largest and the sums of e, e d, e r, e_r d and e_q d over the last block, with
            d = z - the largest, r less its own largest.
        above, top, top_ids: as in ``Sums``; changed in place.
    """

    compared: Array
    tokens: Array
    logits: Array
    largest: Array
    block: Array
    above: Array
    top: Array
    top_ids: Array


@njit(inline="always")
def exponential(d: Any) -> Any:
    """``e^d`` for d <= 0, relative error 3e-7; below -87 it is 1.6e-38 rather than less."""
    t = max(d, _f(-87.0)) * _f(1.4426950408889634)
    n = np.floor(t + _f(0.5))
    f = t - n
    # Taylor terms of 2^f to the sixth degree on [-0.5, 0.5]; then n is put into the exponent bits
    p = _f(1.5403530e-4)
    p = p * f + _f(1.3333558e-3)
    p = p * f + _f(9.6181291e-3)
    p = p * f + _f(5.5504109e-2)
    p = p * f + _f(2.4022651e-1)
    p = p * f + _f(6.9314718e-1)
    p = p * f + _f(1.0)
    return _i((_i(n) + _i(127)) << _i(23)).view(np.float32) * p


@njit(fastmath=_MAXIMA, **PART)
def maxima(z: Array, groups: Array) -> Any:
    """The largest of ``z`` ``[B]``; the largest of each ``GROUP`` is left in ``groups``."""
    count = z.shape[0]
    full = count // GROUP
    largest = z[0]
    for g in range(full):
        start = g * GROUP
        m = z[start]
        for j in range(GROUP):
            v = z[start + j]
            m = v if v > m else m
        groups[g] = m
        largest = m if m > largest else largest
    if full * GROUP < count:
        m = z[full * GROUP]
        for j in range(full * GROUP, count):
            m = z[j] if z[j] > m else m
        groups[full] = m
        largest = m if m > largest else largest
    return largest


@njit(**PART)
def keep_best(z: Array, groups: Array, start: int, top: Array, top_ids: Array) -> None:
    """Puts the tokens of ``z`` that beat the last of ``top`` in their place; an equal one of larger id stays behind."""
    last = top.shape[0] - 1
    for g in range((z.shape[0] + GROUP - 1) // GROUP):
        if groups[g] > top[last]:
            for j in range(g * GROUP, min((g + 1) * GROUP, z.shape[0])):
                v = z[j]
                if v > top[last]:
                    at = last
                    while at > 0 and v > top[at - 1]:
                        top[at] = top[at - 1]
                        top_ids[at] = top_ids[at - 1]
                        at -= 1
                    top[at] = v
                    top_ids[at] = start + j


@njit(fastmath=_SUMS, **PART)
def spread(z: Array, largest: Any, below: Array, e: Array) -> None:
    """``z - largest`` into ``below`` and its exponential into ``e``: what rows are compared with."""
    for j in range(z.shape[0]):
        d = z[j] - largest
        below[j] = d
        e[j] = exponential(d)


@njit(fastmath=_SUMS, **PART)
def weigh(z: Array, largest: Any, below: Array) -> Any:
    """Three sums over a stretch of a row: of e, e d and e r, with d = z - largest and e its exponential."""
    total = _f(0)
    own = _f(0)
    reference = _f(0)
    for j in range(z.shape[0]):
        d = z[j] - largest
        e = exponential(d)
        total += e
        own += e * d
        reference += e * below[j]
    return total, own, reference


@njit(fastmath=_SUMS, **PART)
def weigh_by_others(z: Array, largest: Any, e_reference: Array, e_base: Array) -> Any:
    """Two sums of a row: of e_r d and e_q d."""
    by_reference = _f(0)
    by_base = _f(0)
    for j in range(z.shape[0]):
        d = z[j] - largest
        by_reference += e_reference[j] * d
        by_base += e_base[j] * d
    return by_reference, by_base


@njit(**PART)
def stretch(groups: Array, first: int, cut: Any) -> Any:
    """The next groups in a row whose largest reaches ``cut``, from ``first`` on: where they begin and end."""
    count = groups.shape[0]
    while first < count and groups[first] < cut:
        first += 1
    last = first
    while last < count and groups[last] >= cut:
        last += 1
    return first, last


@njit(fastmath=_SUMS, **PART)
def count_above(z: Array, value: Any) -> Any:
    """How many of ``z`` are larger than ``value``."""
    count = _i(0)
    for j in range(z.shape[0]):
        count += _i(z[j] > value)
    return count


@njit(**PART)
def count_named(z: Array, start: int, largest: Any, tokens: Array, logits: Array, above: Array) -> None:
    """Adds to ``above`` ``[T]`` how many of ``z`` are larger than each named token's logit, itself left out."""
    for t in range(tokens.shape[0]):
        if largest > logits[t]:
            above[t] += count_above(z, logits[t])
            here = tokens[t] - start
            if here >= 0 and here < z.shape[0] and z[here] > logits[t]:
                above[t] -= 1  # its own column, which rounds differently from its own dot product


@njit(nogil=True, cache=True)
def scan(z: Array, start: int, order: Array, table: Running) -> None:
    """The rows ``order`` of a block ``z`` ``[M, B]`` whose first token is ``start``, put into ``table``."""
    compared, tokens, logits, so_far, block, above, top, top_ids = table
    width = z.shape[1]
    groups = np.empty((width + GROUP - 1) // GROUP, np.float32)
    below = np.zeros((2, width), np.float32)
    e = np.zeros((2, width), np.float32)
    ready = np.full(2, -1, np.int64)
    for i in order:
        for side in range(2):
            other = compared[side, i]
            if other >= 0 and other != ready[side]:
                spread(z[other], maxima(z[other], groups), below[side], e[side])
                ready[side] = other
        row = z[i]
        largest = maxima(row, groups)
        if largest > top[i, top.shape[1] - 1]:
            keep_best(row, groups, start, top[i], top_ids[i])
        block[0, i] = largest
        block[1:4, i] = 0.0
        cut = _f(max(so_far[i], largest) - NEGLIGIBLE)
        first, last = stretch(groups, 0, cut)
        while first < last:
            a, b = first * GROUP, min(last * GROUP, width)
            sums = weigh(row[a:b], largest, below[0, a:b])
            for s in range(3):
                block[s + 1, i] += sums[s]
            first, last = stretch(groups, last, cut)
        block[4, i], block[5, i] = weigh_by_others(row, largest, e[0], e[1])
        count_named(row, start, largest, tokens[i], logits[i], above[i])


@njit(nogil=True, cache=True)
def merge(running: Array, block: Array, compared: Array) -> None:
    """Adds the sums of a block to the running ones, ``[6, M]`` float64 in the order of ``Sums``, in place."""
    count = running.shape[1]
    old = np.empty(count)
    new = np.empty(count)
    for i in range(count):
        largest = max(running[0, i], block[0, i])
        old[i] = np.exp(running[0, i] - largest) if running[0, i] > -np.inf else 0.0
        new[i] = np.exp(block[0, i] - largest)
        running[0, i] = largest
    for i in range(count):
        m, total = block[0, i], block[1, i]
        r, q = compared[0, i], compared[1, i]
        running[1, i] = old[i] * running[1, i] + new[i] * total
        running[2, i] = old[i] * running[2, i] + new[i] * (block[2, i] + m * total)
        running[3, i] = old[i] * running[3, i] + new[i] * (block[3, i] + block[0, r] * total)
        running[4, i] = old[r] * running[4, i] + new[r] * (block[4, i] + m * block[1, r])
        running[5, i] = old[q] * running[5, i] + new[q] * (block[5, i] + m * block[1, q])
