"""The two numbers that make an input lens's scores mean something: their factor, and the scale of its map.

Least squares shrinks a prediction towards the mean row, the more the less it knows; the squared distance to the rows
then favours tokens whose rows lie near that mean. Moving predictions away from their mean by the scale undoes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from midstream.lens.lens import Transport
from midstream.model.product import full_float32, product
from midstream.readout.reader import Reader

SCORES = 2**24
"""Scores held at once: positions times vocabulary."""

LEAST = 64
"""Positions used at least, however large the vocabulary."""

RANGE = (1e-6, 1e6)
"""Where both are looked for: where every token is found for certain, the cross-entropy falls for ever."""

ITERATIONS = 60
HALVINGS = 20
PRECISE = 1e-4
"""Relative change at which to stop."""

TILE = 16


@dataclass(frozen=True)
class Factors:
    """How an input lens's scores are read.

    Attributes:
        beta: factor of the scores; NaN where undefined.
        scale: of the transported vectors' distances from ``mean``.
        mean: ``[d]`` float32 on the CPU, mean transported vector.
    """

    beta: float
    scale: float
    mean: Tensor

    def applied(self, move: Transport) -> Transport:
        """The map whose vectors have been scaled."""
        bias = torch.zeros_like(self.mean) if move.bias is None else move.bias
        return Transport(move.weight * self.scale, self.mean + self.scale * (bias - self.mean))


@dataclass(frozen=True)
class _Scores:
    """``u`` ``[m, V]``: what deviations from the mean give each token; ``w`` ``[V]``: what the mean gives it, and b."""

    u: Tensor
    w: Tensor
    answers: Tensor


def enough(vocabulary: int) -> int:
    """Positions that ``fit_factors`` uses."""
    return max(LEAST, SCORES // vocabulary)


def fit_factors(reader: Reader, e: Tensor, answers: Tensor, *, scaled: bool = True) -> Factors:
    """Factor and scale with the least cross-entropy of ``softmax(beta (v . E_t - |E_t|^2 / 2))``, v scaled ``e``.

    With ``v = mean + scale (e - mean)`` the scores are linear in ``a = beta scale`` and ``beta``, and the cross-entropy
    is convex in these two: Newton's method, halving steps that do not lower it.

    Args:
        reader: the input reader with factor 1.
        e: ``[m, d]`` float32, transported vectors of held-out text; answers: ``[m]`` int64.
        scaled: whether there is a scale to fit; else it is 1.
    """
    used = slice(0, enough(len(reader.weight)))
    with torch.inference_mode(), full_float32():
        e = e[used].to(reader.weight.device)
        mean = e.mean(0)
        u, w = product(e - mean, reader.weight), product(mean[None], reader.weight)[0]
        if reader.bias is not None:
            w = w + reader.bias
        scores = _Scores(u, w, answers[used].to(e.device))
        if not len(e) or not bool(torch.isfinite(u).all() and torch.isfinite(w).all()):
            return Factors(math.nan, 1.0, mean.cpu())
        a, beta = _least(scores, scaled).tolist()
    return Factors(beta, a / beta, mean.cpu())


def _least(scores: _Scores, scaled: bool) -> Tensor:
    """``(a, beta)`` float64 with the least cross-entropy."""
    theta = torch.full((2,), 1.0 / max(float((scores.u + scores.w).std(dim=1).mean()), 1e-12), dtype=torch.float64)
    theta = theta.clamp(*RANGE)
    value, slope, curve = _derivatives(scores, theta)
    for _ in range(ITERATIONS):
        step = _newton(theta, slope, curve) if scaled else (slope.sum() / curve.sum().clamp(min=1e-300)).expand(2)
        for halving in range(HALVINGS):
            new = (theta - step * 0.5**halving).clamp(*RANGE)
            found = _derivatives(scores, new)
            if found[0] <= value:
                break
        else:
            return theta
        change = float(((new - theta).abs() / theta).max())
        theta, (value, slope, curve) = new, found
        if change <= PRECISE:
            break
    return theta


def _newton(theta: Tensor, slope: Tensor, curve: Tensor) -> Tensor:
    """The step of those that may move: not one at an end of its range that would leave it."""
    free = ~((theta <= RANGE[0]) & (slope > 0) | (theta >= RANGE[1]) & (slope < 0))
    step = torch.zeros_like(theta)
    inner = curve[free][:, free]
    inner = inner + 1e-9 * torch.diag(inner.diagonal()) + 1e-300 * torch.eye(len(inner), dtype=inner.dtype)
    step[free] = torch.linalg.solve(inner, slope[free])
    return step


def _derivatives(scores: _Scores, theta: Tensor) -> tuple[float, Tensor, Tensor]:
    """Mean cross-entropy, its gradient ``[2]`` and its second derivatives ``[2, 2]`` by ``(a, beta)``, in float64."""
    a, beta = theta.tolist()
    value, slope, curve = 0.0, torch.zeros(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    w, square = scores.w, scores.w.square()
    for start in range(0, len(scores.u), TILE):
        u, own = scores.u[start : start + TILE], scores.answers[start : start + TILE, None]
        p = torch.log_softmax(torch.add(beta * w, u, alpha=a), 1)
        value -= float(p.gather(1, own).sum(dtype=torch.float64))
        p.exp_()
        weighted = p * u
        first = torch.stack([weighted.sum(1), p @ w], 1).double()
        second = torch.stack([(weighted * u).sum(1), weighted @ w, p @ square], 1).double().sum(0).cpu()
        slope += (first - torch.stack([u.gather(1, own)[:, 0], w[own[:, 0]]], 1)).sum(0).cpu()
        curve += second[torch.tensor([[0, 1], [1, 2]])] - (first.T @ first).cpu()
    return value / len(scores.u), slope / len(scores.u), curve / len(scores.u)
