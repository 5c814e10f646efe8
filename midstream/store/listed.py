"""What the documents' files of sound shards say: which documents have changed since, which could not be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from glob import escape
from pathlib import Path
from typing import Any

from midstream.store.layout import file_name
from midstream.store.rows import in_memory
from midstream.store.sealed import printable

_NAMED = 5
"""Changed documents that an error names."""


def changed(store: Path, shard: int, documents: Sequence[tuple[int, str, str]]) -> str:
    """The names of documents that are not those which a shard holds, the first few.

    Args:
        documents: doc_id, id and sha256 of each that the corpus now has there.
    """
    held = {number: (name, sha256) for number, name, sha256 in _rows(store, shard, "doc_id, id, sha256")}
    now = {number: (name, sha256) for number, name, sha256 in documents}
    differ = [
        number for number in sorted({*held, *now}) if held.get(number, ("", ""))[1] != now.get(number, ("", ""))[1]
    ]
    names = [repr(printable((now.get(number) or held[number])[0])) for number in differ[:_NAMED]]
    return ", ".join(names) + (f" and {len(differ) - _NAMED:,} more" if len(differ) > _NAMED else "")


def faults(store: Path, shards: Iterable[int], most: int) -> list[str]:
    """The first documents of these shards that could not be read, each with the reason."""
    found: list[str] = []
    for shard in shards:
        for number, name, fault in _rows(store, shard, "doc_id, id, fault"):
            if fault is not None:
                found.append(f"document {number} ({printable(name)}): {printable(fault)}")
            if len(found) == most:
                return found
    return found


def _rows(store: Path, shard: int, columns: str) -> list[tuple[Any, ...]]:
    with in_memory() as database:
        path = escape(str(store / file_name("documents", shard)))
        return database.execute(f"SELECT {columns} FROM read_parquet($path) ORDER BY doc_id", {"path": path}).fetchall()
