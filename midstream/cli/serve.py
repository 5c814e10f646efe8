"""``midstream serve``: the workbench, a page on this machine."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midstream.cli.options import Device, Dtype, EngineName, load_model
from midstream.errors import RequestError

if TYPE_CHECKING:
    from uvicorn import Server

    from midstream.cli.handed import Handed
    from midstream.web.guard import Rules

LOOPBACK = ("127.0.0.1", "localhost", "::1")

HTTP = 80
"""The port that a browser does not name."""


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="As for read, the first at first; the page can switch between them.", show_default=False
        ),
    ] = None,
    lenses: Annotated[
        list[Path] | None, typer.Option("--lenses", help="A folder whose lens files the page may use by name.")
    ] = None,
    store: Annotated[list[Path] | None, typer.Option("--store", help="A store that the page may open.")] = None,
    studies: Annotated[Path | None, typer.Option("--studies", help="A folder of studies, to be opened.")] = None,
    host: Annotated[str, typer.Option("--host", help="Beyond loopback the page asks for a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0: any that is free.", min=0, max=65535)] = 8017,
    tokens: Annotated[int, typer.Option("--tokens", help="Of a text, read at once.", min=2)] = 2048,
    engine: EngineName = None,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Serve the workbench: type a text, see what each layer believes."""
    for option, folder in [("lenses", one) for one in lenses or ()] + ([("studies", studies)] if studies else []):
        if not folder.is_dir():
            raise RequestError(f"--{option} {str(folder)!r}: there is no such folder.")
    if twice := [name for name, count in Counter(one.resolve().name for one in lenses or ()).items() if count > 1]:
        raise RequestError(f"two folders of lenses are named {twice[0]!r}: rename one.")
    shelf = _stores(store or ()), _studies(studies)
    waiting = _socket(host, port)
    from midstream.cli.handed import Handed
    from midstream.run.desk import Desk

    desk = Desk(
        lambda name: load_model(name or None, engine=engine, device=device, dtype=dtype),
        _models(model or [os.environ.get("MIDSTREAM_MODEL") or "default"]),
        tuple(one.resolve() for one in lenses or ()),
        tokens,
    )
    given = {"engine": engine, "device": None if device == "cpu" else device, "dtype": dtype}
    _run(Handed(desk, given), shelf, waiting, host)


def _models(given: Iterable[str]) -> dict[str, str]:
    """Name -> what is loaded: those that were given, then those that the hub's library has here already."""
    from midstream.model.cached import cached

    return {name: name for name in given} | {
        name: str(folder) for name, folder in cached().items() if name not in given
    }


def _stores(folders: Iterable[Path]) -> dict[str, Path]:
    """Name -> store, each opened once. Raises RequestError for what is none, and for two of one name."""
    from midstream.store.store import open_store

    found: dict[str, Path] = {}
    for folder in folders:
        name = folder.resolve().name
        if name in found:
            raise RequestError(f"two stores are named {name!r}: rename the folder of one.")
        found[name] = open_store(folder).path
    return found


def _studies(folder: Path | None) -> dict[str, Path]:
    """Name -> study that has a report."""
    reports = sorted(folder.glob("*/report.html")) if folder else []
    return {report.parent.name: report.parent.resolve() for report in reports}


def _socket(host: str, port: int) -> socket.socket:
    """What is listened at. Raises RequestError where it is taken, before a model is loaded."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        raise RequestError(
            f"cannot listen at {host}:{port}: {error.strerror}. Give another --port, or 0 for any that is free."
        ) from error
    return made


def _run(desk: Handed, shelf: tuple[dict[str, Path], ...], waiting: socket.socket, host: str) -> None:
    from midstream.web.guard import Rules

    port = waiting.getsockname()[1]
    token = "" if host in LOOPBACK else secrets.token_urlsafe(24)
    plain = [f"[{name}]" if ":" in name else name for name in LOOPBACK]
    names = frozenset([f"{name}:{port}" for name in plain] + (plain if port == HTTP else []))
    shown = f"[{host}]" if ":" in host else host
    waiting.listen()  # who goes to the address as soon as it is told waits a moment rather than being refused
    print(f"midstream: http://{shown}:{port}/{f'?token={token}' if token else ''}", file=sys.stderr, flush=True)
    _server(desk, shelf, Rules(names, token)).run([waiting])


def _server(desk: Handed, shelf: tuple[dict[str, Path], ...], rules: Rules) -> Server:
    import uvicorn

    from midstream.web.app import app
    from midstream.web.connection import Connection
    from midstream.web.guard import Guard

    http: Any = partial(Connection, patience=rules.patience)
    config = uvicorn.Config(
        Guard(app(desk, *shelf), rules),
        http=http,
        ws="none",
        log_level="error",  # what strangers send is not news
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        limit_concurrency=64,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)
