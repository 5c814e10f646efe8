"""Every flow of the page over the real default model, as a person would go through it; screenshots are kept in dist."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from lens_sample import sample
from safetensors.torch import load_file, save_file

import midstream as ms
from midstream.lens.file.artifact import save
from midstream.model.bundled import bundled
from midstream.model.gguf_model import convert_gguf
from midstream.view import study_file
from tests.view.study_sample import report
from tests.web.chromium import AXE, CHROMIUM, until, violations
from tests.web.server import ended, fetched, started

pytestmark = [pytest.mark.default_model, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

SCREENS = Path(__file__).parents[2] / "dist" / "screens"
TEXT = "The Eiffel Tower is located in the city of"
LONGER = " ".join(["Four score and seven years ago our fathers brought forth on this continent, a new nation,"] * 3)
ENDED = "[...document.querySelectorAll('.branches h3 .soft')].filter(one => one.innerText).length === 2"
SIZES = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def desk(default_model, tmp_path_factory):
    """A folder with what a server can open: lenses, a coarser copy of the model, a store, a study."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "lenses").mkdir()
    save(sample(default_model, "future:2"), folder / "lenses" / "ahead.safetensors")
    (folder / "coarse").mkdir()
    convert_gguf(bundled(), folder / "coarse")
    file = folder / "coarse" / "model.safetensors"
    save_file({name: coarser(tensor) for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    texts = [LONGER, "Call me Ishmael.", "It was the best of times, it was the worst of times."]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text, "id": text[:12]}) + "\n" for text in texts))
    ms.scan(default_model, folder / "corpus.jsonl", folder / "store", lens="logit", every=10, top_k=3)
    (folder / "studies" / "sample").mkdir(parents=True)
    study_file.write(report(), folder / "studies" / "sample")
    return folder


def coarser(tensor):
    """A matrix in steps of a sixteenth of each row's largest entry, as a quantisation leaves it."""
    if tensor.dim() < 2:
        return tensor
    step = tensor.float().abs().amax(-1, keepdim=True) / 16
    return ((tensor.float() / step).round() * step).to(tensor.dtype)


@pytest.fixture(scope="module")
def address(desk):
    more = ("--lenses", "lenses", "--store", "store", "--studies", "studies", "--tokens", "300")
    process, found = started(desk, "--model", "default", "--model", "coarse", *more)
    yield found
    ended(process)


def ask(page, text, button="Read"):
    page.get_by_label("Text").first.fill(text)
    page.evaluate("document.querySelector('.keep')?.classList.add('old')")
    page.locator("form").get_by_role("button", name=button, exact=True).click()
    page.locator(".keep:not(.old)").wait_for()


def choose(page, line, col):
    """A cell of the grid, by keys."""
    page.locator(".ms-scroller").focus()
    for key in ["Control+Home", *["ArrowDown"] * line, *["ArrowRight"] * col, "Enter"]:
        page.keyboard.press(key)


def said(page):
    """(layer, position) -> what the page says of three cells in every fourth row."""
    page.locator(".ms-scroller").focus()
    page.keyboard.press("Control+Home")
    found = {}
    for _ in range(7):
        for _ in range(3):
            text = page.locator("p[aria-live]").inner_text()
            layer, position = map(int, re.search(r"layer (\d+), position (\d+)", text).groups())
            found[layer, position] = text
            page.keyboard.press("ArrowRight")
        for _ in range(4):
            page.keyboard.press("ArrowDown")
    return found


def test_the_numbers_are_those_of_midstream_read(opened, address, midstream, desk):
    page = opened()
    ask(page, TEXT)
    done = midstream("read", TEXT, "--model", "default", "--format", "json")
    wanted = json.loads(done.stdout)["columns"]
    kept = json.loads(fetched(address, page.get_by_role("link", name="json")))["columns"]
    rows = [
        {key: number for number, key in enumerate(zip(*(of[name] for name in ("layer", "position")), strict=True))}
        for of in (wanted, kept)
    ]
    assert rows[0].keys() == rows[1].keys()
    for name, values in wanted.items():
        for key in rows[0]:
            assert kept[name][rows[1][key]] == values[rows[0][key]], (name, key)
    for key, text in said(page).items():
        row = rows[0][key]
        chances = [100 * math.exp(value) for value in wanted["top_logprobs"][row][:3]]
        shown = [float(value) for value in re.findall(r"([\d.]+) %", text.split("Top: ")[1])][:3]
        assert shown == pytest.approx(chances, abs=0.051), (key, text)


def test_a_cell_tells_what_every_lens_says_and_who_is_near(opened):
    page = opened()
    for name in ("input", "lenses/ahead"):
        page.get_by_label(name, exact=True).check()
    ask(page, TEXT)
    choose(page, 2, 9)
    panel = page.get_by_role("region", name="this cell", exact=True)
    panel.wait_for()
    heads = panel.locator("h3").all_inner_texts()
    assert heads == ["logit next token", "input token read", "future:2 token +3", "Most alike"]
    until(page, "document.querySelectorAll('.near li').length > 3")
    assert "Paris" in panel.inner_text()
    page.keyboard.press("d")
    until(page, "!document.querySelector('.ms-box').hidden")
    page.keyboard.press("l")
    until(page, "location.hash.includes('show=input')")


