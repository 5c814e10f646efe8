"""The files of one shard, made by whoever reads it; the store itself need not be there."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from midstream.interrupt import undisturbed
from midstream.record import DOCUMENTS, POSITIONS, Array, ReadingTable
from midstream.store.layout import Header
from midstream.store.rows import ROW_GROUP, bound, copy, explained, insert, open_rows

_WAITING = 1 << 16
"""Tokens of documents that wait to be inserted together."""
_ROW_GROUP = 1 << 16
"""Rows of a row group, for 53 bytes a row of the default model at top-5 where ``rows.ROW_GROUP`` takes 56."""
_SHORT = 16
"""Best tokens a row up to which so many rows are gathered; beyond, they would take much memory."""


class Made(NamedTuple):
    """A Parquet file of a shard: where it lies, or its bytes where it was made on another machine; and its rows."""

    data: Path | bytes
    rows: int


class ShardWriter:
    """Gathers the rows of a shard in bounded memory and gives its files; equal rows give equal bytes in any order.

    A context manager, which leaves nothing behind in ``scratch``; ``finish`` may be called once.
    """

    def __init__(self, scratch: Path, header: Header) -> None:
        """For a scan whose store has this header; rows wait in a folder inside ``scratch``.

        Raises RequestError where nothing can be written there.
        """
        self._tables = header.tables
        self._metadata = {"schema": str(header.schema), "layers": str(header.layers), "header": header.digest}
        top_k = int(header.request.get("top_k") or 0)
        self._row_group = _ROW_GROUP if top_k <= _SHORT else ROW_GROUP
        self._folder = scratch / f"shard-{secrets.token_hex(6)}"
        self._tokens: list[dict[str, Array]] = []
        self._documents: list[Mapping[str, Any]] = []
        self._waiting = 0
        with explained(self._folder):
            self._folder.mkdir(mode=0o700)
            try:
                self._database = open_rows(self._folder, self._tables)
            except BaseException:
                shutil.rmtree(self._folder, ignore_errors=True)
                raise
            bound(self._database, top_k)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Removes what waits on disk."""
        with undisturbed():
            self._database.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, table: ReadingTable, doc_ids: Array) -> None:
        """Takes the readings and the watched tokens of a table, but not its positions (see ``document``).

        Args:
            doc_ids: ``[documents]``, the doc_id of what the table calls document 0, 1 ...
        """
        ids = np.asarray(doc_ids, dtype=np.int32)
        parts = {"readings": table.columns, "watched": table.watched}
        with explained(self._folder):
            for kind in parts.keys() & self._tables.keys():
                rows = {**parts[kind], "doc_id": ids[parts[kind]["doc_id"]]}
                insert(self._database, kind, self._tables[kind], rows)

    def drop(self, doc_ids: Array) -> None:
        """Forgets all readings and watched tokens of these documents ``[n]``."""
        with explained(self._folder):
            for kind in ("readings", "watched"):
                if kind in self._tables:
                    ids = [int(number) for number in doc_ids]
                    self._database.execute(f"DELETE FROM {kind} WHERE doc_id IN (SELECT unnest($ids))", {"ids": ids})

    def document(self, row: Mapping[str, Any], ids: Sequence[int] = (), kinds: Sequence[str] = ()) -> None:
        """Takes a document, read or not: its row of ``documents``, and all its tokens for ``positions``.

        Args:
            row: the columns of ``record.DOCUMENTS`` but ``tokens``; ``metadata`` as a mapping, or its JSON text.
            ids: ``[tokens]``, the ids of all its tokens, whether or not readings of them are kept.
            kinds: ``[tokens]``, text, special or template.
        """
        metadata = row["metadata"]
        if not isinstance(metadata, str):
            metadata = json.dumps(metadata, ensure_ascii=False, sort_keys=True, default=str)
        self._documents.append({**row, "metadata": metadata, "tokens": len(ids)})
        self._tokens.append(
            {
                "doc_id": np.full(len(ids), row["doc_id"], np.int32),
                "position": np.arange(len(ids), dtype=np.int32),
                "token_id": np.asarray(ids, dtype=np.int32),
                "kind": np.array(kinds, dtype=object),
            }
        )
        self._waiting += len(ids) + 1
        if self._waiting > _WAITING:
            self._flush()

    def finish(self, out: Path | None = None) -> dict[str, Made]:
        """Kind -> its file, for every kind that the store has (see ``Header.kinds``).

        Args:
            out: folder on the same disk that the files are put into; None: they are given as bytes.

        Raises RequestError when the disk is full.
        """
        self._flush()
        made: dict[str, Made] = {}
        with explained(self._folder):
            for kind, columns in self._tables.items():
                path = copy(self._database, kind, columns, self._folder / kind, self._metadata, self._row_group)
                [(rows,)] = self._database.execute(f"SELECT count(*) FROM {kind}").fetchall()
                if out is None:
                    made[kind] = Made(path.read_bytes(), rows)
                    path.unlink()
                else:
                    made[kind] = Made(path.replace(out / f"{self._folder.name}-{kind}"), rows)
        return made

    def _flush(self) -> None:
        with explained(self._folder):
            if self._tokens:
                columns = {c.name: np.concatenate([part[c.name] for part in self._tokens]) for c in POSITIONS}
                insert(self._database, "positions", POSITIONS, columns)
            texts = [
                [_text(row[c.name]) if c.dtype == "str" else row[c.name] for c in DOCUMENTS] for row in self._documents
            ]
            named = zip(DOCUMENTS, zip(*texts, strict=True), strict=False)
            columns = {c.name: np.array(cells, dtype=object if c.dtype == "str" else c.dtype) for c, cells in named}
            if columns:
                insert(self._database, "documents", DOCUMENTS, columns)
        self._tokens, self._documents, self._waiting = [], [], 0


def _text(value: Any) -> str:
    """A text as UTF-8 can hold it, each lone surrogate (as odd file names have) spelled out."""
    return "" if value is None else str(value).encode("utf-8", "backslashreplace").decode()
