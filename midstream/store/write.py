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
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from midstream.errors import RequestError
from midstream.interrupt import undisturbed
from midstream.record import READING, SCHEMA, SCORE, WATCHED, Column, ReadingTable, ScoreTable, as_list

if TYPE_CHECKING:
    import duckdb

MEMORY = 112
"""MB that DuckDB may hold before it spills to disk; two more for each of the best tokens that a row lists."""
ROW_GROUP = 16384
"""Rows that the Parquet writer gathers before it compresses them; more costs memory and saves 2 % of the file."""

_SQL = {"int16": "SMALLINT", "int32": "INTEGER", "float32": "FLOAT", "float64": "DOUBLE", "str": "VARCHAR"}
_READINGS = {"reading": READING, "watched": WATCHED}
_ORDER = ("doc_id", "lens", "site", "layer", "position", "watch_id")


def check_target(path: str | Path) -> Path:
    """The absolute path of a file that may be written there, links followed; writes nothing.

    Call it before long work, so that a wrong ``--out`` is refused at once.

    Raises:
        RequestError: its folder is missing or takes no files, or the path is a folder or a device.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise RequestError(f"cannot write {str(path)!r}: it is a folder. Name a file inside it.")
    if target.exists() and not target.is_file():
        raise RequestError(f"cannot write {str(path)!r}: it is no ordinary file. Name an ordinary file.")
    if not target.parent.is_dir():
        raise RequestError(f"cannot write {str(path)!r}: there is no folder {str(target.parent)!r}. Make it first.")
    with _beside(target):
        return target


@contextmanager
def atomic(path: str | Path) -> Generator[Path]:
    """Gives a path to write to; it becomes ``path`` when the block ends well and vanishes when it does not.

    Raises:
        RequestError: nothing can be written there, or the disk is full.
    """
    target = check_target(path)
    with _beside(target) as folder, _explained(target):
        yield folder / target.name
        _publish({folder / target.name: target})


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
    with _beside(target) as folder:
        with _explained(target):
            database = _open(folder)
        try:
            last, any_watched = None, False
            for last in chunks:
                if not any_watched and len(last.watched["watch_id"]):
                    check_target(watched)
                    any_watched = True
                with _explained(target):
                    database.execute(f"SET memory_limit = '{MEMORY + 2 * np.shape(last.columns['top_ids'])[1]}MB'")
                    _insert(database, "reading", READING, last.columns)
                    _insert(database, "watched", WATCHED, last.watched)
            if last is None:
                raise ValueError("no chunks to write.")
            with _explained(target):
                metadata = _metadata(last)
                made = {_copy(database, "watched", WATCHED, folder / "w", metadata): watched} if any_watched else {}
                made[_copy(database, "reading", READING, folder / "r", metadata)] = target
                stale = not any_watched and _is_ours(database, watched)
        finally:
            database.close()
        with _explained(target):
            if stale:
                watched.unlink(missing_ok=True)
            _publish(made)
    return sorted(made.values())


def write_score(path: str | Path, table: ScoreTable) -> Path:
    """Writes a score to one Parquet file, rows in the table's order; undefined is null, no end of an interval infinite.

    The key-value metadata hold ``schema``, ``provenance`` and ``notes`` (JSON) and ``layers``. Raises RequestError when
    nothing can be written there; what was there before is untouched then.
    """
    target = check_target(path)
    with _beside(target) as folder, _explained(target):
        database = _open(folder, {"score": SCORE})
        try:
            _insert(database, "score", SCORE, table.columns)
            notes = json.dumps(table.notes, ensure_ascii=False)
            metadata = _metadata(table) | {"notes": notes}
            made = _copy(database, "score", SCORE, folder / "s", metadata)
        finally:
            database.close()
        _publish({made: target})
    return target


def write_csv(table: ReadingTable, stream: TextIO, *, header: bool = True) -> None:
    """Writes the columns of a reading as CSV: one line a row, undefined is empty, lists joined by blanks.

    An undefined number of a list is empty too, and so is a list of nothing else.
    """
    writer = csv.writer(stream, lineterminator="\n")
    if header:
        writer.writerow(column.name for column in READING)
    columns = [as_list(table.columns[column.name]) for column in READING]
    for row in zip(*columns, strict=True):
        writer.writerow(_joined(cell) if isinstance(cell, list) else cell for cell in row)


def _joined(cells: list[Any]) -> str:
    return " ".join("" if cell is None else str(cell) for cell in cells) if any(c is not None for c in cells) else ""


@contextmanager
def _beside(target: Path) -> Generator[Path]:
    """A hidden folder on the target's own disk, so that a rename can move a file out of it."""
    folder = target.parent / f".midstream-{secrets.token_hex(6)}"
    try:  # its name is known before it is made, so that a signal right after that leaves nothing
        with _explained(target):
            folder.mkdir(mode=0o700)
        yield folder
    finally:
        with undisturbed():
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _explained(target: Path) -> Generator[None]:
    """Turns what the system or DuckDB says while writing into a sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RequestError(
            f"cannot write {str(target)!r}: {reason}. Choose a folder that can be written to."
        ) from error
    except RuntimeError as error:
        if "interrupted" in str(error):  # DuckDB's word for Ctrl-C
            raise KeyboardInterrupt from error
        raise
    except Exception as error:
        if not type(error).__module__.endswith("duckdb"):
            raise
        if "KeyboardInterrupt" in str(error):  # Ctrl-C while DuckDB was turning Python values into its own
            raise KeyboardInterrupt from error
        reason = str(error).splitlines()[0]
        raise RequestError(f"cannot write {str(target)!r}: {reason}. Is there space left on that disk?") from error


def _publish(made: dict[Path, Path]) -> None:
    """Forces files to disk, renames them, and forces the renames to disk."""
    for source in made:
        _sync(source)
    for source, target in made.items():
        source.replace(target)
    _sync(next(iter(made.values())).parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _open(folder: Path, tables: Mapping[str, Sequence[Column]] = _READINGS) -> duckdb.DuckDBPyConnection:
    with undisturbed():  # a signal's exception inside this import ends the process with an abort
        import duckdb

    # one thread: less memory, and with more DuckDB 2.0 can hang for ever on Ctrl-C
    settings: dict[str, Any] = {"threads": 1, "temp_directory": str(folder / "spill")}
    database = duckdb.connect(folder / "rows.duckdb", config=settings)
    database.execute("SET enable_progress_bar = false")  # it would be drawn on standard output
    for name, declared in tables.items():
        types = ", ".join(f'"{column.name}" {_type(column)}' for column in declared)
        database.execute(f"CREATE TABLE {name} ({types})")
    return database


def _type(column: Column) -> str:
    return _SQL[column.dtype.removesuffix("[]")] + ("[]" if column.dtype.endswith("[]") else "")


def _insert(
    database: duckdb.DuckDBPyConnection, name: str, declared: Sequence[Column], columns: dict[str, Any]
) -> None:
    if not len(columns[declared[0].name]):
        return
    flat: dict[str, Any] = {}
    chosen: list[str] = []
    for column in declared:
        values = columns[column.name]
        if column.dtype.endswith("[]"):  # DuckDB reads no two-dimensional arrays
            parts = {f"{column.name}.{place}": part for place, part in enumerate(values.T)}
        else:
            parts = {column.name: values}
        flat.update(parts)
        cells = [_cell(part, column) for part in parts]
        chosen.append(f"[{', '.join(cells)}]" if column.dtype.endswith("[]") else cells[0])
    database.register("chunk", flat)
    try:
        database.execute(f"INSERT INTO {name} SELECT {', '.join(chosen)} FROM chunk")
    finally:
        database.unregister("chunk")


def _cell(name: str, column: Column) -> str:
    """The SQL of one value; DuckDB itself reads NaN in a numpy column as null."""
    if column.nullable and column.dtype.startswith("int"):
        return f'CASE WHEN "{name}" >= 0 THEN "{name}" END'
    return f'"{name}"'


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


def _metadata(table: ReadingTable | ScoreTable) -> dict[str, str]:
    provenance = json.dumps(asdict(table.provenance), ensure_ascii=False, allow_nan=False)
    return {"schema": str(SCHEMA), "provenance": provenance, "layers": str(table.layers)}


def _copy(
    database: duckdb.DuckDBPyConnection, name: str, declared: Sequence[Column], made: Path, metadata: dict[str, str]
) -> Path:
    columns = {column.name for column in declared}
    # of readings only: a score keeps its own order, which one thread does without being asked
    order = f"ORDER BY {', '.join(key for key in _ORDER if key in columns)}" if "doc_id" in columns else ""
    keys = ", ".join(f"{key}: ${key}" for key in metadata)
    database.execute(
        f"COPY (SELECT * FROM {name} {order}) TO $path (FORMAT parquet, COMPRESSION zstd, "
        f"COMPRESSION_LEVEL 3, PARQUET_VERSION v2, ROW_GROUP_SIZE {ROW_GROUP}, KV_METADATA {{{keys}}})",
        {"path": str(made), **metadata},
    )
    return made
