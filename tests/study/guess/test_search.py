"""The smallest k: found where what is added falls with k, none that is small by chance where it does not."""

from __future__ import annotations

import pytest

from midstream.study.guess.search import bisected, smallest


@pytest.mark.parametrize("epsilon", [0.001, 0.01, 0.0317, 0.3, 2.0])
def test_bisection_finds_the_smallest(epsilon):
    asked = {50: 0.0}

    def added(k):
        asked[k] = 1.0 * 0.9**k - 0.9**50
        return asked[k]

    found = bisected(added, epsilon, 50)
    assert found == next(k for k in range(51) if 1.0 * 0.9**k - 0.9**50 <= epsilon)
    assert smallest(asked, epsilon) == found
    assert len(asked) <= 9


def test_where_it_does_not_fall_none_that_is_small_by_chance_is_taken():
    assert smallest({0: 0.5, 3: 0.01, 5: 0.2, 8: 0.02, 10: 0.0}, 0.03) == 8
    assert smallest({0: 0.5, 3: float("nan"), 10: 0.0}, 0.03) == 10
