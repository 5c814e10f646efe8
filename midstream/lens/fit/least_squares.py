"""Affine maps by least squares from streamed sums: one factorisation a layer, ridge chosen on held-out text.

Of x and y, the inputs and targets about the means of the fit documents, ``C = sum x x^T = Q diag(e) Q^T`` and
``W = Q^T sum x y^T``; the map of ridge r is ``A^T = Q diag(1 / (e + r)) W``. All targets and all ridges share C's
factorisation. The squared error on the held-out documents is exact from their own sums ``H = Q^T sum x x^T Q`` and
``G = Q^T sum x y^T``, taken about the same means: ``sum |y|^2 - 2 u.diag(W G^T) + u^T (H * W W^T) u`` with
``u = 1 / (e + r)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.lens.fit.sums import Calibration, Key, Moments, Sums
from midstream.lens.lens import Transport

RIDGES = tuple(10.0 ** (step / 2) for step in range(-20, 5))
"""Ridge strengths tried, in units of the mean eigenvalue of C."""

SLACK = 0.01
"""How much more squared error than the least a smaller ridge may leave where the target is an input row.

Such a map is read by the nearest row, which for rare tokens is told by what a ridge shrinks first; squared error, of
frequent tokens mostly, hardly sees that. Measured: LOG, 2026-11-30."""

FIT_RATIO = 4
"""Positions that a fit needs for each dimension of the stream: with fewer, a map follows the noise of its text."""

HELD_OUT = 128
"""Held-out positions that a ridge needs to be chosen on."""


@dataclass(frozen=True)
class Fitted:
    """One map and how well it does.

    Attributes:
        transport: float32.
        ridge: what was chosen, in units of the mean eigenvalue.
        fvu_fit, fvu_held: fraction of variance unexplained, on the fit and on the held-out documents.
    """

    transport: Transport
    ridge: float
    fvu_fit: float
    fvu_held: float


def steadying(count: int) -> tuple[float, ...]:
    """The ridges that are worth a position or more where a fit has ``count``: with less, the text alone says how far a
    map may go along what it hardly has, and what it never had (a byte, say) is sent anywhere."""
    return tuple(ridge for ridge in RIDGES if ridge * count >= 1)


def check_enough(fit: int, held: int, width: int) -> None:
    """Raise RequestError unless there are positions enough, ``fit`` and held-out ones, for maps of ``width`` inputs."""
    needed = FIT_RATIO * width
    if fit < needed:
        raise RequestError(
            f"the text has {fit:,} usable tokens to fit with, too few for a stable fit: at least {needed:,} are needed "
            f"({FIT_RATIO} for each of the model's {width} dimensions), and {HELD_OUT} more held out. Give a larger "
            "corpus or more --tokens."
        )
    if held < HELD_OUT:
        raise RequestError(
            f"the held-out tenth of the text has {held:,} usable tokens, beside {fit:,} to fit with: at least "
            f"{HELD_OUT} are needed to choose the ridge. Give a larger corpus, more --tokens or another --seed; a "
            "corpus of one document cannot be split (a line holding only <|endofdoc|> parts two)."
        )


def _check(fit: Sums, held: Sums) -> None:
    """The same for every map: some positions may have been left out."""
    for key, moments in fit.moments.items():
        if key[0] == "stream":  # a baseline has inputs enough: its ridge takes care of the rest
            check_enough(moments.count, held.moments[key].count, len(moments.x))


def solve(
    fit: Sums, held: Sums, *, ridges: Sequence[float] = RIDGES, advance: Callable[[int], None] | None = None
) -> dict[tuple[Key, str], Fitted]:
    """The best map of every key to every target; ``advance`` is told of each key that is done.

    ``ridges``: strengths to choose from, in units of the mean eigenvalue of the input's sums.

    Raises RequestError where there are too few positions.
    """
    _check(fit, held)
    found: dict[tuple[Key, str], Fitted] = {}
    for key, moments in fit.moments.items():
        maps = _solve(fit.calibration, key, moments, held.moments[key], ridges=ridges)
        found |= {(key, target): fitted for target, fitted in maps.items()}
        if advance is not None:
            advance(1)
    return found


def solve_shared(fit: Sums, held: Sums, target: str) -> tuple[Fitted, dict[Key, float]]:
    """One map for all stream keys together, and its held-out FVU at each."""
    _check(fit, held)
    keys = [key for key in fit.moments if key[0] == "stream"]
    calibration = fit.calibration
    widths = [len(shift) for shift in calibration.targets.values()]
    none = torch.zeros(sum(widths), dtype=torch.float64)
    center = torch.stack([calibration.shifts[key].double() for key in keys]).mean(0)

    def added(sums: Sums) -> Moments:
        total = Moments.zero(len(center), sum(widths), len(widths))
        for key in keys:
            total = total.plus(sums.moments[key].moved(calibration.shifts[key].double() - center, none, widths))
        return total

    about = Calibration({keys[0]: center}, calibration.targets, {keys[0]: float("inf")}, calibration.last)
    best = _solve(about, keys[0], added(fit), added(held), [target])[target]
    return best, {key: fvu(held, key, target, best.transport) for key in keys}


def fvu(sums: Sums, key: Key, target: str, transport: Transport) -> float:
    """Fraction of the target's variance over these documents that a map leaves unexplained; NaN without variance."""
    calibration, moments = sums.calibration, sums.moments[key]
    part = _Part.of(calibration, moments, target)
    weight = transport.weight.double().cpu()
    shift = calibration.shifts[key].double()
    offset = weight @ shift - calibration.targets[target].double()
    if transport.bias is not None:
        offset = offset + transport.bias.double().cpu()
    # error of y' - (A x' + offset)
    mapped = weight @ moments.x
    error = (
        part.yy
        - 2 * (weight.T * part.xy).sum()
        + (weight @ moments.xx * weight).sum()
        + 2 * offset @ (mapped - part.y)
        + moments.count * offset @ offset
    )
    return _ratio(float(error), part.variance(moments.count))


