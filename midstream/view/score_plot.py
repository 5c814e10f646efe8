"""Scores -> a figure for a paper: curves by layer with bands, a panel a measure, paired differences beneath."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from midstream.record import ScoreTable
from midstream.view import figure_file, label_place
from midstream.view import measure as marks
from midstream.view.curve_panel import SOFT, SPARE, colours, line, scale
from midstream.view.measure import Curve, Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 3
"""Panels side by side."""

PANEL = (3.0, 2.3, 1.5)
"""Inches: width of a panel, height of its curves and of the differences beneath."""


def save(score: ScoreTable, path: str | Path, *, measures: Sequence[str] | None = None) -> None:
    """Draw the curves and write them to ``path``, whole or not at all; the same score gives the same bytes.

    ``measures``: which, in which order; None: all that there are by layer.
    Raises RequestError: unknown ending or measure, nothing by layer, or a folder that cannot be written.
    """
    figure_file.save(path, lambda: _draw(score, marks.chosen(score, measures)))


def render(score: ScoreTable, kind: str, *, measures: Sequence[str] | None = None) -> bytes:
    """The figure as the bytes of an ``svg``, ``png`` or ``pdf`` file. Raises RequestError."""
    return figure_file.render(kind, lambda: _draw(score, marks.chosen(score, measures)))


def _draw(score: ScoreTable, names: list[str]) -> Figure:
    from matplotlib.figure import Figure

    blocks = [names[start : start + ACROSS] for start in range(0, len(names), ACROSS)]
    paired = {name: [c for c in marks.curves(score, name, paired=True) if len(c.layers)] for name in names}
    tall = [any(paired[name] for name in block) for block in blocks]
    wide, curve, difference = PANEL
    height = sum(curve + difference * lower for lower in tall)
    figure = Figure(figsize=(wide * min(len(names), ACROSS), height), layout="constrained")
    ratios = [ratio for lower in tall for ratio in ([curve, difference] if lower else [curve])]
    places = figure.add_gridspec(len(ratios), min(len(names), ACROSS), height_ratios=ratios)
    hues = colours(score.columns["lens"].tolist())
    level = 0
    panels: list[tuple[Axes, list[label_place.Line]]] = []
    for block, lower in zip(blocks, tall, strict=True):
        for column, name in enumerate(block):
            shown = marks.measure(score, name)
            axes = figure.add_subplot(places[level, column])
            found = [c for c in marks.curves(score, name, paired=False) if len(c.layers)]
            panels.append((axes, _panel(axes, found, shown, hues, score.layers)))
            if paired[name]:
                below = figure.add_subplot(places[level + 1, column], sharex=axes)
                axes.tick_params(labelbottom=False)
                panels.append((below, _differences(below, paired[name], shown, hues)))
            else:
                axes.set_xlabel("layer", fontsize=7)
        level += 1 + lower
    figure.supxlabel(_note(score), fontsize=6.5, color=SOFT, x=0.01, ha="left")
    figure.draw_without_rendering()  # now every axis has its place and limits
    for axes, lines in panels:
        label_place.write(axes, lines)
    return figure


def _note(score: ScoreTable) -> str:
    columns = score.columns
    at = int(np.argmax(columns["layer"] >= 0))
    band = "bands: " if np.isfinite(columns["low"]).any() else "no "
    units = f"{columns['clusters'][at]:,} clusters, {columns['documents'][at]:,} documents"
    return f"{score.provenance.model}; {band}{100 * columns['level'][at]:g} % intervals, {units}".lstrip("; ")


def _panel(axes: Axes, found: list[Curve], shown: Measure, hues: dict[str, str], last: int) -> list[label_place.Line]:
    lines: list[label_place.Line] = []
    for curve in found:
        colour = hues.get(curve.of, SPARE[0])
        if curve.baseline:
            value = shown.factor * float(curve.value[0])
            axes.axhline(value, color=colour, lw=0.9, ls=(0, (4, 2.5)))
            lines.append(
                label_place.Line(curve.baseline, colour, np.array([0.0, last]), np.array([value, value]), True)
            )
        else:
            lines.append(line(axes, curve, curve.lens, colour, shown))
    scale(axes, shown, found)
    axes.set_title(shown.heading, loc="left", fontsize=8, weight="bold")
    axes.set_xlim(-0.5, last + 0.5)
    return lines


def _differences(axes: Axes, found: list[Curve], shown: Measure, hues: dict[str, str]) -> list[label_place.Line]:
    axes.axhline(0.0, color="#14181f", lw=0.8)
    whole = np.unique(np.concatenate([curve.layers for curve in found])).astype(float)
    lines = [label_place.Line("", "", whole, 0.0 * whole)]
    for number, curve in enumerate(found):
        colour = hues.get(curve.of, SPARE[0])
        dash = (0, (1 + 4 * (number % 3), 1.5)) if sum(one.of == curve.of for one in found) > 1 and number % 3 else "-"
        name = curve.difference.removeprefix(f"{curve.lens} ") if " | " in curve.against else curve.difference
        lines.append(line(axes, curve, name, colour, shown, dash=dash))
    scale(axes, shown, found)
    axes.set_title("paired difference", loc="left", fontsize=7, color=SOFT)
    axes.set_xlabel("layer", fontsize=7)
    return lines
