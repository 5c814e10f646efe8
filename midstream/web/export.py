"""A reading as a file to keep."""

from __future__ import annotations

import io
from pathlib import Path
from tempfile import TemporaryDirectory

from fastapi import Response

from midstream.errors import choices
from midstream.record import ReadingTable
from midstream.store.write import write_csv, write_parquet
from midstream.view import html, plot

TYPES = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "html": "text/html; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
}


def export(table: ReadingTable, form: str, *, name: str, statistic: str) -> Response:
    """The file, to be saved under ``NAME.FORM`` and opened by no browser in our place. Raises RequestError."""
    if form not in TYPES:
        raise choices("kind of file", form, TYPES)
    headers = {"content-disposition": f'attachment; filename="{name}.{form}"'}
    return Response(_made(table, form, statistic), media_type=TYPES[form], headers=headers)


def _made(table: ReadingTable, form: str, statistic: str) -> bytes:
    if form == "json":
        return table.json().encode()
    if form == "csv":
        text = io.StringIO(newline="")
        write_csv(table, text)
        return text.getvalue().encode()
    if form == "parquet":
        return _parquet(table)
    if form == "html":
        return html.page(table, statistic=statistic).encode()
    return plot.render(table, form, statistic=statistic)


def _parquet(table: ReadingTable) -> bytes:
    """Through a folder of its own for temporary files, gone at once: DuckDB writes Parquet to files only."""
    with TemporaryDirectory(prefix="midstream-") as place:
        file = Path(place) / "reading.parquet"
        write_parquet(file, [table])
        return file.read_bytes()
