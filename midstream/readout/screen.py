"""The fast precision: 8-bit products decide which tokens float32 has to look at, and float32 puts its values back.

The token rows, less their mean and rotated by a fixed random orthogonal matrix, are rounded to 8 bits, and the vectors
likewise. What rounding a vector left over moves alike tokens together, and does not average out; so it is put back, in
8 bits, within the quarter of the dimensions in which the token rows are longest (their principal plane), at a quarter
of the cost, and the vector's unit is such that what is not put back moves the tokens that the vector favours by nothing
on average. Beyond that the error is taken as independent from token to token: Gaussian, its size known for every row
(what that leaves out is measured: ``measured.py``). The rows that others are compared with are read exactly.
The best HEAD tokens and the named ones are scored in float32 and replace their screened values in the sums; of the
remaining tail the errors average out. Rows for which that is not surely enough are read exactly.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midstream.model.product import product
from midstream.readout import fused, kernel_screen
from midstream.readout.reader import Reader
from midstream.readout.rows import Stack, select
from midstream.readout.sums import Sums, best, empty, finish

multiply: Any = torch._int_mm  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

BLOCK = 1024
HEAD = 64
"""Tokens of each row that are scored in float32."""

SURE_RANK = 32
"""Ranks up to this one are exact."""

PLANE = 4
"""The principal plane has one in so many of the dimensions."""

SAMPLE = 8
"""It is that of every so many token rows, or of so many times d of them if that is more."""

SIGMAS = 7.0
"""No screened logit is further from its exact value than this many standard deviations (1e9 logits: 6 occur)."""

TOLERANCE = 2e-3
"""Largest error of a log-probability, nats, relative where it is larger than 1."""

TOLERANCE_SIGMAS = 5.0


def suits(reader: Reader, top_k: int) -> bool:
    """Whether screening pays and its error is known; otherwise the exact pass is to be taken."""
    vocabulary, width = reader.weight.shape
    return vocabulary >= 8192 and width >= 128 and reader.soft_cap is None and top_k <= HEAD // 2


@dataclass(frozen=True, eq=False)
class Rounded:
    """The unembedding in 8 bits.

    Attributes:
        mean: ``[d]`` mean token row.
        rotation: ``[d, d]`` orthogonal.
        spread: ``[d, d]`` second moments of the token rows, less their mean and rotated.
        plane: ``[r, d]`` orthonormal rows, in rotated coordinates.
        tokens: ``[V, d]`` int8, of ``(weight - mean) @ rotation``.
        within: ``[V, r]`` int8, of the same within the plane.
        scales: ``[3, V]`` float32: one unit of each token in ``tokens`` and in ``within``; its bias.
        error: ``[2, V]`` root mean square of each token's rounding error, and of what of the token lies outside the
            plane, over the dimensions of each: times the length of a vector, and of what is not put back of its own
            rounding, the standard deviation of that token's screened logit.
    """

    mean: Tensor
    rotation: Tensor
    spread: Tensor
    plane: Tensor
    tokens: Tensor
    within: Tensor
    scales: Tensor
    error: Tensor


def round_weight(reader: Reader) -> Rounded:
    """Centres, rotates and rounds the token rows, a few thousand at a time."""
    weight = reader.weight
    vocabulary, width = weight.shape
    mean = weight.mean(0)
    rotation = _rotation(width)
    sample = product(weight[:: max(1, min(SAMPLE, vocabulary // (SAMPLE * width)))] - mean, rotation.T)
    spread = sample.T @ sample / len(sample)
    plane = _plane(spread)
    tokens = torch.empty(vocabulary, width, dtype=torch.int8)
    within = torch.empty(vocabulary, len(plane), dtype=torch.int8)
    scales = torch.zeros(3, vocabulary)
    error = torch.empty(2, vocabulary)
    for start in range(0, vocabulary, 4096):
        part = slice(start, min(start + 4096, vocabulary))
        turned = product(weight[part] - mean, rotation.T)
        inside = product(turned, plane)
        tokens[part], scales[0, part], left = _eight_bits(turned)
        within[part], scales[1, part], _ = _eight_bits(inside)
        outside = turned.square().sum(1) - inside.square().sum(1)
        error[0, part] = left.square().mean(1).sqrt()
        error[1, part] = (outside.clamp(min=0) / (width - len(plane))).sqrt()
    if reader.bias is not None:
        scales[2] = reader.bias
    return Rounded(mean, rotation, spread, plane, tokens, within, scales, error)


def _eight_bits(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows rounded to int8, one unit of each, and what was left over."""
    unit = (x.abs().amax(1) / 127).clamp(min=1e-30)
    whole = (x / unit[:, None]).round()
    return whole.to(torch.int8), unit, x - whole * unit[:, None]


