from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from view.sample import HOSTILE, reading

from midstream.view import html

TABLE, TRACKS = reading(tokens=16, layers=6)


class Seen(HTMLParser):
    """Every tag, attribute and inline text of a page, as a browser's parser would split them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], {}, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)


PAGE = html.page(TABLE, tracks=TRACKS, title="</title><script>window.__pwned=1</script>\u202e")
SEEN = Seen(PAGE)


def test_nothing_is_fetched_from_anywhere():
    assert set(SEEN.tags).isdisjoint({"iframe", "object", "embed", "base", "form", "img", "audio", "video"})
    links = [(tag, name, value) for tag, name, value in SEEN.attributes if name in ("src", "href", "action", "data")]
    assert links == [("link", "href", "data:,")]
    assert not re.search(r"url\(|@import|\bfetch\(|XMLHttpRequest|WebSocket|importScripts|\bimport\(", PAGE)
    assert set(re.findall(r"https?://[^\s\"'`)]+", PAGE)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_the_policy_allows_the_inline_script_and_style_and_nothing_else():
    policy = next(value for _, name, value in SEEN.attributes if name == "content" and "default-src" in value)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    digest = lambda text: f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"  # noqa: E731
    script = next(text for text in SEEN.texts["script"] if "MidstreamGrid" in text)
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == digest(script)
    assert rules["style-src"] == digest(SEEN.texts["style"][0])
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    assert not [pair for pair in SEEN.attributes if pair[1].startswith("on") or pair[1] == "style"]


def test_hostile_tokens_and_titles_never_become_markup():
    allowed = {"html", "meta", "link", "title", "style", "body", "header", "h1", "p", "main", "div", "script", "table"}
    assert set(SEEN.tags) <= allowed | {"thead", "tbody", "tr", "th", "td", "bdi", "caption"}
    assert SEEN.tags.count("script") == 2
    assert SEEN.tags.count("style") == SEEN.tags.count("title") == 1
    assert "\u202e" not in PAGE
    assert any(HOSTILE[0] in text for text in SEEN.texts["title"] + SEEN.texts["h1"])


def test_without_script_a_table_of_top_tokens_remains():
    assert SEEN.texts["bdi"]
    assert len([tag for tag in SEEN.tags if tag == "td"]) == 12 * 7
    assert SEEN.texts["caption"] == ["logit lens: next token"]
    assert len(html._plain(TABLE)) < 10_000


def test_the_title_is_the_text_unless_one_is_given():
    small, _ = reading(tokens=3, layers=2)
    words = dict(zip(small.columns["token_id"].tolist(), ["Hi", " \\xe6\\x9d", "\\xb1<b>"] * 3, strict=True))
    titled = html.page(replace(small, vocabulary={**small.vocabulary, **words}))
    assert Seen(titled).texts["title"][0].strip() == "Hi 東<b>"
    assert "Hi 東&lt;b&gt;" in titled
    long, _ = reading(tokens=60, layers=2)
    assert len(Seen(html.page(long)).texts["title"][0]) < 200


def test_a_fragment_is_a_part_of_a_page():
    part = Seen(html.fragment(TABLE))
    assert set(part.tags).isdisjoint({"html", "head", "body", "title", "meta", "link"})
    assert not [pair for pair in part.attributes if pair[1] == "id"]


def test_a_long_text_stays_small():
    table, tracks = reading(tokens=200, layers=30, size=3000)
    assert len(table) == 200 * 31
    assert len(html.page(table, tracks=tracks).encode()) < 1_500_000


def test_the_script_can_stand_inside_an_element():
    assert not re.search(r"</(script|style)|<!--", html.script() + html.style(), re.IGNORECASE)


@pytest.mark.parametrize("name", html.SCRIPTS)
def test_a_script_stays_readable(name):
    lines = html._static(name).splitlines()
    assert len(lines) <= 400
    assert lines[0].startswith("// ")
