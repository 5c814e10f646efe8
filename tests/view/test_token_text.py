from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from view.sample import HOSTILE

from midstream.view import token_text

anything = st.one_of(st.text(st.characters(codec=None, exclude_categories=())), st.sampled_from(HOSTILE))


@given(anything)
def test_nothing_invisible_survives(token):
    shown = token_text.visible(token)
    assert shown
    assert not any(unicodedata.category(char)[0] in "CZ" or char in token_text.BLANK for char in shown)


@given(anything)
def test_every_mark_has_a_base(token):
    shown = token_text.visible(token)
    marks = [unicodedata.category(char)[0] == "M" for char in shown]
    assert not marks[0]
    assert not any(all(marks[i : i + token_text.STACK + 1]) for i in range(len(marks) - token_text.STACK))


@given(anything, anything)
def test_tokens_without_backslashes_never_look_alike(one, other):
    if one != other and "\\" not in one + other and "◌" not in one + other:
        assert token_text.visible(one) != token_text.visible(other)


@given(anything, st.integers(1, 30))
def test_fit_is_exactly_as_wide_as_asked(token, columns):
    for text in (token_text.visible(token), token_text.ascii_only(token_text.visible(token))):
        assert token_text.width(token_text.fit(text, columns)) == columns


@given(anything)
def test_ascii_is_ascii(token):
    assert token_text.ascii_only(token_text.visible(token)).isascii()


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" Paris", "·Paris"),
        ("\n\t\r", "⏎⇥␍"),
        ("\x00\x7f\x85", "␀␡\\u0085"),
        ("\u202e\u200b\ufeff", "\\u202e\\u200b\\ufeff"),
        ("\ud83d", "\\ud83d"),
        ("\U000e0001", "\\U000e0001"),
        ("\\xf0", "\\xf0"),
        ("·", "\\u00b7"),
        ("\u0301", "◌\u0301"),
        ("e\u0301", "e\u0301"),
        (" \u0301", "·◌\u0301"),
        ("[red]<b>'\"", "[red]<b>'\""),
        ("", "∅"),
    ],
)
def test_what_is_drawn(token, shown):
    assert token_text.visible(token) == shown


def test_wide_characters_are_cut_whole():
    assert token_text.fit("日本語", 4) == "日… "
    assert token_text.fit("日本語", 5) == "日本…"
    assert token_text.fit("👍", 3) == "👍 "