def _plane(spread: Tensor) -> Tensor:
    """Rows that span the directions in which ``spread`` is largest, none of them longer than another there."""
    count = len(spread) // PLANE
    if not bool(torch.isfinite(spread).all()):  # of a sick weight no row is sure, and all are read exactly
        return torch.eye(len(spread))[:count]
    return (_rotation(count) @ torch.linalg.eigh(spread)[1][:, -count:].T).contiguous()


def _rotation(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(width, width, generator=generator))[0].contiguous()


_held: dict[tuple[int, torch.Size], tuple[Tensor, Rounded]] = {}


def rounded(reader: Reader) -> Rounded:
    """The rounded unembedding, that of the last weight used being kept (36 MB for the default model)."""
    probe = torch.randn(reader.weight.shape[1], generator=torch.Generator().manual_seed(1))
    # tells the content: another model's weight may come to lie at the same address
    mark = reader.weight @ probe if reader.bias is None else torch.cat([reader.weight @ probe, reader.bias])
    key = (reader.weight.data_ptr(), reader.weight.shape)
    if key not in _held or not torch.equal(_held[key][0], mark):
        _held.clear()
        _held[key] = (mark, round_weight(reader))
    return _held[key][1]


def accumulate(reader: Reader, rows: Stack, logits: Tensor, top_k: int) -> Sums:
    """The sums over the whole vocabulary; ``logits``: ``[M, T]``, those of the named tokens."""
    anchors = torch.cat([rows.reference, rows.base]).unique()
    anchors = anchors[anchors >= 0]
    if not len(anchors):
        anchors = torch.tensor([0])  # nothing is compared: the loops still want a row to point at
    near = select(rows, anchors)
    table = fused.Table(near, logits[anchors], top_k)
    pulls = Pulls(near, reader)
    screen = Screen(reader, rows, anchors, logits)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for start in range(0, len(reader.weight), BLOCK):
            part = slice(start, min(start + BLOCK, len(reader.weight)))
            r = finish(product(near.x, reader.weight[part]), reader, near.beta, part)
            pulls.add(r, table, part, pool)
            screen.add(part, r, table, pool)
        found, unsure = screen.settle(near, pulls, top_k, pool)
    sums = empty(rows, top_k)
    sums.put(anchors, table.sums())
    sums.put(screen.others, found)
    if unsure.any():
        again = screen.others[unsure]
        both = torch.cat([again, anchors])
        exact = fused.accumulate(reader, select(rows, both), logits[both], top_k)
        sums.put(again, exact.first(len(again)))
    return sums


class Pulls:
    """``sum e^(r-m) w_v`` of each row compared with, from which ``sum e^(r-m) z`` of any row is one dot product."""

    def __init__(self, near: Stack, reader: Reader) -> None:
        count, width = near.x.shape
        self.reader = reader
        self.largest = np.full(count, -np.inf, np.float32)
        self.vectors = torch.zeros(count, width)
        self.bias = torch.zeros(count)
        self.e = torch.empty(count, BLOCK)

    def add(self, r: Tensor, table: fused.Table, part: slice, pool: ThreadPoolExecutor) -> None:
        """Adds the block ``r`` ``[K, B]`` of the tokens ``part`` here and to the ``table``."""
        e = self.e[:, : r.shape[1]] if r.shape[1] == BLOCK else torch.empty(r.shape)
        logits, exponentials = r.numpy(), e.numpy()
        running = (self.largest, self.vectors.numpy(), self.bias.numpy())

        def work(order: Any) -> None:  # one task for a thread: each waiting for the others costs on a busy machine
            table.scan(logits, part.start, order)
            kernel_screen.pull(order, logits, table.rows.block[0], exponentials, running)

        fused.share(work, table.order, pool)
        table.merge()
        self.vectors += product(e, self.reader.weight[part].T)
        if self.reader.bias is not None:
            self.bias += e @ self.reader.bias[part]

    def on(self, x: Tensor, beta: Tensor, which: Tensor) -> Tensor:
        """``[M]`` float64: the sums for rows ``x`` and the rows ``which`` they are compared with."""
        return ((x * self.vectors[which]).sum(1) + beta * self.bias[which]).double()


