"""A real Chromium, and where things are in a page with a grid."""

from __future__ import annotations

import os
import shutil

CHROMIUM = os.environ.get("CHROMIUM") or next(
    (path for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (path := shutil.which(name))), None
)


def cell(page, line: int, col: int) -> dict:
    """Where the middle of a cell is inside the scroller."""
    code = f"""{{
        x: g.sizes.gutter + ({col} + 0.5) * g.sizes.cell - g.scroller.scrollLeft,
        y: g.sizes.head + ({line} + 0.5) * g.sizes.line - g.scroller.scrollTop }}"""
    return grid(page, code)


def grid(page, code: str):
    return page.evaluate(f"(() => {{ const g = document.querySelector('[data-midstream]').grid; return {code}; }})()")
