"""Servers for tests: of a process of their own, or in this one with rules and a desk that a test chooses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from socket import socket

from midstream.cli.serve import _server
from midstream.web.guard import Rules


def started(folder, *options, **environment):
    """A server of its own process on a free port, unless one is given; its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "midstream", "serve", "--port", "0", *options],
        stderr=subprocess.PIPE, text=True, cwd=folder, env={**os.environ, **environment},
    )  # fmt: skip
    for line in process.stderr:
        if found := re.search(r"http://\S+", line):
            return process, found[0]
    raise AssertionError("the server did not start")


def ended(process):
    """Ends it; after it nothing has gone wrong."""
    process.terminate()
    said = process.communicate(timeout=30)[1]
    assert "Traceback" not in said, said


def fetched(address, link):
    """What a link of the page gives."""
    with urllib.request.urlopen(address + link.get_attribute("href").removeprefix("/")) as response:
        return response.read()


@contextmanager
def served(desk, shelf=({}, {}), **rules):
    """The port of a server in a thread; ``rules`` beside those of loopback."""
    with socket() as waiting:
        waiting.bind(("127.0.0.1", 0))
        port = waiting.getsockname()[1]
        server = _server(desk, shelf, Rules(frozenset({f"127.0.0.1:{port}"}), **rules))
        thread = threading.Thread(target=server.run, args=([waiting],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join(20)
