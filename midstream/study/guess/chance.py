"""What chance makes of the numbers: random bases of the stream, random parts of it, and outputs turned at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from midstream.study.displace import rotation
from midstream.study.guess import coordinates
from midstream.study.guess.basis import basis
from midstream.study.guess.fit import batches, fit
from midstream.study.guess.setting import EPSILONS, SIZES, layers
from midstream.study.guess.streams import streams
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
        own = number == OWN
        q = torch.eye(len(gram), dtype=torch.float64) if own else rotation(len(gram), ground.seed + number)
        for layer, matrices in given.items():
            rows.append((layer, number, coordinates.in_basis(q, **{k: m.to(q) for k, m in matrices.items()})))
    at, basis, correlation = zip(*rows, strict=True)
    return {
        "layer": np.array(at, np.int16),
        "basis": np.array(basis, np.int32),
        "correlation": np.array(correlation),
        "uneven": np.array([uneven[layer] for layer in at]),
    }


def share_of(epsilon: float) -> str:
    """Name of the column of shares at an epsilon."""
    return f"share_{epsilon:g}"


def turned(ground: Ground, layer: int, ks: Sequence[int]) -> Columns:
    """What outputs would need that look at the stream as unevenly, but turned at random: one row an output.

    A column for each epsilon: what the first k coordinates by relevance tell of the input in the texts that confirm, as
    a share of what all tell, with ``Q B Q^T`` in the place of B for a random rotation Q. ``OWN``: B as it is.

    Args:
        ks: k for each epsilon.
    """
    known, crossed = fit(ground, layer), _crossed(ground)[layer]
    numbers = range(OWN, SIZES[ground.size].turns)
    shares: list[Tensor] = []
    for number in numbers:
        q = torch.eye(len(crossed)) if number == OWN else rotation(len(crossed), ground.seed + number)
        q = q.double()
        into = basis(known.mean, known.covariance, q @ known.relevance @ q.T).into
        each = ((into.T @ known.with_row) * (crossed @ into).T).sum(1)
        shares.append(torch.nn.functional.pad(each.cumsum(0) / each.sum(), (1, 0)))
    columns = {
        share_of(epsilon): np.array([float(share[k]) for share in shares])
        for epsilon, k in zip(EPSILONS, ks, strict=True)
    }
    constant = {"layer": np.full(len(numbers), layer, np.int16), "turn": np.array(numbers, np.int32)}
    return constant | columns


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
        d, found, count = ground.model.anatomy.width, dict[int, Tensor](), 0
        for members in batches(ground.texts["confirm"], SIZES[ground.size].batch):
            seen = streams(ground, members)
            count += len(seen.row)
            for layer in layers(ground).all:
                known = fit(ground, layer)
                x, y = seen.h[layer].cpu().double() - known.mean, seen.row - known.row_mean
                found[layer] = found.get(layer, torch.zeros(d, d, dtype=torch.float64)) + y.T @ x
        ground.keep["crossed"] = {layer: total / count for layer, total in found.items()}
    return ground.keep["crossed"]
