"""One document of a store: which are worth a look, and its readings as the table that views draw."""

from __future__ import annotations

from typing import Any

import numpy as np

from midstream.errors import RequestError, choices
from midstream.record import POSITIONS, READING, WATCHED, Array, Column, Provenance, ReadingTable
from midstream.store.query import connect, expression, measures
from midstream.store.store import Store

LONGEST = 300_000
"""Rows of a document that are taken into memory."""


def worst(store: Store, measure: str, *, most: int = 20) -> list[dict[str, Any]]:
    """The documents with the worst mean of a measure at the highest layer kept: ``doc_id, id, tokens, value``.

    By the first lens, in the order of their names, that has the measure there. Raises RequestError for a measure that
    the store does not keep.
    """
    if measure not in measures(store):
        raise choices("measure", measure, measures(store))
    if measure == "lse":
        raise RequestError("lse has no worse and no better: choose another measure.")
    order = "ASC" if measure.endswith(("logprob", "accuracy", "agreement")) else "DESC"
    connection = connect(store)
    try:
        found = connection.execute(
            f"""SELECT doc_id, id, tokens, avg({expression(measure)}) AS value
            FROM readings JOIN documents USING (doc_id)
            WHERE layer = (SELECT max(layer) FROM readings) AND site = 'resid_post'
            AND lens = (SELECT min(lens) FROM readings WHERE {expression(measure)} IS NOT NULL
                AND layer = (SELECT max(layer) FROM readings) AND site = 'resid_post')
            GROUP BY doc_id, id, tokens HAVING value IS NOT NULL ORDER BY value {order}, doc_id LIMIT ?""",
            [most],
        ).fetchall()
    finally:
        connection.close()
    return [dict(zip(("doc_id", "id", "tokens", "value"), row, strict=True)) for row in found]


def document(store: Store, doc_id: int) -> ReadingTable:
    """The readings of a document; statistics that the store does not keep are undefined.

    Raises RequestError where the store has no such document, or one of more than ``LONGEST`` rows.
    """
    connection = connect(store)
    try:
        rows = connection.execute("SELECT count(*) FROM readings WHERE doc_id = ?", [doc_id]).fetchall()[0][0]
        if not rows or rows > LONGEST:
            raise RequestError(
                f"document {doc_id} has {rows:,} rows here: expected one of the store's with at most {LONGEST:,}."
            )
        kept = [column for column in READING if column.name in {one.name for one in store.header.columns}]
        names = ", ".join(f'"{column.name}"' for column in kept)
        order = "ORDER BY lens, site, layer, position"
        found = connection.execute(f"SELECT {names} FROM readings WHERE doc_id = ? {order}", [doc_id]).fetchall()
        columns = _columns(kept, found)
        places = connection.execute(
            "SELECT doc_id, position, token_id, kind FROM positions WHERE doc_id = ? ORDER BY position", [doc_id]
        ).fetchall()
        positions = _columns(list(POSITIONS), places)
        used = {int(token) for name in ("token_id", "target_id", "top_ids") for token in np.unique(columns[name])}
        vocabulary = dict(
            connection.execute("SELECT token_id, token FROM tokens WHERE token_id = ANY(?)", [sorted(used)]).fetchall()
        )
    finally:
        connection.close()
    columns["token"] = np.array([vocabulary[token] for token in columns["token_id"].tolist()], dtype=object)
    header = store.header
    stamp = Provenance(model=header.model, identity=header.identity, lenses=dict(header.lenses))
    none = {column.name: np.zeros(0, _dtype(column)) for column in WATCHED}
    return ReadingTable(columns, positions, none, vocabulary, stamp, header.layers)


def _columns(kept: list[Column], rows: list[tuple[Any, ...]]) -> dict[str, Array]:
    """Every column of a reading; what was not kept is NaN or -1."""
    found = {column.name: tuple(row[at] for row in rows) for at, column in enumerate(kept)}
    every = READING if any(column.name == "layer" for column in kept) else kept
    return {column.name: _column(column, found.get(column.name), len(rows)) for column in every}


def _column(column: Column, values: tuple[Any, ...] | None, count: int) -> Array:
    dtype = _dtype(column)
    missing = np.nan if dtype.startswith("float") else -1
    if column.dtype.endswith("[]"):
        lists: list[list[Any]] = [value or [] for value in values or ()]
        made = np.full((count, max(map(len, lists), default=0) or 1), missing, dtype)
        for row, value in enumerate(lists):
            made[row, : len(value)] = [missing if one is None else one for one in value]
        return made
    if values is None:
        return np.full(count, missing, dtype)
    return np.array([missing if value is None else value for value in values], dtype)


def _dtype(column: Column) -> str:
    base = column.dtype.removesuffix("[]")
    return "object" if base == "str" else base
