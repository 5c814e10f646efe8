"""Hostile requests against the guard alone, and against a real server over sockets."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from midstream.web.guard import COOKIE, HEADERS, Guard, Rules

HOST = "127.0.0.1:8017"


async def echo(scope, receive, send):
    body = (await receive()).get("body", b"")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body or scope["path"].encode()})


def ask(method="GET", path="/", *, rules=None, **given):
    """A request straight to the guard."""
    rules = rules or Rules(frozenset({HOST}), most=100, patience=0.2)

    async def main():
        transport = httpx.ASGITransport(Guard(echo, rules))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
            return await client.request(method, path, **given)

    return asyncio.run(main())


JSON = {"content-type": "application/json"}


def test_what_is_meant_for_it_passes_with_headers():
    found = ask("POST", "/x", content=b"{}", headers={**JSON, "origin": f"http://{HOST}"})
    assert (found.status_code, found.content) == (200, b"{}")
    assert {name: found.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in HEADERS["content-security-policy"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:80", f"{HOST}.evil.example", ""])
def test_another_host_is_refused(host):
    """What a name that somebody has pointed at loopback would be asked by."""
    assert ask(headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", f"http://{HOST}.evil", "file://"]
)
def test_another_origin_is_refused(origin):
    found = ask("POST", content=b"{}", headers={**JSON, "origin": origin})
    assert found.status_code == 403
    assert "another site" in found.json()["error"]


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded", ""])
def test_a_form_of_another_site_cannot_be_sent(kind):
    """Browsers send these kinds without asking first."""
    assert ask("POST", content=b"{}", headers={"content-type": kind}).status_code == 415


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_picture_or_script_of_another_site_gets_nothing(site):
    """These name no origin; a link that is followed names itself so too, and may open the page."""
    headers = {"sec-fetch-site": site}
    assert ask(path="/api/stores/store", headers=headers).status_code == 403
    assert ask(path="/", headers=headers).status_code == 200
    assert ask(path="/api/desk", headers={"sec-fetch-site": "same-origin"}).status_code == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_a_body_that_nobody_asked_for_is_measured_too(method):
    assert ask(method, content=b"x" * 101).status_code == 413


def test_a_large_body_is_refused_announced_or_not():
    assert ask("POST", content=b"x" * 101, headers=JSON).status_code == 413

    async def parts():
        for _ in range(11):
            yield b"x" * 10

    assert ask("POST", content=parts(), headers=JSON).status_code == 413
    assert ask("POST", content=b"x" * 100, headers=JSON).status_code == 200


def test_a_slow_body_is_not_waited_for():
    async def main():
        sent = []
        messages = [{"type": "http.request", "body": b"x", "more_body": True}]

        async def receive():
            if messages:
                return messages.pop()
            return await asyncio.sleep(30)

        async def send(message):
            sent.append(message)

        headers = [(b"host", HOST.encode()), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
        await Guard(echo, Rules(frozenset({HOST}), patience=0.1))(scope, receive, send)
        return sent[0]["status"]

    assert asyncio.run(main()) == 408


def test_beyond_loopback_everybody_shows_the_token():
    rules = Rules(frozenset(), token="secret")
    assert ask(rules=rules).status_code == 401
    assert ask(path="/?token=wrong", rules=rules).status_code == 401
    assert ask(path="/api/read?token=secret", rules=rules).status_code == 401  # not in addresses that are kept
    entered = ask(path="/?token=secret", rules=rules)
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert ask(headers={"cookie": f"{COOKIE}=secret"}, rules=rules).status_code == 200
    assert ask(headers={"cookie": f"{COOKIE}=wrong"}, rules=rules).status_code == 401
    for other in ("a[]=1; midstream=secret", "midstream=old; midstream=secret", "x;=; midstream=secret"):
        assert ask(headers={"cookie": other}, rules=rules).status_code == 200  # beside another server's
    for wrong in (b"midstream=\xff\xfe", b"midstream", b"midstream=", b'midstream="secret"', b"xmidstream=secret"):
        assert ask(headers={"cookie": wrong}, rules=rules).status_code == 401
    for wrong in ("%ff%fe", "%ed%a0%80", "%00", "x&token=secret", "secre%74x", "\u00e9"):
        assert ask(path=f"/?token={wrong}", rules=rules).status_code == 401
    assert ask(headers={"authorization": b"Bearer \xff"}, rules=rules).status_code == 401
    assert ask(headers={"authorization": "Bearer secret"}, rules=rules).status_code == 200
