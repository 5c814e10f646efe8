"""What ``make dist`` makes holds the page: it is served without the repository and without node."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import pytest

from tests.web.server import ended, started

ROOT = Path(__file__).parents[2]


@pytest.fixture
def unpacked(tmp_path):
    """The wheel's files in a folder of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "site"
    with zipfile.ZipFile(next((tmp_path / "dist").glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder


def test_it_serves_the_page(unpacked, tiny_folder, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    assert shutil.which("node", path=str(tmp_path / "bin")) is None
    script = unpacked / "midstream" / "web" / "static" / "app.js"
    script.write_text(f"{script.read_text()}// the wheel's")
    empty = {"PYTHONPATH": str(unpacked), "PATH": str(tmp_path / "bin")}
    process, address = started(tmp_path, "--model", str(tiny_folder), **empty)
    given = {
        name: urllib.request.urlopen(f"{address}{name}").read() for name in ("", "static/app.js", "static/grid.js")
    }
    told = json.loads(urllib.request.urlopen(f"{address}api/desk").read())
    ended(process)
    assert told["blocks"] == 30
    assert given["static/app.js"].decode().endswith("// the wheel's")
    assert b"MidstreamGrid" in given["static/grid.js"]
    assert b"app.js" in given[""]
