"""Result files, written whole or not at all: Parquet by DuckDB, CSV, and any other file through ``atomic``.

A file is made in a hidden folder beside its target, forced to disk and renamed; the folder is removed whatever
happens. An existing file keeps its content until the moment it is replaced.
"""

from __future__ import annotations

import csv
import json
import os
import secrets
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import asdict
from glob import escape
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from midstream.errors import RequestError
from midstream.interrupt import undisturbed
from midstream.record import SCHEMA, WATCHED, PatchTable, ReadingTable, ScoreTable, SummaryTable, as_list
from midstream.store.layout import store_around
from midstream.store.rows import bound, copy, explained, insert, open_rows

if TYPE_CHECKING:
    import duckdb


def check_target(path: str | Path) -> Path:
    """The absolute path of a file that may be written there, links followed; writes nothing.

    Call it before long work, so that a wrong ``--out`` is refused at once.

    Raises:
        RequestError: its folder is missing or takes no files, the path is a folder or a device, or lies inside a store.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise RequestError(f"cannot write {str(path)!r}: it is a folder. Name a file inside it.")
    if target.exists() and not target.is_file():
        raise RequestError(f"cannot write {str(path)!r}: it is no ordinary file. Name an ordinary file.")
    if not target.parent.is_dir():
        raise RequestError(f"cannot write {str(path)!r}: there is no folder {str(target.parent)!r}. Make it first.")
    if (store := store_around(target)) is not None:
        raise RequestError(
            f"cannot write {str(path)!r}: it lies inside the store {str(store)!r}, where only a scan writes. Name "
            "a file outside it."
        )
    with beside(target):
        return target


@contextmanager
def atomic(path: str | Path) -> Generator[Path]:
    """Gives a path to write to; it becomes ``path`` when the block ends well and vanishes when it does not.

    Raises:
        RequestError: nothing can be written there, or the disk is full.
    """
    target = check_target(path)
    with beside(target) as folder, explained(target):
        yield folder / target.name
        publish({folder / target.name: target})


def write_parquet(path: str | Path, chunks: Iterable[ReadingTable]) -> list[Path]:
    """Writes readings to one Parquet file and watched tokens, where there are any, to ``X.watched.parquet`` beside it.

    Rows are ordered document, lens, site, layer, position; undefined is null; types are those of ``record``. The
    key-value metadata hold ``schema``, ``provenance`` (JSON, of the last chunk) and ``layers`` (the model's blocks).
    Memory stays bounded: rows wait in a DuckDB that spills into a hidden folder beside the target, which needs up to
    five times the final size while it works. A watched file of an earlier result at this path is replaced or removed;
    another file of that name stays unless there are watched tokens.

    Args:
        path: the file to write, usually ``X.parquet``.
        chunks: at least one table, read once; their order does not matter.

    Returns:
        The files written.

    Raises:
        RequestError: nothing can be written there, or the disk is full; what was there before is untouched.
        ValueError: no chunks.
    """
    target = check_target(path)
    watched = target.with_name(target.stem + ".watched.parquet")
    with beside(target) as folder:
        rest = iter(chunks)
        if (first := next(rest, None)) is None:
            raise ValueError("no chunks to write.")
        last, declared = first, first.declared
        with explained(target):
            database = open_rows(folder, {"reading": declared, "watched": WATCHED})
        try:
            any_watched = False
            for last in chain([first], rest):
                if not any_watched and len(last.watched["watch_id"]):
                    check_target(watched)
                    any_watched = True
                with explained(target):
                    bound(database, np.shape(last.columns["top_ids"])[1])
                    insert(database, "reading", declared, last.columns)
                    insert(database, "watched", WATCHED, last.watched)
            with explained(target):
                metadata = _metadata(last)
                made = {copy(database, "watched", WATCHED, folder / "w", metadata): watched} if any_watched else {}
                made[copy(database, "reading", declared, folder / "r", metadata)] = target
                stale = not any_watched and _is_ours(database, watched)
        finally:
            database.close()
        with explained(target):
            if stale:
                watched.unlink(missing_ok=True)
            publish(made)
    return sorted(made.values())


def write_score(path: str | Path, table: ScoreTable) -> Path:
    """Writes a score to one Parquet file, rows in the table's order; undefined is null, no end of an interval infinite.

    The key-value metadata hold ``schema``, ``provenance`` and ``notes`` (JSON) and ``layers``. Raises RequestError when
    nothing can be written there; what was there before is untouched then.
    """
    return _write_table(path, table, _notes(table))


def write_summary(path: str | Path, table: SummaryTable) -> Path:
    """Writes a summary as ``write_score`` writes a score; the metadata also hold ``grouped_by``."""
    return _write_table(path, table, _notes(table) | {"grouped_by": table.by})


def write_patching(path: str | Path, table: PatchTable) -> Path:
    """Writes a patching as ``write_score`` writes a score; the metadata hold chosen, unpatched and source."""
    more = {"chosen": table.chosen, "unpatched": str(table.unpatched), "source": str(table.source)}
    return _write_table(path, table, more)


def _write_table(path: str | Path, table: ScoreTable | SummaryTable | PatchTable, more: dict[str, str]) -> Path:
    target = check_target(path)
    with beside(target) as folder, explained(target):
        database = open_rows(folder, {"estimate": table.DECLARED})
        try:
            insert(database, "estimate", table.DECLARED, table.columns)
            made = copy(database, "estimate", table.DECLARED, folder / "s", _metadata(table) | more)
        finally:
            database.close()
        publish({made: target})
    return target


def _notes(table: ScoreTable | SummaryTable) -> dict[str, str]:
    return {"notes": json.dumps(table.notes, ensure_ascii=False)}


def write_csv(table: ReadingTable, stream: TextIO, *, header: bool = True) -> None:
    """Writes the columns of a reading as CSV: one line a row, undefined is empty, lists joined by blanks.

    An undefined number of a list is empty too, and so is a list of nothing else.
    """
    writer = csv.writer(stream, lineterminator="\n")
    if header:
        writer.writerow(column.name for column in table.declared)
    columns = [as_list(table.columns[column.name]) for column in table.declared]
    for row in zip(*columns, strict=True):
        writer.writerow(_joined(cell) if isinstance(cell, list) else cell for cell in row)


def _joined(cells: list[Any]) -> str:
    return " ".join("" if cell is None else str(cell) for cell in cells) if any(c is not None for c in cells) else ""


@contextmanager
def beside(target: Path) -> Generator[Path]:
    """A hidden folder on the target's own disk, so that a rename can move a file out of it."""
    folder = target.parent / f".midstream-{secrets.token_hex(6)}"
    try:  # its name is known before it is made, so that a signal right after that leaves nothing
        with explained(target):
            folder.mkdir(mode=0o700)
        yield folder
    finally:
        with undisturbed():
            shutil.rmtree(folder, ignore_errors=True)


def publish(made: dict[Path, Path]) -> None:
    """Forces files to disk, renames them, and forces the renames to disk; source -> target."""
    for source in made:
        sync(source)
    for source, target in made.items():
        source.replace(target)
    for folder in dict.fromkeys(target.parent for target in made.values()):
        sync(folder)


def sync(path: Path) -> None:
    """Forces a file's content, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_ours(database: duckdb.DuckDBPyConnection, path: Path) -> bool:
    """Whether a file is one that ``write_parquet`` made; what its metadata cannot say is another's."""
    from duckdb import Error

    if not path.is_file():
        return False
    try:
        found = database.execute("SELECT decode(key) FROM parquet_kv_metadata($path)", {"path": escape(str(path))})
        return {"schema", "provenance", "layers"} <= {key for (key,) in found.fetchall()}
    except Error:
        return False


def _metadata(table: ReadingTable | ScoreTable | SummaryTable | PatchTable) -> dict[str, str]:
    provenance = json.dumps(asdict(table.provenance), ensure_ascii=False, allow_nan=False)
    return {"schema": str(SCHEMA), "provenance": provenance, "layers": str(table.layers)}
