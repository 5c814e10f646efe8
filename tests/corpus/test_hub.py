"""Data sets of the hub, played by a server on this machine: listed once, fetched one at a time at the commit listed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from midstream.corpus.source import open_corpus
from midstream.errors import RequestError


class Hub(BaseHTTPRequestHandler):
    """What the hub says of data sets; each time it is asked for a list there is a newer commit."""

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        hub, path = self.server, self.path.partition("?")[0].strip("/")
        if path.startswith("api/datasets/"):
            repository = path.removeprefix("api/datasets/")
            own = {name: data for (owner, name), data in hub.files.items() if owner == repository}
            if not own:
                return self.answer(404, {"error": "no"}, X_Error_Code="RepoNotFound")
            hub.commits += 1
            named = [{"rfilename": name, "size": len(data)} for name, data in own.items()]
            return self.answer(200, {"id": repository, "sha": commit(hub.commits), "siblings": named})
        if not path.startswith("datasets/"):
            return self.answer(404, {"error": "no"})
        owner, name, _, asked, file = path.split("/", 5)[1:]
        hub.asked.append((self.command, file, asked))
        data = hub.files.get((f"{owner}/{name}", file)) if file not in hub.gone else None
        if owner == "private":
            return self.answer(403, {"error": "no"}, X_Error_Code="GatedRepo")
        if data is None:
            return self.answer(404, {"error": "no"}, X_Error_Code="EntryNotFound")
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        return self.answer(200, data, ETag=etag, X_Repo_Commit=asked, Content_Type="application/octet-stream")

    do_HEAD = do_GET


def commit(number):
    return f"{number:040x}"


@pytest.fixture
def hub(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.gone, server.commits = [], set(), 0
    server.address = f"http://127.0.0.1:{server.server_port}"
    pq.write_table(pa.table({"text": ["p", "q"], "split": ["fit", "eval"]}), tmp_path / "a.parquet")
    files = {
        "data/b.parquet": (tmp_path / "a.parquet").read_bytes(),
        "data/a.jsonl": b'{"text": "j", "split": "fit"}\n',
        "data-more/c.txt": b"t",
        "README.md": b"#",
        ".hidden.txt": b"h",
        "../out.txt": b"o",
        "/abs.txt": b"o",
    }
    server.files = {("me/set", name): data for name, data in files.items()}
    server.files |= {("me/images", "a.png"): b"x", ("private/set", "a.txt"): b"x"}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


SCRIPT = """
import json, sys
from midstream.corpus.source import open_corpus
from midstream.errors import MidstreamError
for name, where, most in json.loads(sys.argv[1]):
    try:
        corpus = open_corpus(name, where=where)
        found = [[d.text, d.source, d.id] for _, d in zip(range(most), corpus)]
        print(json.dumps([found, corpus.name, corpus.bytes, corpus.bytes_read]))
    except MidstreamError as error:
        print(json.dumps("refused: " + str(error)))
"""


def jobs(hub, home, *listed, **settings):
    """What each job, ``(corpus, where, documents at most)``, gives in another process: settings are read once there."""
    own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    unset = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, json.dumps(listed)],
        env={**environment, "NO_PROXY": "127.0.0.1", **own, **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_data_set_is_read_at_one_commit_a_file_at_a_time(hub, tmp_path):
    home = tmp_path / "home"
    size = sum(len(data) for (_, name), data in hub.files.items() if name.startswith("data"))
    (first,) = jobs(hub, home, ("hf:me/set", [], 1))
    assert first[0] == [["j", "hf:me/set/data/a.jsonl", "a:0"]]
    assert first[1:3] == ["hf:me/set", size]
    assert {file for _, file, _ in hub.asked} == {"data/a.jsonl"}

    hub.asked.clear()
    whole, folder, file, prefixed, some = jobs(
        hub,
        home,
        ("hf:me/set", [], 9),
        ("hf:me/set/data", ["split=fit"], 9),
        ("hf:me/set/data/b.parquet", [], 9),
        ("hf:datasets/me/set/data-more", [], 9),
        (["hf:me/set/data/a.jsonl", "hf:me/set/data-more"], [], 9),
    )
    sources = [f"hf:me/set/{name}" for name in ("data/a.jsonl", "data/b.parquet", "data/b.parquet", "data-more/c.txt")]
    assert whole[0] == [
        [text, source, f"{source[-9:].rpartition('.')[0][-1]}:{number}"]
        for number, (text, source) in enumerate(zip("jpqt", sources, strict=True))
    ]
    assert whole[3] == size
    assert [text for text, _, _ in folder[0]] == ["j", "p"]
    assert [text for text, _, _ in file[0]] == ["p", "q"]
    assert [text for text, _, _ in prefixed[0]] == ["t"]
    assert [text for text, _, _ in some[0]] == ["j", "t"]
    read = dict.fromkeys(name for _, name, asked in hub.asked if asked == commit(2))
    assert list(read) == ["data/a.jsonl", "data/b.parquet", "data-more/c.txt"]
    assert {asked for _, _, asked in hub.asked} <= {commit(number) for number in range(2, 8)}


def test_what_cannot_be_had_is_a_sentence(hub, tmp_path):
    home = tmp_path / "home"
    hub.gone.add("data-more/c.txt")
    absent, none, images, gated, fields, gone = jobs(
        hub,
        home,
        ("hf:nobody/nothing", [], 1),
        ("hf:me/set/dat", [], 1),
        ("hf:me/images", [], 1),
        ("hf:private/set", [], 1),
        ("hf:me/set", ["split=fit"], 1),
        ("hf:me/set/data-more", [], 1),
    )
    assert "the hub has no hf:nobody/nothing, or it is private" in absent
    assert "hf:me/set/dat holds no .txt, .jsonl, .parquet file that could be read; it holds nothing" in none
    assert "it holds .png" in images
    assert "hf:private/set/a.txt is gated" in gated
    assert "was asked of hf:me/set/data-more/c.txt, whose documents have no fields" in fields
    assert "the hub has no hf:me/set/data-more/c.txt: its repository holds no such file" in gone
    (offline,) = jobs(hub, home, ("hf:me/set", [], 1), HF_HUB_OFFLINE="1")
    assert "offline mode is on" in offline
    hub.commits = 16**40
    (wrong,) = jobs(hub, home, ("hf:me/set", [], 1))
    assert "the hub names no commit of hf:me/set" in wrong


def test_names_that_cannot_be_are_refused_before_anything_is_asked():
    for name in ("hf:", "hf:set", "hf:me/set/../x.txt", "hf:me/../x", "hf:me/a b", "hf:me//x", "hf:me/set//x"):
        with pytest.raises(RequestError, match=r"names no data set of the hub: expected hf:OWNER/NAME"):
            open_corpus(name)
