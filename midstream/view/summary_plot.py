"""Summaries of a store -> a figure for a paper: curves by layer with bands, a panel a measure, or one a group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from midstream.record import SummaryTable
from midstream.view import figure_file, label_place, token_text
from midstream.view import measure as marks
from midstream.view.curve_panel import SOFT, SPARE, colours, line, scale
from midstream.view.measure import Curve, Measure
from midstream.view.summary_table import NAME, groups, measures, opening

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

ACROSS, PANEL = 3, (3.0, 2.3)
"""Panels side by side; inches of one."""

SMALL_ACROSS, SMALL = 9, (1.25, 1.3)
"""The same of the small panels, one a group; positions 4 to 2,047 make nine."""

GROUPS = 24
"""Groups that are drawn: of more, those with the most positions."""

DASHES: dict[str, tuple[Any, str]] = {
    "resid_post": ("-", "solid"), "resid_mid": ((0, (6, 1.5)), "long dashes"), "attn_out": ((0, (3, 1.5)), "dashes"),
    "mlp_out": (":", "dots"),
}  # fmt: skip
"""A line style a site, and what the note calls it."""

Panels = list[tuple["Axes", list[label_place.Line]]]
"""The panels, each with the names that are written into it last, when every axis has its place and limits."""


def save(summary: SummaryTable, path: str | Path, *, names: Sequence[str] | None = None) -> None:
    """Draw the summary and write it to ``path``, whole or not at all; the same summary gives the same bytes.

    ``names``: which measures; None: all. By layer there is a panel a measure; else a row a measure with a small panel a
    group, the other groups grey behind it. One colour a lens, one line style a site, differences about a line at 0.
    Raises RequestError: unknown ending or measure, no rows, or a folder that cannot be written.
    """
    figure_file.save(path, lambda: _draw(summary, marks.chosen(summary, names)))


def render(summary: SummaryTable, kind: str, *, names: Sequence[str] | None = None) -> bytes:
    """The figure as the bytes of an ``svg``, ``png`` or ``pdf`` file. Raises RequestError."""
    return figure_file.render(kind, lambda: _draw(summary, marks.chosen(summary, names)))


def _draw(summary: SummaryTable, names: list[str]) -> Figure:
    from matplotlib.figure import Figure

    summary = summary.pick(np.isin(summary.columns["measure"].astype(str), names))
    rows = sorted(measures(summary), key=lambda row: (row[1], names.index(row[0].name)))
    figure = Figure(layout="constrained")
    if (summary.columns["group"] != "").any():
        panels = _by_group(figure, summary, rows)
    else:
        panels = _by_layer(figure, summary, rows)
    figure.supxlabel(_note(summary, float(figure.get_figwidth())), fontsize=6.5, color=SOFT, x=0.01, ha="left")
    figure.draw_without_rendering()  # now every axis has its place and limits
    for axes, lines in panels:
        label_place.write(axes, lines)
    return figure


def _by_layer(figure: Figure, summary: SummaryTable, rows: list[tuple[Measure, bool]]) -> Panels:
    across = min(len(rows), ACROSS)
    down = -(-len(rows) // across)
    figure.set_size_inches(across * PANEL[0], down * PANEL[1] + 0.2)
    hues = colours(summary.columns["lens"].tolist())
    panels: Panels = []
    for number, (shown, paired) in enumerate(rows):
        axes = figure.add_subplot(down, across, number + 1)
        found = marks.curves(summary, shown.name, paired=paired)
        panels.append((axes, _panel(axes, found, shown, hues)))
        scale(axes, shown, found)
        axes.set_title(_title(shown, paired), loc="left", fontsize=8, weight="bold")
        axes.set_xlim(-0.5, summary.layers + 0.5)
        if number + across >= len(rows):
            axes.set_xlabel("layer", fontsize=7)
    return panels


def _by_group(figure: Figure, summary: SummaryTable, rows: list[tuple[Measure, bool]]) -> Panels:
    kept = groups(summary, GROUPS)
    down, across = _grid(len(kept))
    figure.set_size_inches(max(3.0, across * SMALL[0] + 0.4), len(rows) * (down * SMALL[1] + 0.35) + 0.2)
    hues = colours(summary.columns["lens"].tolist())
    panels: Panels = []
    blocks = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for block, (shown, paired) in zip(blocks, rows, strict=True):
        heading = f"{_title(shown, paired)}, by {token_text.name(summary.by, NAME)}"
        block.suptitle(heading, x=0.01, ha="left", fontsize=8, weight="bold")
        found = {group: marks.curves(summary, shown.name, paired=paired, group=group) for group in kept}
        panels += _small(block, found, shown, hues, summary.layers)
    return panels


def _grid(count: int) -> tuple[int, int]:
    """Rows and columns of small panels, the rows about equally full."""
    down = -(-count // SMALL_ACROSS)
    return down, -(-count // down)


def _small(block: SubFigure, found: dict[str, list[Curve]], shown: Measure, hues: dict[str, str], last: int) -> Panels:
    """One measure's small panels, a panel a group, on one scale, each with the others' curves grey behind its own."""
    down, across = _grid(len(found))
    every = [curve for curves in found.values() for curve in curves]
    panels: Panels = []
    for number, (group, curves) in enumerate(found.items()):
        axes = block.add_subplot(down, across, number + 1)
        for curve in every:
            axes.plot(curve.layers, shown.factor * curve.value, color="#d3d6d0", lw=0.6, zorder=1)
        lines = _panel(axes, curves, shown, hues)
        panels += [(axes, lines)] if number == 0 else []
        scale(axes, shown, every)
        axes.set_title(token_text.name(group, NAME) or "none", loc="left", fontsize=7, color=SOFT)
        axes.set_xlim(-0.5, last + 0.5)
        axes.tick_params(labelsize=6, labelleft=number % across == 0, labelbottom=number + across >= len(found))
    block.supxlabel("layer", fontsize=6.5)
    return panels


def _panel(axes: Axes, found: list[Curve], shown: Measure, hues: dict[str, str]) -> list[label_place.Line]:
    """The curves with their bands; returns the names that may stand beside them."""
    lines: list[label_place.Line] = []
    if any(curve.against for curve in found):
        axes.axhline(0.0, color="#14181f", lw=0.8)
        whole = np.unique(np.concatenate([curve.layers for curve in found])).astype(float)
        lines.append(label_place.Line("", "", whole, 0.0 * whole))
    named: set[str] = set()
    for curve in found:  # of one lens at several sites only the first has its name: the note says which style is which
        name = "" if curve.of in named else token_text.name(curve.of, NAME)
        dash = DASHES.get(curve.site, DASHES["resid_post"])[0]
        lines.append(line(axes, curve, name, hues.get(curve.of, SPARE[0]), shown, dash=dash))
        named.add(curve.of)
    return lines


def _title(shown: Measure, paired: bool) -> str:
    return f"Δ {shown.heading}" if paired else shown.heading


def _note(summary: SummaryTable, width: float) -> str:
    parts = opening(summary)
    sites = [site for site in dict.fromkeys(summary.columns["site"].tolist()) if site in DASHES]
    if sites not in ([], ["resid_post"]):
        parts.append(", ".join(f"{site} {DASHES[site][1]}" for site in sites))
    hidden = len(set(summary.columns["group"].tolist())) - GROUPS
    if hidden > 0:
        parts.append(f"{hidden:,} smaller groups are not drawn")
    characters = 21 * width  # of these letters, to an inch
    return "\n".join(wrap(" · ".join(parts), max(40, int(characters))))