class _Part(NamedTuple):
    """The sums of one target among those of all."""

    y: Tensor
    xy: Tensor
    yy: float

    @classmethod
    def of(cls, calibration: Calibration, moments: Moments, target: str) -> _Part:
        columns = calibration.columns(target)
        number = list(calibration.targets).index(target)
        return cls(moments.y[columns], moments.xy[:, columns], float(moments.yy[number]))

    def variance(self, count: int) -> float:
        """Sum of squares about these documents' own mean."""
        return self.yy - float(self.y @ self.y) / max(count, 1)


def _solve(
    calibration: Calibration,
    key: Key,
    fit: Moments,
    held: Moments,
    targets: Sequence[str] | None = None,
    ridges: Sequence[float] = RIDGES,
) -> dict[str, Fitted]:
    widths = [len(shift) for shift in calibration.targets.values()]
    x_mean, y_mean = fit.x / fit.count, fit.y / fit.count
    seen, unseen = fit.moved(-x_mean, -y_mean, widths), held.moved(-x_mean, -y_mean, widths)
    values, basis = torch.linalg.eigh(seen.xx)
    values = values.clamp(min=0)
    unit = float(values.mean())
    if not unit > 0:
        raise RequestError(f"the input of {key[0]} {key[1]} does not vary over this text: nothing can be fitted on it.")
    rotated = basis.T @ unseen.xx @ basis
    inverse = torch.stack([1 / (values + ridge * unit) for ridge in ridges])
    found: dict[str, Fitted] = {}
    for target in targets or calibration.targets:
        mine, its = _Part.of(calibration, seen, target), _Part.of(calibration, unseen, target)
        w, g = basis.T @ mine.xy, basis.T @ its.xy
        cross = rotated * (w @ w.T)
        errors = its.yy - 2 * inverse @ (w * g).sum(1) + torch.einsum("rj,jk,rk->r", inverse, cross, inverse)
        best = _chosen(errors, steadying(fit.count) if target.startswith("row") else (), ridges)
        u = inverse[best]
        weight = (basis @ (u[:, None] * w)).T
        own = mine.yy - float(((2 * u - u.square() * values)[:, None] * w.square()).sum())
        columns = calibration.columns(target)
        bias = calibration.targets[target].double() + y_mean[columns]
        bias = bias - weight @ (calibration.shifts[key].double() + x_mean)
        found[target] = Fitted(
            Transport(weight.float().contiguous(), bias.float()),
            ridges[best],
            _ratio(own, mine.yy),
            _ratio(float(errors[best]), its.variance(held.count)),
        )
    return found


def _chosen(errors: Tensor, preferred: Sequence[float], ridges: Sequence[float]) -> int:
    """Of ridges from the smallest on: the first preferred one whose error is near the least, else that of the least."""
    near = (1 + SLACK) * float(errors.min())
    fit = [number for number, ridge in enumerate(ridges) if ridge in preferred and float(errors[number]) <= near]
    return fit[0] if fit else int(errors.argmin())


def _ratio(error: float, variance: float) -> float:
    # the error of a perfect map is a difference of large sums: what rounding leaves of it may be below zero
    return max(error, 0.0) / variance if variance > 0 else float("nan")
