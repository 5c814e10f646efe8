"""Compiled loops of the fast precision: one row of 8-bit products, and the candidates that float32 decides."""

# pyright: reportUntypedFunctionDecorator=false, reportCallIssue=false, reportOperatorIssue=false
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from midstream.readout.kernel import GROUP, PART, Array, count_named, exponential, keep_best, maxima, stretch

NEGLIGIBLE = 20.0
"""Logits this far below the largest so far are left out: all of a large vocabulary there would add 1e-4."""

_SUMS = {"reassoc", "contract", "nsz", "arcp"}
_f = np.float32


class Screened(NamedTuple):
    """The screened rows of a block, and what is summed over the blocks.

    Attributes:
        row_of: ``[M, 4]`` float32: units of the row and of what is put back; what the mean token row gives it; beta.
        reference: ``[M]`` int64, which of the exact rows it is compared with, -1 for none.
        tokens, logits: ``[M, T]`` named tokens and their exact logits.
        largest: ``[M]`` float64, the largest logit so far.
        block: ``[5, M]`` float64, the largest, and the sums of e, e z, e r and e^2 over the last block.
        above, top, top_ids: as in ``Sums``, of the screened logits; changed in place.
        seen: ``[M, T]`` float32, becomes the screened logit of each named token.
    """

    row_of: Array
    reference: Array
    tokens: Array
    logits: Array
    largest: Array
    block: Array
    above: Array
    seen: Array
    top: Array
    top_ids: Array


class Vectors(NamedTuple):
    """Rows to be scored in float32: ``x`` ``[N, d]``, ``beta`` ``[N]``, and ``which`` ``[M]`` of them each time."""

    x: Array
    beta: Array
    which: Array


@njit(fastmath=_SUMS, **PART)
def logits_of(whole: Array, within: Array, scales: Array, row: Array, z: Array) -> None:
    """``z`` from both products: ``row[0] * scale_v * whole + row[1] * small_v * within + row[2] + row[3] * bias_v``.

    Args:
        whole, within: ``[B]`` int32.
        scales: ``[3, B]`` float32, both scales and the bias of each token.
        row: ``[4]``, as in ``Screened.row_of``.
    """
    a, b, c, beta = row[0], row[1], row[2], row[3]
    scale, small, bias = scales[0], scales[1], scales[2]
    for j in range(z.shape[0]):
        z[j] = a * scale[j] * _f(whole[j]) + b * small[j] * _f(within[j]) + (c + beta * bias[j])


@njit(fastmath=_SUMS, **PART)
def weigh_screened(z: Array, largest: Any, r: Array, r_largest: Any) -> Any:
    """Four sums of a row: of e, e d, e (r - max r) and e^2, with d = z - largest and e its exponential."""
    total = _f(0)
    own = _f(0)
    reference = _f(0)
    squares = _f(0)
    for j in range(z.shape[0]):
        d = z[j] - largest
        e = exponential(d)
        total += e
        own += e * d
        reference += e * (r[j] - r_largest)
        squares += e * e
    return total, own, reference, squares


@njit(nogil=True, cache=True)
def scan_screened(products: Array, start: int, order: Array, scales: Array, exact: Any, table: Screened) -> None:
    """The rows ``order`` of a block of 8-bit products ``[2, M, B]`` int32, whose first token is ``start``.

    Args:
        scales: ``[3, B]``, as for ``logits_of``.
        exact: logits ``[K, B]`` of the rows compared with, and the largest of each ``[K]``, float32.
        table: where the sums go.
    """
    row_of, reference, tokens, logits, so_far, block, above, seen, top, top_ids = table
    r, r_largest = exact
    width = products.shape[2]
    groups = np.empty((width + GROUP - 1) // GROUP, np.float32)
    z = np.empty(width, np.float32)
    for i in order:
        logits_of(products[0, i], products[1, i], scales, row_of[i], z)
        largest = maxima(z, groups)
        if largest > top[i, top.shape[1] - 1]:
            keep_best(z, groups, start, top[i], top_ids[i])
        k = max(reference[i], 0)
        block[0, i] = largest
        block[1:, i] = 0.0
        cut = _f(max(so_far[i], largest) - NEGLIGIBLE)
        first, last = stretch(groups, 0, cut)
        while first < last:
            a, b = first * GROUP, min(last * GROUP, width)
            total, own, by_r, squares = weigh_screened(z[a:b], largest, r[k, a:b], r_largest[k])
            block[1, i] += total
            block[2, i] += own + total * np.float64(largest)
            block[3, i] += by_r + total * np.float64(r_largest[k])
            block[4, i] += squares
            first, last = stretch(groups, last, cut)
        count_named(z, start, largest, tokens[i], logits[i], above[i])
        for t in range(tokens.shape[1]):
            here = tokens[i, t] - start
            if here >= 0 and here < width:
                seen[i, t] = z[here]


@njit(nogil=True, cache=True)
def merge_screened(running: Array, block: Array) -> None:
    """Adds the sums of a block ``[5, M]`` to the running ones, in place."""
    for i in range(running.shape[1]):
        largest = max(running[0, i], block[0, i])
        a = np.exp(running[0, i] - largest) if running[0, i] > -np.inf else 0.0
        b = np.exp(block[0, i] - largest)
        running[0, i] = largest
        for s in range(1, 4):
            running[s, i] = a * running[s, i] + b * block[s, i]
        running[4, i] = a * a * running[4, i] + b * b * block[4, i]


@njit(fastmath=_SUMS, nogil=True, cache=True)
def pull(order: Array, r: Array, block_largest: Array, e: Array, running: Any) -> None:
    """Raises the largest ``[K]`` to that of the block, shrinks what was summed, and sets ``e = e^(r - largest)``.

    ``running``: the largest ``[K]`` so far, and the summed vectors ``[K, d]`` and biases ``[K]``.
    """
    largest, vectors, bias = running
    for k in order:
        raised = max(largest[k], _f(block_largest[k]))
        if raised > largest[k]:
            shrink = _f(np.exp(largest[k] - raised))
            largest[k] = raised
            bias[k] *= shrink
            for j in range(vectors.shape[1]):
                vectors[k, j] *= shrink
        for j in range(r.shape[1]):
            e[k, j] = exponential(r[k, j] - raised)


@njit(fastmath=_SUMS, **PART)
def dot(x: Array, w: Array) -> Any:
    """``sum x_j w_j`` in float32."""
    total = _f(0)
    for j in range(x.shape[0]):
        total += x[j] * w[j]
    return total


@njit(nogil=True, cache=True)
def score(order: Array, rows: Vectors, head: Any, ids: Array, z: Array) -> None:
    """Exact logits ``z`` ``[M, C]`` of the tokens ``ids`` ``[M, C]`` (-1: none) under the rows.

    ``head``: the reader's weight ``[V, d]`` and bias ``[V]``.
    """
    x, beta, which = rows
    weight, bias = head
    for i in order:
        row = which[i]
        for c in range(ids.shape[1]):
            v = ids[i, c]
            if v >= 0 and row >= 0:
                z[i, c] = dot(x[row], weight[v]) + beta[row] * bias[v]
