"""A study's texts as the model reads them: ids, log-probabilities of what comes next, rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.readout import read as readout
from midstream.readout.read import Rows
from midstream.readout.reader import Reader, output_reader
from midstream.record import Array
from midstream.study.study import Columns, Ground, Text


def ids_of(ground: Ground, texts: Sequence[Text]) -> Tensor:
    """``[b, t]`` int64 on the model's device."""
    return torch.tensor([text.ids for text in texts], device=ground.model.device)


def logprobs(ground: Ground, h: Tensor, targets: Tensor) -> tuple[Array, Array]:
    """Log-probabilities of targets ``[b, p]`` under the output at layer L ``[b, p, d]``, and the best tokens."""
    found = predicted(ground, h, targets)
    shape = tuple(targets.shape)
    return found.logprob[:, 0].reshape(shape), found.top_ids[:, 0].reshape(shape)


def predicted(ground: Ground, h: Tensor, targets: Tensor) -> readout.Columns:
    """All that is read of the same, a row for each of the ``b p`` positions."""
    reader = reader_of(ground)
    x = reader.prepare(h.reshape(-1, h.shape[-1]))
    if not bool(torch.isfinite(x).all()):
        raise RequestError(
            f"the output of {ground.model.name} holds NaN or infinity ({ground.model.dtype}): nothing can be said of "
            "it; another --dtype may help."
        )
    (found,) = readout.read(reader, [Rows(x, targets.reshape(-1, 1))], reference=None, top_k=1, job=1 << 20)
    return found


def reader_of(ground: Ground) -> Reader:
    """The model's output, ready to read; made once."""
    if "reader" not in ground.keep:
        ground.keep["reader"] = output_reader(ground.model.anatomy)
    return ground.keep["reader"]


def table(texts: Sequence[Text], values: dict[str, Any]) -> Columns:
    """Rows of a table, text by text and position by position, from ``[b, p]`` arrays."""
    b, p = next(iter(values.values())).shape
    columns: dict[str, Array] = {
        "document": np.repeat(np.array([text.number for text in texts], np.int32), p),
        "position": np.tile(np.arange(p, dtype=np.int32), b),
    }
    return columns | {name: np.asarray(value).reshape(-1) for name, value in values.items()}


def ordered(columns: Columns, numbers: Array, p: int) -> dict[str, Array]:
    """Columns as ``[n, p]``, texts in the order of ``numbers``, whatever order the rows came in; NaN where none did."""
    wanted = np.isin(columns["document"], numbers)
    index = {int(number): row for row, number in enumerate(numbers)}
    row = np.array([index[int(number)] for number in columns["document"][wanted]], dtype=np.int64)
    at = row * p + columns["position"][wanted]
    found: dict[str, Array] = {}
    for name, values in columns.items():
        made = np.zeros(len(numbers) * p, dtype=values.dtype)
        if values.dtype.kind == "f":
            made[:] = np.nan
        made[at] = values[wanted]
        found[name] = made.reshape(len(numbers), p)
    return found
