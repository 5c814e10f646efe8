"""Sums of what was read, by layer, group and document: what averages, their clusters and their groups are made of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from midstream.errors import RequestError
from midstream.record import Array
from midstream.store.ask import ask
from midstream.store.query import FEWEST_BEFORE, expression, measures
from midstream.store.store import Store

if TYPE_CHECKING:
    import duckdb

DEFAULT = ("kl_final_lens", "kl_lens_final", "logprob", "entropy", "accuracy", "agreement")
"""What is averaged where nothing else is asked for."""
MOST_GROUPS = 50
NONE = "(none)"
"""The group of the documents that do not have the field."""
CLUSTERS = ("work", "cluster")
"""Fields that say which documents belong together, the first that a document has."""


@dataclass(frozen=True)
class Averages:
    """What is averaged and how.

    Attributes:
        by: the groups beside the layers: ``layer`` (none), ``position`` (powers of two), ``frequency`` (of the target
            token in the store, powers of ten), or a field of the documents' metadata.
        measures: of ``query.MEASURES``; None: those of ``DEFAULT`` that the store keeps.
        cluster: the field that says which documents belong together; None: ``work``, else ``cluster``. A document
            without it is a cluster of its own, and so are equal texts together.
        min_context: positions read with fewer tokens before them are left out.
        seed: of the intervals' bootstraps.
    """

    by: str = "layer"
    measures: Sequence[str] | None = None
    cluster: str | None = None
    min_context: int = FEWEST_BEFORE
    seed: int = 0

    @property
    def field(self) -> str | None:
        """The field of the documents that makes the groups, if one does."""
        return None if self.by in ("layer", "position", "frequency") else self.by

    def of(self, *stores: Store) -> tuple[str, ...]:
        """The measures. Raises RequestError for one that not every store has the columns for."""
        kept = [name for name in measures(stores[0]) if all(name in measures(store) for store in stores)]
        if self.measures is None:
            return tuple(name for name in DEFAULT if name in kept) or tuple(kept)
        if missing := [name for name in self.measures if name not in kept]:
            raise RequestError(
                f"{missing[0]!r} cannot be averaged here: expected one of {', '.join(kept) or 'none, as none is kept'}."
            )
        return tuple(dict.fromkeys(self.measures))


@dataclass(frozen=True, eq=False)
class Documents:
    """The documents of a store, ascending by number.

    Attributes:
        numbers: their doc_id.
        faults: id and reason of each that could not be read.
        metadata: their other fields.
    """

    numbers: Array
    sha256: Sequence[str]
    faults: Sequence[tuple[str, str]]
    metadata: Sequence[Mapping[str, Any]]

    def clusters(self, name: str | None) -> Array:
        """Which cluster each belongs to, as numbers. Raises RequestError where no document has the field ``name``."""
        if name is not None:
            self._has(name)
        names = CLUSTERS if name is None else (name,)
        labels = [
            next((text for name in names if (text := _text(fields.get(name)))), sha256)
            for sha256, fields in zip(self.sha256, self.metadata, strict=True)
        ]
        return np.unique(np.array(labels, dtype=object), return_inverse=True)[1]

    def groups(self, name: str) -> Array:
        """The value of a field of each, as text. Raises RequestError where none has it or the values are too many."""
        self._has(name)
        found = np.array([_shown(_text(fields.get(name))) for fields in self.metadata], dtype=object)
        if (number := len(set(found.tolist()))) > MOST_GROUPS:
            raise RequestError(
                f"the field {name!r} has {number:,} values, and a summary at most {MOST_GROUPS} groups: choose a "
                "coarser field."
            )
        return found

    def rows(self, numbers: Array) -> Array:
        """Where documents of these numbers stand. Raises RequestError where one is missing."""
        found = np.minimum(np.searchsorted(self.numbers, numbers), max(len(self.numbers) - 1, 0))
        if len(numbers) and (not len(self.numbers) or (self.numbers[found] != numbers).any()):
            raise RequestError("the store reads documents that it does not list: see midstream store check.")
        return found

    def _has(self, name: str) -> None:
        if not any(name in fields for fields in self.metadata):
            known = sorted({field for fields in self.metadata for field in fields})
            listed = ", ".join(known[:20]) + (" ..." if len(known) > 20 else "")
            raise RequestError(
                f"no document has the field {name!r}: expected layer, position, frequency or a field of the "
                f"documents, which have {listed or 'none'}."
            )


@dataclass(frozen=True, eq=False)
class Cell:
    """Sums of one lens, site, layer and group.

    Attributes:
        documents: ``[rows]``, where each stands in ``Documents``.
        positions: ``[rows]`` positions of each.
        sums, counts: ``[measures, rows]``, over the positions where the measure is defined.
    """

    documents: Array
    positions: Array
    sums: Array
    counts: Array

    def pick(self, chosen: Array) -> Cell:
        """The cell of some of its rows."""
        parts = self.documents[chosen], self.positions[chosen], self.sums[:, chosen], self.counts[:, chosen]
        return Cell(*parts)


Cells = dict[tuple[str, str, int], dict[str, Cell]]
"""(lens, site, layer) -> group -> its sums; groups in the order in which they are shown."""


def documents(connection: duckdb.DuckDBPyConnection, schema: str = "main") -> Documents:
    """The documents of a store. Raises RequestError where their metadata are no JSON object."""
    query = f"SELECT doc_id, id, sha256, fault, metadata FROM {schema}.documents ORDER BY doc_id"
    rows = ask(connection, lambda: connection.execute(query).fetchall())
    return Documents(
        numbers=np.array([row[0] for row in rows], dtype=np.int64),
        sha256=[row[2] for row in rows],
        faults=[(row[1], row[3]) for row in rows if row[3] is not None],
        metadata=[_fields(row[4]) for row in rows],
    )


def special(min_context: int, schema: str = "main") -> str:
    """The positions of tokens that are not text, as SQL; those that ``min_context`` leaves out anyway are not there."""
    return f"SELECT doc_id, position FROM {schema}.positions WHERE kind <> 'text' AND position >= {min_context}"


def text_only(connection: duckdb.DuckDBPyConnection, min_context: int) -> str:
    """The join that leaves out what is no text; nothing where there is none, since a join costs half a second."""
    found = ask(connection, lambda: connection.execute(f"{special(min_context)} LIMIT 1").fetchall())
    return f"ANTI JOIN ({special(min_context)}) USING (doc_id, position)" if found else ""


def cells(
    connection: duckdb.DuckDBPyConnection, wanted: Averages, chosen: Sequence[str], known: Documents, source: str
) -> Cells:
    """The sums of every lens, site, layer and group.

    Args:
        connection: with the store's views.
        chosen: the measures.
        known: the store's documents.
        source: what is averaged: the FROM and WHERE of a query with the columns of ``readings``.

    Raises:
        RequestError: nothing is to be averaged, or as ``Documents.groups``.
    """
    parts = "".join(f", sum({expression(name)}), count({expression(name)})" for name in chosen)
    groups = None if wanted.field is None else known.groups(wanted.field)
    part, join = "0", ""
    if wanted.by == "position":
        part = "CASE WHEN position > 0 THEN floor(log2(position))::INT ELSE -1 END"
    elif wanted.by == "frequency":
        part = "decade"
        join = """JOIN (SELECT token_id AS counted, length(count(*)::VARCHAR) - 1 AS decade FROM main.positions
        GROUP BY token_id) ON counted = target_id"""
    query = f"""SELECT lens, site, layer, {part} AS part, doc_id, count(*){parts} FROM (FROM {source}) {join}
    GROUP BY lens, site, layer, part, doc_id ORDER BY lens, site, layer, part, doc_id"""
    found = ask(connection, lambda: list(connection.execute(query).fetchnumpy().values()))
    lens, site, layer, part, numbers, positions = (np.ma.getdata(values) for values in found[:6])
    if not len(lens):
        raise RequestError("there is nothing to average: no position has what was asked for.")
    new = np.ones(len(lens), dtype=bool)
    new[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in (lens, site, layer, part)])
    sums = np.array([np.ma.filled(values, 0) for values in found[6::2]], dtype=np.float64).reshape(-1, len(lens))
    counts = np.array([np.ma.getdata(values) for values in found[7::2]], dtype=np.int64).reshape(-1, len(lens))
    whole = Cell(known.rows(numbers), positions, sums, counts)
    made: Cells = {}
    starts = [*np.flatnonzero(new).tolist(), len(lens)]
    for start, end in pairwise(starts):
        cell = whole.pick(np.arange(start, end))
        place = made.setdefault((str(lens[start]), str(site[start]), int(layer[start])), {})
        place.update([(_name(wanted.by, int(part[start])), cell)] if groups is None else _split(cell, groups))
    return made


def _split(cell: Cell, groups: Array) -> Iterator[tuple[str, Cell]]:
    mine = groups[cell.documents]
    for group in sorted(set(mine.tolist()), key=lambda name: (name == NONE, name)):
        yield group, cell.pick(np.flatnonzero(mine == group))


def _name(by: str, part: int) -> str:
    """A group's name: the whole numbers that belong to it."""
    if by == "position":
        return _range(2**part, 2 ** (part + 1) - 1) if part >= 0 else "0"
    return _range(10**part, 10 ** (part + 1) - 1) if by == "frequency" else ""


def _range(first: int, last: int) -> str:
    return f"{first}-{last}" if last > first else str(first)


def _fields(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RequestError("the metadata of a document are no JSON object: see midstream store check.")
    return found


def _shown(value: str) -> str:
    """A group's name; a value that would be taken for that of no value is quoted."""
    return json.dumps(value) if value.strip('\\"') == NONE else value or NONE


def _text(value: object) -> str:
    """A string as it is, null as "", anything else as JSON writes it."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, sort_keys=True)
