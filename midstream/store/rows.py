"""Rows that wait in a DuckDB, which spills to disk, until they are sorted into one Parquet file."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midstream.errors import RequestError
from midstream.interrupt import undisturbed
from midstream.record import Column

if TYPE_CHECKING:
    import duckdb

MEMORY = 112
"""MB that DuckDB may hold before it spills to disk; two more for each of the best tokens that a row lists."""
ROW_GROUP = 16384
"""Rows that the Parquet writer gathers before it compresses them; more costs memory and saves 2 % of the file."""

_SQL = {"int16": "SMALLINT", "int32": "INTEGER", "float32": "FLOAT", "float64": "DOUBLE", "str": "VARCHAR"}
_ORDER = ("doc_id", "lens", "site", "layer", "position", "watch_id")


def sql_type(column: Column) -> str:
    """A column's type, as DuckDB writes it."""
    return _SQL[column.dtype.removesuffix("[]")] + ("[]" if column.dtype.endswith("[]") else "")


def open_rows(folder: Path, tables: Mapping[str, Sequence[Column]]) -> duckdb.DuckDBPyConnection:
    """A DuckDB with these empty tables, on disk in ``folder``, where no other may be; whoever asked closes it."""
    with undisturbed():  # a signal's exception inside this import ends the process with an abort
        import duckdb

    # one thread: less memory, and with more DuckDB 2.0 can hang for ever on Ctrl-C
    settings: dict[str, Any] = {"threads": 1, "temp_directory": str(folder / "spill")}
    # after a "?" DuckDB looks for options, and puts the name of its log before it; in memory it spills all the same
    place = ":memory:" if "?" in str(folder) else folder / "rows.duckdb"
    database = duckdb.connect(place, config=settings)
    database.execute("SET enable_progress_bar = false")  # it would be drawn on standard output
    for name, declared in tables.items():
        types = ", ".join(f'"{column.name}" {sql_type(column)}' for column in declared)
        database.execute(f"CREATE TABLE {name} ({types})")
    return database


@contextmanager
def in_memory() -> Generator[duckdb.DuckDBPyConnection]:
    """A DuckDB that holds nothing, to look into a Parquet file with."""
    with undisturbed():
        import duckdb

    with duckdb.connect(config={"threads": 1}) as database:
        database.execute("SET enable_progress_bar = false")
        yield database


def bound(database: duckdb.DuckDBPyConnection, top_k: int) -> None:
    """Bounds the memory of a database whose rows list ``top_k`` best tokens; call it before the first of them."""
    database.execute(f"SET memory_limit = '{MEMORY + 2 * top_k}MB'")


def insert(
    database: duckdb.DuckDBPyConnection, name: str, declared: Sequence[Column], columns: Mapping[str, Any]
) -> None:
    """Appends rows to a table: arrays with one entry a row, ``[rows, k]`` for lists.

    Undefined becomes null: NaN, negative, or an empty text in a column that may be undefined.
    """
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


def copy(
    database: duckdb.DuckDBPyConnection,
    name: str,
    declared: Sequence[Column],
    made: Path,
    metadata: Mapping[str, str],
    row_group: int = ROW_GROUP,
) -> Path:
    """Writes a table to a Parquet file, readings in their order, and returns its path."""
    columns = {column.name for column in declared}
    # of readings only: a score keeps its own order, which one thread does without being asked
    order = f"ORDER BY {', '.join(key for key in _ORDER if key in columns)}" if "doc_id" in columns else ""
    keys = ", ".join(f"{key}: ${key}" for key in metadata)
    database.execute(
        f"COPY (SELECT * FROM {name} {order}) TO $path (FORMAT parquet, COMPRESSION zstd, "
        f"COMPRESSION_LEVEL 3, PARQUET_VERSION v2, ROW_GROUP_SIZE {row_group}, KV_METADATA {{{keys}}})",
        {"path": str(made), **metadata},
    )
    return made


@contextmanager
def explained(target: Path) -> Generator[None]:
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


def _cell(name: str, column: Column) -> str:
    """The SQL of one value; DuckDB itself reads NaN in a numpy column as null."""
    if column.nullable and column.dtype.startswith("int"):
        return f'CASE WHEN "{name}" >= 0 THEN "{name}" END'
    if column.nullable and column.dtype == "str":
        return f"nullif(\"{name}\", '')"
    return f'"{name}"'
