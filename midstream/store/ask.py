"""DuckDB asked so that Ctrl-C ends any query at once and what goes wrong is a sentence."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from midstream.errors import RequestError
from midstream.interrupt import undisturbed
from midstream.store.sealed import printable

if TYPE_CHECKING:
    import duckdb

T = TypeVar("T")

_DISK = ("IOException", "OutOfMemoryException")
_UNREADABLE = ("IOException", "InvalidInputException", "SerializationException", "InternalException", "Error")
"""What DuckDB raises for a file that it cannot read; ``Error`` comes from the Parquet decoder's own library."""


class UnreadableError(RequestError):
    """A query fails on what a file holds, or seems to.

    Attributes:
        said: what is wrong, as DuckDB has it.
    """

    def __init__(self, said: str, check: str = "midstream store check") -> None:
        super().__init__(f"the query cannot be answered: {printable(said)}. {check} says whether a file is damaged.")
        self.said = said


def ask(connection: duckdb.DuckDBPyConnection, work: Callable[[], T], *, disk: bool = True) -> T:
    """What ``work`` gives, which asks something of this connection.

    It runs in a thread of its own: DuckDB looks for a signal only between its tasks, which can be hours apart (a
    join without equality that finds nothing), but when another thread tells it to stop it does so at once.

    Args:
        disk: whether what the disk says becomes a sentence about the store; without, it is DuckDB's own error.

    Raises:
        RequestError: the query is wrong or fails; UnreadableError where a damaged file may be why.
    """
    made: list[T] = []
    failed: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            made.append(work())
        except BaseException as error:
            failed.append(error)
        finally:
            done.set()

    try:
        with undisturbed():  # so that it is known whether there is a thread
            threading.Thread(target=run, daemon=True).start()
        done.wait()
    except BaseException:
        with undisturbed():  # a connection must not be closed under a query
            while not done.wait(0.02):
                connection.interrupt()
        raise
    if not failed:
        return made[0]
    error = failed[0]
    if isinstance(error, UnicodeDecodeError):
        raise UnreadableError("a text is no UTF-8") from error
    if not type(error).__module__.endswith("duckdb") or (not disk and type(error).__name__ in _DISK):
        raise error
    raise _dressed(type(error).__name__, str(error)) from error


def quoted(value: str) -> str:
    """A text as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"


def _dressed(name: str, said: str) -> RequestError:
    """What DuckDB said: its first line, without the name of the error, and what it thinks was meant."""
    lines = said.splitlines() or [name]
    meant = [line for line in lines[1:] if line.startswith(("Candidate", "Did you mean"))]
    first = " ".join([lines[0].partition("Error: ")[2] or lines[0], *meant]).rstrip(".")
    if name in _UNREADABLE:
        return UnreadableError(first)
    if name == "PermissionException":
        return RequestError(f"a query reads the store's own files and no others, and writes none: {first}.")
    if name == "OutOfMemoryException":
        return RequestError(
            f"the query needs more memory or disk than there is: {first}. Ask for fewer rows or columns."
        )
    return RequestError(
        f"the query is wrong: {first}. There are the views readings, documents, positions, tokens and by_layer."
    )
