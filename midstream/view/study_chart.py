"""A study's chart -> a figure: curves with bands or error bars, controls quieter, each named at its right end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from midstream.record import Array
from midstream.study.report import Chart, Line
from midstream.view import figure_file
from midstream.view.curve_panel import HUES, SOFT, SPARE
from midstream.view.study_text import prose

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (6.0, 3.8)
"""Inches: a column of print, or a phone's width at little more than half size."""

TEXT, TITLE = 11.0, 12.0
"""Points; large for print, since a phone shows five sixths of a CSS pixel a point."""

FEW = 8
"""Values on x up to which a curve is points with error bars, set beside each other; more of them have bands."""

MAIN = tuple(HUES[name] for name in ("tuned", "shortcut", "jacobian", "future", "input")) + SPARE
GREY = ("#5b6270", "#737a86", "#3d434d")
MARKERS, QUIET = "os^Dv", "X+x"
DASHES: tuple[Any, ...] = ((0, (4, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))
"""Colours, markers and dashes in order: lines differ in more than colour."""

WRAP, TITLED = 17, 58
"""Characters of a line in a curve's name, and in the title."""


def save(chart: Chart, path: str | Path) -> None:
    """Draw the chart and write it to ``path``, whole or not at all, as its ending says.

    The same chart gives the same bytes. Raises RequestError: unknown ending, or a folder that cannot be written.
    """
    figure_file.save(path, lambda: _draw(chart))


def render(chart: Chart, kind: str = "svg") -> bytes:
    """The figure as the bytes of an ``svg``, ``png`` or ``pdf`` file."""
    return figure_file.render(kind, lambda: _draw(chart))


class _Look(NamedTuple):
    colour: str
    marker: str
    dash: Any
    front: float


def _draw(chart: Chart) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    few = len({x for line in chart.lines for x in line.x}) <= FEW
    looks = list(_looks(chart.lines))
    moved = _beside(chart.lines) if few else [0.0] * len(chart.lines)
    ends = [
        _line(axes, line, look, few=few, shift=shift)
        for line, look, shift in zip(chart.lines, looks, moved, strict=True)
    ]
    _dress(axes, chart)
    _names(figure, axes, chart.lines, looks, ends)
    return figure


def _looks(lines: Sequence[Line]) -> Iterator[_Look]:
    main = quiet = 0
    for line in lines:
        if line.role == "control":
            yield _Look(GREY[quiet % 3], QUIET[quiet % 3], DASHES[quiet % 3], 2.0)
            quiet += 1
        else:
            yield _Look(MAIN[main % len(MAIN)], MARKERS[main % 5], "-", 3.0)
            main += 1


def _beside(lines: Sequence[Line]) -> list[float]:
    """How far each line moves along x, so that error bars at one value stand side by side: a third of a step in all."""
    xs = np.unique([x for line in lines for x in line.x])
    step = float(np.diff(xs).min()) if len(xs) > 1 else 1.0
    return [(i - (len(lines) - 1) / 2) * min(0.06, 0.33 / max(len(lines) - 1, 1)) * step for i in range(len(lines))]


def _line(axes: Axes, line: Line, look: _Look, *, few: bool, shift: float) -> tuple[float, float]:
    """Draw the line with its bars or band; returns its last point, NaN where it has none."""
    order = np.argsort(line.x, kind="stable")
    x, y, low, high = (np.asarray(part, np.float64)[order] for part in (line.x, line.y, line.low, line.high))
    x, width = x + shift, 1.3 if look.front < 3 else 1.9
    axes.plot(
        x, y, color=look.colour, ls=look.dash, lw=width, marker=look.marker if few else "", ms=5.5, zorder=look.front
    )
    known = np.isfinite(low) & np.isfinite(high)
    barred = known & np.isfinite(y) if few else known & ~_run(known)
    if not few:
        axes.fill_between(x, low, high, color=look.colour, alpha=0.16, lw=0, zorder=look.front - 1)
    axes.vlines(x[barred], low[barred], high[barred], color=look.colour, lw=width, zorder=look.front)
    at = np.flatnonzero(np.isfinite(y))
    return (float(x[at[-1]]), float(y[at[-1]])) if len(at) else (np.nan, np.nan)


def _run(known: Array) -> Array:
    """Where a band can be filled: a defined place beside another."""
    padded = np.concatenate([[False], known, [False]])
    return known & (padded[:-2] | padded[2:])


def _dress(axes: Axes, chart: Chart) -> None:
    """Axes, limits, the line at 0, ticks and texts."""
    from matplotlib.ticker import MaxNLocator

    axes.margins(x=0.04, y=0.08)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.grid(axis="y", color="#e4e6e1", lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=TEXT, length=3, width=0.7, color=SOFT)
    bottom, top = axes.get_ylim()
    if not any(np.isfinite(line.y).any() for line in chart.lines):
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no value is defined", transform=axes.transAxes, ha="center", fontsize=TEXT, color=SOFT)
    elif bottom <= 0 <= top:
        axes.axhline(0, color="#14181f", lw=1.0, zorder=1.5)
        axes.set_ylim(bottom, top)
    axes.set_xlabel(prose(chart.x), fontsize=TEXT)
    axes.set_ylabel(fill(prose(chart.y), 34), fontsize=TEXT)
    if chart.ticks:
        words = [fill(prose(text), 12) for _, text in chart.ticks]
        long = max(len(part) for word in words for part in word.split("\n")) * len(words) > 44
        axes.set_xticks(
            [at for at, _ in chart.ticks], words, rotation=30 if long else 0, ha="right" if long else "center",
            rotation_mode="anchor" if long else "default",
        )  # fmt: skip
    elif all(float(x).is_integer() for line in chart.lines for x in line.x):
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))  # there is no layer 2.5
    axes.set_title(fill(prose(chart.title), TITLED), loc="left", fontsize=TITLE, weight="bold", x=0)


