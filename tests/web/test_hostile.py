"""Hostile requests over real sockets: the server goes on answering, writes nothing, gives nothing away."""

from __future__ import annotations

import itertools
import logging
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from midstream.cli.handed import Handed
from midstream.cli.serve import _studies
from midstream.run.desk import Desk
from tests.web.hostile_requests import TEXT, get, kinds, post
from tests.web.server import served

SECRET = "the canary sings at midnight"
PATIENCE = 1.0
MANY = 80
"""Connections, more than are served at once."""


def answer(port, sent):
    """Everything that comes until the server closes; empty where it closes without a word."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            connection.sendall(sent)
            while part := connection.recv(1 << 16):
                found += part
        except ConnectionError:  # it is closed while a body that nobody reads is on its way
            pass
    return found


def refused(found):
    """Closed, 4xx, or an event that says what is wrong in the place of the last one."""
    status = found[9:12]
    told = status == b"200" and b"event: error" in found and b"event: end" not in found
    return not found or status[:1] == b"4" or told


def state(folder):
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def handed(tiny):
    return Handed(Desk(lambda _: tiny, {"tiny": "tiny"}))


@pytest.fixture
def place(handed, tmp_path, monkeypatch):
    """A server in a folder of its own, beside a file that is none of its business."""
    folder = tmp_path / "served"
    (folder / "studies" / "sample").mkdir(parents=True)
    (folder / "studies" / "sample" / "report.html").write_text("<h1>a report</h1>")
    (folder / "temporary").mkdir()
    (tmp_path / "canary.txt").write_text(SECRET)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))
    logged, handler = [], logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    with served(handed, ({}, _studies(Path("studies"))), patience=PATIENCE) as port:
        loggers = [logging.getLogger(name) for name in ("uvicorn.error", "asyncio")]
        for logger in loggers:
            logger.addHandler(handler)
        yield SimpleNamespace(port=port, folder=folder, canary=tmp_path / "canary.txt", logged=logged)
        for logger in loggers:
            logger.removeHandler(handler)
    assert logged == []


def works(port):
    """It answers, and reads."""
    assert answer(port, get(port, "/api/desk"))[9:12] == b"200"
    assert b"event: end" in answer(port, post(port, {"text": TEXT}))


def test_hundreds_of_hostile_requests_leave_it_answering(place, capfd):
    before = state(place.folder.parent)
    sent = [(kind, one) for kind, all_ in kinds(place.port, place.canary).items() for one in all_]
    assert len(sent) >= 200
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda pair: answer(place.port, pair[1]), sent))
    wrong = [
        (kind, one[-300:], found[-300:]) for (kind, one), found in zip(sent, answers, strict=True) if not refused(found)
    ]
    assert wrong == []
    everything = b"".join(answers)
    assert not [word for word in (SECRET.encode(), b"root:", b"Traceback", b'File "') if word in everything]
    works(place.port)
    assert state(place.folder.parent) == before
    assert place.canary.read_text() == SECRET
    assert "Traceback" not in capfd.readouterr().err


def open_connections(port, count):
    return [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(count)]


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nX: ", b"POST /api/read HTTP/1.1\r\n"])
def test_connections_that_ask_nothing_make_room(place, begun):
    held = open_connections(place.port, MANY)
    for connection in held:
        connection.sendall(begun)
    for connection in held:
        assert connection.recv(1) == b""  # it is the server that closes
        connection.close()
    works(place.port)


def test_a_connection_that_was_answered_is_not_kept_by_a_letter(place):
    (connection,) = open_connections(place.port, 1)
    connection.sendall(get(place.port, "/api/desk").replace(b"Connection: close\r\n", b""))
    assert connection.recv(12) == b"HTTP/1.1 200"
    connection.sendall(b"G")
    while connection.recv(1 << 16):
        pass
    connection.close()


def test_who_takes_no_answer_keeps_nobody_waiting(place, handed, monkeypatch):
    monkeypatch.setattr(handed, "sample", endless)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.connect(("127.0.0.1", place.port))
        connection.sendall(post(place.port, {"text": TEXT}, target="/api/sample"))
        works(place.port)


def endless(ask):
    """A continuation that nobody waits for the end of."""
    for token in itertools.count():
        yield SimpleNamespace(branch="plain", token=token, text="a king " * 100, logprob=-1.0, ended="")


def test_the_work_of_those_who_leave_does_not_pile_up(place, handed, monkeypatch):
    """In every moment of it: before the answer, at its first bytes, in the line."""
    monkeypatch.setattr(handed, "sample", endless)
    ask = post(place.port, {"text": TEXT, "tokens": 512}, target="/api/sample")
    for taken in [0, 1, 2000] * 10:
        with socket.create_connection(("127.0.0.1", place.port), timeout=60) as connection:
            connection.sendall(ask)
            if taken:
                connection.recv(taken)
    works(place.port)


def test_who_finds_the_line_full_is_told_and_the_others_are_served(place):
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: answer(place.port, post(place.port, {"text": TEXT})), range(40)))
    served_ = [found for found in answers if b"event: end" in found]
    assert len(served_) >= 8
    assert all(b"are waiting already" in found for found in answers if found not in served_)
    works(place.port)
