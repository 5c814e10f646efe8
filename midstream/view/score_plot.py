"""Scores -> a figure for a paper: curves by layer with bands, a panel a measure, paired differences beneath."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from midstream.errors import RequestError, choices
from midstream.record import Array, ScoreTable
from midstream.store.write import atomic
from midstream.view import label_place
from midstream.view import measure as marks
from midstream.view.measure import Curve, Measure
from midstream.view.plot import FORMATS, UNDATED, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 3
"""Panels side by side."""

PANEL = (3.0, 2.3, 1.5)
"""Inches: width of a panel, height of its curves and of the differences beneath."""

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


def save(score: ScoreTable, path: str | Path, *, measures: Sequence[str] | None = None) -> None:
    """Draw the curves and write them to ``path``, whole or not at all; the same score gives the same bytes.

    ``measures``: which, in which order; None: all that there are by layer.
    Raises RequestError: unknown ending or measure, nothing by layer, or a folder that cannot be written.
    """
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise choices("figure format", kind, FORMATS)
    data = render(score, kind, measures=measures)
    with atomic(path) as file:
        file.write_bytes(data)


def render(score: ScoreTable, kind: str, *, measures: Sequence[str] | None = None) -> bytes:
    """The figure as the bytes of an ``svg``, ``png`` or ``pdf`` file. Raises RequestError."""
    found = marks.names(score)
    if not found:
        raise RequestError("there are no curves to draw: the score has no measure by layer.")
    for name in measures or ():
        if name not in found:
            raise choices("measure", name, found)
    import matplotlib  # half a second that only a figure pays

    with matplotlib.rc_context(settings()):
        figure = _draw(score, list(measures or found))
        out = io.BytesIO()
        figure.savefig(out, format=kind, dpi=200, metadata=UNDATED[kind], bbox_inches="tight", pad_inches=0.06)
    return out.getvalue()


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
    colours = _colours(score)
    line = 0
    panels: list[tuple[Axes, list[label_place.Line]]] = []
    for block, lower in zip(blocks, tall, strict=True):
        for column, name in enumerate(block):
            shown = marks.measure(score, name)
            axes = figure.add_subplot(places[line, column])
            found = [c for c in marks.curves(score, name, paired=False) if len(c.layers)]
            panels.append((axes, _panel(axes, found, shown, colours, score.layers)))
            if paired[name]:
                below = figure.add_subplot(places[line + 1, column], sharex=axes)
                axes.tick_params(labelbottom=False)
                panels.append((below, _differences(below, paired[name], shown, colours)))
            else:
                axes.set_xlabel("layer", fontsize=7)
        line += 1 + lower
    figure.supxlabel(_note(score), fontsize=6.5, color="#5a626e", x=0.01, ha="left")
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


def _colours(score: ScoreTable) -> dict[str, str]:
    """Lens -> colour: the hue of its kind, paler for a higher number."""
    made: dict[str, str] = {}
    spare = iter(SPARE * len(score))
    for lens in dict.fromkeys(name.partition(" | ")[0] for name in score.columns["lens"].tolist()):
        kind, _, number = lens.partition(":")
        if kind in HUES:
            pale = min(int(number[0]), 4) * 0.13 if number[:1].isdigit() else 0.0
            made[lens] = _paler(HUES[kind], pale)
        else:
            made[lens] = next(spare)
    return made


def _paler(colour: str, share: float) -> str:
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * share):02x}" for part in parts)


def _panel(
    axes: Axes, found: list[Curve], shown: Measure, colours: dict[str, str], last: int
) -> list[label_place.Line]:
    lines: list[label_place.Line] = []
    for curve in found:
        colour = colours.get(curve.of, SPARE[0])
        if curve.baseline:
            value = shown.factor * float(curve.value[0])
            axes.axhline(value, color=colour, lw=0.9, ls=(0, (4, 2.5)))
            lines.append(
                label_place.Line(curve.baseline, colour, np.array([0.0, last]), np.array([value, value]), True)
            )
        else:
            lines.append(_line(axes, curve, curve.lens, colour, shown))
    _axes(axes, shown, found)
    axes.set_title(shown.heading, loc="left", fontsize=8, weight="bold")
    axes.set_xlim(-0.5, last + 0.5)
    return lines


def _differences(axes: Axes, found: list[Curve], shown: Measure, colours: dict[str, str]) -> list[label_place.Line]:
    axes.axhline(0.0, color="#14181f", lw=0.8)
    whole = np.unique(np.concatenate([curve.layers for curve in found])).astype(float)
    lines = [label_place.Line("", "", whole, 0.0 * whole)]
    for number, curve in enumerate(found):
        colour = colours.get(curve.of, SPARE[0])
        dash = (0, (1 + 4 * (number % 3), 1.5)) if sum(one.of == curve.of for one in found) > 1 and number % 3 else "-"
        name = curve.difference.removeprefix(f"{curve.lens} ") if " | " in curve.against else curve.difference
        lines.append(_line(axes, curve, name, colour, shown, dash=dash))
    _axes(axes, shown, found)
    axes.set_title("paired difference", loc="left", fontsize=7, color="#5a626e")
    axes.set_xlabel("layer", fontsize=7)
    return lines


def _line(axes: Axes, curve: Curve, name: str, colour: str, shown: Measure, *, dash: Any = "-") -> label_place.Line:
    value, low, high = (shown.factor * part for part in (curve.value, curve.low, curve.high))
    axes.plot(curve.layers, value, color=colour, lw=1.4, ls=dash, marker="o" if len(value) < 12 else "", ms=2.5)
    axes.fill_between(curve.layers, low, high, color=colour, alpha=0.2, lw=0)
    return label_place.Line(name, colour, curve.layers.astype(float), value)


def _axes(axes: Axes, shown: Measure, found: list[Curve]) -> None:
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
    if far:
        axes.set_yscale("function", functions=(_near, _far))
        ticks = _ticks(low, high)
        axes.set_yticks(ticks, [f"{v:g}".replace("-", "−") for v in ticks])
    ends = _near(np.array([low, high])) if far else np.array([low, high])
    ends += np.array([-0.12, 0.12]) * max(float(ends[1] - ends[0]), 1e-9)  # room for the names
    axes.set_ylim(*(_far(ends) if far else ends))


def _ticks(low: float, high: float) -> list[float]:
    """Round values between the ends, a little beyond them, and 0; those too near the last one kept are left out."""
    ends = 1.15 * min(low, 0.0), 1.15 * max(high, 0.0)
    apart = 0.11 * float(np.ptp(_near(np.array(ends))))
    kept: list[float] = []
    for tick in sorted((sign * step for step in _STEPS for sign in (1, -1)), key=abs):
        if ends[0] <= tick <= ends[1] and all(
            abs(_near(np.array(tick - 0.0)) - _near(np.array(v))) > apart for v in kept
        ):
            kept.append(tick)
    return sorted(kept)


def _near(value: Array) -> Array:
    return np.sign(value) * np.log1p(np.abs(value))


def _far(value: Array) -> Array:
    return np.sign(value) * np.expm1(np.abs(value))
