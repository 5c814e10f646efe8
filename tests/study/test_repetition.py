"""Repetition against the plainest definition."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from midstream.study.repetition import distinct, longest_repeated

TOKENS = st.lists(st.integers(0, 3), max_size=14)


@given(TOKENS)
def test_the_longest_repeated_span_is_the_longest_that_occurs_twice(tokens):
    n = len(tokens)
    spans = [
        m for m in range(1, n) for i in range(n - m + 1) for j in range(i) if tokens[i : i + m] == tokens[j : j + m]
    ]
    assert longest_repeated(tokens) == max(spans, default=0)


@given(TOKENS.filter(lambda tokens: len(tokens) >= 2))
def test_distinct_counts_grams_once(tokens):
    grams = list(pairwise(tokens))
    assert distinct(tokens, 2) == len(set(grams)) / len(grams)


def test_a_text_too_short_has_no_share():
    assert distinct([1], 2) != distinct([1], 2)
