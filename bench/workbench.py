"""The workbench in a real Chromium: how soon a reading is there, how smoothly a large one scrolls, what a tab holds.

    python bench/workbench.py [--tokens 2048] [--runs 5]

A server of its own on the default model, warm. ``first``, ``all``: seconds from Enter to the first painted row and to
the last, for a text of 50 tokens, by the page's own clock; ``bare``: seconds of ``midstream.read`` for it in a process
of its own, between those runs, which says how fast the machine was at the time. Medians of the runs. Scrolling: frames
a second while the grid moves by most of a column each frame for four seconds, and the longest time between two frames;
for the text of ``--tokens`` as it was read, and for a page of the same with its rows repeated to 100 layers.
``tab_mb``: memory of the tab's process (proportional set size) after scrolling, ``heap_mb`` what its scripts hold of
that. Chromium draws without a graphics card here. Prints a JSON line each.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from run import Line, _text

import midstream as ms
from midstream.record import ReadingTable
from midstream.view import html

FRAMES = """() => new Promise((done) => {
    const grid = document.querySelector('.ms-scroller');
    const times = [];
    const step = (now) => {
        times.push(now);
        grid.scrollLeft += 45;
        grid.scrollTop += times.length % 20 < 10 ? 9 : -9;
        now - times[0] < 4000 ? requestAnimationFrame(step) : done([times, grid.scrollLeft]);
    };
    requestAnimationFrame(step);
})"""
"""Moves the grid each frame; gives the frames' times in ms and how far it came."""


@contextmanager
def server(tokens: int) -> Iterator[str]:
    """The address of a server on the default model."""
    command = [sys.executable, "-m", "midstream", "serve", "--model", "default", "--port", "0", "--tokens", str(tokens)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        yield next(found[0] for line in process.stderr if (found := re.search(r"http://\S+", line)))
    finally:
        process.terminate()
        process.wait(30)


def read(page: Any, text: str, seconds: float = 120) -> tuple[float, float]:
    """Seconds to the first painted row and to the last."""
    page.locator(".reading").evaluate("(home) => { home.dataset.painted = home.dataset.done = ''; }")
    page.get_by_label("Text").fill(text)
    page.get_by_label("Text").press("Enter")
    page.locator(".reading:not([data-painted='']):not([data-done=''])").wait_for(timeout=1000 * seconds)
    found = page.locator(".reading").evaluate("(home) => [home.dataset.painted, home.dataset.done]")
    return float(found[0]) / 1000, float(found[1]) / 1000


def bare(model: ms.Model, text: str) -> float:
    """Seconds of the same reading without a page."""
    began = time.perf_counter()
    ms.read(model, text)
    return time.perf_counter() - began


def scrolled(page: Any, name: str) -> Line:
    """Frames a second, the longest frame, and what the tab holds afterwards."""
    times, far = page.evaluate(FRAMES)
    if not far:
        raise SystemExit(f"{name}: the grid did not move; nothing was measured.")
    gaps = np.diff(times)
    heap = page.evaluate("performance.memory?.usedJSHeapSize ?? NaN")
    return {
        "name": name,
        "frames": 1000 * len(gaps) / float(gaps.sum()),
        "longest_ms": float(gaps.max()),
        "tab_mb": _largest_tab(),
        "heap_mb": heap / 1e6,
    }


def _largest_tab() -> float:
    """Of all pages open in Chromium now, on Linux."""
    sizes = [float("nan")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"--type=renderer" in (process / "cmdline").read_bytes():
                found = re.search(r"^Pss:\s+(\d+)", (process / "smaps_rollup").read_text(), re.MULTILINE)
                sizes.append(int(found[1]) / 1e3 if found else float("nan"))
        except OSError:
            continue
    return float(np.nanmax(sizes))


def deeper(table: ReadingTable, layers: int) -> ReadingTable:
    """The same reading with its rows repeated up to so many layers."""
    columns, step = table.columns, table.layers + 1
    parts = []
    for start in range(0, layers + 1, step):
        kept = columns["layer"] + start <= layers
        parts.append(
            {name: values[kept] for name, values in columns.items()} | {"layer": columns["layer"][kept] + start}
        )
    joined = {name: np.concatenate([part[name] for part in parts]) for name in columns}
    return replace(table, columns=joined, layers=layers)


def measured(tokens: int, runs: int) -> Iterator[Line]:
    from playwright.sync_api import sync_playwright

    model = ms.load()
    long, short = (_text(model, count).decode("utf-8", "replace") for count in (tokens, 50))
    with sync_playwright() as play, server(tokens) as address, tempfile.TemporaryDirectory() as folder:
        chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--enable-precise-memory-info"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address)
        page.get_by_label("Text").wait_for(timeout=60_000)
        read(page, short)
        bare(model, short)
        times = [(*read(page, short), bare(model, short)) for _ in range(runs)]
        first, whole, alone = (statistics.median(each) for each in zip(*times, strict=True))
        yield {"name": "50 tokens", "first": first, "all": whole, "bare": alone}
        first, whole = read(page, long, 600)
        yield {"name": f"{tokens:,} tokens", "first": first, "all": whole}
        yield scrolled(page, f"{tokens:,} tokens × {model.anatomy.layers + 1} rows")
        page.close()
        file = Path(folder) / "deep.html"
        file.write_text(html.page(deeper(ms.read(model, long), 100)), encoding="utf-8")
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(file.as_uri())
        page.wait_for_selector("[data-midstream=open]", timeout=60_000)
        yield scrolled(page, f"{tokens:,} tokens × 101 rows")


def main() -> None:
    """Measures and prints."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--tokens", type=int, default=2048)
    options.add_argument("--runs", type=int, default=5)
    given = options.parse_args()
    for line in measured(given.tokens, given.runs):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
