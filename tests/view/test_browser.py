"""The page in a real Chromium; left out only where there is none."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from view.chromium import cell, grid
from view.sample import HOSTILE, reading, several

from midstream.view import chart, html, token_text
from midstream.view.layout import lay_out

TABLE, TRACKS = reading(tokens=30, layers=8, subs=True)
LAYOUT = lay_out(TABLE)
PAGE = html.page(TABLE, tracks=TRACKS)


def test_hovering_shows_everything_about_a_cell(opened):
    page = opened(PAGE)
    page.hover(".ms-scroller", position=cell(page, 0, 1))
    box = page.locator(".ms-box")
    text = box.inner_text()
    assert "layer 8" in text
    assert box.locator(".ms-top li").count() == 10
    for word in (
        "next token",
        "output’s top",
        "input",
        "watched",
        "entropy",
        "KL(output ‖ reading)",
        "KL(reading ‖ output)",
    ):
        assert word in text
    row = LAYOUT.index[-1, 1]
    shown = float(re.search(r"entropy\s+([\d.]+) nats", text)[1])
    assert shown == pytest.approx(TABLE.columns["entropy"][row], abs=0.0056)  # two decimals of thousandths
    page.mouse.move(5, 5)
    assert not box.is_visible()


def test_a_cell_shows_the_unedited_numbers_beside_the_edited_ones(opened):
    row = LAYOUT.index[-1, 1]
    names = ("logprob", "unedited_logprob", "unedited_rank", "unedited_entropy", "unedited_top_id", "kl_unedited")
    at = {name: float(TABLE.columns[name][row]) for name in names}
    page = opened(html.page(TABLE, tracks=TRACKS, statistic="logprob_change"))
    assert page.locator(".ms-controls select").first.input_value() == "logprob_change"
    assert page.locator(".ms-legend .ms-unit").all_inner_texts() == ["less likely", "more likely, nats"]
    page.hover(".ms-scroller", position=cell(page, 0, 1))
    rank, logit, nats, percent = page.locator(".ms-named tr", has_text="unedited").locator("td").all_inner_texts()
    assert (int(rank.replace(",", "")), logit) == (at["unedited_rank"], "–")  # its log-sum-exp is not known
    number = lambda text: float(text.replace("−", "-").removesuffix(" nats"))  # noqa: E731
    assert number(nats) == pytest.approx(at["unedited_logprob"], abs=0.006)
    assert number(percent) == pytest.approx(100 * np.exp(at["unedited_logprob"]), abs=0.2)
    pairs = dict(zip(*(page.locator(f".ms-box {tag}").all_inner_texts() for tag in ("dt", "dd")), strict=True))
    shown = "(e => e.scrollWidth <= e.clientWidth)(document.querySelector('.ms-box dd button'))"
    assert page.evaluate(shown)  # the token is not cut
    assert pairs["top token, unedited"] == token_text.visible(TABLE.vocabulary[int(at["unedited_top_id"])])
    assert number(pairs["entropy, unedited"]) == pytest.approx(at["unedited_entropy"], abs=0.006)
    assert number(pairs["KL(unedited ‖ edited)"]) == pytest.approx(at["kl_unedited"], abs=0.006)
    change = at["logprob"] - at["unedited_logprob"]
    assert number(pairs["change in log p of the next token"]) == pytest.approx(change, abs=0.007)

    columns = {name: values for name, values in TABLE.columns.items() if "unedited" not in name}
    page = opened(html.page(replace(TABLE, columns=columns)))
    page.hover(".ms-scroller", position=cell(page, 0, 1))
    assert "edited" not in page.locator(".ms-box").inner_text()
    assert "logprob_change" not in page.locator(".ms-controls select").first.inner_html()


def test_cells_of_a_change_are_painted_in_its_colours(opened):
    """A pixel beside the text of a cell has the colour that Python gives it; where it is undefined, none."""
    small, _ = reading(tokens=5, layers=3)
    layout, stat = lay_out(small), chart.statistic("logprob_change")
    shades = chart.scale(small, stat).shade(layout.cells(small, stat))
    for scheme in ("light", "dark"):
        page = opened(html.page(small, statistic=stat.name), color_scheme=scheme)
        there = [(line, col) for line in range(4) for col in range(1, 5)]
        places = [cell(page, line, col) for line, col in there]
        image = "g.base.getContext('2d').getImageData(0, 0, g.base.width, g.base.height).data"
        index = "4 * (Math.floor(y) * g.base.width + Math.floor(x + g.sizes.cell / 2 - 4))"
        channels = f"({{x, y}}) => [0, 1, 2, 3].map((i) => all[{index} + i])"
        pixels = grid(page, f"((all) => {json.dumps(places)}.map({channels}))({image})")
        for (line, col), pixel in zip(there, pixels, strict=True):
            shade = shades[3 - line, col]
            assert (pixel[3] == 0) == (shade < 0)
            if shade >= 0:
                wanted = chart.ramp(scheme, "change")[shade]
                rgb = [int(wanted[at : at + 2], 16) for at in (1, 3, 5)]
                assert pixel[:3] == pytest.approx(rgb, abs=8)  # kept in thousandths: a shade off at most


def test_a_click_follows_the_top_token_and_another_from_its_list(opened):
    page = opened(PAGE)
    chips = page.locator(".ms-side li")
    assert chips.count() == 1  # the watched token
    page.click(".ms-scroller", position=cell(page, 2, 2))
    assert chips.count() == 2
    page.locator(".ms-box .ms-top .ms-follow").nth(3).click()
    assert chips.count() == 3
    assert page.locator(".ms-curves").count() == 2
    chips.nth(0).locator("button").click()
    assert chips.count() == 2


def test_curves_are_exact_where_tracked_and_have_gaps_where_not(opened):
    page = opened(PAGE)
    token = int(TABLE.columns["top_ids"][LAYOUT.index[-1, 4], 0])
    own = (TRACKS["position"] == 4) & (TRACKS["watch_id"] == token) & (TRACKS["site"] == "resid_post")
    wanted = dict(zip(TRACKS["layer"][own].tolist(), TRACKS["rank"][own].tolist(), strict=True))
    page.click(".ms-scroller", position=cell(page, 0, 4))
    ranks = grid(page, "g.followed.pins.at(-1).curve.ranks")
    rows = [row for row, site in enumerate(LAYOUT.sites) if site == "resid_post"]
    assert {LAYOUT.layers[row]: round(ranks[row]) for row in rows} == wanted

    page = opened(html.page(TABLE))
    page.click(".ms-scroller", position=cell(page, 0, 4))
    part = grid(page, "g.followed.pins.at(-1).curve.ranks.map((rank) => Number.isNaN(rank) ? null : rank)")
    assert [rank for rank in part if rank] == [round(r) for r, p in zip(ranks, part, strict=True) if p]
    assert None in part
    assert "top 10 only" in page.locator(".ms-side").inner_text()


def test_the_keyboard_does_everything(opened):
    page = opened(PAGE)
    page.locator(".ms-scroller").focus()
    assert grid(page, "[g.cursor.line, g.cursor.col]") == [0, 29]
    for key, place in [
        ("ArrowLeft", [0, 28]), ("ArrowDown", [1, 28]), ("ArrowUp", [0, 28]), ("ArrowUp", [0, 28]), ("Home", [0, 0]),
        ("ArrowRight", [0, 1]), ("PageDown", [8, 1]), ("PageUp", [0, 1]),
        ("Control+End", [8, 29]), ("Control+Home", [0, 0]),
    ]:  # fmt: skip
        page.keyboard.press(key)
        assert grid(page, "[g.cursor.line, g.cursor.col]") == place, key
    page.keyboard.press("Enter")
    assert grid(page, "g.followed.pins.length") == 2
    page.keyboard.press("3")
    assert grid(page, "g.followed.pins.length") == 3
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert grid(page, "g.followed.pins.length") == 1


def test_what_a_screen_reader_is_told(opened):
    page = opened(PAGE)
    page.locator(".ms-scroller").focus()
    page.keyboard.press("ArrowDown")
    said = page.locator("[aria-live]").text_content()
    assert said.startswith("layer 7, position 29, token ")
    assert "Top: " in said
    active = page.locator(".ms-scroller").get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").get_attribute("aria-colindex") == "31"
    assert page.locator("[role=grid] [role=row] [role=gridcell]").count() == 1


@pytest.mark.parametrize("name", chart.STATISTICS)
def test_page_and_python_agree_on_every_statistic(opened, name):
    """One page would do for all, but a failure should name the statistic."""
    page = opened(PAGE)
    page.select_option(".ms-controls select", name)
    stat = chart.statistic(name)
    scale = chart.scale(TABLE, stat)
    there = [(8, 0), (8, 5), (20, 7), (0, 3), (len(LAYOUT.layers) - 1, 28)]
    asked = json.dumps(there)
    found = grid(page, f"{asked}.map(([row, col]) => MidstreamGrid.look(g.grid, g.stat, row, col))")
    for (row, col), (value, place, text) in zip(there, found, strict=True):
        wanted = chart.values(TABLE, stat)[LAYOUT.index[row, col]]
        if np.isnan(wanted):
            assert value != value
            continue
        assert value == pytest.approx(wanted, rel=2e-3, abs=2e-3)
        assert place == pytest.approx(scale.place(np.array(wanted)), abs=0.01)
        assert text == chart.written(stat, value)


@pytest.fixture
def lenses(opened):
    table, tracks = several(tokens=30, layers=8, subs=True)
    return opened(html.page(table, tracks=tracks))


def test_a_lens_offers_only_the_statistics_it_has(lenses):
    """The input lens only ranks; the statistic that was asked for comes back with the lens that has it."""
    colour = lenses.locator(".ms-controls select").first
    lenses.select_option(".ms-controls select", "entropy")
    lenses.get_by_role("tab", name="input", exact=False).last.click()
    assert colour.input_value() == "rank"
    assert colour.locator("option").all_inner_texts() == ["rank of the input token", "rank of the input token"]
    assert "the top token is the input token" in lenses.locator(".ms-hint").inner_text()
    assert lenses.locator(".ms-title").inner_text() == "Each layer’s input token, by the input lens"
    lenses.hover(".ms-scroller", position=cell(lenses, 0, 1))
    assert lenses.locator(".ms-box dt").all_inner_texts() == ["top token, unedited"]
    lenses.get_by_role("tab").nth(1).click()
    assert colour.input_value() == "entropy"
    lenses.select_option(".ms-controls select", "final_top1_rank")
    assert colour.locator("option:checked").inner_text() == "rank of the output's top for token +2"


def test_tabs_name_each_lens_and_what_it_reads_and_obey_the_keyboard(lenses):
    tabs = lenses.get_by_role("tab")
    assert [text.split("\n") for text in tabs.all_inner_texts()] == [
        ["logit", "next token"], ["future:1", "token +2"], ["input", "input token"],
    ]  # fmt: skip
    tabs.first.focus()
    for key, lens in [("ArrowRight", "future:1"), ("End", "input"), ("ArrowRight", "logit"), ("ArrowLeft", "input")]:
        lenses.keyboard.press(key)
        assert grid(lenses, "g.grid.lens") == lens
        assert lenses.evaluate("document.activeElement.querySelector('b').textContent") == lens
        assert lenses.locator("[role=tab][tabindex='0']").count() == 1
    lenses.locator(".ms-scroller").focus()
    lenses.keyboard.press("l")
    assert grid(lenses, "g.grid.lens") == "logit"
    lenses.keyboard.press("Shift+L")
    assert grid(lenses, "g.grid.lens") == "input"


def test_another_lens_keeps_the_cell_the_place_in_the_text_and_the_open_box(lenses):
    lenses.locator(".ms-scroller").focus()
    lenses.keyboard.press("End")
    place = "[g.grid.labels[g.rows[g.cursor.line]], g.grid.positions[g.cursor.col], g.scroller.scrollLeft]"
    lenses.click(".ms-scroller", position=cell(lenses, 6, 26))
    before = grid(lenses, place)
    assert before[:2] == ["2", 26]
    assert before[2] > 0
    for lens in ("future:1", "input", "logit"):
        lenses.get_by_role("tab", name=lens, exact=False).first.click()
        assert grid(lenses, place) == before, lens
        assert lenses.locator(".ms-box").is_visible()
        assert "layer 2" in lenses.locator(".ms-box").inner_text()
    lenses.click(".ms-scroller", position=cell(lenses, 1, 26))
    lenses.get_by_role("tab").last.click()
    assert grid(lenses, place)[:2] == ["3", 26]  # the nearest layer that this lens has


def test_a_token_is_followed_through_every_lens_about_the_same_place(opened):
    table, tracks = reading(tokens=6, layers=4)
    tuned = {**table.columns, "lens": np.full(len(table), "tuned", object)}
    both = {name: np.concatenate([values, tuned[name]]) for name, values in table.columns.items()}
    page = opened(html.page(replace(table, columns=both), tracks=tracks))
    assert page.locator(".ms-side li .ms-lens").all_inner_texts() == ["logit", "tuned"]
    assert grid(page, "new Set(g.followed.pins.map((pin) => pin.name)).size") == 1


def test_a_cell_shows_every_lens_that_reads_it(lenses):
    table, _ = several(tokens=30, layers=8, subs=True)
    lenses.click(".ms-scroller", position=cell(lenses, 6, 4))
    rows = lenses.locator(".ms-beside tbody tr")
    at = (table.columns["layer"] == 2) & (table.columns["site"] == "resid_post") & (table.columns["position"] == 4)
    for number, row in enumerate(np.flatnonzero(at).tolist()):
        shown = rows.nth(number).inner_text()
        assert shown.startswith(table.columns["lens"][row])
        assert token_text.visible(table.vocabulary[int(table.columns["top_ids"][row, 0])]) in shown
    value = float(table.columns["final_top1_logprob"][at][0])
    assert rows.nth(0).inner_text().endswith(f"{value:.2f}".replace("-", "−"))
    assert rows.nth(2).inner_text().endswith("–")  # it only ranks
    rows.nth(1).locator("button").click()
    assert grid(lenses, "g.grid.lens") == "future:1"
    lenses.click(".ms-scroller", position=cell(lenses, 1, 4))
    assert rows.count() == 2  # the input lens does not read layer 7


def test_strides_keep_the_last_layer_and_blocks_can_be_opened(opened):
    page = opened(PAGE)
    rows = "g.rows.map((row) => g.grid.labels[row])"
    assert grid(page, rows) == [str(layer) for layer in range(8, -1, -1)]
    page.select_option("label:has-text('Rows') select", "3")
    assert grid(page, rows) == ["8", "5", "2"]  # counted back from the last, as --every does
    page.check(".ms-check input")
    assert grid(page, rows)[:5] == ["8", "8 mlp", "8 mid", "8 attn", "5"]


def test_only_what_is_visible_is_painted(opened):
    page = opened(PAGE)
    assert page.evaluate("document.querySelector('canvas').width") <= 1280
    assert grid(page, "g.space.offsetWidth") > grid(page, "g.scroller.clientWidth")
    page.locator(".ms-scroller").focus()
    page.keyboard.press("Home")
    assert grid(page, "g.scroller.scrollLeft") == 0
    page.keyboard.press("End")
    assert grid(page, "g.scroller.scrollLeft") > 0


def test_light_dark_and_the_switch(opened):
    for scheme, other in (("light", "dark"), ("dark", "light")):
        page = opened(PAGE, color_scheme=scheme)
        assert grid(page, "g.colours.name") == scheme
        before = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.click(".ms-theme")
        assert grid(page, "g.colours.name") == other
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_every_text_has_contrast_in_both_themes(opened):
    """The style's colours against the ground, by the same formula as the cells' inks."""
    for scheme in ("light", "dark"):
        page = opened(PAGE, color_scheme=scheme)
        found = page.evaluate(
            """() => { const probe = document.createElement("i"); document.querySelector(".ms").append(probe);
            const hex = (name) => { probe.style.color = `var(--ms-${name})`; return "#" + getComputedStyle(probe).color
              .match(/\\d+/g).slice(0, 3).map((v) => Number(v).toString(16).padStart(2, "0")).join(""); };
            const pins = Array.from({length: 8}, (_, i) => `pin${i}`);
            return Object.fromEntries(["ground", "raised", "text", "muted", "accent", ...pins]
              .map((name) => [name, hex(name)])); }"""
        )
        for name in found.keys() - {"ground", "raised"}:
            assert chart.contrast(found[name], found["ground"]) >= 4.5, (scheme, name)
        assert chart.contrast(found["muted"], found["raised"]) >= 4.5


@pytest.mark.parametrize("made", [reading, several])
def test_a_phone_gets_a_sheet_and_no_sideways_scrolling(opened, made):
    table, tracks = made(tokens=30, layers=8)
    page = opened(html.page(table, tracks=tracks), viewport={"width": 390, "height": 844}, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.tap(".ms-scroller", position=cell(page, 1, 1))
    frame = page.locator(".ms-box").bounding_box()
    assert frame["x"] == 0
    assert frame["width"] == 390
    assert frame["y"] + frame["height"] == pytest.approx(844, abs=1)
    page.locator(".ms-box .ms-shut").click()
    assert not page.locator(".ms-box").is_visible()


def test_paper_gets_the_whole_grid(opened):
    page = opened(PAGE)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".ms-paper td").count() == 9 * 30
    assert not page.locator(".ms-scroller").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator(".ms-paper td").count() == 0


def test_hostile_tokens_are_shown_as_text(opened):
    page = opened(html.page(TABLE, tracks=TRACKS, title=HOSTILE[0]))
    assert page.locator("h1").inner_text() == HOSTILE[0]
    for line in range(3):
        for col in range(14, 30):
            page.evaluate(
                "([line, col]) => document.querySelector('[data-midstream]').grid.open({line, col})", [line, col]
            )
            assert page.locator(".ms-box script, .ms-box img, .ms-box b:not(header b)").count() == 0
    assert page.evaluate("document.images.length") == 0


def test_several_fragments_share_a_page(opened):
    one, other = html.fragment(TABLE), html.fragment(reading(tokens=5, layers=3)[0], tracks=None)
    page = opened(f"<!doctype html><meta charset=utf-8><body data-jp-theme-light=false>{one}<hr>{other}<hr>{one}")
    page.wait_for_function("document.querySelectorAll('[data-midstream=open]').length === 3")
    assert page.locator(".ms-scroller").count() == 3
    assert grid(page, "g.colours.name") == "dark"


def test_without_script_the_table_is_shown(browser, folder):
    path = folder / "plain.html"
    path.write_text(html.page(TABLE), encoding="utf-8")
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(path.as_uri())
    assert page.locator(".ms-plain td").first.is_visible()
    page.context.close()
