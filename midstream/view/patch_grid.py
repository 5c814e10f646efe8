"""A patching -> a grid: layers from the last down, positions across, in each cell the effect in nats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from midstream.errors import RequestError
from midstream.record import Array, PatchTable
from midstream.view import chart, figure_file, token_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 8
"""Columns of a cell in the terminal."""

TOWARDS, AWAY, NONE = (48, 170, 156), (214, 110, 90), (27, 30, 40)
"""Colours of the largest effect up and down, and of none; between them they mix."""


@dataclass(frozen=True)
class PatchGrid:
    """The grid as something rich can print, in pages of the width there is; ``every`` k-th layer, the last always."""

    table: PatchTable
    every: int = 1

    def __post_init__(self) -> None:
        """Raises RequestError for a step that is no whole number of 1 or more, and as ``layers_of``."""
        layers_of(self.table)
        if not isinstance(self.every, int) or self.every < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise RequestError(f"every {self.every!r} layers: expected a whole number of 1 or more.")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Per page: the text's tokens, the other's where they differ, then the layers."""
        ascii_only = options.ascii_only
        room = max(1, (options.max_width - 7) // (CELL + 1))
        layers, effect = layers_of(self.table), grid_of(self.table, "effect")
        tokens = self.table.columns["token"][: effect.shape[1]]
        others = self.table.columns["source_token"][: effect.shape[1]]
        most = float(np.abs(effect).max())
        for start in range(0, effect.shape[1], room):
            at = slice(start, min(start + room, effect.shape[1]))
            yield self._line("token", [token_text.visible(token) for token in tokens[at]], ascii_only)
            changed = [token_text.visible(b) if a != b else "" for a, b in zip(tokens[at], others[at], strict=True)]
            yield self._line("other", changed, ascii_only)
            for row in self._rows(layers):
                yield self._cells(str(layers[row]), effect[row, at], most, console.no_color)
            yield Text("")
        yield from (Text(token_text.ascii_only(line) if ascii_only else line) for line in self._notes())

    def _rows(self, layers: list[int]) -> list[int]:
        return [*range(len(layers))][::-1][:: self.every]

    def _line(self, head: str, words: list[str], ascii_only: bool) -> Text:
        shown = [token_text.ascii_only(word) if ascii_only else word for word in words]
        return Text(f"{head:>6} " + " ".join(token_text.fit(word, CELL) for word in shown), no_wrap=True)

    def _cells(self, head: str, values: Array, most: float, plain: bool) -> Text:
        line = Text(f"{head:>6} ", no_wrap=True)
        for value in values:
            style = Style() if plain else Style(bgcolor=(fill := _mixed(float(value), most)), color=chart.ink(fill))
            line.append(f"{_signed(float(value)):>{CELL}}", style).append(" ")
        return line

    def _notes(self) -> Iterator[str]:
        table, columns = self.table, self.table.columns
        yield (
            f"effect on log p({token_text.visible(table.chosen)}) at the end, nats: without a patch "
            f"{_signed(table.unpatched)}, in the other text {_signed(table.source)}"
        )
        strongest, control = np.abs(columns["effect"]).argmax(), np.abs(columns["control"])
        effect, other = (_signed(float(columns[name][strongest])) for name in ("effect", "control"))
        where = f"layer {columns['layer'][strongest]}, position {columns['position'][strongest]}"
        yield f"largest: {effect} at {where}; an unrelated text's stream there: {other}"
        yield f"an unrelated text's stream moves it by {control.mean():.2f} on average, {control.max():.2f} at most"


def layers_of(table: PatchTable) -> list[int]:
    """The layers, ascending. Raises RequestError for rows that were picked so that they make no grid."""
    rows = list(zip(table.columns["layer"].tolist(), table.columns["position"].tolist(), strict=True))
    if not rows:
        raise RequestError("there is no patch to show: the table has no rows; pick some, or show the whole patching.")
    layers, positions = (list(dict.fromkeys(column)) for column in zip(*rows, strict=True))
    if rows != list(product(layers, positions)):
        raise RequestError(
            f"the {len(rows)} rows that were picked make no grid of layers and positions: pick whole layers or whole "
            "positions, or look at the columns."
        )
    return layers


def grid_of(table: PatchTable, name: str) -> Array:
    """A column as ``[layers, positions]``."""
    return table.columns[name].reshape(len(layers_of(table)), -1).astype(np.float64)


def save(table: PatchTable, path: str | Path) -> None:
    """Draw the effects, and the control's on the same scale, as an SVG, PNG or PDF figure. Raises RequestError."""
    figure_file.save(path, lambda: _draw(table))


def _draw(table: PatchTable) -> Figure:
    from matplotlib.figure import Figure

    layers, panels = layers_of(table), [grid_of(table, name) for name in ("effect", "control")]
    tokens = [token_text.visible(token) for token in table.columns["token"][: panels[0].shape[1]]]
    others = [token_text.visible(token) for token in table.columns["source_token"][: panels[0].shape[1]]]
    most = max(float(np.abs(panel).max()) for panel in panels) or 1.0
    wide, high = 1.2 + 0.32 * len(tokens), 1.6 + 0.12 * len(layers)
    figure = Figure(figsize=(2 * wide, high), layout="constrained")
    image = None
    for axes, panel, title in zip(
        figure.subplots(1, 2, sharey=True), panels, ("from the other text", "from an unrelated text"), strict=True
    ):
        image = axes.imshow(panel, origin="lower", aspect="auto", cmap="PuOr_r", vmin=-most, vmax=most)
        axes.set_title(title, fontsize=8)
        labels = [a if a == b else f"{a} | {b}" for a, b in zip(tokens, others, strict=True)]
        axes.set_xticks(range(len(tokens)), labels, rotation=90, fontsize=6.5)
        shown = [*range(len(layers))][:: -max(1, len(layers) // 8)][::-1]
        axes.set_yticks(shown, [str(layers[row]) for row in shown], fontsize=6.5)
    figure.axes[0].set_ylabel("layer", fontsize=7)
    assert image is not None
    bar = figure.colorbar(image, ax=figure.axes[:2], shrink=0.8)
    bar.set_label(f"change of log p({token_text.visible(table.chosen)}), nats", fontsize=7)
    bar.ax.tick_params(labelsize=6.5)
    return figure


def _mixed(value: float, most: float) -> str:
    share = min(1.0, abs(value) / most) if most > 0 else 0.0
    end = TOWARDS if value > 0 else AWAY
    return "#" + "".join(f"{round(n + share * (e - n)):02x}" for n, e in zip(NONE, end, strict=True))


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
