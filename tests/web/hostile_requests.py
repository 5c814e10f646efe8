"""Requests that nobody should be let in with, by kind: bytes, as they go over a socket."""

from __future__ import annotations

import json
import random
from urllib.parse import quote

TEXT = "a king was there and asked why"
EDIT = {"kind": "add", "layers": "12", "positions": "-1", "vector": "embedding", "token": " king", "amount": 0.5}
CHUNKED = "Transfer-Encoding: chunked"


def head(port, start, *headers, host="127.0.0.1:{port}"):
    lines = [start, f"Host: {host.format(port=port)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def get(port, target, *headers, **more):
    return head(port, f"GET {target} HTTP/1.1", *headers, **more)


def post(port, body, *headers, target="/api/read", kind="application/json", length=None):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    length = f"Content-Length: {len(body) if length is None else length}"
    return head(port, f"POST {target} HTTP/1.1", f"Content-Type: {kind}", length, *headers) + body


def kinds(port, canary):
    """Kind -> its requests; ``canary``: a file beside the server's folder."""
    names = [str(canary), f"../{canary.name}", "/etc", "\0", "a" * 301, "💥", "<script>alert(1)</script>", "hf:a/b/c"]
    origins = ["null", "", "http://evil.example", "file://", "http://127.0.0.1:1", f"http://127.0.0.1:{port}.evil"]
    forms = ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded", "application/jsonx", ""]
    samples = [
        {"text": ""}, {"tokens": 513}, {"temperature": 1e-308}, {"anchor": "99:1"}, {"anchor": "15:...."},
        {"seed": 2**31}, {"top_p": 0.0},
    ]  # fmt: skip
    return {
        "a foreign host": [get(port, "/api/desk", host=host) for host in HOSTS],
        "a foreign origin": [post(port, {"text": TEXT}, f"Origin: {origin}") for origin in origins],
        "a form": [post(port, {"text": TEXT}, kind=kind) for kind in forms],
        "a picture": [get(port, "/api/desk", f"Sec-Fetch-Site: {site}") for site in ("cross-site", "same-site")],
        "a file": [get(port, target) for target in files(canary)],
        "a method": [head(port, f"{method} /api/read HTTP/1.1") for method in METHODS],
        "an upgrade": [get(port, "/api/read", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: x")],
        "a body": [post(port, body) for body in bodies()],
        "a wish": [post(port, {"text": TEXT, **ask}) for ask in [*WISHES, *({"lenses": [name]} for name in names)]],
        "an edit": [post(port, {"text": TEXT, "edits": [{**EDIT, **edit}]}) for edit in edits(canary)],
        "a sample": [post(port, {"text": TEXT, **ask}, target="/api/sample") for ask in samples],
        "a model": [post(port, {"model": name}, target="/api/model") for name in names],
        "a reading of others": [get(port, f"/api/differences/{quote(name, safe='')}/x.csv") for name in names],
        "a lie": lies(port),
        "slow": [
            b"", b"GET /", get(port, "/")[:-2], *(post(port, b"{", length=length) for length in (9, 999, 999_999)),
            get(port, "/", CHUNKED) + b"5\r\nab", head(port, "PUT / HTTP/1.1", CHUNKED) + b"1\r\na\r\n",
        ],
    }  # fmt: skip


HOSTS = ["evil.example", "127.0.0.1", "127.0.0.1:1", "127.0.0.1:{port}.evil", "evil@127.0.0.1:{port}", "[::1", "é", ""]
METHODS = ["HEAD", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "CONNECT", "get"]
WISHES = [
    {"text": ""}, {"text": "x"}, {"text": "x" * 200_001}, {"text": "a king " * 2000}, {"top_k": 10**9}, {"every": 0},
    {"every": True}, {"sites": []}, {"lenses": ["logit"] * 8}, {"lenses": ["logit"] * 9}, {"statistic": "beauty"},
    {"edits": [EDIT] * 33},
]  # fmt: skip


def files(canary):
    """Addresses of files, written in every way that somebody might take for a name."""
    plain = [str(canary), f"../{canary.name}", f"../../{canary.name}", "/etc/passwd", "....//etc/passwd", "..", "~root"]
    quoted = [name.replace("/", "%2f").replace(".", "%2e") for name in plain]
    twice = [name.replace("%", "%25") for name in quoted]
    odd = ["%00", "app.js%00", "%ff%fe", "%f0%9f%92%a5", "C:%5cboot.ini", "x%0d%0aSet-Cookie:a=b", "a" * 9000, "%zz"]
    places = ["/static/{}", "/api/readings/{}.json", "/studies/{}/report.html", "/api/stores/{}"]
    targets = [place.format(name) for place in places for name in [*plain, *quoted, *twice, *odd]]
    return [*targets, f"file://{canary}", "http://evil.example/", str(canary)]


def bodies():
    draw = random.Random(0)
    return [
        b"", b"null", b"[]", b'"x"', b'{"text":', b"[" * 100_000, b'{"a":' * 100_000, b'{"text": NaN}',
        b'{"text": "a king", "every": 1e400}', b'{"text": "a king", "every": -Infinity}',
        b'{"text": "a king", "every": ' + b"9" * 100_000 + b"}", b'{"text": "a king", "text": 1}',
        b'{"text": "a king", "__proto__": {}}', b'{"text": "a king", "path": "/etc/passwd"}',
        b"\xff\xfe\x00", b'{"text": "\xff\xfe"}', b'{"text": "\xc0\xaf"}', b'{"text": "\xed\xa0\x80"}',
        b'{"text": "\\ud800"}', b'{"text": "a king", "\\udfff": 1}', b'{"text": ["a king"]}', b'{"text": {"$gt": ""}}',
        b'{"text": "' + b"x" * 1_000_000 + b'"}', b" " * 2_000_000, *(draw.randbytes(40 * n) for n in range(1, 13)),
    ]  # fmt: skip


def edits(canary):
    return [
        {"layers": "0-9999999999"}, {"layers": "9" * 800}, {"layers": ",".join(["0-9999"] * 100)}, {"layers": "5-3"},
        {"layers": f"3 add=difference:{canary}:{canary}"}, {"layers": "31"}, {"site": "attn_out", "layers": "0"},
        {"positions": "-99999999999-"}, {"positions": "0-9999999999"}, {"positions": "new"}, {"positions": "0 patch=x"},
        {"amount": 1e308}, {"amount": -1e308, "relative": False}, {"kind": "scale", "amount": 1e308},
        {"kind": "interpolate", "amount": -1.0}, {"kind": "swap", "other": ""}, {"kind": "swap", "vector": "random"},
        {"kind": "patch", "text": "x" * 100_000, "positions": "0"}, {"kind": "patch", "text": ""},
        {"token": ""}, {"token": "a" * 300}, {"token": f" king' difference={canary}:{canary}"},
        {"vector": "difference"}, {"vector": "lens", "lens": str(canary)}, {"vector": "lens", "lens": "../canary"},
    ]  # fmt: skip


def lies(port):
    """What is no HTTP, and HTTP that says two things at once."""
    return [
        b"GET /\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 8,
        b"\x16\x03\x01\x02\x00\n\n", get(port, "/", "Host: evil.example"), get(port, "/\xff"),
        get(port, "/", "X: a\0b"), post(port, b"{}", "Host: 127.0.0.1"),
        post(port, b"{}", "Content-Length: 3"), post(port, b"{}", length="-2"), post(port, b"{}", length="\xb2"),
        post(port, b"{}", length="9" * 19), post(port, b"{}", length="9" * 5000), post(port, b"{}", "Expect: miracles"),
        post(port, b"zz\r\n", CHUNKED), post(port, b"0\r\n\r\n", "Transfer-Encoding: gzip, chunked"),
        head(port, "PUT / HTTP/1.1", CHUNKED) + b"f4241\r\n" + b"x" * 1_000_001,
        get(port, "/", CHUNKED) + b"f4241\r\n" + b"x" * 1_000_001,
    ]  # fmt: skip
