"""What chance makes of the numbers: random bases of the stream, random parts of it, and outputs turned at random."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from midstream.study.displace import rotation
from midstream.study.guess import coordinates
from midstream.study.guess.basis import ordered
from midstream.study.guess.fit import fit
from midstream.study.guess.setting import SIZES, layers, seed
from midstream.study.guess.streams import gathered
from midstream.study.study import Columns, Ground

OWN = -1
"""Number of the model's own basis among the random ones."""


def in_bases(ground: Ground, numbers: range) -> Columns:
    """The texts that confirm, one row a basis and layer, the same bases at each.

    ``correlation``: that of ``coordinates.partial``. ``uneven``: of how what is told of the input is spread over the
    whitened coordinates, ``r tr(A^2) / tr(A)^2 - 1``; see ``deviation``.
    """
    gram = ground.keep.setdefault("gram", coordinates.output_gram(ground.model.anatomy))
    given, uneven = dict[int, dict[str, Tensor]](), dict[int, float]()
    for layer in layers(ground).all:
        known, crossed = fit(ground, layer), _crossed(ground)[layer]
        given[layer] = {
            "lost": known.weights @ crossed @ known.precision,
            "precision": known.precision,
            "gram": gram,
            "covariance": known.covariance,
        }
        told = known.relevant.into.T @ known.with_row @ crossed @ known.relevant.into
        even = (told + told.T) / 2
        uneven[layer] = len(even) * float(even.square().sum() / even.trace() ** 2) - 1
    rows: list[tuple[int, int, float]] = []
    for number in numbers:
        q = _rotation(ground, len(gram), "bases", number)
        q = q.double() if number == OWN else q
        for layer, matrices in given.items():
            rows.append((layer, number, coordinates.in_basis(q, **{k: m.to(q) for k, m in matrices.items()})))
    at, basis, correlation = zip(*rows, strict=True)
    return {
        "layer": np.array(at, np.int16),
        "basis": np.array(basis, np.int32),
        "correlation": np.array(correlation),
        "uneven": np.array([uneven[layer] for layer in at]),
    }


def turned(ground: Ground, layer: int) -> Columns:
    """What outputs would need that look at the stream as unevenly, but turned at random: a row for each and every k.

    ``share``: what the first k coordinates by relevance tell of the input in the texts that confirm, of what all tell,
    with ``Q B Q^T`` in the place of B for a random rotation Q. ``OWN``: B as it is.
    """
    known, crossed = fit(ground, layer), _crossed(ground)[layer]
    shares: list[Tensor] = []
    for number in range(OWN, SIZES[ground.size].turns):
        q = _rotation(ground, len(crossed), "turns", number).double()
        into = ordered(known.varied, q @ known.relevance @ q.T).into
        each = ((into.T @ known.with_row) * (crossed @ into).T).sum(1)
        shares.append(torch.nn.functional.pad(each.cumsum(0) / each.sum(), (1, 0)))
    many, rank = len(shares), known.varied.rank
    return {
        "layer": np.full(many * (rank + 1), layer, np.int16),
        "turn": np.repeat(np.arange(OWN, many - 1, dtype=np.int32), rank + 1),
        "k": np.tile(np.arange(rank + 1, dtype=np.int32), many),
        "share": torch.cat(shares).numpy(),
    }


def _rotation(ground: Ground, d: int, draw: str, number: int) -> Tensor:
    """Random, ``[d, d]``; none for the model's own."""
    return torch.eye(d) if number == OWN else rotation(d, seed(ground.seed, draw, number))


def deviation(k: int, rank: int, uneven: float) -> float:
    """Standard deviation of what a random part of k whitened coordinates tells, as a share of what all tell.

    For a uniformly random projection P onto k of r dimensions ``tr(PA) / tr(A)`` has mean k/r and variance
    ``2 k (r - k) / (r^2 (r - 1) (r + 2)) (r tr(A^2) / tr(A)^2 - 1)``, from the moments of a coordinate's square, which
    is Beta distributed.
    """
    if rank < 2:
        return 0.0
    return float(np.sqrt(2 * k * (rank - k) / (rank**2 * (rank - 1) * (rank + 2)) * uneven))


def _crossed(ground: Ground) -> dict[int, Tensor]:
    """Layer -> ``[d, d]``, mean of (input row) (stream)^T about the fit texts' means, in the texts that confirm."""
    if "crossed" not in ground.keep:
        seen, found = gathered(ground, "confirm"), dict[int, Tensor]()
        for layer in layers(ground).all:
            known = fit(ground, layer)
            total, count = torch.zeros_like(known.covariance), 0
            for one in seen:
                total += (one.row - known.row_mean).T @ (one.h[layer].cpu().double() - known.mean)
                count += len(one.row)
            found[layer] = total / count
        ground.keep["crossed"] = found
    return ground.keep["crossed"]
