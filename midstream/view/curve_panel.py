"""Curves of averages over layers in a panel of a figure: colours of lenses, bands, and the scale that shows both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from midstream.record import Array
from midstream.view import label_place
from midstream.view.measure import Curve, Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HUES = {
    "logit": "#5b6270", "shortcut": "#c2500a", "tuned": "#0067a5", "jacobian": "#00795a", "future": "#9c2f7f",
    "input": "#7a6200",
}  # fmt: skip
"""A colour a kind of lens, the same in every figure; told apart with any colour vision, and dark enough for text."""

SPARE = ("#3f3fbf", "#8c1d18", "#1f6f8b", "#4d4d00")
"""For lenses of other names, in order."""

FAR = 3.0
"""Nats from which on a panel is spaced as the grid is: what lies near 0 matters most, but a few values lie far away."""

_STEPS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_FINE = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 75.0, 100.0)

SOFT = "#5a626e"
"""Ink of notes, and of what stands behind."""


def colours(lenses: Iterable[str]) -> dict[str, str]:
    """Lens -> colour: the hue of its kind, paler for a higher number; a baseline, ``lens | name``, has its lens's."""
    made: dict[str, str] = {}
    spare = 0
    for lens in dict.fromkeys(name.partition(" | ")[0] for name in lenses):
        kind, _, number = lens.partition(" ")[0].partition(":")
        if kind in HUES:
            pale = min(int(number[0]), 4) * 0.13 if number[:1].isdigit() else 0.0
            made[lens] = _paler(HUES[kind], pale)
        else:
            made[lens] = SPARE[spare % len(SPARE)]
            spare += 1
    return made


def _paler(colour: str, share: float) -> str:
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * share):02x}" for part in parts)


def line(axes: Axes, curve: Curve, name: str, colour: str, shown: Measure, *, dash: Any = "-") -> label_place.Line:
    """Draw the curve with its band; returns where its ``name`` may stand."""
    value, low, high = (shown.factor * part for part in (curve.value, curve.low, curve.high))
    axes.plot(curve.layers, value, color=colour, lw=1.4, ls=dash, marker="o" if len(value) < 12 else "", ms=2.5)
    axes.fill_between(curve.layers, low, high, color=colour, alpha=0.2, lw=0)
    return label_place.Line(name, colour, curve.layers.astype(float), value)


def scale(axes: Axes, shown: Measure, found: list[Curve]) -> None:
    """Scale and limits, so that the curves and their whole bands are seen."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e6e1", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7, length=2.5, width=0.5)
    parts = [part for curve in found for part in (curve.value, *(() if curve.baseline else (curve.low, curve.high)))]
    if any(curve.against for curve in found):
        parts.append(np.zeros(1))
    drawn = shown.factor * np.concatenate(parts)
    known = drawn[np.isfinite(drawn)] if np.isfinite(drawn).any() else np.zeros(1)
    low, high = float(known.min()), float(known.max())
    far = shown.unit == "nats" and max(-low, high) > FAR
    ends = _near(np.array([low, high])) if far else np.array([low, high])
    ends += np.array([-0.12, 0.12]) * max(float(ends[1] - ends[0]), 1e-9)  # room for the names
    if far:
        axes.set_yscale("function", functions=(_near, _far))
        ticks = _ticks(ends)
        axes.set_yticks(ticks, [f"{v:g}".replace("-", "−") for v in ticks])
    axes.set_ylim(*(_far(ends) if far else ends))


def _ticks(ends: Array) -> list[float]:
    """Round values between the ends (transformed as the axis is), none too near another; finer ones where few fit."""
    apart = 0.11 * float(np.ptp(ends))
    kept: list[float] = []
    for steps in (_STEPS, _FINE):
        kept = []
        for tick in sorted((sign * step for step in steps for sign in (1, -1)), key=abs):
            at = float(_near(np.array(tick)))
            if ends[0] <= at <= ends[1] and all(abs(at - float(_near(np.array(other)))) > apart for other in kept):
                kept.append(tick + 0.0)
        if len(kept) > 2:
            break
    return sorted(kept)


def _near(value: Array) -> Array:
    return np.sign(value) * np.log1p(np.abs(value))


def _far(value: Array) -> Array:
    return np.sign(value) * np.expm1(np.abs(value))
