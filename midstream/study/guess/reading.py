"""Reading from parts of the stream alone: the guess through the lens, the input through one decoder for all parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from midstream.readout.read import top1
from midstream.readout.reader import Reader, input_reader
from midstream.record import Array
from midstream.study.displace import rotation
from midstream.study.guess.basis import Basis
from midstream.study.guess.fit import fit
from midstream.study.guess.measure import by_document, joined
from midstream.study.guess.setting import layers, seed
from midstream.study.guess.streams import Streams, gathered, kl, target
from midstream.study.study import Columns, Ground, Text

PARTS = ALL, GUESS, REST, RANDOM, OTHERS = "all", "guess", "rest", "random", "all but random"
"""Parts: all coordinates; S; those beside S; as many random ones as S has; the others."""


def parts_read(ground: Ground, layer: int, k: int) -> Columns:
    """One row a document and part, sums over positions; the first document of each work that confirms.

    ``kl``: KL(final || what is read from the part), nats; ``right``: positions where the input row nearest to what is
    decoded is that of the token read; ``error``: of what is decoded, squared; ``square``: of the row about its mean.

    Args:
        k: how many coordinates S has.
    """
    first = [text.number for text in one_a_work(ground.texts["confirm"])]
    rows: Reader = ground.keep.setdefault("rows", input_reader(ground.model.anatomy))
    known, last = fit(ground, layer), layers(ground).last
    parts = _parts(known.relevant, k, seed(ground.seed, "parts", layer))
    tables: list[dict[str, Array]] = []
    for seen in (some.of(first) for some in gathered(ground, "confirm")):
        if not len(seen.row):
            continue
        final, y = target(ground, last, seen.h[last]), seen.row - known.row_mean
        for name, basis, part in parts:
            z = basis.coordinates(seen.h[layer])
            told = z[:, part] @ (basis.into[:, part].T @ known.with_row)
            table = by_document(
                seen.document,
                {
                    "kl": kl(ground, layer, basis.stream(z, part), final),
                    "right": _right(rows, known.row_mean + told, seen),
                    "error": (y - told).square().sum(1).numpy(),
                    "square": y.square().sum(1).numpy(),
                },
            )
            m = len(table["document"])
            tables.append(table | {"layer": np.full(m, layer, np.int16), "part": np.full(m, name)})
    return joined(tables)


def one_a_work(texts: Sequence[Text]) -> list[Text]:
    """The first text of each work."""
    return list({text.work: text for text in reversed(texts)}.values())[::-1]


def _parts(basis: Basis, k: int, drawn: int) -> list[tuple[str, Basis, slice]]:
    q = rotation(basis.rank, drawn).double()
    turned = Basis(basis.mean, basis.into @ q, basis.back @ q)
    first, others = slice(0, k), slice(k, None)
    return [
        (ALL, basis, slice(None)),
        (GUESS, basis, first),
        (REST, basis, others),
        (RANDOM, turned, first),
        (OTHERS, turned, others),
    ]


def _right(rows: Reader, decoded: Tensor, seen: Streams) -> Array:
    x = decoded.to(rows.weight.device, torch.float32).contiguous()
    return (top1(rows, x) == seen.token).numpy().astype(np.float64)
