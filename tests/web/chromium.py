"""What tests of the page do in Chromium."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

CHROMIUM = os.environ.get("CHROMIUM") or next(
    (path for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (path := shutil.which(name))), None
)

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"

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


def edit(page):
    """Asks for a change to the stream, whole but for being read."""
    page.get_by_role("button", name="Edit the stream").click()
    page.get_by_label("token", exact=True).fill(" king")
    page.get_by_label("at layers").fill("12")


def violations(page):
    """What axe finds against WCAG 2.1 A and AA: names, roles, contrast; the page needs ``bypass_csp``."""
    page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})")
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]
