"""Which modules' outputs a block adds to the stream, found from the values of one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from midstream.model.hook import Side
from midstream.model.observe import Event, Observation


@dataclass(frozen=True)
class Tap:
    """Where a site of one block is seen: ``scale`` times the first input or output of ``module``, plus ``also``."""

    module: nn.Module
    side: Side
    scale: float = 1.0
    also: Tap | None = None


@dataclass(frozen=True, eq=False)
class Term:
    """One addend: a constant times what came out of a module."""

    event: Event
    scale: float

    def tap(self, also: Tap | None = None) -> Tap:
        """The tap that shows this addend."""
        return Tap(self.event.module, self.event.side, self.scale, also)


ROUNDING = 2.0
"""Largest error of a sum, in units of the rounding of its terms, that still counts as equal."""

Sites = dict[str, Tap]
"""Site -> where it is seen, for one block."""


def sites_of(seen: Observation, block: nn.Module) -> Sites | None:
    """The sites of ``block``; with ``resid_mid`` where one part follows the other, without where they are parallel.

    ``None`` if no two parts add up to what the block does. A part is one module's output times a constant, or the sum
    of two (a mixture of experts beside a shared expert, attention beside a state-space mixer).
    """
    start, end = seen.at(block, "input"), seen.at(block, "output")
    if start is None or end is None:
        return None
    inside = [e for e in seen.within(block) if seen.calls[id(e.module)] == 1 and start.order < e.order < end.order]
    outputs = [event for event in inside if event.side == "output"]
    post = Tap(block, "output")
    middles = _middles(inside, start, end)
    for most, middle in [(most, middle) for most in (1, 2) for middle in middles]:
        before = [event for event in outputs if event.order < middle.order]
        after = [event for event in outputs if event.order > middle.order]
        attention = explain(
            middle.value - start.value, before, seen.epsilon * _size(start, middle), seen.constants, most
        )
        mlp = explain(end.value - middle.value, after, seen.epsilon * _size(middle, end), seen.constants, most)
        if attention and mlp:
            mid = Tap(middle.module, middle.side)
            return {"resid_mid": mid, "attn_out": _sum(attention), "mlp_out": _sum(mlp), "resid_post": post}
    both = explain(end.value - start.value, outputs, seen.epsilon * _size(start, end), seen.constants, 2)
    if both is None or len(both) < 2:
        return None
    attention, mlp = sorted(both, key=lambda term: ("att" not in term.event.path.rpartition(".")[2], term.event.order))
    return {"attn_out": attention.tap(), "mlp_out": mlp.tap(), "resid_post": post}


def explain(
    target: Tensor, events: Sequence[Event], size: Tensor, constants: Sequence[float], most: int
) -> list[Term] | None:
    """The outputs, as few as will do, that times constants add up to ``target``; ``None`` if there are none.

    Args:
        target: ``[rows, d]``.
        size: ``[rows]``, the error that rounding makes.
        constants: preferred where one of them lies near.
        most: how many outputs may be added, 1 or 2.
    """
    kept = _distinct(events)
    for count in range(1, most + 1):
        fits = [(*_fit(target, group, size, constants), group) for group in _groups(target, kept, count)]
        error, scales, group = min(fits, key=lambda fit: fit[0], default=(float("inf"), (), ()))
        if error <= ROUNDING:
            return [Term(event, scale) for event, scale in zip(group, scales, strict=True)]
    return None


def nearest(value: float, constants: Sequence[float], tolerance: float) -> float:
    """The constant next to ``value`` if it lies within ``tolerance``, relative; else ``value``."""
    best = min(constants, key=lambda constant: abs(constant - value))
    return best if abs(best - value) <= tolerance * abs(value) else value


def ratio(target: Tensor, source: Tensor) -> tuple[float, float]:
    """The constant c that brings ``c source`` nearest to ``target``, and the largest relative error of a row."""
    t, s = target.double(), source.double()
    scale = float((t * s).sum() / (s * s).sum().clamp(min=1e-300))
    error = ((t - scale * s).norm(dim=-1) / t.norm(dim=-1).clamp(min=1e-300)).max()
    return scale, float(error)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether both hold the same numbers, up to what another order of the same products changes."""
    return a.shape == b.shape and bool((a - b).norm() <= 1e-6 * b.norm())


def _middles(inside: Sequence[Event], start: Event, end: Event) -> list[Event]:
    """Inputs of modules that may be the stream between the two parts, the outermost first."""
    found = [
        event
        for event in inside
        if event.side == "input" and not same(event.value, start.value) and not same(event.value, end.value)
    ]
    return sorted(_distinct(found), key=lambda event: (event.depth, event.order))


def _size(a: Event, b: Event) -> Tensor:
    return a.value.norm(dim=-1) + b.value.norm(dim=-1)


def _distinct(events: Sequence[Event]) -> list[Event]:
    """One event for each value: the outermost module, the earliest of those."""
    kept: list[Event] = []
    for event in sorted(events, key=lambda event: (event.depth, event.order)):
        if not any(torch.equal(event.value, other.value) for other in kept):
            kept.append(event)
    return kept


def _groups(target: Tensor, events: Sequence[Event], count: int) -> list[tuple[Event, ...]]:
    """The groups of ``count`` outputs whose combinations come near ``target`` at all (least squares)."""
    if count == 1:
        return [(event,) for event in events]
    values = torch.stack([event.value.flatten() for event in events]).double() if events else torch.empty(0, 1)
    gram, products = values @ values.T, values @ target.flatten().double() if len(events) else values
    whole = float(target.double().square().sum())
    near: list[tuple[Event, ...]] = []
    for i, j in combinations(range(len(events)), 2):
        pair = [i, j]
        matrix, right = gram[pair][:, pair], products[pair]
        if float(torch.linalg.det(matrix)) <= 1e-9 * float(matrix[0, 0] * matrix[1, 1]):
            continue
        left = whole - float(right @ torch.linalg.solve(matrix, right))
        if left <= 1e-3 * whole:
            near.append((events[i], events[j]))
    return near


def _fit(
    target: Tensor, group: tuple[Event, ...], size: Tensor, constants: Sequence[float]
) -> tuple[float, tuple[float, ...]]:
    """Error in units of ``size`` (largest row), and the factors: ones, else constants, wherever those will do."""
    values = torch.stack([event.value for event in group]).double()

    def error(factors: Sequence[float]) -> float:
        sum_ = torch.einsum("g,gnd->nd", torch.tensor(factors, dtype=torch.float64), values)
        return float(((target.double() - sum_).norm(dim=-1) / size.double()).max())

    ones = (1.0,) * len(group)
    if error(ones) <= ROUNDING:
        return error(ones), ones
    flat = values.flatten(1)
    fitted = torch.linalg.lstsq(flat @ flat.T, flat @ target.double().flatten()[:, None]).solution[:, 0].tolist()
    settled = tuple(nearest(factor, constants, 3e-2) for factor in fitted)
    return (error(settled), settled) if error(settled) <= ROUNDING else (error(fitted), tuple(fitted))


def _sum(terms: Sequence[Term]) -> Tap:
    tap: Tap | None = None
    for term in reversed(terms):
        tap = term.tap(tap)
    assert tap is not None
    return tap
