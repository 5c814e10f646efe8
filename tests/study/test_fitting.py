"""What studies fit on: few layers in a quick run, about as much of each text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from midstream.study.fitting import every, few, share


def test_a_quick_run_reads_few_layers_the_first_and_last_among_them():
    assert few(30) == (0, 4, 8, 11, 15, 19, 22, 26, 30)
    assert few(2) == (0, 1, 2)
    assert every(3) == (0, 1, 2, 3)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=20), st.integers(1, 4000))
def test_no_long_text_has_all_the_tokens(lengths, tokens):
    most = share(lengths, tokens)
    read = sum(min(length, most) for length in lengths)
    assert read == sum(lengths) if sum(lengths) < tokens else tokens <= read < tokens + len(lengths)
