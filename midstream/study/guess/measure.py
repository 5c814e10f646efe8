"""What is measured of each set of texts; every number is a sum over a document's positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from midstream.record import Array
from midstream.study.guess.basis import Basis
from midstream.study.guess.fit import Fit, fit
from midstream.study.guess.search import Asked, bisected
from midstream.study.guess.setting import EPSILONS, THIN, layers
from midstream.study.guess.streams import Streams, gathered, kl, target
from midstream.study.study import Columns, Ground


def chosen(ground: Ground, layer: int) -> Columns:
    """How much reading from S alone adds, for each k that the search for the smallest ones asks for.

    In the texts that choose. ``added`` is KL(final || read from S) less ``plain``, KL(final || read from all), and
    decides; ``moved`` is KL(read from all || read from S), NaN but for the k that are found. Where what is read is
    calibrated, the two have one expectation. Sums over each document's positions, nats.
    """
    seen, end = gathered(ground, "tune"), layers(ground).last
    document = np.concatenate([one.document for one in seen])[::THIN]
    h, last = (torch.cat([one.h[at] for one in seen])[::THIN] for at in (layer, end))
    final, own = target(ground, end, last), target(ground, layer, h)
    plain, at = kl(ground, layer, h, final), fit(ground, layer).relevant
    z = at.coordinates(h)
    asked: Asked = {}

    def added(k: int) -> float:
        if k not in asked:
            asked[k] = kl(ground, layer, at.stream(z, slice(0, k)), final) - plain
        return float(asked[k].mean())

    found = {at.rank, *(bisected(added, epsilon, at.rank) for epsilon in EPSILONS)}
    added(at.rank)
    tables: list[dict[str, Array]] = []
    for k in sorted(asked):
        moved = kl(ground, layer, at.stream(z, slice(0, k)), own) if k in found else np.full(len(plain), np.nan)
        table = by_document(document, {"plain": plain, "added": asked[k], "moved": moved})
        tables.append(table | {"k": np.full(len(table["document"]), k, np.int32)})
    m = sum(len(table["k"]) for table in tables)
    return joined(tables) | {"layer": np.full(m, layer, np.int16), "rank": np.full(m, at.rank, np.int32)}


def held_of(epsilon: float) -> str:
    """Name of the column of what the final prediction tells, kept but for so many nats."""
    return f"held_{epsilon:g}"


def told(ground: Ground, seen: Sequence[Streams], layer: int, without: int, guess: Mapping[float, int]) -> Columns:
    """What each coordinate of a layer tells, one row a document and number j of a coordinate.

    The decoder is that of the fit texts, ``without`` one of their quarters (-1: with all). Its prediction of the input
    row is the sum of what it makes of each coordinate, and what a coordinate tells is that part's product with the
    truth, ``sum of (row - mean) . (z_j C_j)``. These numbers add up in any text, and hold nothing of what a fit finds
    in its own noise, since the truth is that of other texts; on the fit's own they are the R^2 of least squares,
    refitted to any part.

    ``relevance``: what coordinate j by relevance tells; ``variance``: by variance; ``square``: ``(row - mean)_j^2``, so
    that the sum over j is all there is to tell. Of the stream's own basis element j: ``lost``, what dropping it and
    refitting loses; ``held_of(epsilon)``, what the final prediction tells of it, and ``own``, all there is to tell,
    both in units of its variance, NaN where it has none.

    Args:
        guess: epsilon -> how many of the leading coordinates by relevance at layer L are the final prediction.
    """
    prediction, known = _prediction(ground, max(guess.values()), without), fit(ground, layer, without)
    weights, last = (known.with_last @ prediction.into).T / known.covariance.diagonal(), layers(ground).last
    tables: list[dict[str, Array]] = []
    for one in seen:
        z, x = prediction.coordinates(one.h[last]), one.h[layer].cpu().double() - known.mean
        values = _told(x, one.row - known.row_mean, known)
        values |= {held_of(epsilon): x * (z[:, :k] @ weights[:k]) for epsilon, k in guess.items()}
        tables.append(_spread(one.document, values, layer, without))
    return joined(tables)


def _prediction(ground: Ground, k: int, without: int) -> Basis:
    """The first k coordinates by relevance at layer L."""
    kept: dict[int, Basis] = ground.keep.setdefault("prediction", {})
    if without not in kept:
        made = fit(ground, layers(ground).last, without).relevant
        kept[without] = Basis(made.mean, made.into[:, :k].clone(), made.back[:, :k].clone())
    return kept[without]


def _told(x: Tensor, y: Tensor, known: Fit) -> dict[str, Tensor]:
    """Name -> ``[n, d]``, from the stream and the input row about their means, ``[n, d]`` each."""
    d = x.shape[1]
    return {
        "relevance": _explained(x @ known.relevant.into, y @ known.decoded.T, d),
        "variance": _explained(x @ known.varied.into, y @ known.components.T, d),
        "square": y.square(),
        "lost": (y @ known.weights.T) * (x @ known.precision) / known.precision.diagonal(),
        "own": x.square() / known.covariance.diagonal(),
    }


def _explained(z: Tensor, y: Tensor, d: int) -> Tensor:
    """``z_j (y . C_j)`` of each coordinate j, 0 beyond the rank: ``[n, d]``."""
    return torch.nn.functional.pad(z * y, (0, d - z.shape[1]))


def _spread(document: Array, values: dict[str, Tensor], layer: int, without: int) -> dict[str, Array]:
    """Sums by document of ``[n, d]`` values, one row a document and coordinate."""
    numbers, which, count = np.unique(document, return_inverse=True, return_counts=True)
    summed = {
        name: torch.zeros(len(numbers), value.shape[1], dtype=torch.float64)
        .index_add_(0, torch.from_numpy(which), value)
        .numpy()
        for name, value in values.items()
    }
    m, d = next(iter(summed.values())).shape
    return {
        "document": np.repeat(numbers, d).astype(np.int32),
        "layer": np.full(m * d, layer, np.int16),
        "without": np.full(m * d, without, np.int16),
        "coordinate": np.tile(np.arange(d, dtype=np.int32), m),
        "positions": np.repeat(count, d).astype(np.int32),
    } | {name: value.reshape(-1) for name, value in summed.items()}


def by_document(document: Array, values: dict[str, Array]) -> dict[str, Array]:
    """Sums by document of ``[n]`` values, with the number of positions."""
    numbers, which, count = np.unique(document, return_inverse=True, return_counts=True)
    summed = {name: np.bincount(which, weights=value, minlength=len(numbers)) for name, value in values.items()}
    return {"document": numbers.astype(np.int32), "positions": count.astype(np.int32)} | summed


def joined(tables: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """Tables of the same columns, one below the other."""
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
