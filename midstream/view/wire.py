"""A reading as it is sent to the page: its shape first, then blocks of cells as they come; what ``data.js`` unpacks."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from midstream.outline import Outline
from midstream.record import Array, ReadingTable
from midstream.view import chart, token_text
from midstream.view.layout import SITES, label
from midstream.view.pack import COLUMNS, colours, limits


class Sent:
    """What of a reading has been sent to a page, and can be kept once all of it has come."""

    def __init__(self, outline: Outline, statistic: str = chart.DEFAULT) -> None:
        self.outline, self.statistic = outline, statistic
        self._parts: list[ReadingTable] = []
        self._known: set[int] = set()
        self._row = [{place: row for row, place in enumerate(lens.places)} for lens in outline.lenses]

    def opening(self) -> dict[str, Any]:
        """The shape: what a page needs to lay out the whole grid, every cell still undefined."""
        outline = self.outline
        return {
            "model": outline.model,
            "precision": outline.precision,
            "layers": outline.layers,
            "tokens": outline.tokens,
            "kinds": outline.kinds,
            "k": outline.top_k,
            "grids": [
                {
                    "lens": lens.lens,
                    "offset": lens.offset,
                    "layers": [layer for layer, _ in lens.places],
                    "sites": [site for _, site in lens.places],
                    "labels": [label(*place) for place in lens.places],
                }
                for lens in outline.lenses
            ],
            "start": self.statistic,
            "colours": colours(),
            "ends": chart.ENDS,
            "vocabulary": self._new(outline.texts),
        }

    def cells(self, table: ReadingTable) -> Iterator[dict[str, Any]]:
        """A part of the reading, a block a lens: rows of its grid at positions that follow each other.

        float32 and int32 arrays, little-endian, in base64: of each statistic ``[rows, positions]``, of the best tokens
        ``[k, rows, positions]``; undefined numbers are NaN, undefined ids and ranks -1.
        """
        self._parts.append(table)
        known = self._new(table.vocabulary)
        statistics = self._limits()
        for number, lens in enumerate(self.outline.lenses):
            own = np.flatnonzero(table.columns["lens"] == lens.lens)
            if not len(own):
                continue
            columns = {name: values[own] for name, values in table.columns.items()}
            places = zip(columns["layer"].tolist(), columns["site"].tolist(), strict=True)
            rows = np.array([self._row[number][place] for place in places])
            order = np.lexsort((columns["position"], rows))
            count = len(np.unique(columns["position"]))
            shape = (-1, count)
            top = {name: np.moveaxis(columns[name][order].reshape(*shape, self.outline.top_k), 2, 0)
                   for name in ("top_ids", "top_logprobs")}  # fmt: skip
            yield {
                "grid": number,
                "rows": rows[order].reshape(shape)[:, 0].tolist(),
                "from": int(columns["position"].min()),
                "count": count,
                "columns": {name: _floats(columns[name][order]) for name in COLUMNS if name in columns},
                "targets": columns["target_id"][order][:count].tolist(),
                "topIds": _whole(top["top_ids"]),
                "topLogprobs": _floats(top["top_logprobs"]),
                "uneditedTop": _whole(columns["unedited_top_id"][order]) if "unedited_top_id" in columns else "",
                "vocabulary": known,
                "statistics": statistics,
            }
            known = {}

    def whole(self) -> ReadingTable:
        """All that came, in the order of a reading: lens, site, layer, position."""
        columns = {
            name: np.concatenate([part.columns[name] for part in self._parts]) for name in self._parts[0].columns
        }
        lens = {planned.lens: number for number, planned in enumerate(self.outline.lenses)}
        names = np.array([lens[name] for name in columns["lens"].tolist()])
        site = np.array([SITES.index(name) for name in columns["site"].tolist()])
        order = np.lexsort((columns["position"], columns["layer"], site, names))
        first = np.unique(np.concatenate([part.positions["position"] for part in self._parts]), return_index=True)[1]
        positions = {
            name: np.concatenate([part.positions[name] for part in self._parts])[first]
            for name in self._parts[0].positions
        }
        vocabulary = {token: text for part in self._parts for token, text in part.vocabulary.items()}
        return replace(
            self._parts[0],
            columns={name: values[order] for name, values in columns.items()},
            positions=positions,
            vocabulary=vocabulary,
        )

    def _new(self, texts: dict[int, str]) -> dict[int, str]:
        """The tokens that the page does not know yet, as it shows them."""
        new = {token: token_text.visible(text) for token, text in texts.items() if token not in self._known}
        self._known |= new.keys()
        return new

    def _limits(self) -> list[dict[str, Any]]:
        """Every statistic with its limits over what has come."""
        names = [*self._parts[0].columns]
        columns = {name: np.concatenate([part.columns[name] for part in self._parts]) for name in names}
        so_far = replace(self._parts[0], columns=columns)
        return [limits(so_far, stat) for stat in chart.STATISTICS.values()]


def _floats(values: Array) -> str:
    known = values.astype("<f4")
    if values.dtype.kind == "i":
        known[values < 0] = np.nan
    return base64.b64encode(np.ascontiguousarray(known).tobytes()).decode()


def _whole(values: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(values.astype("<i4")).tobytes()).decode()
