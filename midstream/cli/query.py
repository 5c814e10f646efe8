"""``midstream query``: SQL over a store."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from midstream.errors import RequestError

if TYPE_CHECKING:
    from midstream.store.query import Answer
    from midstream.store.store import Store

SHOWN = 200
"""Rows that are printed as text."""

Kind = Literal["text", "csv", "json", "parquet"]


def query(
    store: Annotated[Path, typer.Argument(help="Folder of a store.")],
    sql: Annotated[
        str,
        typer.Argument(help="One SELECT over readings, documents, positions, tokens, by_layer (and watched)."),
    ],
    output: Annotated[
        Kind | None, typer.Option("--format", help="text, unless --out says otherwise; parquet needs --out.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write every row here: .parquet, .csv or .json.")] = None,
) -> None:
    """Ask a store in SQL. Nothing is changed, and no other file is read."""
    kind = _kind(output, out)

    from midstream.store.query import sql as ask
    from midstream.store.store import open_store

    opened = open_store(store)
    with ask(opened, sql) as answer:
        for note in answer.notes:
            print(f"midstream: {note}", file=sys.stderr)
        if out is not None:
            answer.write(out, kind)
        elif kind == "text":
            _print(opened, sql, answer)
        else:
            _pass_on(answer, kind)


def _kind(output: Kind | None, out: Path | None) -> Kind:
    """What is written, from the format and the file's ending. Raises RequestError where the two do not agree."""
    if out is None:
        if output == "parquet":
            raise RequestError("--format parquet is no text to print: expected --out FILE.parquet too.")
        return output or "text"
    kinds: dict[str, Kind] = {".parquet": "parquet", ".csv": "csv", ".json": "json"}
    kind = kinds.get(out.suffix.lower())
    if kind is None or output not in (None, kind):
        endings = f".{output}" if output not in (None, "text") else ".parquet, .csv or .json"
        raise RequestError(f"--out {str(out)!r}: expected a name that ends in {endings}.")

    from midstream.store.write import check_target

    check_target(out)
    return kind


def _print(store: Store, text: str, answer: Answer) -> None:
    from rich.console import Console

    from midstream.view.answer_table import AnswerView

    rows = answer.rows(SHOWN + 1)
    if answer.names == ("explain_key", "explain_value"):
        for _, plan in rows:
            print(plan)
        return
    total = len(rows) if len(rows) <= SHOWN else _count(store, text)
    Console().print(AnswerView(answer.names, answer.types, rows[:SHOWN], total))


def _count(store: Store, text: str) -> int | None:
    """How many rows the query has; None where it cannot stand inside another."""
    from midstream.store.query import sql as ask

    try:
        with ask(store, f"SELECT count(*) FROM (\n{text.strip().rstrip(';')}\n)") as counted:
            return int(counted.rows()[0][0])
    except RequestError:
        return None


def _pass_on(answer: Answer, kind: Kind) -> None:
    """Print the file that ``--out`` would write; it never all is in memory."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="midstream-") as folder:
        path = answer.write(Path(folder) / f"answer.{kind}", kind)
        with path.open(encoding="utf-8", newline="") as file:
            shutil.copyfileobj(file, sys.stdout)
