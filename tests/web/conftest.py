"""A browser, and pages of the server whose address a module's fixture gives."""

from __future__ import annotations

import pytest

from tests.web.chromium import CHROMIUM


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, address):
    """Opens the page; the test fails if it logs an error that is not expected, or asks for anything of another site."""
    contexts, trouble = [], []

    def open_page(fragment: str = "", **context):
        made = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        page = made.new_page()
        page.on("console", lambda message: message.type in ("error", "warning") and trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "request",
            lambda request: request.url.startswith((address, "data:", "blob:")) or trouble.append(request.url),
        )
        page.goto(address + fragment)
        page.locator("form .main").first.wait_for()
        contexts.append(made)
        return page

    open_page.expected = ["status of 4"]
    yield open_page
    for made in contexts:
        made.close()
    assert [text for text in trouble if not any(part in text for part in open_page.expected)] == []
