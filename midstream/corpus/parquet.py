"""Documents of a Parquet file, a row at a time by DuckDB: memory holds no more than a batch of its rows."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from midstream.corpus.file import LARGEST, Piece, Refuse, listed, parsed
from midstream.errors import RequestError
from midstream.interrupt import undisturbed

if TYPE_CHECKING:
    import duckdb

MEMORY = "4GB"
"""What DuckDB may hold: it decodes up to 2,048 rows, and at least a page, at once, and needs a few times their size."""

_SOURCE = "read_parquet($path, hive_partitioning = false)"

Result = TypeVar("Result")


class _Head(NamedTuple):
    """What a file says of itself: its columns but the text, and how many rows it has."""

    fields: list[str]
    rows: int


def check(path: Path, shown: str) -> None:
    """Raises RequestError where a file is no Parquet file with a column ``text`` of strings; reads only its footer."""
    with _database() as database:
        _head(database, path, shown)


def parquet(path: Path, shown: str, refuse: Refuse) -> Iterator[Piece]:
    """Text and other columns of each row; a row whose text is null is no document.

    Args:
        path: the file.
        shown: its name in errors.
        refuse: asked about a row above ``LARGEST`` bytes.

    Raises RequestError where the file is damaged, is none, or has no column ``text`` of strings.
    """
    with _database() as database:
        head = _head(database, path, shown)
        size = path.stat().st_size
        _asked(shown, 0, lambda: database.execute(_query(head.fields), {"path": _pattern(path)}))
        number = 0
        while row := _asked(shown, number, database.fetchone):
            number += 1
            yield _piece(number, row, size * number // max(head.rows, number), refuse)


def _piece(number: int, row: tuple[Any, ...], at: int, refuse: Refuse) -> Piece:
    text, length, sha256, fields, metadata = row
    if length is None:
        return Piece(at, broken=f"row {number:,} has null as its 'text'")
    try:
        other = cast("dict[str, Any]", parsed(metadata or "{}"))
    except ValueError as error:
        return Piece(at, broken=f"row {number:,} {error}")
    if length + fields <= LARGEST:
        return Piece(at, text, other)
    said = refuse(
        f"the row {number:,} of {{}} is larger than {LARGEST // 2**20} MiB: expected smaller documents; cut its text "
        "into several rows."
    )
    return Piece(at, metadata=other, fault=said, sha256=sha256)


def _query(fields: list[str]) -> str:
    """Each row's text, its bytes, the sha256 of one too large, the bytes of the other fields, and these as JSON."""
    pairs = ", ".join(f"{_quoted(name, chr(39))}, {_quoted(name, chr(34))}" for name in fields)
    return (
        f"SELECT CASE WHEN strlen(text) + strlen(fields) <= {LARGEST} THEN text END, strlen(text), "
        f"CASE WHEN strlen(text) + strlen(fields) > {LARGEST} THEN sha256(text) END, strlen(fields), "
        f"CASE WHEN strlen(fields) <= {LARGEST} THEN fields END "
        f'FROM (SELECT "text" AS text, json_object({pairs})::VARCHAR AS fields FROM {_SOURCE})'
    )


def _quoted(name: str, mark: str) -> str:
    return mark + name.replace(mark, mark + mark) + mark


def _head(database: duckdb.DuckDBPyConnection, path: Path, shown: str) -> _Head:
    def ask(query: str) -> list[Any]:
        return _asked(shown, 0, lambda: database.execute(query, {"path": _pattern(path)}).fetchall())

    columns: dict[str, str] = {name: kind for name, kind, *_ in ask(f"DESCRIBE SELECT * FROM {_SOURCE}")}
    kind = columns.pop("text", None)
    if kind is None:
        raise RequestError(f"{shown} has no column 'text': it has {listed(columns)}.")
    if kind != "VARCHAR":
        raise RequestError(f"the column 'text' of {shown} holds {kind[:80]}: expected strings (VARCHAR).")
    ((rows,),) = ask("SELECT num_rows FROM parquet_file_metadata($path)")
    return _Head(list(columns), rows)


def _pattern(path: Path) -> str:
    """Absolute, so that DuckDB takes no name for an address; escaped, unless a backslash makes it take it as it is."""
    name = str(path.absolute())
    return name if "\\" in name else escape(name)


@contextmanager
def _database() -> Generator[duckdb.DuckDBPyConnection]:
    with undisturbed():  # a signal's exception inside this import ends the process with an abort
        import duckdb

    # one thread: with more DuckDB 2.0 can hang for ever on Ctrl-C
    settings: dict[str, Any] = {
        "threads": 1,
        "memory_limit": MEMORY,
        "temp_directory": "",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    database = duckdb.connect(config=settings)
    try:
        database.execute("SET enable_progress_bar = false")  # it would be drawn on standard output
        database.execute("SET TimeZone = 'UTC'")  # else a time in the metadata would depend on the machine
        yield database
    finally:
        database.close()


def _asked(shown: str, row: int, ask: Callable[[], Result]) -> Result:
    """What DuckDB answers. Raises RequestError, with the row it came to, for what it says of the file."""
    try:
        return ask()
    except RuntimeError as error:
        if "interrupted" in str(error):  # DuckDB's word for Ctrl-C
            raise KeyboardInterrupt from error
        raise
    except Exception as error:
        if not type(error).__module__.endswith("duckdb"):
            raise
        where = f" after row {row:,}" if row else ""
        said = "".join(filter(str.isprintable, str(error).splitlines()[0]))[:300]  # it quotes what is in the file
        todo = "Expected a whole .parquet with a column 'text' of strings; make it anew."
        if "Out of Memory" in said:
            todo = f"What is read of it at once takes more than {MEMORY}: write it with smaller row groups."
        raise RequestError(f"cannot read {shown}{where}: {said}. {todo}") from error
