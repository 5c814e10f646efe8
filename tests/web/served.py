"""A server in a process of its own, and what tests in a browser wait for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = os.environ.get("CHROMIUM") or next(
    (path for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (path := shutil.which(name))), None
)

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"


@contextmanager
def served(folder, *options):
    """The address of a server in that folder, on a free port, once it answers; after it nothing has gone wrong."""
    process = subprocess.Popen(
        [sys.executable, "-m", "midstream", "serve", "--port", "0", *options],
        stderr=subprocess.PIPE, text=True, cwd=folder,
    )  # fmt: skip
    try:
        address = next(found[0] for line in process.stderr if (found := re.search(r"http://\S+", line)))
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}api/desk").read()
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        said = process.communicate(timeout=30)[1]
    assert "Traceback" not in said, said


def until(page, code):
    """Waits for what a script says; the page's policy allows no script to be made in it."""
    for _ in range(400):
        if page.evaluate(code):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {code}")


def fetched(address, link):
    """What a link of the page gives."""
    with urllib.request.urlopen(address + link.get_attribute("href").removeprefix("/")) as response:
        return response.read()


def violations(page):
    """What axe finds against WCAG 2.1 A and AA: names, roles, contrast; the page needs ``bypass_csp``."""
    page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})")
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]
