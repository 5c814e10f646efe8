"""Readings -> the compact block of data that the grid component unpacks: a JSON header, then typed arrays, gzipped."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from midstream.record import Array, ReadingTable
from midstream.view import chart, token_text
from midstream.view.layout import Grid, lay_out

STEP = 1e-3
"""Nats between two stored values: what is written out in the page has no more digits than that."""
CURVE_STEP = 1e-2
"""The same for tokens followed over the layers: the finest that a curve can show."""

COLUMNS = (
    "logprob", "lse", "entropy", "kl_final_lens", "kl_lens_final", "kl_input_lens", "final_top1_logprob",
    "input_logprob", "rank", "final_top1_rank", "input_rank", "unedited_logprob", "unedited_rank", "unedited_entropy",
    "kl_unedited",
)  # fmt: skip


def pack(
    table: ReadingTable,
    *,
    tracks: dict[str, Array] | None = None,
    doc_id: int | None = None,
    statistic: str = chart.DEFAULT,
) -> bytes:
    """One document of ``table`` with every statistic and all top tokens, for ``static/data.js``.

    ``tracks`` has the columns of WATCHED: rank and log-probability of tokens to be followed over the layers, exact;
    ``table.watched`` is added to it. ``statistic`` colours the grid at first. Layout: uint32 length of the header;
    header (JSON); arrays, each stored as its byte planes (all lowest bytes first), which gzip packs better.
    Deterministic.
    """
    ids = _Ids(table.vocabulary)
    blob = _Blob()
    watched = table.watched if len(table.watched["watch_id"]) else None
    grids = []
    for lens in dict.fromkeys(table.columns["lens"].tolist()):
        layout = lay_out(table, lens=lens, doc_id=doc_id)
        own = [part for part in (watched, tracks) if part is not None]
        grids.append(_grid(table, layout, blob, ids, statistic) | _tracks(layout, own, blob, ids))
    header = {
        "model": table.provenance.model,
        "precision": str(table.provenance.precision.get("name", "")),
        "layers": table.layers,
        "less": "less" in table.provenance.settings,
        "grids": grids,
        "watched": [] if watched is None else [ids(i) for i in dict.fromkeys(watched["watch_id"].tolist())],
        "statistics": [limits(table, stat) for stat in chart.STATISTICS.values()],
        "start": statistic,
        "colours": colours(),
        "ends": chart.ENDS,
        "vocabulary": ids.texts,
    }
    text = json.dumps(header, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return gzip.compress(len(text).to_bytes(4, "little") + text + b"".join(blob.parts), 9, mtime=0)


def limits(table: ReadingTable, stat: chart.Statistic) -> dict[str, Any]:
    """A statistic with the limits of its colour scale over ``table``, and where values are written beside it."""
    scale = chart.scale(table, stat)
    ticks = [[round(float(scale.place(np.array(v))), 4), v] for v in scale.ticks()]
    return asdict(stat) | {"low": scale.low, "high": scale.high, "ticks": ticks}


def colours() -> dict[str, dict[str, dict[str, list[str]]]]:
    """form -> theme -> the ramp and the colours of text on it."""
    return {form: {theme: _colours(theme, form) for theme in ("light", "dark")} for form in ("value", "change")}


def _colours(theme: Literal["light", "dark"], form: chart.Form) -> dict[str, list[str]]:
    ramp = chart.ramp(theme, form)
    return {"ramp": ramp, "inks": [chart.ink(colour) for colour in ramp]}


class _Ids:
    """Token ids as they occur -> small numbers, and the visible text of each."""

    def __init__(self, vocabulary: dict[int, str]) -> None:
        self.vocabulary, self.known, self.texts = vocabulary, {-1: -1}, []

    def __call__(self, token_id: int) -> int:
        if token_id not in self.known:
            self.known[token_id] = len(self.texts)
            self.texts.append(token_text.visible(self.vocabulary[token_id]))
        return self.known[token_id]

    def array(self, tokens: Array) -> Array:
        """The same for an array: int64 of the same shape."""
        found, back = np.unique(tokens, return_inverse=True)
        return np.array([self(int(token)) for token in found], np.int64)[back].reshape(tokens.shape)


class _Blob:
    """Arrays one after another; each is described by where it begins, its width in bytes, scale and offset."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, values: Array, step: float) -> dict[str, Any]:
        """Keep ``values`` rounded to ``step``; non-finite ones become the largest whole number (undefined)."""
        flat = np.asarray(values, np.float64).ravel()
        known = np.isfinite(flat)
        low = float(flat[known].min()) if known.any() else 0.0
        span = float(flat[known].max()) - low if known.any() else 0.0
        step = max(step, span / (2**32 - 2))
        bytes_each = 2 if span / step < 2**16 - 2 else 4
        steps = np.full(flat.shape, 2 ** (8 * bytes_each) - 1, np.uint32)
        steps[known] = np.rint((flat[known] - low) / step)
        planes = steps.astype(f"<u{bytes_each}").view(np.uint8).reshape(-1, bytes_each).T.tobytes()
        place = {"at": self.size, "bytes": bytes_each, "count": len(flat), "low": low, "step": step}
        self.parts.append(planes)
        self.size += len(planes)
        return place


