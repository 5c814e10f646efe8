"""The hub, played by a server on this machine: a lens goes there and comes back; what cannot be had is a sentence."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from lens_sample import sample

from midstream.errors import RequestError
from midstream.lens.file.artifact import save
from midstream.lens.file.hub import download, upload
from midstream.stream.container import write

COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """The few addresses of the hub that fetching and sending a small file needs."""

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
        self.server.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0].strip("/")
        files = self.server.files
        repository = path.removeprefix("api/models/").partition("/tree")[0].partition("/revision")[0]
        if path.startswith("api/models/"):
            own = [name.removeprefix(repository + "/") for name in files if name.startswith(repository + "/")]
            listed = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in own]
            if not own:
                return self.answer(404, {"error": "no"}, X_Error_Code="RepoNotFound")
            if "/tree" in path:
                return self.answer(200, listed)
            named = [{"rfilename": name} for name in own]
            return self.answer(200, {"id": repository, "sha": COMMIT, "siblings": named})
        owner, name, _, _, file = path.split("/", 4)
        if owner == "private":
            return self.answer(403, {"error": "no"}, X_Error_Code="GatedRepo")
        if not any(known.startswith(f"{owner}/{name}/") for known in files):
            return self.answer(404, {"error": "no"}, X_Error_Code="RepoNotFound")
        data = files.get(f"{owner}/{name}/{file}")
        if data is None:
            return self.answer(404, {"error": "no"}, X_Error_Code="EntryNotFound")
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        return self.answer(200, data, ETag=etag, X_Repo_Commit=COMMIT, Content_Type="application/octet-stream")

    do_HEAD = do_GET

    def do_POST(self):
        self.server.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.headers.get("Authorization"):
            return self.answer(401, {"error": "who are you?"})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            return self.answer(200, {"url": f"{self.server.address}/{asked.get('organization', 'me')}/{asked['name']}"})
        repository = self.path.removeprefix("/api/models/").rpartition("/")[0].rpartition("/")[0]
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            known = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self.answer(200, {"files": known, "commitOid": COMMIT})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.server.files[f"{repository}/{entry['value']['path']}"] = content
        place = f"{self.server.address}/{repository}/commit/{COMMIT}"
        return self.answer(200, {"commitUrl": place, "commitOid": COMMIT})


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.asked, server.address = {}, [], f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


SCRIPT = """
import json, sys
from midstream.errors import MidstreamError
from midstream.lens.file import hub
for job in json.loads(sys.argv[1]):
    try:
        print(json.dumps(str(getattr(hub, job[0])(*job[1:]))))
    except MidstreamError as error:
        print(json.dumps("refused: " + str(error)))
"""


def jobs(endpoint, home, *listed, **settings):
    """What each job, ``(function, argument ...)``, gives in another process: the hub's library reads settings once."""
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
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


def test_a_lens_goes_to_the_hub_and_comes_back(hub, tiny, tmp_path):
    path = tmp_path / "tuned.safetensors"
    save(sample(tiny), path)
    hub.files |= {"you/two/a.safetensors": b"a", "you/two/b/b.safetensors": b"b", "you/two/c.bin": b"c"}
    hub.files |= {"you/old/lens/params.pt": b"p", "you/old/lens/config.json": b"{}"}
    sent, whole, named, several, old, lost, absent, gated = jobs(
        hub.address,
        tmp_path / "home",
        ("upload", str(path), "hf:me/lenses/small/tuned.safetensors"),
        ("download", "hf:me/lenses"),
        ("download", "hf:me/lenses/small/tuned.safetensors"),
        ("download", "hf:you/two"),
        ("download", "hf:you/old/lens/params.pt"),
        ("download", "hf:me/lenses/other.safetensors"),
        ("download", "hf:nobody/nothing/x.safetensors"),
        ("download", "hf:private/lenses/x.safetensors"),
        HF_TOKEN="hf_not_a_real_one",
    )
    assert sent == "hf:me/lenses/small/tuned.safetensors"
    assert hub.files["me/lenses/small/tuned.safetensors"] == path.read_bytes()
    assert whole == named
    assert Path(named).read_bytes() == path.read_bytes()
    assert "2 lens files" in several
    assert "hf:you/two/b/b.safetensors" in several
    assert Path(old).with_name("config.json").exists()
    assert "holds no such file" in lost
    assert "the hub has no hf:nobody/nothing" in absent
    assert "gated" in gated
    assert not any("c.bin" in line for line in hub.asked)

    here, not_here, listing = jobs(
        hub.address,
        tmp_path / "home",
        ("download", "hf:me/lenses/small/tuned.safetensors"),
        ("download", "hf:you/two/a.safetensors"),
        ("download", "hf:you/two"),
        HF_HUB_OFFLINE="1",
    )
    assert here == named
    assert all("offline mode is on" in said for said in (not_here, listing))


def test_without_a_token_nothing_is_sent(hub, tiny, tmp_path):
    path = tmp_path / "tuned.safetensors"
    save(sample(tiny), path)
    job = ("upload", str(path), "hf:me/lenses")
    (refused,) = jobs(hub.address, tmp_path / "home", job)
    assert "log in with hf auth login" in refused
    assert hub.files == {}


def test_names_and_files_that_cannot_be_are_refused_before_anything_is_asked(tiny, tmp_path):
    for name in ("hf:", "hf:me", "hf:me/lenses/../x.pt", "hf:me/lenses/x.bin", "hf:me/lenses/", "hf:me/a b/x.pt"):
        with pytest.raises(RequestError, match="names no lens of the hub"):
            download(name)
    (tmp_path / "x.safetensors").write_bytes(b"no lens at all")
    with pytest.raises(RequestError, match="no usable safetensors file"):
        upload(tmp_path / "x.safetensors", "hf:me/lenses")
    write(tmp_path / "sums.safetensors", {}, {"content": "sums"})
    with pytest.raises(RequestError, match="'sums' and no lens"):
        upload(tmp_path / "sums.safetensors", "hf:me/lenses")
    save(sample(tiny), tmp_path / "y.safetensors")
    with pytest.raises(RequestError, match="cannot send a lens as"):
        upload(tmp_path / "y.safetensors", "hf:me/lenses/y.pt")