def test_pins_are_exact_curves_and_a_link_brings_them_back(opened):
    page = opened()
    ask(page, TEXT)
    choose(page, 0, 8)
    until(page, "!document.querySelector('.ms-side').innerText.includes('only')")
    curves = [one.get_attribute("aria-label") for one in page.locator(".ms-curves").all()]
    assert any(curve.count(" at ") >= 31 for curve in curves)
    assert page.locator(".ms-side").locator("canvas, svg").count() >= 2
    other = opened(page.evaluate("location.hash"))
    other.get_by_text("Save as").wait_for()
    until(other, "!document.querySelector('.ms-side').innerText.includes('only')")
    assert [one.get_attribute("aria-label") for one in other.locator(".ms-curves").all()] == curves


def test_stride_and_rows_inside_the_blocks(opened):
    page = opened()
    page.get_by_label("inside the blocks").check()
    ask(page, "The capital of France is")
    lines = page.locator(".ms-scroller")
    many = int(lines.get_attribute("aria-rowcount"))
    page.get_by_label("inside blocks").uncheck()
    whole = int(lines.get_attribute("aria-rowcount"))
    assert many == whole + 3 * 30
    page.get_by_label("Rows").select_option("4")
    page.locator(".ms-scroller").focus()
    page.keyboard.press("PageUp")
    assert int(lines.get_attribute("aria-rowcount")) < many
    assert "layer 30" in page.locator("p[aria-live]").inner_text()


def test_an_edit_is_seen_continued_and_anchored(opened):
    page = opened()
    ask(page, TEXT)
    choose(page, 6, 9)
    page.get_by_role("button", name="add a token").click()
    page.get_by_label("token", exact=True).fill(" London")
    page.get_by_label("by share").fill("0.9")
    ask(page, TEXT)
    assert page.get_by_label("Colour").input_value() == "kl_unedited"
    page.get_by_label("tokens", exact=True).fill("8")
    page.get_by_label("anchor").fill("20:0.1")
    page.get_by_role("button", name="Continue").click()
    until(page, ENDED)
    edited, plain = page.locator(".branches .new").all_inner_texts()
    assert (edited[:7], plain[:6]) == (" London", " Paris")
    page.get_by_role("button", name="remove edit 1").click()
    page.get_by_role("button", name="Edit the stream").click()
    page.locator(".edits").get_by_label("change").select_option("patch")
    page.get_by_label("the run over the text").fill("The Colosseum stands in the old town of")
    ask(page, TEXT)
    assert page.get_by_label("Colour").input_value() == "kl_unedited"


def test_a_model_is_compared_with_its_coarser_copy(opened):
    page = opened()
    page.get_by_role("button", name="Compare").first.click()
    page.get_by_label("Text").nth(1).fill(TEXT)
    page.get_by_label("Model").last.select_option("coarse")
    ask(page, TEXT, "Compare")
    page.get_by_role("region", name="means by layer").wait_for()
    assert page.get_by_label("Colour").input_value() == "logprob_change"
    assert page.locator(".charts figure").count() == 4
    page.get_by_label("Model").first.select_option("default")
    page.get_by_role("button", name="Read", exact=True).click()
    ask(page, TEXT)
    assert "SmolLM2" in page.locator("p.said").nth(1).inner_text()


def test_two_prompts_are_compared(opened):
    page = opened()
    page.get_by_role("button", name="Compare").first.click()
    page.get_by_label("Text").nth(1).fill("The Colosseum is located in the city of")
    ask(page, TEXT, "Compare")
    assert "where both have the same token" in page.locator("p.said").last.inner_text()


def test_a_scan_is_opened_down_to_a_document_and_a_study(opened):
    page = opened()
    page.get_by_role("button", name="Stores and studies").click()
    page.locator(".shelf button").first.click()
    page.get_by_role("button", name="Call me").click()
    page.locator(".ms-scroller").wait_for()
    page.get_by_role("button", name="sample").click()
    page.frame_locator("iframe.report").locator("h1").wait_for()


def test_a_text_that_is_too_long_is_offered_in_part(opened):
    page = opened()
    page.get_by_label("Text").fill(LONGER * 8)
    page.get_by_label("Text").press("Enter")
    page.get_by_role("alert").wait_for()
    assert "at most 300 are read" in page.get_by_role("alert").inner_text()
    page.get_by_role("button", name="Read its first part").click()
    page.get_by_text("Save as").wait_for()
    assert page.locator(".ms-scroller").get_attribute("aria-colcount") == "301"


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_screens(opened, width, scheme):
    """Pictures of every page, for whoever wants to look; none is wider than the screen."""
    SCREENS.mkdir(parents=True, exist_ok=True)
    page = opened(viewport={"width": width, "height": 844}, color_scheme=scheme, bypass_csp=True)

    def keep(name):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=SCREENS / f"{name}-{width}-{scheme}.png", full_page=True)

    page.get_by_label("input", exact=True).check()
    ask(page, TEXT)
    choose(page, 4, 3)
    until(page, "document.querySelectorAll('.near li').length > 3")
    keep("cell")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Edit the stream").click()
    page.get_by_label("token", exact=True).fill(" London")
    page.get_by_label("by share").fill("0.9")
    ask(page, TEXT)
    page.get_by_label("tokens", exact=True).fill("12")
    page.get_by_role("button", name="Continue").click()
    until(page, ENDED)
    keep("edit")
    page.get_by_role("button", name="Compare").first.click()
    page.get_by_label("Text").nth(1).fill("The Colosseum is located in the city of")
    ask(page, TEXT, "Compare")
    keep("compare")
    page.get_by_role("button", name="Stores and studies").click()
    page.locator(".shelf button").first.click()
    page.get_by_role("button", name="Call me").click()
    page.locator(".ms-scroller").wait_for()
    keep("store")
    if AXE.exists():
        assert violations(page) == []
