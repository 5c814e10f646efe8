"""What goes wrong around the page in Chromium: servers that die, tabs that close, lenses and models of no use."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import time
from types import SimpleNamespace

import pytest
from lens_sample import sample

from midstream.cli.handed import Handed
from midstream.lens.file.artifact import save
from midstream.model.load import load
from midstream.run.desk import Desk
from tests.web.chromium import CHROMIUM, ask, go, until
from tests.web.server import ended, served, started

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

LONG = "once upon a time there was a king " * 14


@pytest.fixture
def server(tiny, tiny_folder, tmp_path):
    """A server that may be stopped, killed and started again at its port; a lens of another model in its folder."""
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rope_theta": 500.0}))
    (tmp_path / "mine").mkdir()
    save(sample(load(other)), tmp_path / "mine" / "theirs.safetensors")
    save(sample(tiny), tmp_path / "mine" / "ours.safetensors")
    (tmp_path / "cwd").mkdir()
    given = ("--model", str(tiny_folder), "--model", "nowhere/at-all", "--lenses", str(tmp_path / "mine"))

    def start(*more):
        process, address = started(tmp_path / "cwd", *given, *more)
        processes.append(process)
        return address

    processes = []
    yield SimpleNamespace(start=start, signal=lambda number: processes[-1].send_signal(number), address=start())
    for process in processes:
        process.send_signal(signal.SIGCONT)
        ended(process)


@pytest.fixture
def address(server):
    return server.address


def half(page, server):
    """A reading of which a part is on the page and the rest not sent, and its server stopped."""
    for attempt in range(20):
        ask(page, f"{attempt} {LONG}")
        page.locator(".ms-scroller").wait_for()
        server.signal(signal.SIGSTOP)
        page.wait_for_timeout(300)
        if page.get_by_text("Save as").count() == 0:
            return
        server.signal(signal.SIGCONT)
    raise AssertionError("every reading had ended before the server was stopped")


def test_a_server_that_is_killed_is_told_and_one_started_again_reads(opened, server):
    opened.expected.append("net::ERR")
    page = opened()
    for name in ("input", "mine/ours", "inside the blocks"):
        page.get_by_label(name, exact=True).check()
    half(page, server)
    server.signal(signal.SIGKILL)
    told = page.get_by_role("alert")
    told.wait_for()
    assert told.inner_text().strip() == "The server stopped in the middle. Start it again with: midstream serve"
    ask(page)
    until(page, "document.querySelector('[role=alert]')?.innerText.includes('does not answer')")
    assert server.start("--port", server.address.rstrip("/").rpartition(":")[2]) == server.address
    go(page)
    assert page.get_by_role("alert").count() == 0


WATCH = (
    "new MutationObserver(() => (window.__said ??= []).push(document.body.innerText))"
    ".observe(document.body, {subtree: true, childList: true, characterData: true})"
)


def test_of_two_tabs_the_second_is_told_its_place_and_both_read(opened, server):
    pages = [opened(), opened()]
    server.signal(signal.SIGSTOP)
    for page in pages:
        page.evaluate(WATCH)
        ask(page, LONG)
    server.signal(signal.SIGCONT)
    for page in pages:
        page.get_by_text("Save as").wait_for()
    waited = [page.evaluate("window.__said.some(text => text.includes('Waiting: 1 before you.'))") for page in pages]
    assert sorted(waited) == [False, True]


def test_a_lens_of_another_model_is_refused_in_a_sentence(opened):
    page = opened()
    page.get_by_label("mine/theirs").check()
    ask(page)
    page.get_by_role("alert").wait_for()
    assert "was made for another model" in page.get_by_role("alert").inner_text()
    page.get_by_label("mine/theirs").uncheck()
    page.get_by_label("mine/ours").check()
    go(page)
    assert page.get_by_role("alert").count() == 0


def test_a_model_that_fails_to_load_leaves_the_first(opened, tiny_folder):
    page = opened()
    page.get_by_label("Model").select_option("nowhere/at-all")
    until(page, "document.querySelector('.said[role=status]').innerText.includes('nowhere/at-all')")
    until(page, "!document.querySelector('.said[role=status]').innerText.startsWith('Loading')")
    said = page.locator(".said[role=status]").first.inner_text()
    assert "nowhere/at-all" in said
    assert "Traceback" not in said
    assert page.get_by_label("Model").input_value() == str(tiny_folder)
    go(page)


class TestLeaving:
    """Over a server whose continuations never end by themselves."""

    @pytest.fixture
    def address(self, tiny, monkeypatch):
        handed = Handed(Desk(lambda _: tiny, {"tiny": "tiny"}))

        def endless(ask):
            for token in itertools.count():
                time.sleep(0.01)  # as a model would; a page that is flooded has no time for clicks
                yield SimpleNamespace(branch="plain", token=token, text=" king", logprob=-1.0, ended="")

        monkeypatch.setattr(handed, "sample", endless)
        with served(handed) as port:
            yield f"http://127.0.0.1:{port}/"

    @pytest.mark.parametrize("leave", ["close", "reload", "stop"])
    def test_who_leaves_ends_the_work(self, opened, leave):
        page, other = opened(), opened()
        page.get_by_role("button", name="Continue").click()
        until(page, "document.querySelector('.branches')?.innerText.includes('king')")
        if leave == "close":
            page.close()
        elif leave == "reload":
            page.reload()
        else:
            page.locator(".sample").get_by_role("button", name="Stop").click()
        go(other)
