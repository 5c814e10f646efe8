"""What a browser loads: page, script, style and the description of the server, each under one fixed name."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse, JSONResponse

from midstream.view import html
from midstream.web import describe

STATIC = {"app.js": "text/javascript", "app.css": "text/css"}
"""Built files, by the only names under which they are given."""


def add(made: FastAPI) -> None:
    """Adds them to an app."""

    @made.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(_read("index.html"))

    @made.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name == "grid.js":
            return Response(html.script(), media_type="text/javascript")
        if name == "grid.css":
            return Response(html.style(), media_type="text/css")
        if name not in STATIC:
            return JSONResponse({"error": "there is no such file."}, 404)
        return Response(_read(name), media_type=STATIC[name])

    @made.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(describe.page(made.openapi()))


def _read(name: str) -> str:
    return files("midstream.web").joinpath("static", name).read_text(encoding="utf-8")
