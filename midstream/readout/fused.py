"""The exact pass with one compiled loop over each row of a block; imported only where that pays.

A block of logits stays in the cache between its product and the loop, each row is loaded once, and the rows compared
with one reference row follow each other, so that its exponentials are taken once for all layers.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from midstream.model.product import product
from midstream.readout import kernel
from midstream.readout.reader import Reader
from midstream.readout.rows import Stack
from midstream.readout.sums import Sums, finish

Floats = npt.NDArray[np.float32]
Order = npt.NDArray[np.int64]

BLOCK = 1024
"""Tokens in a block: 1,024 rows of one take 4 MB."""


def accumulate(reader: Reader, rows: Stack, logits: Tensor, top_k: int) -> Sums:
    """The sums over the whole vocabulary; ``logits``: ``[M, T]``, those of the named tokens."""
    table = Table(rows, logits, top_k)
    vocabulary = len(reader.weight)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for start in range(0, vocabulary, BLOCK):
            stop = min(start + BLOCK, vocabulary)
            z = finish(product(rows.x, reader.weight[start:stop]), reader, rows.beta, slice(start, stop))
            table.add(z.numpy(), start, pool)
    return table.sums()


def share(work: Callable[[Order], None], order: Order, pool: ThreadPoolExecutor) -> None:
    """``work`` on parts of the rows ``order``, one part a thread, this one included."""
    parts = np.array_split(order, torch.get_num_threads())
    others = [pool.submit(work, part) for part in parts[1:]]
    work(parts[0])
    for other in others:
        other.result()


class Table:
    """The running sums of a stack as numpy arrays, which the compiled loops change in place."""

    def __init__(self, rows: Stack, logits: Tensor, top_k: int) -> None:
        count = len(rows.x)
        compared = torch.stack([rows.reference, rows.base]).numpy()
        self.order = np.lexsort((compared[1], compared[0]))
        self.running = np.zeros((6, count))
        self.running[0] = -np.inf
        self.rows = kernel.Running(
            compared=compared,
            tokens=rows.tokens.contiguous().numpy(),
            logits=logits.contiguous().numpy(),
            largest=self.running[0],
            block=np.empty((6, count)),
            above=np.zeros(rows.tokens.shape, np.int64),
            top=np.full((count, top_k), -np.inf, np.float32),
            top_ids=np.full((count, top_k), -1, np.int64),
        )

    def add(self, z: Floats, start: int, pool: ThreadPoolExecutor) -> None:
        """Adds the block ``z`` ``[M, B]`` of the tokens from ``start`` on."""
        share(lambda order: self.scan(z, start, order), self.order, pool)
        self.merge()

    def scan(self, z: Floats, start: int, order: Order) -> None:
        """The sums of the rows ``order`` over this block: threads may do disjoint rows, then one calls ``merge``."""
        kernel.scan(z, start, order, self.rows)

    def merge(self) -> None:
        """Adds what was scanned to the running sums."""
        kernel.merge(self.running, self.rows.block, self.rows.compared)

    def sums(self) -> Sums:
        """What was added up so far."""
        columns = [torch.from_numpy(row) for row in self.running]
        above, top, top_ids = (torch.from_numpy(a) for a in (self.rows.above, self.rows.top, self.rows.top_ids))
        return Sums(*columns, above=above, top=top, top_ids=top_ids)
