"""What tests of the page do in Chromium."""

from __future__ import annotations

import os
import shutil

CHROMIUM = os.environ.get("CHROMIUM") or next(
    (path for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (path := shutil.which(name))), None
)

TEXT = "a king was there and asked why"


def until(page, code):
    """Waits for what a script says; the page's policy allows no script to be made in it."""
    for _ in range(200):
        if page.evaluate(code):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {code}")


def ask(page, text=TEXT):
    page.get_by_label("Text").fill(text)
    page.get_by_label("Text").press("Enter")


def go(page, text=TEXT):
    ask(page, text)
    page.get_by_text("Save as").wait_for()
