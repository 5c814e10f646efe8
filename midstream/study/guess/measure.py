"""What is measured of each set of texts; every number is a sum over a document's positions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from midstream.record import Array
from midstream.study.guess.fit import Fit, batches, fit
from midstream.study.guess.search import Asked, bisected
from midstream.study.guess.setting import EPSILONS, SIZES, THIN, layers
from midstream.study.guess.streams import Streams, kl, streams, target
from midstream.study.refit import QUARTERS
from midstream.study.study import Columns, Ground, Text


def chosen(ground: Ground, layer: int, texts: Sequence[Text]) -> Columns:
    """How much reading from S alone adds, for each k that the search for the smallest ones asks for.

    ``added`` is KL(final || read from S) less ``plain``, KL(final || read from all), and decides; ``moved`` is
    KL(read from all || read from S), NaN but for the k that are found. Where what is read is calibrated, the two have
    one expectation. Sums over each document's positions, nats.
    """
    document, streamed = _streamed(ground, texts)
    h, last = streamed[layer], streamed[layers(ground).last]
    final, own = target(ground, layers(ground).last, last), target(ground, layer, h)
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


def _streamed(ground: Ground, texts: Sequence[Text]) -> tuple[Array, dict[int, Tensor]]:
    """The texts' documents ``[n]``, and layer -> streams ``[n, d]``; made once, for all layers."""
    if "choosing" not in ground.keep:
        seen = [streams(ground, members) for members in batches(texts, SIZES[ground.size].batch)]
        document = np.concatenate([one.document for one in seen])
        every = {at: torch.cat([one.h[at] for one in seen])[::THIN] for at in seen[0].h}
        ground.keep["choosing"] = document[::THIN], every
    return ground.keep["choosing"]


def told(ground: Ground, texts: Sequence[Text], guess: int) -> Columns:
    """What each coordinate tells, one row a document, layer, refit and number j of a coordinate.

    The decoder is that of the fit texts. Its prediction of the input row is the sum of what it makes of each
    coordinate, and what a coordinate tells is that part's product with the truth, ``sum of (row - mean) . (z_j C_j)``.
    These numbers add up in any text, and hold nothing of what a fit finds in its own noise, since the truth is that of
    other texts; on the fit's own they are the R^2 of least squares, refitted to any part.

    ``relevance``: what coordinate j by relevance tells; ``variance``: by variance; ``square``: ``(row - mean)_j^2``, so
    that the sum over j is all there is to tell. Of the stream's own basis element j: ``lost``, what dropping it and
    refitting loses; ``held``, what the final prediction, the ``guess`` leading coordinates by relevance at layer L,
    tells of it, and ``own``, all there is to tell, both in units of its variance.
    """
    seen = streams(ground, texts)
    at = layers(ground)
    tables: list[dict[str, Array]] = []
    for layer in at.all:
        for without in range(-1, QUARTERS if layer in (at.half, at.late, at.before) else 0):
            values = _told(seen, layer, fit(ground, layer, without), _prediction(ground, seen, guess, without))
            tables.append(_spread(seen.document, values, layer, without))
    return joined(tables)


def _prediction(ground: Ground, seen: Streams, guess: int, without: int) -> tuple[Tensor, Tensor]:
    """The final prediction's coordinates ``[n, k]``, and the map into them from the stream at layer L, ``[d, k]``."""
    last = layers(ground).last
    made = fit(ground, last, without).relevant
    return made.coordinates(seen.h[last])[:, :guess], made.into[:, :guess]


def _told(seen: Streams, layer: int, known: Fit, prediction: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Name -> ``[n, d]``."""
    y, x = seen.row - known.row_mean, seen.h[layer].cpu().double() - known.mean
    d = x.shape[1]
    lost = (y @ known.weights.T) * (x @ known.precision) / known.precision.diagonal()
    z, into = prediction
    held = x * (z @ (known.with_last @ into).T) / known.covariance.diagonal()
    return {
        "relevance": _explained(x @ known.relevant.into, y @ known.decoded.T, d),
        "variance": _explained(x @ known.varied.into, y @ known.components.T, d),
        "square": y.square(),
        "lost": lost,
        "held": held,
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
