"""SQL over a store: views of its files, and one statement at a time, which can neither write nor look elsewhere.

DuckDB is told to read no file but the store's own and to keep its settings. That does not stop ``COPY`` over one of
those files, and DuckDB takes it also inside ``WITH``; so what a statement is made of is looked at before it runs.
"""

from __future__ import annotations

import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from midstream.errors import MissingPackageError, RequestError, choices
from midstream.interrupt import undisturbed
from midstream.record import Column
from midstream.store.ask import ask, quoted
from midstream.store.blame import blamed, notes
from midstream.store.layout import STATISTICS
from midstream.store.rows import sql_type
from midstream.store.store import Store
from midstream.store.write import atomic

if TYPE_CHECKING:
    import duckdb

T = TypeVar("T")

KINDS = ("parquet", "csv", "json")
"""The files that an answer can be written to."""
FEWEST_BEFORE = 4
"""Averages leave out positions that are read with fewer tokens before them."""
MEASURES = {
    **{name: name for name in STATISTICS if "rank" not in name and not name.startswith("top_")},
    "accuracy": "rank",
    "agreement": "final_top1_rank",
    "input_accuracy": "input_rank",
}
"""What can be averaged -> the column it is made of: the column itself in nats, or how often that rank is 1."""

_READS = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_HIDES = {"query", "json_execute_serialized_sql"}
"""Functions that run SQL given as a value, where the look at the statement would not reach."""
_EXPLAIN = re.compile(r"\s*EXPLAIN\s+(?:ANALYZE\s+)?", re.IGNORECASE)
_NO_NUMBER = re.compile(rb'("(?:[^"\\]|\\.)*")|[-+]?(?:nan|inf(?:inity)?)', re.IGNORECASE)
"""A text of JSON, which stays, or NaN or an infinity outside any text, which DuckDB writes in JSON too."""
_LETTERS = re.compile(rb"nan|inf", re.IGNORECASE)
_COPY = {"parquet": "FORMAT parquet, COMPRESSION zstd", "csv": "FORMAT csv, HEADER", "json": "FORMAT json, ARRAY"}


def expression(measure: str) -> str:
    """The SQL of a measure of one row of readings; null where it is undefined."""
    column = MEASURES[measure]
    return column if column == measure else f"({column} = 1)::TINYINT"


def measures(store: Store) -> tuple[str, ...]:
    """The measures that a store keeps the columns for."""
    kept = {column.name for column in store.header.columns}
    return tuple(name for name, column in MEASURES.items() if column in kept)