def _names(
    figure: Figure, axes: Axes, lines: Sequence[Line], looks: list[_Look], ends: list[tuple[float, float]]
) -> None:
    """The names right of the axes, each as near its line's end as the others let it; a legend below where none fit."""
    words = [fill(prose(line.name), WRAP) for line in lines]
    figure.draw_without_rendering()
    points = 72.0 / figure.dpi
    frame = axes.get_window_extent()
    heights = [(1.2 * (word.count("\n") + 1) * (TEXT - 1) + 3) / points / frame.height for word in words]
    named = [i for i, word in enumerate(words) if word and np.isfinite(ends[i][1])]
    if sum(heights[i] for i in named) > 1.0:
        _legend(figure, axes, words, looks)
        return
    own = {i: float(axes.transAxes.inverted().transform(axes.transData.transform(ends[i]))[1]) for i in named}
    for i, y in _spread(own, heights).items():
        axes.annotate(
            words[i], ends[i], xytext=(1.035, y), textcoords="axes fraction", color=looks[i].colour,
            fontsize=TEXT - 1, weight="normal" if looks[i].front < 3 else "bold", va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": looks[i].colour, "lw": 0.7, "alpha": 0.6, "shrinkA": 1,
                        "shrinkB": 4, "relpos": (0, 0.5)},
        )  # fmt: skip


def _spread(own: dict[int, float], heights: list[float]) -> dict[int, float]:
    """Heights in the axes, 0 to 1, in the order of the lines' ends, no name over another; their sum must be 1 at most.

    As near the ends as they go in least squares: names that would overlap make a block about their ends' middle.
    """
    order = sorted(own, key=lambda i: (own[i], i))
    above = np.cumsum([0.0, *(heights[i] for i in order)])
    wanted = [own[i] - float(above[n]) - heights[i] / 2 for n, i in enumerate(order)]
    blocks: list[tuple[float, int]] = []
    for low in wanted:
        blocks.append((low, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (first, many), (second, more) = blocks[-2:]
            blocks[-2:] = [((first * many + second * more) / (many + more), many + more)]
    floors = [low for low, many in blocks for _ in range(many)]
    room = 1.0 - float(above[-1])
    return {i: min(max(floors[n], 0.0), room) + float(above[n]) + heights[i] / 2 for n, i in enumerate(order)}


def _legend(figure: Figure, axes: Axes, words: list[str], looks: list[_Look]) -> None:
    """A legend below the axes, for which the figure grows."""
    figure.set_size_inches(SIZE[0], SIZE[1] + 0.2 * -(-len(words) // 2))
    keys = [axes.lines[n] for n in range(len(looks))]  # the lines were drawn first
    figure.legend(
        keys, [word.replace("\n", " ") for word in words], loc="outside lower left", ncols=2, frameon=False,
        fontsize=TEXT - 1,
    )  # fmt: skip
