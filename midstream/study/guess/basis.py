"""The stream in coordinates that are uncorrelated, of variance 1, and ordered by what the output looks at.

With the covariance ``Q diag(e) Q^T``, whitened ``w = (h - mean) Q / sqrt(e)``, and U the eigenvectors of
``sqrt(e) Q^T B Q sqrt(e)`` for a relevance B, the coordinates ``z = w U`` are uncorrelated where the covariance was
taken. So what least squares recovers from all of them is the sum of what it recovers from each:
``R^2(h) = R^2(S) + R^2(rest)`` for S the first k. S holds the linear functions of the stream that its reading depends
on most; the rest is what h has beside them. What both would tell counts for S.

Letters for shapes: n positions, d width, r rank of the covariance, D columns of what is recovered.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RANK = 1e-10
"""Variance along a direction, in units of the largest, below which it is rounding."""


@dataclass(frozen=True, eq=False)
class Basis:
    """Coordinates of the stream at one layer, float64 on the CPU.

    Attributes:
        mean: ``[d]``; into: ``[d, r]``, the coordinates are ``(h - mean) into``; back: ``[d, r]``, and the stream is
            ``mean + z back^T``.
    """

    mean: Tensor
    into: Tensor
    back: Tensor

    @property
    def rank(self) -> int:
        """r."""
        return self.into.shape[1]

    def coordinates(self, h: Tensor) -> Tensor:
        """The stream ``[n, d]`` of any dtype in these coordinates, ``[n, r]``."""
        return (h.cpu().double() - self.mean) @ self.into

    def stream(self, z: Tensor, part: slice) -> Tensor:
        """The stream ``[n, d]`` of coordinates ``[n, r]``, those outside ``part`` at their mean."""
        return self.mean + z[:, part] @ self.back[:, part].T


def whitened(mean: Tensor, covariance: Tensor) -> Basis:
    """Whitened coordinates, first those of most variance: principal components."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > RANK * values[-1]
    values, vectors = values[kept].flip(0), vectors[:, kept].flip(1)
    return Basis(mean, vectors / values.sqrt(), vectors * values.sqrt())


def ordered(basis: Basis, relevance: Tensor) -> Basis:
    """Whitened coordinates turned so that those of most relevance ``[d, d]`` come first."""
    inner = basis.back.T @ relevance @ basis.back
    order = torch.linalg.eigh((inner + inner.T) / 2)[1].flip(1)
    return Basis(basis.mean, basis.into @ order, basis.back @ order)
