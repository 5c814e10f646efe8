import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream.corpus.window import windows
from midstream.errors import RequestError


@given(tokens=st.integers(1, 3000), size=st.integers(2, 300), reach=st.integers(0, 20))
def test_every_token_is_read_once_where_its_context_is_longest(tokens, size, reach):
    if max(size // 2, reach) >= size:
        with pytest.raises(RequestError, match="does not fit"):
            windows(tokens, size, reach=reach)
        return
    cut = windows(tokens, size, reach=reach)
    read = [position for window in cut for position in range(window.first, window.stop)]
    assert read == list(range(tokens))
    for window in cut:
        assert window.stop - window.start <= size
        for position in range(window.first, window.stop):
            holders = [other for other in cut if other.start <= position < other.stop]
            assert window.start == min(other.start for other in holders)


@given(tokens=st.integers(200, 2000))
def test_consecutive_windows_overlap_by_half(tokens):
    cut = windows(tokens, 100)
    assert all(later.first - later.start == 50 for later in cut[1:])


def test_a_text_that_fits_is_one_window():
    (window,) = windows(7, 7)
    assert (window.start, window.stop, window.first) == (0, 7, 0)


def test_a_far_lens_widens_the_overlap():
    assert all(later.first - later.start == 70 for later in windows(400, 100, reach=70)[1:])
