"""The factor of an input lens's scores: the one number that makes its log-probabilities mean something."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from midstream.model.product import full_float32, product
from midstream.readout.reader import Reader

SCORES = 2**24
"""Scores held at once: positions times vocabulary."""

LEAST = 64
"""Positions used at least, however large the vocabulary."""

RANGE = (1e-6, 1e6)
"""Where the factor is looked for: where every token is found for certain, the cross-entropy falls for ever."""

ITERATIONS = 60
PRECISE = 1e-4
"""Relative change at which to stop."""

TILE = 64


def enough(vocabulary: int) -> int:
    """Positions that ``fit_beta`` uses."""
    return max(LEAST, SCORES // vocabulary)


def fit_beta(reader: Reader, e: Tensor, answers: Tensor) -> float:
    """The factor beta > 0 with the least cross-entropy of ``softmax(beta (e . E_t - |E_t|^2 / 2))``; NaN if undefined.

    The cross-entropy is convex in beta; Newton's method on it, halving the bracket (in the logarithm) where it would
    leave that.

    Args:
        reader: the input reader with factor 1.
        e: ``[m, d]`` float32, transported vectors of held-out text; answers: ``[m]`` int64.
    """
    used = slice(0, enough(len(reader.weight)))
    answers = answers[used].to(e.device)
    with torch.inference_mode(), full_float32():
        z = product(e[used], reader.weight)
        if reader.bias is not None:
            z += reader.bias
        own = z.gather(1, answers[:, None])[:, 0].double()
        if not len(z) or not bool(torch.isfinite(own).all()):
            return math.nan
        low, high = RANGE
        beta = 1.0 / max(float(z.std(dim=1).mean()), 1e-12)
        for _ in range(ITERATIONS):
            beta = min(max(beta, low), high)
            slope, curve = _derivatives(z, own, beta)
            low, high = (beta, high) if slope < 0 else (low, beta)
            newton = beta - slope / curve if curve > 0 else math.inf
            new = newton if low < newton < high else math.sqrt(low * high)
            if abs(new - beta) <= PRECISE * beta:
                return new
            beta = new
    return beta


def _derivatives(z: Tensor, own: Tensor, beta: float) -> tuple[float, float]:
    """First and second derivative of the mean cross-entropy by beta: ``E_p[z] - z_t`` and ``Var_p[z]``."""
    first = second = 0.0
    for start in range(0, len(z), TILE):
        tile = z[start : start + TILE]
        p = torch.softmax(tile * beta, 1)
        mean = (p * tile).sum(1, keepdim=True)
        first += float((mean[:, 0].double() - own[start : start + TILE]).sum())
        second += float((p * (tile - mean).square_()).sum(dtype=torch.float64))
    return first / len(z), second / len(z)