class Screen:
    """The screened rows of a stack: their 8-bit vectors, running sums and best tokens."""

    def __init__(self, reader: Reader, rows: Stack, anchors: Tensor, logits: Tensor) -> None:
        place = torch.full((len(rows.x) + 1,), -1)  # the last entry is where -1 points
        place[anchors] = torch.arange(len(anchors))
        self.others = (place[:-1] < 0).nonzero()[:, 0]
        self.reader, self.weight = reader, rounded(reader)
        self.broken = rows.broken[self.others]
        self.x, self.beta = rows.x[self.others], rows.beta[self.others]
        self.reference, self.base = place[rows.reference[self.others]], place[rows.base[self.others]]
        self.tokens = rows.tokens[self.others].contiguous()
        self.logits = logits[self.others].contiguous()
        self.whole, self.within, row_of, self.lengths = _screened(self.x, self.beta, self.weight)
        count = len(self.x)
        self.order = self.reference.argsort(stable=True).numpy()
        self.products = torch.empty(2, count, BLOCK, dtype=torch.int32)
        self.running = np.zeros((5, count))
        self.running[0] = -np.inf
        self.rows = kernel_screen.Screened(
            row_of=row_of.numpy(),
            reference=self.reference.numpy(),
            tokens=self.tokens.numpy(),
            logits=self.logits.numpy(),
            largest=self.running[0],
            block=np.empty((5, count)),
            above=np.zeros(self.tokens.shape, np.int64),
            seen=np.full(self.tokens.shape, np.nan, np.float32),
            top=np.full((count, HEAD), -np.inf, np.float32),
            top_ids=np.full((count, HEAD), -1, np.int64),
        )

    def add(self, part: slice, r: Tensor, table: fused.Table, pool: ThreadPoolExecutor) -> None:
        """Adds the block of the tokens ``part``; ``r`` ``[K, B]`` and ``table`` are those of the rows compared with."""
        count, width = len(self.x), part.stop - part.start
        if not count:
            return
        out = self.products if width == BLOCK else torch.empty(2, count, width, dtype=torch.int32)
        multiply(self.whole, self.weight.tokens[part].t(), out=out[0])
        multiply(self.within, self.weight.within[part].t(), out=out[1])
        products = out.numpy()
        scales = self.weight.scales[:, part].contiguous().numpy()
        exact = (r.numpy(), table.rows.block[0].astype(np.float32))
        fused.share(
            lambda order: kernel_screen.scan_screened(products, part.start, order, scales, exact, self.rows),
            self.order,
            pool,
        )
        kernel_screen.merge_screened(self.running, self.rows.block)

    def settle(self, near: Stack, pulls: Pulls, top_k: int, pool: ThreadPoolExecutor) -> tuple[Sums, Tensor]:
        """Float32 put in the place of the screened values: the sums of the rows, and which are not sure enough."""
        top_ids, top = torch.from_numpy(self.rows.top_ids), torch.from_numpy(self.rows.top)
        extra = self.tokens.clone()  # named tokens that are not in the head, each once
        known = (extra[:, :, None] == top_ids[:, None, :]).any(2)
        for column in range(1, extra.shape[1]):
            known[:, column] |= (extra[:, :column] == extra[:, column, None]).any(1)
        extra[known] = -1
        ids = torch.cat([top_ids, extra], 1)
        old = torch.cat([top, torch.from_numpy(self.rows.seen)], 1).double()
        new = self._exact(ids, kernel_screen.Vectors(self.x.numpy(), self.beta.numpy(), np.arange(len(self.x))), pool)
        r = self._exact(ids, kernel_screen.Vectors(near.x.numpy(), near.beta.numpy(), self.reference.numpy()), pool)
        sums, sd = self._corrected(ids, old, new, r)
        sums.by_reference = pulls.on(self.x, self.beta, self.reference)
        sums.by_base = pulls.on(self.x, self.beta, self.base)
        head = new[:, :HEAD].float()
        sums.top, sums.top_ids = best(head.masked_fill(top_ids < 0, -torch.inf), top_ids, top_k)
        margin = SIGMAS * (self.lengths.square() @ self.weight.error.amax(1).square()).sqrt()
        limit = self.rows.top[:, -1] + margin.numpy()  # nothing outside the head is above this
        sums.above, unsure = self._ranks(head, torch.from_numpy(limit))
        unsure |= sums.top[:, -1] <= torch.from_numpy(limit)
        surprise = (sums.largest + sums.total.log() - sums.top[:, 0]).clamp(min=1.0)
        unsure |= ~(TOLERANCE_SIGMAS * sd < TOLERANCE * surprise)
        return sums, unsure & ~self.broken

    def _exact(self, ids: Tensor, rows: kernel_screen.Vectors, pool: ThreadPoolExecutor) -> Tensor:
        z = torch.zeros(ids.shape)
        head = (self.reader.weight.numpy(), self.weight.scales[2].numpy())
        fused.share(lambda order: kernel_screen.score(order, rows, head, ids.numpy(), z.numpy()), self.order, pool)
        return z.double()

    def _corrected(self, ids: Tensor, old: Tensor, new: Tensor, r: Tensor) -> tuple[Sums, Tensor]:
        largest, total, own, reference, squares = (torch.from_numpy(row) for row in self.running)
        absent = ids < 0
        e_old = (old - largest[:, None]).exp().masked_fill(absent, 0)
        e_new = (new - largest[:, None]).exp().masked_fill(absent, 0)
        old = old.masked_fill(absent, 0)
        # frequent tokens have longer rows and larger errors: those of the tail are about those of the head's end
        error = self.weight.error[:, ids[:, HEAD // 2 : HEAD]].square().mean(2)
        variance = (self.lengths.square() * error.T).sum(1).double()
        sd = ((squares - e_old.square().sum(1)).clamp(min=0) * variance).sqrt()
        total = total + (e_new - e_old).sum(1)
        sums = Sums(
            largest=largest,
            total=total,
            own=own + (e_new * new - e_old * old).sum(1),
            reference=reference + ((e_new - e_old) * r).sum(1),
            by_reference=total,
            by_base=total,
            above=self.tokens,
            top=new,
            top_ids=ids,
        )
        return sums, sd / total

    def _ranks(self, exact: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens above each named one ``[M, T]``, and rows where a rank of SURE_RANK or less may be wrong."""
        z = self.logits
        own = torch.from_numpy(self.rows.top_ids)[:, None, :] == self.tokens[:, :, None]
        better = ((exact[:, None, :] > z[:, :, None]) & ~own).sum(2)
        complete = z > limit[:, None]
        above = torch.where(complete, better, torch.maximum(torch.from_numpy(self.rows.above), better))
        unsure = ~complete & (better < SURE_RANK)
        return above, unsure.any(1)


def _screened(x: Tensor, beta: Tensor, weight: Rounded) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows ``[M, d]`` and what is put back ``[M, r]`` in 8 bits, what ``logits_of`` needs ``[M, 4]``, and lengths.

    The lengths ``[M, 2]`` are those of the row and of what is not put back. The tokens that a row favours lie, on
    average, along ``spread`` times the row: what is not put back is made orthogonal to that.
    """
    turned = product(x, weight.rotation.T)
    whole, unit, left = _eight_bits(turned)
    inside = product(left, weight.plane)
    within, small, _ = _eight_bits(inside)
    outside = left - product(inside, weight.plane.T.contiguous())
    favoured = product(turned, weight.spread)
    rounded = turned - left
    more = (outside * favoured).sum(1) / (rounded * favoured).sum(1).clamp(min=1e-30)
    outside -= more[:, None] * rounded
    row_of = torch.stack([unit * (1 + more), small, x @ weight.mean, beta], 1)
    return whole, within, row_of, torch.stack([turned.norm(dim=1), outside.norm(dim=1)], 1)
