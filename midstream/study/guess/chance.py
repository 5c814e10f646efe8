"""What chance makes of the two numbers: random bases of the stream, and random parts of its whitened coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from midstream.record import Array
from midstream.study.displace import rotation
from midstream.study.guess import coordinates
from midstream.study.guess.fit import batches, fit
from midstream.study.guess.setting import EPSILONS, SIZES, layers
from midstream.study.guess.streams import streams
from midstream.study.study import Columns, Ground

OWN = -1
"""Number of the model's own basis among the random ones."""


def share_of(epsilon: float) -> str:
    """Name of the column of shares at an epsilon."""
    return f"share_{epsilon:g}"


def in_bases(ground: Ground, layer: int, ks: Sequence[int]) -> Columns:
    """The two numbers of the texts that confirm, one row a basis.

    ``correlation``: that of ``coordinates.partial``. A column for each epsilon: what the first k of the whitened
    coordinates tell of the input, as a share of what all tell; ``OWN``: by relevance, else after a random rotation.

    Args:
        ks: k for each epsilon.
    """
    known, crossed = fit(ground, layer), _crossed(ground)[layer]
    gram = ground.keep.setdefault("gram", coordinates.output_gram(ground.model.anatomy))
    given = {
        "lost": known.weights @ crossed @ known.precision,
        "precision": known.precision,
        "gram": gram,
        "covariance": known.covariance,
    }
    at = known.relevant
    told = at.into.T @ known.with_row @ crossed @ at.into  # the diagonal is what each coordinate explains
    numbers = range(OWN, SIZES[ground.size].bases)
    correlation, shares = list[float](), list[Array]()
    for number in numbers:
        q = _turn(len(gram), ground.seed, number)
        correlation.append(coordinates.in_basis(q, **given))
        q = q if at.rank == len(q) else _turn(at.rank, ground.seed, number)
        shares.append(((told @ q) * q).sum(0).cumsum(0).numpy() / float(told.trace()))
    columns = {share_of(epsilon): _first(shares, k) for epsilon, k in zip(EPSILONS, ks, strict=True)}
    return {
        "layer": np.full(len(numbers), layer, np.int16),
        "basis": np.array(numbers, np.int32),
        "correlation": np.array(correlation),
    } | columns


def _turn(d: int, seed: int, number: int) -> Tensor:
    return torch.eye(d, dtype=torch.float64) if number == OWN else rotation(d, seed + number).double()


def _first(shares: Sequence[Array], k: int) -> Array:
    return np.array([share[k - 1] if k else 0.0 for share in shares])


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
