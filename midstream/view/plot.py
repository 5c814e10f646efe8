"""Marks -> a figure for a paper: SVG, PNG or PDF by the ending of the file's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from midstream.record import ReadingTable
from midstream.view import chart, figure_file, token_text
from midstream.view.layout import Grid, lay_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ABREAST = 24
"""Positions of all lenses together up to which they stand side by side: as many as can be read on a page."""

TEXTS = 40
"""Positions up to which every cell carries its token; beyond it colour alone is drawn."""


def save(
    table: ReadingTable,
    path: str | Path,
    *,
    statistic: str = chart.DEFAULT,
    lenses: Sequence[str] | None = None,
    every: int = 1,
) -> None:
    """Draw the grid and write it to ``path``, whole or not at all; the same table gives the same bytes.

    Each lens (default: all) has a panel; short texts have them side by side, on one scale where the statistic is one.
    Raises RequestError: unknown ending, statistic or lens, or a folder that cannot be written.
    """
    figure_file.save(path, lambda: _figure(table, statistic, lenses, every))


def render(
    table: ReadingTable,
    kind: str,
    *,
    statistic: str = chart.DEFAULT,
    lenses: Sequence[str] | None = None,
    every: int = 1,
) -> bytes:
    """The figure as the bytes of an ``svg``, ``png`` or ``pdf`` file. Raises RequestError."""
    return figure_file.render(kind, lambda: _figure(table, statistic, lenses, every))


def _figure(table: ReadingTable, statistic: str, lenses: Sequence[str] | None, every: int) -> Figure:
    chart.statistic(statistic)
    names = list(dict.fromkeys(table.columns["lens"].tolist())) or [None]
    return _draw(table, [lay_out(table, lens=name, every=every) for name in lenses or names], statistic)


def _draw(table: ReadingTable, layouts: list[Grid], statistic: str) -> Figure:
    from matplotlib.figure import Figure

    columns = max(len(layout.positions) for layout in layouts)
    across = max(1, min(len(layouts), ABREAST // columns))
    down = -(-len(layouts) // across)
    cell = (0.62 if across == 1 else 0.43) if columns <= TEXTS else max(0.05, 9.0 / columns)
    tall = max(layout.index.shape[0] for layout in layouts) * 0.185
    size = (across * (columns * cell + 0.35) + (0.95 if across == 1 else 0.2), down * (tall + 1.15))
    figure = Figure(figsize=size, layout="constrained" if len(layouts) > 1 else None)
    places = figure.subplots(down, across, squeeze=False)
    scales = [chart.scale(table, _statistic(table, layout, statistic)) for layout in layouts]
    labels = [chart.label(scale.stat, layout.offset) for scale, layout in zip(scales, layouts, strict=True)]
    for number, layout in enumerate(layouts):
        axes = places.flat[number]
        _panel(axes, table, layout, scales[number], narrow=across > 1)
        if len(layouts) > 1:
            axes.set_title(f"{layout.lens} · {chart.about(layout.offset)}", fontsize=8, loc="left", weight="bold")
        rows = (layout.layers, layout.sites)
        if number % across and rows == (layouts[number - 1].layers, layouts[number - 1].sites):
            axes.set_yticklabels([])
            axes.set_ylabel("")
    for axes in places.flat[len(layouts) :]:
        axes.set_axis_off()
    for label in dict.fromkeys(labels):
        own = [number for number, one in enumerate(labels) if one == label]
        _colour_bar(figure, [places.flat[number] for number in own], scales[own[0]], label, below=across > 1)
    return figure


def _statistic(table: ReadingTable, layout: Grid, name: str) -> chart.Statistic:
    return chart.choose(table.pick(table.columns["lens"] == layout.lens), name)


def _panel(axes: Axes, table: ReadingTable, layout: Grid, limits: chart.Scale, *, narrow: bool) -> None:
    shades, ramp = limits.shade(layout.cells(table, limits.stat)), chart.ramp("light", limits.stat.form)
    _cells(axes, shades, ramp)
    if len(layout.positions) <= TEXTS:
        _texts(axes, table, layout, shades, ramp, narrow=narrow)
    else:
        at = np.argwhere(layout.right(table))
        inks = [chart.ink(ramp[shades[row, column]]) for row, column in at]
        axes.scatter(at[:, 1], at[:, 0], s=2.5, color=inks, lw=0)
    _labels(axes, table, layout)


def _cells(axes: Axes, shades: np.ndarray, ramp: list[str]) -> None:
    from matplotlib.colors import ListedColormap

    known = np.ma.masked_less(shades, 0)
    colours = ListedColormap(ramp)
    rows, columns = shades.shape
    axes.pcolormesh(
        np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5, known,
        cmap=colours, vmin=-0.5, vmax=chart.SHADES - 0.5, edgecolors="white",
        linewidth=0.6 if columns <= TEXTS else 0.0, antialiased=columns <= TEXTS,
    )  # fmt: skip
    axes.set_frame_on(False)
    axes.tick_params(length=0)


def _texts(axes: Axes, table: ReadingTable, layout: Grid, shades: np.ndarray, ramp: list[str], *, narrow: bool) -> None:
    from matplotlib.patches import Rectangle

    tops, right = layout.tops(table), layout.right(table)
    letters, size = (7, 6.2) if narrow else (9, 5.6)  # a narrow cell stands in a wide figure, which is shown smaller
    for (row, column), token in np.ndenumerate(tops):
        if token < 0:
            continue
        ink = chart.ink(ramp[shades[row, column]]) if shades[row, column] >= 0 else "#5a626e"
        text = _short(table, int(token), letters)
        weight = "bold" if right[row, column] else "normal"
        left = column - (0.45 if narrow else 0.44)
        axes.text(left, row, text, color=ink, fontsize=size, va="center_baseline", weight=weight, clip_on=True)
        if right[row, column]:
            axes.add_patch(Rectangle((column - 0.47, row - 0.43), 0.94, 0.86, fill=False, edgecolor=ink, lw=0.7))


def _short(table: ReadingTable, token: int, columns: int) -> str:
    return token_text.fit(token_text.visible(table.vocabulary[token]), columns).rstrip(" ") if token >= 0 else ""


def _labels(axes: Axes, table: ReadingTable, layout: Grid) -> None:
    rows, columns = layout.index.shape
    with_text = columns <= TEXTS

    def words(tokens: list[int]) -> list[str]:
        return [
            token_text.fit(token_text.visible(table.vocabulary[i]), 12).rstrip(" ") if i >= 0 else "" for i in tokens
        ]

    axes.set_yticks(range(rows), [layout.row_label(row) for row in range(rows)], fontsize=6)
    axes.set_ylabel("layer", fontsize=7)
    size = 6.5 if with_text else min(5.5, 560.0 / columns)
    if size >= 2.5:
        axes.set_xticks(range(columns), words(layout.tokens), rotation=60 if with_text else 90, fontsize=size)
        axes.tick_params(axis="x", pad=1)
        for label, kind in zip(axes.get_xticklabels(), layout.kinds, strict=True):
            label.set(ha="right" if with_text else "center", rotation_mode="anchor" if with_text else "default")
            label.set_alpha(1.0 if kind == "text" else 0.5)
    else:
        axes.set_xlabel("position", fontsize=7)
        axes.tick_params(axis="x", labelsize=6)
    if with_text and layout.offset != 0:
        above = axes.secondary_xaxis("top")
        above.set_xticks(
            range(columns), words(layout.targets), rotation=60, fontsize=6.5, ha="left", rotation_mode="anchor"
        )
        above.tick_params(length=0, pad=1, colors="#5a626e")
        above.spines[:].set_visible(False)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(-0.5, rows - 0.5)


def _colour_bar(figure: Figure, axes: list[Axes], limits: chart.Scale, label: str, *, below: bool) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    wide, high = figure.get_size_inches()
    colours = ScalarMappable(Normalize(0, 1), ListedColormap(chart.ramp("light", limits.stat.form)))
    if below:
        bar = figure.colorbar(colours, ax=axes, location="bottom", aspect=36, shrink=0.6, pad=0.01)
    else:
        bar = figure.colorbar(colours, ax=axes, fraction=0.12 / wide, pad=0.14 / wide, aspect=min(30, 12 * high))
    ticks = limits.ticks()
    bar.set_ticks(limits.place(np.array(ticks)).tolist(), labels=[chart.tick_text(limits.stat, v) for v in ticks])
    bar.ax.tick_params(labelsize=6.5 if below else 6, length=2, width=0.5)
    bar.outline.set_linewidth(0.4)
    if limits.stat.form == "change":
        label += "\n{} ←   → {}".format(*chart.ENDS)
    bar.set_label(label, fontsize=7.5 if below else 7)
