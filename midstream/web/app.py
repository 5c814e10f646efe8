"""The app: what it answers at which address. It is handed a desk, and imports no model."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from midstream.errors import MidstreamError
from midstream.record import Array, as_list
from midstream.view import chart, compare, pack
from midstream.view.wire import Sent
from midstream.web import pages, shelf
from midstream.web.ask import LIKE, CodeAsk, FollowAsk, ModelAsk, NearAsk, ReadAsk, SampleAsk
from midstream.web.desk import Desk, Kept
from midstream.web.export import export
from midstream.web.line import FullError, Line, Place
from midstream.web.readings import GoneError, Readings
from midstream.web.told import Events, Told

CHANGE = "logprob_change"
"""What colours the grid of a difference."""
NO_JSON = "the body is no JSON: expected what JSON.stringify or json.dumps gives, in UTF-8."
DOCS = "/docs describes what this server answers"


def app(desk: Desk, stores: Mapping[str, Path] | None = None, studies: Mapping[str, Path] | None = None) -> FastAPI:
    """The workbench over a desk; ``web.guard.Guard`` belongs before it.

    ``stores``, ``studies``: name -> folder of what may be opened too.
    """
    made = FastAPI(
        title="midstream", version=version("midstream"), docs_url=None, redoc_url=None, redirect_slashes=False
    )
    line, aside, readings = Line(), Line(), Readings()
    pages.add(made)
    _errors(made)
    _models(made, desk, line)
    _reading(made, desk, line, readings)
    _kept(made, desk, line, readings)
    _held(made, aside, readings)
    shelf.add(made, aside, stores or {}, studies or {})
    return made


def _models(made: FastAPI, desk: Desk, line: Line) -> None:
    @made.get("/api/desk")
    async def about() -> dict[str, Any]:
        """The models that may be chosen, the one in memory, its lenses, and the limits."""
        return {"models": list(desk.models), **desk.about()}

    @made.post("/api/model")
    async def choose(ask: ModelAsk) -> dict[str, Any]:
        """Load another model in place of the one in memory; answers when it is there."""
        await line.once(lambda: desk.choose(ask.model))
        return await about()


def _reading(made: FastAPI, desk: Desk, line: Line, readings: Readings) -> None:
    @made.post("/api/read", response_class=Told, status_code=200)
    async def read(ask: ReadAsk) -> Told:
        """Read a text. Events: ``place`` in the line, ``loading``, ``opening``, ``cells``, ``end``, or ``error``."""
        began = time.monotonic()

        def work() -> Iterator[tuple[str, Any]]:
            chart.statistic(ask.statistic)
            yield from _chosen(desk, ask.model)
            shown = desk.show(ask)
            sent = Sent(shown.outline, ask.statistic)
            yield "opening", sent.opening()
            for part in desk.rows(shown):
                for block in sent.cells(part):
                    yield "cells", block
            table = sent.whole()
            name = readings.keep(Kept(shown, table, ask.statistic))
            yield (
                "end",
                {
                    "reading": name,
                    "seconds": time.monotonic() - began,
                    "provenance": asdict(table.provenance),
                },
            )

        return Told(_events(line, work))

    @made.post("/api/sample", response_class=Told, status_code=200)
    async def sample(ask: SampleAsk) -> Told:
        """Continue a text, with edits and without. Events: ``place``, ``loading``, ``token``, ``end``; ``error``."""

        def work() -> Iterator[tuple[str, Any]]:
            yield from _chosen(desk, ask.model)
            for new in desk.sample(ask):
                fields = ("branch", "token", "text", "logprob", "ended")
                yield "token", {name: getattr(new, name) for name in fields}
            yield "end", {}

        return Told(_events(line, work))


def _chosen(desk: Desk, model: str) -> Iterator[tuple[str, Any]]:
    """The model that was asked for is in memory after it: another page may have chosen another since."""
    if model and model != desk.about()["model"]:
        yield "loading", {"model": model}
        desk.choose(model)


def _kept(made: FastAPI, desk: Desk, line: Line, readings: Readings) -> None:
    @made.post("/api/follow")
    async def follow(ask: FollowAsk) -> dict[str, Any]:
        """Rank and log-probability of tokens at one position of a reading, exact at every place: columns."""
        shown = readings[ask.reading].shown
        return _columns(await line.once(lambda: desk.follow(shown, ask)))

    @made.post("/api/code")
    async def code(ask: CodeAsk) -> dict[str, str]:
        """The command, and the Python, that read a text so, with the same tokens followed and the same colour."""
        return dict(desk.code(ask, ask.watch))

    @made.post("/api/near")
    async def near(ask: NearAsk) -> list[dict[str, Any]]:
        """The positions of a reading whose stream is most like that of one, with the cosine."""
        shown = readings[ask.reading].shown
        found = await line.once(lambda: desk.near(shown, ask))
        return [{"position": position, "cosine": cosine} for position, cosine in found]


def _held(made: FastAPI, aside: Line, readings: Readings) -> None:
    """What needs no model is made aside, one at a time too: a file of a long reading takes gigabytes on its way."""

    @made.get("/api/readings/{name}.{form}")
    async def exported(name: str, form: str, statistic: str | None = None) -> Any:
        """A reading that was shown, as a file: json, csv, parquet, html, svg or png, coloured by a statistic."""
        kept = readings[name]
        colour = kept.statistic if statistic is None else chart.statistic(statistic).name
        return await aside.once(lambda: export(kept.table, form, name="reading", statistic=colour))

    @made.get("/api/differences/{one}/{other}.{form}")
    async def exported_difference(one: str, other: str, form: str) -> Any:
        """The second of two readings with what the first had, as a file."""
        tables = readings[one].table, readings[other].table
        return await aside.once(lambda: export(compare.difference(*tables), form, name="difference", statistic=CHANGE))

    @made.get("/api/differences/{one}/{other}")
    async def compared(one: str, other: str) -> dict[str, Any]:
        """The second of two readings with what the first had, by the first lens of each: a packed grid, and curves."""
        tables = readings[one].table, readings[other].table

        def work() -> dict[str, Any]:
            packed = base64.b64encode(pack.pack(compare.difference(*tables), statistic=CHANGE)).decode()
            return {"packed": packed, **compare.curves(*tables)}

        return await aside.once(work)


async def _events(line: Line, work: Callable[[], Iterator[tuple[str, Any]]]) -> Events:
    """What the work tells in its turn, and before it the place in the line; after an error nothing more comes."""
    try:
        async with aclosing(line.serve(work)) as steps:
            async for found in steps:
                yield ("place", {"ahead": found.ahead}) if isinstance(found, Place) else found
    except MidstreamError as error:
        yield "error", _said(error)


def _columns(columns: Mapping[str, Array]) -> dict[str, Any]:
    return {name: as_list(values) for name, values in columns.items()}


def _errors(made: FastAPI) -> None:
    @made.exception_handler(MidstreamError)
    async def refused(_: Request, error: MidstreamError) -> JSONResponse:
        status = 503 if isinstance(error, FullError) else 404 if isinstance(error, GoneError) else 400
        return JSONResponse(_said(error), status)

    @made.exception_handler(RequestValidationError)
    async def unlike(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": _unlike(error.errors()[0])}, 422)

    @made.exception_handler(HTTPException)
    async def unknown(asked: Request, error: HTTPException) -> JSONResponse:
        said = {
            400: NO_JSON,
            404: f"there is nothing at this address: {DOCS}.",
            405: f"this address takes no {asked.method}: {DOCS}.",
        }
        return JSONResponse({"error": said.get(error.status_code, error.detail)}, error.status_code, error.headers)


def _unlike(first: Mapping[str, Any]) -> str:
    if first["type"] == "json_invalid":
        return NO_JSON
    if first["type"] == "string_pattern_mismatch":
        return f"{first['loc'][-1]}: expected {LIKE[first['ctx']['pattern']]}, not {first['input']!r}."
    where = ".".join(str(part) for part in first["loc"][1:])
    return f"{where or 'the body'}: {first['msg']}."


def _said(error: MidstreamError) -> dict[str, str]:
    first = getattr(error, "first", None)
    return {"error": str(error)} | ({} if first is None else {"first": first})
