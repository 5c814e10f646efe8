"""The ranks of a thousand named tokens in a few rows: all logits of some rows at a time, sorted."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from midstream.model.product import full_float32, product
from midstream.readout.reader import Reader
from midstream.readout.sums import finish

ROWS = 32
"""Rows whose logits are held at once: 6 MB for 49,152 tokens."""


@torch.inference_mode()
def ranks(reader: Reader, x: Tensor, ids: Tensor) -> npt.NDArray[Any]:
    """The rank of every token of ``ids`` in every row, ``1 + #{v : z_v > z_t}``, 1 = best.

    A row costs one sort of its logits and a search for each token, where ``read`` compares every logit with every
    named token: cheaper from some ten tokens on.

    Args:
        x: ``[n, d]`` float32, as ``Reader.prepare`` makes it.
        ids: ``[T]`` int64 on the CPU, each from 0 to V - 1.

    Returns:
        ``[n, T]`` int32; -1 in a row that holds NaN or infinity.
    """
    found = np.full((len(x), len(ids)), -1, dtype=np.int32)
    named = ids.numpy()
    vocabulary = len(reader.weight)
    with full_float32():
        for start in range(0, len(x), ROWS):
            part = x[start : start + ROWS]
            logits = finish(product(part, reader.weight), reader, torch.ones(1), slice(0, vocabulary)).cpu().numpy()
            for row, z in enumerate(logits, start):
                if np.isfinite(z).all():
                    own = z[named]
                    z.sort()
                    found[row] = vocabulary + 1 - np.searchsorted(z, own, side="right")
    return found
