"""The page in a real Chromium over a real server: every flow, by what a person would see."""

from __future__ import annotations

import json
import os

import pytest

import midstream as ms
from midstream.view import study_file
from tests.view.study_sample import report
from tests.web.chromium import AXE, CHROMIUM, TEXT, ask, edit, go, until, violations
from tests.web.server import ended, fetched, started

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def address(tiny, tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cwd")
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": TEXT, "id": f"t{n}"}) + "\n" for n in range(3)))
    ms.scan(tiny, folder / "corpus.jsonl", folder / "store", lens="logit", every=10, top_k=3)
    (folder / "studies" / "sample").mkdir(parents=True)
    study_file.write(report(), folder / "studies" / "sample")
    more = ("--store", "store", "--studies", "studies")
    process, found = started(folder, "--model", str(tiny_folder), "--tokens", "120", *more)
    yield found
    ended(process)


def test_a_text_is_read_and_its_numbers_are_those_of_the_server(opened, address):
    page = opened()
    go(page)
    kept = json.loads(fetched(address, page.get_by_role("link", name="json")))["columns"]
    page.locator(".ms-scroller").focus()
    page.keyboard.press("Home")
    page.keyboard.press("PageUp")
    row = next(i for i, (a, b) in enumerate(zip(kept["layer"], kept["position"], strict=True)) if (a, b) == (30, 0))
    said = page.locator("[aria-live=polite]").inner_text()
    assert "layer 30, position 0" in said
    chance = 100 * 2.718281828459045 ** kept["top_logprobs"][row][0]
    assert f"{chance:.1f} %" in said


def test_a_link_shows_the_same(opened):
    page = opened()
    go(page)
    page.locator(".ms-scroller").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.get_by_label("Colour").select_option("entropy")
    page.get_by_label("Rows").select_option("4")
    until(page, "location.hash.includes('colour=entropy') && location.hash.includes('every=4')")
    page.locator(".ms-scroller").focus()
    page.keyboard.press("ArrowUp")
    other = opened(page.evaluate("location.hash"))
    other.get_by_text("Save as").wait_for()
    assert other.get_by_label("Colour").input_value() == "entropy"
    pins = "document.querySelectorAll('.ms-side li').length"
    assert other.evaluate(pins) == page.evaluate(pins)
    assert other.get_by_label("Rows").input_value() == "4"
    rows = "document.querySelector('.ms-scroller').getAttribute('aria-rowcount')"
    assert other.evaluate(rows) == page.evaluate(rows)
    other.get_by_role("region", name="this cell", exact=True).wait_for()
    other.get_by_role("button", name="Stores and studies").click()
    other.get_by_role("button", name="Read", exact=True).click()
    other.get_by_text("Save as").wait_for()


@pytest.mark.parametrize("typed", ["0.9", "-0.5", "1.05"])
def test_an_amount_is_what_is_typed(opened, typed):
    page = opened()
    page.get_by_role("button", name="Edit the stream").click()
    amount = page.get_by_label("by share")
    amount.press("Control+a")
    page.keyboard.type(typed)
    assert amount.input_value() == typed
    until(page, f"decodeURIComponent(location.hash).includes('\"amount\":{float(typed):g},')")


def test_followed_tokens_are_exact_once_it_is_read(opened):
    page = opened()
    go(page)
    until(page, "!document.querySelector('.ms-side').innerText.includes('only')")
    curve = page.locator(".ms-curves").first.get_attribute("aria-label")
    assert curve.count(" at ") >= 31


def test_an_edit_is_removed_by_the_keyboard(opened):
    page = opened()
    edit(page)
    page.get_by_role("button", name="remove edit 1").press("Enter")
    until(page, "document.activeElement.textContent === 'Edit the stream'")


def test_the_command_follows_what_is_followed(opened, tiny):
    page = opened()
    go(page)
    command = "document.querySelector('.keep pre').textContent"
    until(page, f"{command}.startsWith('midstream read --model ')")
    assert "--watch" not in page.evaluate(command)
    page.get_by_label("Colour").select_option("entropy")
    page.get_by_label("Rows").select_option("4")
    layers = set(ms.read(tiny, TEXT, every=4).columns["layer"].tolist())
    shown = []
    for _ in layers:
        page.locator(".ms-scroller").press("ArrowDown" if shown else "PageUp")
        shown.append(int(page.locator("[role=rowheader]").inner_text().removeprefix("layer ")))
    assert set(shown) == layers
    page.locator(".ms-scroller").press("Home")
    page.locator(".ms-scroller").press("Enter")
    for part in ("--every 4", "--color entropy", "--watch"):
        until(page, f"{command}.includes('{part}')")


def test_a_cell_shows_every_lens_and_the_nearest_positions(opened):
    page = opened()
    page.get_by_label("input", exact=True).check()
    go(page)
    box = page.locator(".ms-scroller").bounding_box()
    page.mouse.click(box["x"] + 90, box["y"] + 120)
    panel = page.get_by_role("region", name="this cell", exact=True)
    panel.wait_for()
    assert panel.locator("h3").all_inner_texts()[:2] == ["logit next token", "input token read"]
    until(page, "document.querySelector('.near li') || document.body.innerText.includes('attention sink')")


def test_a_cell_is_edited_where_it_is(opened):
    page = opened()
    go(page)
    page.locator(".ms-scroller").focus()
    for key in ("End", "PageDown", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    page.get_by_role("button", name="anchor this layer").click()
    assert page.get_by_label("anchor").input_value() == "1:0.1"
    page.get_by_role("button", name="add a token").click()
    until(page, "document.activeElement.closest('.edits') !== null")
    page.keyboard.type(" king")
    assert page.get_by_label("at layers").input_value() == "1"
    assert (
        int(page.get_by_label("positions").input_value())
        == int(page.locator(".ms-scroller").get_attribute("aria-colcount")) - 2
    )
    page.get_by_role("button", name="Read", exact=True).nth(1).click()
    until(page, "document.querySelector('select') && location.hash.includes('kl_unedited')")
    page.get_by_text("Save as").wait_for()
    page.locator(".ms-scroller").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="take its top token out").click()
    until(page, "document.querySelectorAll('.edits li').length === 2 && !!document.querySelector('.keep')")
    assert page.get_by_label("token", exact=True).nth(1).input_value() != ""


def test_an_edit_moves_the_grid_and_the_continuation(opened):
    page = opened()
    edit(page)
    go(page)
    assert page.get_by_label("Colour").input_value() == "kl_unedited"
    page.get_by_label("tokens", exact=True).fill("5")
    page.get_by_role("button", name="Continue").click()
    page.get_by_text("as many as were asked for").nth(1).wait_for()
    assert page.locator(".branches h3").count() == 2


def test_a_text_that_is_too_long_is_offered_in_part(opened):
    page = opened()
    page.get_by_label("Text").fill("a king was there " * 40)
    page.get_by_label("Text").press("Enter")
    page.get_by_role("button", name="Read its first part").click()
    page.get_by_text("Save as").wait_for()
    assert page.locator(".ms-scroller").get_attribute("aria-colcount") == "121"


def test_an_empty_text_is_told(opened):
    page = opened()
    page.get_by_label("Text").fill("")
    page.get_by_label("Text").press("Enter")
    page.get_by_role("alert").wait_for()
    assert "the text is empty" in page.get_by_role("alert").inner_text()


def test_who_asks_again_or_leaves_keeps_nobody_waiting(opened):
    """What is asked while a reading runs takes its place; a closed tab's work ends."""
    page, other = opened(), opened()
    for text in ("once upon a time there was a king " * 8, TEXT):
        page.get_by_label("Text").fill(text)
        page.get_by_label("Text").press("Enter")
    other.get_by_label("Text").fill("the capital of France " * 12)
    other.get_by_label("Text").press("Enter")
    other.close()
    page.get_by_text("Save as").wait_for()
    assert page.locator(".ms-scroller").get_attribute("aria-colcount") != "1"
    go(opened())


def test_a_hostile_token_is_text(opened):
    page = opened()
    go(page, '<img src=x onerror="window.__pwned=1"></script><script>window.__pwned=1</script> a king')
    assert page.evaluate("typeof window.__pwned") == "undefined"


def test_two_prompts_are_compared(opened, address):
    page = opened()
    page.get_by_role("button", name="Compare").first.click()
    page.get_by_label("Text").first.fill(TEXT)
    page.get_by_label("Text").nth(1).fill("a king is there and asked why")
    page.locator("form").get_by_role("button", name="Compare").click()
    page.get_by_role("region", name="means by layer").wait_for()
    assert page.get_by_label("Colour").input_value() == "logprob_change"
    assert b"unedited_logprob" in fetched(address, page.get_by_role("link", name="csv"))
    other = opened(page.evaluate("location.hash"))
    other.get_by_role("region", name="means by layer").wait_for()
    curves = "document.querySelector('.curves').innerHTML"
    assert other.evaluate(curves) == page.evaluate(curves)


def test_stores_and_studies_are_opened(opened):
    page = opened()
    page.get_by_role("button", name="Stores and studies").click()
    page.locator(".shelf button").first.click()
    page.get_by_role("button", name="t1").click()
    page.locator(".ms-scroller").wait_for()
    assert page.locator(".curves .area").count() == 1
    assert "too few documents for intervals" in page.locator(".curves figcaption").inner_text()
    page.get_by_role("button", name="sample").click()
    frame = page.frame_locator("iframe.report")
    frame.locator("h1").wait_for()
    assert frame.locator("h1").inner_text() == report().name


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: cd web && npm ci")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("shown", ["read", "compare", "shelf"])
def test_axe_finds_nothing(opened, shown, scheme):
    """WCAG 2 A and AA: names, roles, contrast."""
    page = opened(color_scheme=scheme, bypass_csp=True)
    if shown == "read":
        edit(page)
        go(page)
        box = page.locator(".ms-scroller").bounding_box()
        page.mouse.click(box["x"] + 190, box["y"] + 120)
        page.get_by_role("region", name="this cell", exact=True).wait_for()
    elif shown == "compare":
        page.get_by_role("button", name="Compare").first.click()
        page.get_by_label("Text").nth(1).fill("a king is there and asked why")
        page.locator("form").get_by_role("button", name="Compare").click()
        page.get_by_role("region", name="means by layer").wait_for()
    else:
        page.get_by_role("button", name="Stores and studies").click()
        page.locator(".shelf button").first.click()
        page.get_by_role("button", name="t1").click()
        page.locator(".ms-scroller").wait_for()
    assert violations(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_does_not_shift(opened, width, scheme, tmp_path):
    page = opened(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.evaluate(  # also what moves within half a second of the key, for a slower machine's reading starts after it
        "new PerformanceObserver(list => list.getEntries().forEach(e => window.__shift = (window.__shift ?? 0)"
        " + e.value)).observe({type: 'layout-shift', buffered: true})"
    )
    go(page)
    assert (page.evaluate("window.__shift") or 0) < 0.01
    page.get_by_text("How to get this again").click()
    for part in ("document.documentElement", "document.querySelector('main')"):
        assert page.evaluate(f"{part}.scrollWidth") <= width
    page.screenshot(path=os.environ.get("SHOTS", str(tmp_path)) + f"/read-{width}-{scheme}.png", full_page=True)


def test_an_edit_that_is_not_whole_is_not_read(opened):
    page = opened()
    edit(page)
    page.get_by_label("by share").fill("abc")
    ask(page)
    page.get_by_text("edit 1: expected a number by share").wait_for()
    page.get_by_role("button", name="Continue").click()
    page.locator(".sample .said").get_by_text("edit 1: expected a number").wait_for()
    page.get_by_label("by share").fill("0.5")
    until(page, "document.querySelector('.sample .said').textContent === ''")
    page.locator(".edits").get_by_label("change").select_option("patch")
    page.locator("#text").press("Enter")
    page.get_by_text("edit 1: give the text to patch from").wait_for()
    assert page.get_by_text("Save as").count() == 0


def test_an_edited_text_read_twice_keeps_its_colour(opened):
    page = opened()
    go(page)
    page.locator(".ms-scroller").press("ArrowUp")  # what is on screen is in the address from here on
    edit(page)
    for _ in range(2):
        page.get_by_label("Text").press("Enter")
        until(page, "document.querySelector('.reading + div').hidden")
        until(page, "!document.querySelector('.reading + div').hidden")
        assert page.get_by_label("Colour").input_value() == "kl_unedited"
        until(page, "location.hash.includes('colour=kl_unedited')")


def test_the_cell_of_a_link_is_told_once_it_is_read(opened):
    page = opened()
    go(page)
    page.locator(".ms-scroller").press("PageDown")
    page.locator(".ms-scroller").press("ArrowUp")
    page.locator(".ms-scroller").press("Enter")
    told = page.locator("p[aria-live]").inner_text()
    assert "%" in told
    until(page, "location.hash.includes('cell=')")
    other = opened(page.evaluate("location.hash"))
    other.get_by_text("Save as").wait_for()
    assert other.locator("p[aria-live]").inner_text() == told
    assert other.locator("[role=gridcell]").inner_text() == told
