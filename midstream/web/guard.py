"""What stands before the app: who may ask, how much they may send, and what a page of ours may load."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

COOKIE = "midstream"

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer: only what this server itself gives is loaded, nothing is kept, nobody else's page may use it."""


@dataclass(frozen=True)
class Rules:
    """Who and what is let in.

    Attributes:
        hosts: names, with the port, under which a page of this server is asked for.
        token: must be shown by everybody, where the server can be reached from elsewhere; empty: loopback only.
        most: bytes of a request's body.
        patience: seconds in which all of a body must have come.
    """

    hosts: frozenset[str]
    token: str = ""
    most: int = 1_000_000
    patience: float = 10.0


class Refused(Exception):
    """A request that is not passed on: status and a sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Guard:
    """ASGI middleware that lets in what ``rules`` allow, with the whole body read, and adds ``HEADERS`` to answers."""

    def __init__(self, app: App, rules: Rules) -> None:
        self.app, self.rules = app, rules

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        try:
            fresh = self._checked(scope)
            body = await self._body(receive)
        except Refused as error:
            return await _answer(send, error.status, str(error))
        except ConnectionError:
            return None
        if fresh:
            return await _enter(send, self.rules.token)
        return await self.app(scope, _again(body, receive), _with_headers(send))

    def _checked(self, scope: Message) -> bool:
        """Whether it is somebody who shows the token for the first time. Raises Refused."""
        given: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            given.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts, origins = given.get("host", []), given.get("origin", [])
        if len(hosts) != 1 or (not self.rules.token and hosts[0].lower() not in self.rules.hosts):
            raise Refused(421, f"this server answers to {', '.join(sorted(self.rules.hosts))} only.")
        own = {f"{scheme}://{hosts[0].lower()}" for scheme in ("http", "https")}
        if any(origin.lower() not in own for origin in origins):
            raise Refused(403, "this request comes from a page of another site.")
        # an image or a script of another site's page names no origin; a link from there may open this page
        if {*given.get("sec-fetch-site", [])} & {"cross-site", "same-site"} and scope["path"] != "/":
            raise Refused(403, "this request comes from a page of another site.")
        if scope["method"] == "POST":
            kind = given.get("content-type", [""])[0].partition(";")[0].strip().lower()
            if kind != "application/json":
                raise Refused(415, "expected a body of content type application/json.")
            if any(not text.isdigit() or int(text) > self.rules.most for text in given.get("content-length", [])):
                raise Refused(413, f"the body is too large: at most {self.rules.most:,} bytes are read.")
        return self._known(scope, given)

    def _known(self, scope: Message, given: dict[str, list[str]]) -> bool:
        if not self.rules.token:
            return False
        if self._is_token(given.get("authorization", [""])[0].removeprefix("Bearer ")):
            return False
        # other servers of this host have cookies too, whose names no parser may take
        pieces = [piece.strip().partition("=") for piece in ";".join(given.get("cookie", [])).split(";")]
        if any(name == COOKIE and self._is_token(value) for name, _, value in pieces):
            return False
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and scope["method"] == "GET" and self._is_token(asked):
            return True
        raise Refused(401, "this server asks for its token: open the address that it printed when it was started.")

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.rules.token.encode())

    async def _body(self, receive: Receive) -> bytes:
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self.rules.patience):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionError
                    parts.append(message.get("body", b""))
                    if sum(map(len, parts)) > self.rules.most:
                        raise Refused(413, f"the body is too large: at most {self.rules.most:,} bytes are read.")
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError as error:
            raise Refused(408, f"the body had not come after {self.rules.patience:g} seconds.") from error


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the body that has been read, then whatever else comes."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name for name, _ in message["headers"]}
            more = [(name.encode(), text.encode()) for name, text in HEADERS.items() if name.encode() not in own]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return sent


async def _answer(send: Send, status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
    body = json.dumps({"error": text}).encode()
    all_ = [("content-type", "application/json"), ("connection", "close"), *headers, *HEADERS.items()]
    start = {"type": "http.response.start", "status": status, "headers": [(a.encode(), b.encode()) for a, b in all_]}
    await send(start)
    await send({"type": "http.response.body", "body": body})


async def _enter(send: Send, token: str) -> None:
    """Keep the token in a cookie of this site only, and take it out of the address."""
    cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
    await _answer(send, 303, "see /", (("location", "/"), ("set-cookie", cookie)))
