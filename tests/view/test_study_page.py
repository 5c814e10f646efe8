from __future__ import annotations

import base64
import hashlib
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from view.study_sample import chart, claims, estimate, hostile, report, texts, verdicts

from midstream.study.verdict import decide
from midstream.view import study_chart, study_index, study_page, study_text
from midstream.view.study_index import Card

SVG = study_chart.render(chart())
VOID = {"meta", "link", "img"}
TAGS = {
    "html", "meta", "link", "title", "style", "body", "header", "main", "section", "h1", "h2", "p", "blockquote", "div",
    "span", "strong", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "figure", "img", "figcaption", "dl",
    "dt", "dd", "code",
}  # fmt: skip


class Seen(HTMLParser):
    """Every tag, attribute and text of a page, as a browser's parser would split them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.texts, self.styles, self.open = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        self.texts += [value for name, value in attrs if name == "alt"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag or tag in ("html", "body")

    def handle_data(self, data):
        (self.styles if self.open and self.open[-1] == "style" else self.texts).append(data)


def words(text: str) -> str:
    return " ".join(text.split())


def figures(of, value):
    return {section.chart.name: value for section in of.sections if section.chart}


def as_html(of) -> str:
    return study_page.html(of, figures(of, SVG))


def as_markdown(of) -> str:
    return study_page.markdown(of, figures(of, "loss.svg"))


def tokens(text: str) -> list:
    """Every token of a Markdown text, as a reader of Markdown sees it, those inside a line too."""
    parsed = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    return [one for token in parsed for one in (token, *(token.children or ()))]


def lines(text: str) -> list[str]:
    """The text of every line of a Markdown text, of its images too, once parsed."""

    def content(children) -> str:
        return "".join(content(part.children or ()) if part.type == "image" else part.content for part in children)

    return [content(token.children) for token in tokens(text) if token.type == "inline"]


def cards() -> list[Card]:
    of, few = report(), estimate(0.03, math.nan, clusters=4, share=math.nan)
    found = (*verdicts(), decide(claims()[0], few))
    return [
        Card(f"study_{n}", of.question, of.answer, one.claim.name, one.claim.says, one.found, one.estimate, one.p,
             3 * one.p, f"study_{n}/report.html", f"study_{n}/loss.svg", SVG)
        for n, one in enumerate(found)
    ]  # fmt: skip


PAGES = {"report": as_html(report()), "hostile": as_html(hostile()), "index": study_index.index_html(cards())}


@pytest.mark.parametrize("make", [report, hostile])
def test_every_text_of_the_report_stands_in_both_and_as_text(make):
    of = make()
    page = words(" ".join(Seen(as_html(of)).texts))
    read = words(" ".join(lines(as_markdown(of))))
    wanted = [words(study_text.prose(text)) for text in texts(of)]
    assert len(wanted) > 100
    assert not [text for text in wanted if text not in page]
    assert not [text for text in wanted if text not in read]


def test_hostile_texts_are_no_markup_in_html():
    seen = Seen(PAGES["hostile"])
    assert set(seen.tags) <= TAGS
    assert seen.tags.count("img") == seen.tags.count("style") == 1
    assert not [pair for pair in seen.attributes if pair[1].startswith("on") or pair[1] == "style"]
    assert [value for _, key, value in seen.attributes if key == "href"] == ["data:,"]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x00-\x08\x1b\ud800-\udfff]", PAGES["hostile"])


def test_hostile_texts_are_no_markup_in_markdown():
    def kinds(of):
        return [
            (token.type, token.tag) for token in tokens(as_markdown(of)) if token.type not in ("text", "text_special")
        ]

    own = kinds(report())
    assert kinds(hostile()) == own
    assert {"html_inline", "html_block", "link_open", "em_open", "s_open", "code_inline", "fence"}.isdisjoint(dict(own))
    for text in ("# x", "- x", "+ x", "1. x", "12) x", "> x", "---", "===", "```", "    x", "a_b", "__a__", "_a_",
                 "x #", "&copy;", "<b>", "a | b", "-", "+"):  # fmt: skip
        of = replace(report(), prediction=text, notes=(text, text), name=text)
        assert kinds(of) == own
        assert lines(as_markdown(of)).count(text.strip()) == 4


def test_the_order_on_the_page_is_that_of_reading():
    of = report()
    for page in (" ".join(Seen(as_html(of)).texts[1:]), as_markdown(of).replace("\\", "")):
        places = [
            page.index(text)
            for text in (
                of.name, of.question, "✓ supported", of.answer, "The model is SmolLM2", of.about[1], of.prediction,
                of.verdicts[0].claim.says, of.sections[0].title, of.sections[0].chart.caption, of.sections[1].title,
                of.lined_up[0].source, of.lined_up[0].why, of.notes[0], of.provenance.model, of.provenance.time,
            )
        ]  # fmt: skip
        assert places == sorted(places)


def test_a_verdict_says_threshold_s_interval_works_and_reason():
    for page in (words(" ".join(Seen(PAGES["report"]).texts)), as_markdown(report()).replace("&lt;", "<")):
        for text in ("below 0 nats a token", "within 0 ± 0.02 nats a token", "s = 0.02 nats a token",
                     "-0.0312 nats a token (-0.0450 to -0.0174)", "95 % interval, 30 works, the largest holds 12 %",
                     "p < 0.0001", "? undecided", "partly within -0.02 to 0.02"):  # fmt: skip
            assert text in page
        assert page.count(verdicts()[0].estimate.method) == 1


def test_what_is_missing_is_a_dash_or_said_and_never_a_number():
    none = estimate(math.nan, math.nan, clusters=0, share=math.nan)
    few = estimate(0.03, math.nan, clusters=4, share=math.nan)
    of = replace(report(), verdicts=tuple(decide(claims()[0], one) for one in (few, none)), sections=())
    index = [replace(cards()[0], estimate=one, p=math.nan, p_holm=math.nan) for one in (few, none)]
    for page in (as_markdown(of), " ".join(Seen(as_html(of)).texts), study_index.index_markdown(index),
                 " ".join(Seen(study_index.index_html(index)).texts)):  # fmt: skip
        assert not re.search(r"\bnan\b", page, re.IGNORECASE)
        assert "+0.0300 nats (no interval)" in words(page)
        assert "no interval, 4 works" in page
        assert "0.0000" not in page
        assert "p =" not in page
    assert "–" in Seen(as_html(of)).texts
    assert study_text.p_value(math.nan) == "–"


def test_the_same_report_gives_the_same_bytes():
    assert as_html(report()) == PAGES["report"]
    assert as_markdown(report()) == as_markdown(report())
    assert study_index.index_html(cards()) == PAGES["index"]


def test_a_chart_without_its_figure_is_an_error():
    with pytest.raises(KeyError, match="loss_by_strength"):
        study_page.html(report(), {})
    with pytest.raises(KeyError, match="loss_by_strength"):
        study_page.markdown(report(), {})


@pytest.mark.parametrize("name", PAGES)
def test_the_policy_allows_the_style_and_inline_images_and_nothing_else(name):
    seen = Seen(PAGES[name])
    policy = next(value for _, key, value in seen.attributes if key == "content" and "default-src" in value)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    digest = base64.b64encode(hashlib.sha256(seen.styles[0].encode()).digest()).decode()
    assert rules == {"default-src": "'none'", "style-src": f"'sha256-{digest}'", "img-src": "data:",
                     "base-uri": "'none'", "form-action": "'none'"}  # fmt: skip
    assert all(value.startswith("data:") for _, key, value in seen.attributes if key == "src")
    assert not re.search(r"url\(|@import", seen.styles[0])
    assert "script" not in seen.tags


def test_the_index_has_every_study_its_corrected_p_and_a_relative_link():
    page, text = Seen(PAGES["index"]), study_index.index_markdown(cards())
    links = [value for tag, key, value in page.attributes if tag == "a" and key == "href"]
    assert links == [f"study_{n}/report.html" for n in (0, 1, 2, 0, 1, 2)][:3] + [
        f"study_{n}/report.html" for n in range(3)
    ]
    assert page.tags.count("img") == 3
    assert [token.attrs["src"] for token in tokens(text) if token.type == "image"] == [
        f"study_{n}/loss.svg" for n in range(3)
    ]
    for card in cards():
        for one in (
            card.question,
            card.answer,
            card.claim,
            study_text.badge(card.found),
            f"{card.found}: {card.short}",
            study_text.p_value(card.p_holm),
        ):
            assert one in words(" ".join(page.texts))
            assert one in text.replace("&lt;", "<")
    assert "Holm" in text
    corrected = replace(cards()[0], p=0.0112, p_holm=0.0448)
    assert "| 0.011 | 0.045 |" in study_index.index_markdown([corrected])
    assert '<td class="number">0.011</td><td class="number">0.045</td>' in study_index.index_html([corrected])
    bad = replace(cards()[0], name="](x) <b>", href="javascript:window.__pwned=1", figure="a b).svg")
    assert "javascript:" not in study_index.index_html([bad])
    assert [
        token.attrs["href"] for token in tokens(study_index.index_markdown([bad])) if token.type == "link_open"
    ] == ["javascript%3Awindow.__pwned%3D1"] * 2
    assert [token.attrs["src"] for token in tokens(study_index.index_markdown([bad])) if token.type == "image"] == [
        "a%20b%29.svg"
    ]
    assert study_index.index_html([]).count("<section") == 0
    assert study_index.index_markdown([]).startswith("# Studies")


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page; the test fails if it logs an error, asks for anything, or runs a text."""
    trouble, contexts = [], []

    def open_page(text: str, **context):
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        page = browser.new_context(**context).new_page()
        contexts.append(page.context)
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: trouble.append(dialog.message))
        page.on("request", lambda one: one.url.startswith(("data:", path.as_uri())) or trouble.append(one.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    assert trouble == []
    for context in contexts:
        assert context.pages[0].evaluate("typeof window.__pwned") == "undefined"
        context.close()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_the_page_fits_its_width_and_its_figures_are_drawn(opened, name, width):
    page = opened(PAGES[name], viewport={"width": width, "height": 900})
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.width > 300)")
    narrow = page.evaluate(
        "[...document.querySelectorAll('p, dd, figcaption')].every(p => p.scrollWidth <= p.clientWidth + 1)"
    )
    assert narrow


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read_and_paper_is_light(opened, scheme):
    page = opened(PAGES["report"], color_scheme=scheme)

    def light(of: str, part: str) -> float:
        got = page.evaluate(f"getComputedStyle(document.querySelector('{of}')).{part}")
        red, green, blue = (float(one) / 255 for one in re.findall(r"[\d.]+", got)[:3])
        linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in (red, green, blue)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for of in ("p", ".muted", ".supported", ".undecided", ".question", "figcaption", "dt"):
        one, other = sorted((light(of, "color"), light("body", "backgroundColor")))
        assert (other + 0.05) / (one + 0.05) >= 4.5
    assert (light("body", "backgroundColor") > 0.5) == (scheme == "light")
    assert light("figure img", "backgroundColor") == pytest.approx(1)
    page.emulate_media(media="print", color_scheme=scheme)
    assert light("p", "color") < 0.2
