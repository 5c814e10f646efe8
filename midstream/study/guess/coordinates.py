"""The stream's own basis elements: what the output makes of each, what the input loses with it, chance's part in both.

The origin's thought is that the input may be kept in coordinates that the (un)embedding weights little, where it does
not disturb the guess. A coordinate as such means something only if the model has made it so: the same numbers are
taken in random bases.

Letters for shapes: d width, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from midstream.model.anatomy import Anatomy, in_float32
from midstream.record import Array
from midstream.study.guess.basis import RANK

BLOCK = 8192
"""Rows of the unembedding held in float64 at once."""


def gains(anatomy: Anatomy) -> Tensor:
    """g, the factor that the final norm has for each coordinate: ``[d]`` float64; 1 without a norm.

    ``(norm(x) - norm(-x)) / 2x`` for an x of mean 0 and mean square 1, whatever the norm's bias is.
    """
    d = anatomy.width
    if anatomy.final_norm is None:
        return torch.ones(d, dtype=torch.float64)
    x = torch.ones(d)
    x[1::2] = -1.0
    x = x - x.mean()
    x = (x / x.square().mean().sqrt())[None]
    odd = in_float32(anatomy.final_norm, x) - in_float32(anatomy.final_norm, -x)
    return (odd / (2 * x))[0].double()


def output_gram(anatomy: Anatomy) -> Tensor:
    """``diag(g) W_c^T W_c diag(g)``, ``[d, d]`` float64: W_c the unembedding less its mean row."""
    d, v = anatomy.width, anatomy.vocabulary
    total, mean = torch.zeros(d, d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    for start in range(0, v, BLOCK):
        rows = anatomy.output_rows(torch.arange(start, min(start + BLOCK, v))).cpu().double()
        total += rows.T @ rows
        mean += rows.sum(0)
    g = gains(anatomy)
    return g[:, None] * (total - torch.outer(mean, mean) / v) * g


def partial(loss: Array, weight: Array, variance: Array) -> float:
    """Rank correlation of what is lost with a coordinate and its output weight, given its variance; ``[d]`` each.

    Ranks of a logarithm are ranks, so this is given log variance too (Spearman's, partial). NaN where any is undefined.
    """
    if not all(np.isfinite(values).all() for values in (loss, weight, variance)):
        return float("nan")
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (loss, weight, variance)]
    r: Array = np.corrcoef(ranks)  # pyright: ignore[reportAssignmentType]
    return float((r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)))


def in_basis(q: Tensor, *, lost: Tensor, precision: Tensor, gram: Tensor, covariance: Tensor) -> float:
    """``partial`` for the coordinates of another orthonormal basis, the columns of q ``[d, d]``.

    Args:
        lost: ``[d, d]``, ``q^T lost q / q^T precision q`` is what is lost with a direction q.
        precision: inverse of ``covariance``; gram: of ``output_gram``.
    """

    def along(matrix: Tensor) -> Array:
        return ((matrix @ q) * q).sum(0).double().numpy()

    variance = along(covariance)
    return partial(along(lost) / along(precision), np.sqrt(along(gram) * variance), variance)


def lowest(weight: Array, share: int) -> Array:
    """Indices of the coordinates of least output weight, one in ``share``."""
    return np.sort(np.argsort(weight, kind="stable")[: max(1, len(weight) // share)])


def matched(chosen: Array, pool: Array, variance: Array) -> Array:
    """As many others of ``pool`` as are ``chosen`` (indices), as near to them in log variance as can be.

    Args:
        variance: ``[layers, d]``, above 0 for all of them; distances are added over layers, so that one set serves all.
    """
    from scipy.optimize import linear_sum_assignment

    others = np.setdiff1d(pool, chosen)
    one, other = np.log(variance[:, chosen]), np.log(variance[:, others])
    _, columns = linear_sum_assignment(np.abs(one[:, :, None] - other[:, None]).sum(0))
    return others[columns]


def varying(variance: Array) -> Array:
    """Indices of the coordinates that vary at every layer, by ``variance [layers, d]``: the others hold nothing."""
    return np.flatnonzero((variance > RANK * variance.max(1, keepdims=True)).all(0))
