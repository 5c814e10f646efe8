"""What was finished elsewhere and may be looked at: stores of scans, reports of studies; by name, never by path."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response

from midstream.errors import MidstreamError, RequestError, choices
from midstream.record import as_list
from midstream.store.document import document, worst
from midstream.store.store import Store, open_store
from midstream.store.summary import summary
from midstream.view import pack
from midstream.web.line import Line

REPORT = {
    "content-security-policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "content-type": "text/html; charset=utf-8",
}
"""Of a report, which is one file with its own style and figures: it may show itself and do nothing."""


def add(made: FastAPI, aside: Line, stores: Mapping[str, Path], studies: Mapping[str, Path]) -> None:
    """Adds what is on the shelf to an app; ``stores`` and ``studies``: name -> folder. ``aside``: where it is made."""

    def opened(name: str) -> Store:
        if name not in stores:
            raise choices("store", name, stores or ["none: give --store when the server is started"])
        return open_store(stores[name])

    @made.get("/api/shelf")
    def shelf() -> dict[str, Any]:
        """The stores and studies that may be opened, and what is wrong with the other stores."""
        found: list[dict[str, Any]] = []
        broken: list[str] = []
        for name in stores:
            try:
                found.append(_store(name, opened(name)))
            except MidstreamError as error:
                broken.append(f"{name}: {error}")
        return {"stores": found, "studies": list(studies), "broken": broken}

    @made.get("/api/stores/{name}")
    async def averages(name: str) -> dict[str, Any]:
        """A store's averages by layer with their intervals: columns of ``record.SUMMARY``, and what was left out."""
        table = await aside.once(lambda: summary(opened(name)))
        return {"columns": {key: as_list(values) for key, values in table.columns.items()}, "notes": table.notes}

    @made.get("/api/stores/{name}/worst/{measure}")
    async def ranked(name: str, measure: str) -> list[dict[str, Any]]:
        """The documents in which a measure is worst at the highest layer."""
        return await aside.once(lambda: worst(opened(name), measure))

    @made.get("/api/stores/{name}/documents/{doc_id}")
    async def one(name: str, doc_id: int) -> dict[str, Any]:
        """The grid of one document, packed as in a page."""
        packed = await aside.once(lambda: pack.pack(document(opened(name), doc_id)))
        return {"packed": base64.b64encode(packed).decode()}

    @made.get("/studies/{name}/report.html", include_in_schema=False)
    def report(name: str) -> Response:
        if name not in studies:
            raise choices("study", name, studies or ["none: give --studies when the server is started"])
        file = studies[name] / "report.html"
        if not file.is_file():
            raise RequestError(f"the report of {name} is gone since the server was started.")
        return Response(file.read_bytes(), headers=REPORT)


def _store(name: str, store: Store) -> dict[str, Any]:
    entries = store.entries
    return {
        "name": name,
        "model": store.header.model,
        "lenses": list(store.header.lenses),
        "documents": sum(entry.files["documents"].rows for entry in entries),
        "tokens": sum(entry.tokens for entry in entries),
        "finished": store.finished is not None,
    }
