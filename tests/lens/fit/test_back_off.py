"""The table of most frequent answers against counting in plain Python."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midstream.errors import RequestError
from midstream.lens.fit.back_off import Counts, back_off, predict

SIZE = 5
token = st.integers(0, SIZE - 1)
seen = st.lists(st.tuples(token, token, st.integers(-1, SIZE - 1)), min_size=1, max_size=60)


def counted(rows):
    return Counts.seen(SIZE, *(torch.tensor([row[at] for row in rows], dtype=torch.int64) for at in range(3)))


def most(answers):
    return min(answers, key=lambda answer: (-answers[answer], answer))


@given(seen, seen)
def test_answers_are_the_most_frequent_after_two_tokens_else_one_else_none(first, second):
    rows = [row for row in first + second if row[2] >= 0]
    if not rows:
        with pytest.raises(RequestError, match="no position"):
            back_off(counted(first))
        return
    pairs, singles, every = defaultdict(Counter), defaultdict(Counter), Counter()
    for previous, current, answer in rows:
        pairs[previous, current][answer] += 1
        singles[current][answer] += 1
        every[answer] += 1
    table = back_off(counted(first).merged(counted(second)))
    asked = [(previous, current) for previous in range(-1, SIZE) for current in range(SIZE)]
    found = predict(table, *(torch.tensor(column) for column in zip(*asked, strict=True)))
    expected = [most(pairs.get(pair) or singles.get(pair[1]) or every) for pair in asked]
    assert found.tolist() == expected


def test_counts_of_parts_are_those_of_all():
    rows = [(n % 3, n % 4, n % 5) for n in range(50)]
    whole, parts = counted(rows), counted(rows[:20]).merged(counted(rows[20:35]), counted(rows[35:]))
    assert torch.equal(whole.codes, parts.codes)
    assert torch.equal(whole.times, parts.times)


def test_a_vocabulary_that_does_not_fit_is_refused():
    with pytest.raises(RequestError, match="too large"):
        Counts.none(3_000_000)
