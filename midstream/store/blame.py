"""What is wrong with a store that is asked: shards it leaves out, and the file that a failed query stumbled over."""

from __future__ import annotations

import shlex
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from glob import escape

from midstream.errors import RequestError
from midstream.record import Column
from midstream.store.ask import UnreadableError
from midstream.store.layout import FINISHED, TOKENS, VOCABULARY, file_name
from midstream.store.rows import in_memory, sql_type
from midstream.store.sealed import DamagedError
from midstream.store.store import Store


def left_out(store: Store, name: str = "the store") -> list[str]:
    """The sentence on the shards that no query sees, if there are any. Raises DamagedError as ``Store.damaged``."""
    if not (gone := store.damaged):
        return []
    listed = ", ".join(map(str, gone[:3])) + (" ..." if len(gone) > 3 else "")
    shards, are = ("shard", "is") if len(gone) == 1 else ("shards", "are")
    return [
        f"{len(gone):,} {shards} of {name} ({listed}) {are} left out: damaged, missing or of another scan; "
        f"{_check(store)} says which."
    ]


def notes(store: Store) -> tuple[str, ...]:
    """What an answer does not show, one sentence each; the scan's last word may be damaged."""
    try:
        return tuple(left_out(store))
    except DamagedError as error:
        if error.file != FINISHED:
            raise
        return (f"{store.path / FINISHED} {error.reason}, so that missing shards go unseen: see {_check(store)}.",)


@contextmanager
def blamed(store: Store, other: Store | None = None, *, on: type[RequestError] = UnreadableError) -> Generator[None]:
    """Names the damaged file, where one shows by its footer, in the place of such an error.

    Args:
        on: the errors that a damaged file may be behind; all of them where no SQL is the user's.
    """
    try:
        yield
    except DamagedError:
        raise
    except on as error:
        _look(store, other)
        if not isinstance(error, UnreadableError) or other is not None:
            raise
        raise UnreadableError(error.said, _check(store)) from error
    except Exception as error:
        if type(error).__name__ == "IOException":  # of ``ask`` without ``disk``: it may be the answer's disk too
            _look(store, other)
        raise


def _check(store: Store) -> str:
    return f"midstream store check {shlex.quote(str(store.path))}"


def _look(*stores: Store | None) -> None:
    """Raises DamagedError for the first file without a footer that names its columns; what they hold is not read."""
    for store in filter(None, stores):
        for name, columns in _files(store):
            if reason := _wrong(str(store.path / name), columns):
                raise DamagedError(store.path, name, f"{reason} ({_check(store)} names all that is damaged)")


def _files(store: Store) -> Iterator[tuple[str, tuple[Column, ...]]]:
    yield VOCABULARY, TOKENS
    for entry in store.entries:
        for kind, columns in store.header.tables.items():
            yield file_name(kind, entry.shard), columns


def _wrong(path: str, columns: tuple[Column, ...]) -> str:
    from duckdb import Error

    query = "DESCRIBE SELECT * FROM read_parquet($path, hive_partitioning = false)"
    try:
        with in_memory() as database:  # a new one each: an internal error of DuckDB ends it for good
            found = database.execute(query, {"path": escape(path)}).fetchall()
    except (Error, UnicodeDecodeError):
        return "is no Parquet file that can be read"
    same = {(name, kind) for name, kind, *_ in found} == {(column.name, sql_type(column)) for column in columns}
    return "" if same else "has other columns than it should"
