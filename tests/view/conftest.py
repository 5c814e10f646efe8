"""Pages in a real Chromium that must not log an error or ask for anything."""

from __future__ import annotations

import pytest
from view.chromium import CHROMIUM


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


@pytest.fixture
def opened(browser, folder):
    """Opens a document; the test fails if it logs an error, asks for anything, or runs a token."""
    pages, trouble = [], []

    def open_page(text: str, **context):
        path = folder / f"{len(list(folder.iterdir()))}.html"
        path.write_text(text, encoding="utf-8")
        page = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context}).new_page()
        page.on("console", lambda message: message.type in ("error", "warning") and trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: trouble.append(dialog.message))
        page.on("request", lambda request: request.url not in (path.as_uri(), "data:,") and trouble.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("[data-midstream=open]")
        pages.append(page)
        return page

    yield open_page
    assert trouble == []
    for page in pages:
        assert page.evaluate("typeof window.__pwned") == "undefined"
        page.context.close()