def _grid(table: ReadingTable, layout: Grid, blob: _Blob, ids: _Ids, statistic: str) -> dict[str, Any]:
    absent = layout.index < 0
    arrays: dict[str, Any] = {}
    for name in (name for name in COLUMNS if name in table.columns):
        column = table.columns[name]
        cells = layout.take(column).astype(np.float64)
        cells[absent | (layout.take(column) < 0 if column.dtype.kind == "i" else False)] = np.nan
        if np.isfinite(cells).any():
            arrays[name] = blob.add(cells, 1.0 if name.endswith("rank") else STEP)
    tops = np.where(absent[..., None], -1, layout.take(table.columns["top_ids"]))
    chances = np.where(absent[..., None], np.nan, layout.take(table.columns["top_logprobs"]))
    unedited = table.columns.get("unedited_top_id", np.full(len(table), -1))
    return {
        "lens": layout.lens,
        "offset": layout.offset,
        "start": chart.choose(table.pick(table.columns["lens"] == layout.lens), statistic).name,
        "layers": layout.layers,
        "sites": layout.sites,
        "labels": [layout.row_label(row) for row in range(len(layout.layers))],
        "positions": layout.positions,
        "tokens": [ids(token) for token in layout.tokens],
        "kinds": layout.kinds,
        "targets": [ids(token) for token in layout.targets],
        "k": tops.shape[2],
        "topIds": blob.add(np.moveaxis(ids.array(tops), 2, 0), 1.0),
        "topLogprobs": blob.add(np.moveaxis(chances, 2, 0), STEP),
        "uneditedTop": blob.add(ids.array(np.where(absent, -1, layout.take(unedited))), 1.0),
        "columns": arrays,
    }


def _tracks(layout: Grid, tables: list[dict[str, Array]], blob: _Blob, ids: _Ids) -> dict[str, Any]:
    """Each followed token's rank and log-probability in every grid row: arrays ``[tracks, R]``."""
    line = {place: row for row, place in enumerate(zip(layout.layers, layout.sites, strict=True))}
    column = {position: number for number, position in enumerate(layout.positions)}
    found: dict[tuple[int, int], int] = {}
    cells: list[tuple[int, int, float, float]] = []
    for part in tables:
        own = np.flatnonzero((part["lens"] == layout.lens) & (part["doc_id"] == layout.doc_id))
        names = ("position", "layer", "site", "watch_id", "rank", "logprob")
        for position, layer, site, token, rank, logprob in zip(*(part[n][own].tolist() for n in names), strict=True):
            if position in column and (layer, site) in line:
                track = found.setdefault((column[position], token), len(found))
                cells.append((track, line[layer, site], rank if rank > 0 else np.nan, logprob))
    ranks, chances = np.full((2, len(found), len(layout.layers)), np.nan)
    if cells:
        track, row, rank, chance = (np.array(part) for part in zip(*cells, strict=True))
        ranks[track.astype(int), row.astype(int)], chances[track.astype(int), row.astype(int)] = rank, chance
    return {
        "trackPlaces": [[place, ids(token)] for place, token in found],
        "trackRanks": blob.add(ranks, 1.0),
        "trackLogprobs": blob.add(chances, CURVE_STEP),
    }