def connect(store: Store, other: Store | None = None, *, target: Path | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory with a store's views, in one thread; to be closed.

    Views: ``readings``, ``positions``, ``documents`` as in ``record``, ``watched`` where tokens are watched, ``tokens``
    (token_id, token, count: how often it stands in the store's texts), and ``by_layer`` (lens, site, layer, positions,
    and the mean of every measure kept, over tokens of kind text read with at least 4 before them). Shards whose entry
    is damaged are left out.

    Args:
        store: what the views show.
        other: a second store, whose views are in the schema ``other``.
        target: a file outside the stores that may be written; otherwise nothing but their files can be opened.

    Raises:
        DamagedError: a file of a finished shard is missing or has another size.
    """
    with undisturbed():  # a signal's exception inside this import ends the process with an abort
        import duckdb

    settings: dict[str, Any] = {  # one thread: with more DuckDB 2.0 can hang for ever on Ctrl-C
        "threads": 1,
        "temp_directory": str(Path(tempfile.gettempdir()) / f"midstream-{secrets.token_hex(6)}"),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,  # a name in a query is never a Python variable
    }
    connection = duckdb.connect(":memory:", config=settings)
    try:
        connection.execute("SET enable_progress_bar = false")  # it would be drawn on standard output
        connection.execute("SET parquet_metadata_cache = true")
        opened: list[Path] = []
        for schema, shown in {"main": store, "other": other}.items():
            if shown is not None:
                with blamed(shown, on=RequestError):
                    opened += ask(connection, partial(_views, connection, shown, schema))
        # as DuckDB compares names: first with the pattern in the view, then with the file that it stands for
        names = {name for path in opened for name in (str(path), escape(str(path)))} | (
            {str(target)} if target else set()
        )
        paths = ", ".join(map(quoted, sorted(names)))
        connection.execute(f"SET allowed_paths = [{paths}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return connection


def sql(store: Store, text: str) -> Answer:
    """The answer to one SELECT over ``connect``'s views (or DESCRIBE, SHOW, SUMMARIZE, EXPLAIN of one).

    Raises:
        RequestError: it is wrong, is not one statement, writes, or reads other files.
        DamagedError: a file of the store is missing or has another size.
    """
    return Answer(store, text)


class Answer:
    """What a query says; rows are made when they are asked for, anew each time.

    Every method raises RequestError where the query fails on its way.

    Attributes:
        names: of the columns.
        types: of the columns, as DuckDB writes them.
        notes: what of the store it does not show, such as damaged shards, one sentence each.
    """

    def __init__(self, store: Store, text: str) -> None:
        self._store, self._text = store, text
        self._connection = connect(store)
        try:
            self.notes = notes(store)
            with blamed(store):
                self._relation = _relation(self._connection, text)
        except BaseException:
            self._connection.close()
            raise
        self.names: tuple[str, ...] = tuple(self._relation.columns)
        self.types: tuple[str, ...] = tuple(str(kind) for kind in self._relation.types)

    def __enter__(self) -> Self:
        """Itself; closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Ends it and frees its memory."""
        self._connection.close()

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """The rows as Python values, some thousands in memory at a time."""
        connection = connect(self._store)  # its own, so that other methods may be used meanwhile
        try:
            self._asked(lambda: connection.execute(self._text), connection)
            while rows := self._asked(lambda: connection.fetchmany(4096), connection):
                yield from rows
        finally:
            connection.close()

    def rows(self, limit: int | None = None) -> list[tuple[Any, ...]]:
        """All rows, or the first ``limit``, as Python values; undefined is None."""
        relation = self._relation if limit is None else self._relation.limit(limit)
        return self._asked(relation.fetchall)

    def arrow(self) -> Any:
        """A ``pyarrow.Table``. Raises MissingPackageError without pyarrow."""
        return self._made("pyarrow", self._relation.to_arrow_table)

    def pandas(self) -> Any:
        """A ``pandas.DataFrame``. Raises MissingPackageError without pandas."""
        return self._made("pandas", self._relation.df)

    def polars(self) -> Any:
        """A ``polars.DataFrame``. Raises MissingPackageError without polars or pyarrow."""
        return self._made("polars", self._relation.pl)

    def write(self, path: str | Path, kind: str = "parquet") -> Path:
        """Writes all rows to a file, whole or not at all: ``parquet``, ``csv`` with names, or ``json``, a list.

        Rows never all are in memory. Raises RequestError for another kind, or where nothing can be written there.
        """
        if kind not in KINDS:
            raise choices("kind of file", kind, KINDS)
        with atomic(path) as made:
            raw = made.with_name(f"raw-{secrets.token_hex(6)}") if kind == "json" else made
            connection = connect(self._store, target=raw)
            try:
                with blamed(self._store):
                    answer = _relation(connection, self._text)
                    # USE_TMP_FILE: not over a name of its own beside it, which could not be opened
                    copy = f"COPY answer TO {quoted(str(raw))} ({_COPY[kind]}, USE_TMP_FILE false)"
                    ask(connection, lambda: answer.query("answer", copy), disk=False)
            finally:
                connection.close()
            if kind == "json":
                _finite(raw, made)
        return Path(path)

    def _asked(self, work: Callable[[], T], connection: duckdb.DuckDBPyConnection | None = None) -> T:
        with blamed(self._store):
            return ask(connection or self._connection, work)

    def _made(self, package: str, make: Callable[[], Any]) -> Any:
        try:
            return self._asked(make)
        except ImportError as error:
            raise MissingPackageError(f"{package}() needs {package}: pip install {package}.") from error


def _relation(connection: duckdb.DuckDBPyConnection, text: str) -> Any:
    def look_and_bind() -> Any:
        _look(connection, text)
        return connection.sql(text)

    return ask(connection, look_and_bind)


def _finite(raw: Path, made: Path) -> None:
    """Copies a file of DuckDB, one row a line, with null for the numbers that JSON does not have, at any depth."""
    with raw.open("rb") as rows, made.open("wb") as file:
        for row in rows:
            # most rows have no such letters, and are not taken apart
            file.write(_NO_NUMBER.sub(lambda found: found[1] or b"null", row) if _LETTERS.search(row) else row)
    raw.unlink()


def _look(connection: duckdb.DuckDBPyConnection, text: str) -> None:
    """Refuses what is not one statement that only reads."""
    found = connection.extract_statements(text)
    if len(found) != 1:
        raise RequestError(f"expected one SELECT, and there are {len(found)} statements: give one at a time.")
    kind = found[0].type.name
    if kind == "EXPLAIN" and (head := _EXPLAIN.match(text)):
        text = text[head.end() :]
        found = connection.extract_statements(text)
        kind = found[0].type.name if len(found) == 1 else "MULTI"
    if kind != "SELECT":
        raise RequestError(
            f"a store is only read, and this is {kind}: expected a SELECT, or DESCRIBE, SHOW, SUMMARIZE or EXPLAIN of "
            "one (and a PIVOT that names its values with IN)."
        )
    ((tree,),) = connection.execute("SELECT json_serialize_sql($1)", [text]).fetchall()
    others = set(re.findall(r'"type":"(\w*_NODE)"', tree)) - _READS
    if others or '"error":true' in tree[:20]:
        words = ", ".join(sorted(other.partition("_")[0] for other in others)) or "no SELECT"
        raise RequestError(f"a store is only read, and there is {words} in this query: expected SELECT alone.")
    if hidden := _HIDES & {name.lower() for name in re.findall(r'"function_name":"(\w*)"', tree)}:
        raise RequestError(f"{min(hidden)}() runs SQL that cannot be looked at: write it out.")


def _views(connection: duckdb.DuckDBPyConnection, store: Store, schema: str) -> list[Path]:
    """Makes a store's views; the files they read."""
    opened = [store.vocabulary]
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    for kind, columns in store.header.tables.items():
        files = store.files(kind)
        opened += files
        connection.execute(f"CREATE VIEW {schema}.{kind} AS {_select(columns, files)}")
    connection.execute(
        f"""CREATE VIEW {schema}.tokens AS
        SELECT token_id, token, coalesce(n, 0) AS count FROM {_files([store.vocabulary])}
        LEFT JOIN (SELECT token_id, count(*) AS n FROM {schema}.positions GROUP BY token_id) USING (token_id)"""
    )
    means = "".join(f", avg({expression(name)}) AS {name}" for name in measures(store))
    connection.execute(
        f"""CREATE VIEW {schema}.by_layer AS
        SELECT lens, site, layer, count(*) AS positions{means} FROM {schema}.readings
        ANTI JOIN (SELECT doc_id, position FROM {schema}.positions WHERE kind <> 'text') USING (doc_id, position)
        WHERE context >= {FEWEST_BEFORE} GROUP BY lens, site, layer ORDER BY lens, site, layer"""
    )
    return opened


def _select(columns: tuple[Column, ...], files: list[Path]) -> str:
    names = ", ".join(f'"{column.name}"' for column in columns)
    if files:
        return f"SELECT {names} FROM {_files(files)}"
    cells = (f'NULL::{sql_type(column)} AS "{column.name}"' for column in columns)
    return f"SELECT {', '.join(cells)} WHERE false"


def _files(files: list[Path]) -> str:
    """By name, since a name may hold what DuckDB takes for a pattern; a folder's ``a=1`` is no column."""
    names = ", ".join(quoted(escape(str(path))) for path in files)
    return f"read_parquet([{names}], hive_partitioning = false)"
