"""Names written beside the curves of a figure, each where it has most room, instead of a legend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from midstream.record import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 7.0
"""Points of a name."""


@dataclass(frozen=True, eq=False)
class Line:
    """A curve ``[layers]`` that is drawn, its name (empty: only to be kept clear of) and colour; ``soft``: smaller."""

    name: str
    colour: str
    x: Array
    y: Array
    soft: bool = False


def write(axes: Axes, lines: list[Line]) -> None:
    """Write each line's name above or below it, where the nearest curve and name are farthest; axes must have limits.

    Greedy: the lines in order, each among 40 places along it and two sides; distances in points.
    """
    frame = axes.get_window_extent()
    points = 72.0 / float(axes.figure.dpi)  # window units to points
    wide, high = frame.width * points, frame.height * points
    drawn = [_points(axes, line, points) for line in lines]
    taken: list[tuple[float, float, float]] = []
    for line, (xs, ys) in zip(lines, drawn, strict=True):
        size = SIZE - line.soft
        half = 0.3 * size * len(line.name)
        if not len(xs) or not line.name:
            continue
        best = (-np.inf, 0.0, 0.0)
        for x in np.linspace(max(xs[0], half + 2), min(xs[-1], wide - half - 2), 40):
            for side in (1.0, -1.0):
                reach = np.linspace(x - half, x + half, 9)
                own = np.interp(reach, xs, ys)
                y = float(own.max() if side > 0 else own.min()) + side * (0.72 * size + 1.0)
                if not 0.5 * size < y < high - 0.5 * size:
                    continue
                room = min([_clear(reach, y, other) for other in drawn if other[0] is not xs] + [4 * SIZE])
                for left, right, level in taken:
                    if x + half > left - 3 and x - half < right + 3:
                        room = min(room, abs(y - level) - 0.5 * size)
                room -= 0.2 * float(own.max() - own.min()) + 0.01 * abs(
                    x - wide / 2
                )  # beside a level part, near the middle
                if room > best[0] + 1e-9:
                    best = (room, float(x), y)
        _, x, y = best
        taken.append((x - half, x + half, y))
        name = axes.annotate(
            line.name, (x, y), xycoords="axes points", color=line.colour, fontsize=size,
            ha="center", va="center_baseline", weight="normal" if line.soft else "bold",
            bbox={"boxstyle": "square,pad=0.04", "fc": "white", "ec": "none", "alpha": 0.6},
        )  # fmt: skip
        name.set_in_layout(False)  # it stands in its axes and must not move them


def _points(axes: Axes, line: Line, points: float) -> tuple[Array, Array]:
    """The line in points from the lower left corner of the axes, what is undefined left out."""
    known = np.isfinite(line.y)
    frame = axes.get_window_extent()
    at = axes.transData.transform(np.stack([line.x[known], line.y[known]], axis=1))
    return (at[:, 0] - frame.x0) * points, (at[:, 1] - frame.y0) * points


def _clear(reach: Array, y: float, other: tuple[Array, Array]) -> float:
    """Points between a name at height ``y`` and another line, as far as that runs along it."""
    xs, ys = other
    beside = reach[(reach >= xs[0]) & (reach <= xs[-1])] if len(xs) else reach[:0]
    return float(np.abs(np.interp(beside, xs, ys) - y).min()) if len(beside) else np.inf
