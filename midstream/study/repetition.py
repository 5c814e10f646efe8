"""How much a text repeats itself."""

from __future__ import annotations

from collections.abc import Sequence


def distinct(tokens: Sequence[int], n: int) -> float:
    """Distinct n-grams over all n-grams (Li et al. 2016); NaN for a text shorter than n."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def longest_repeated(tokens: Sequence[int]) -> int:
    """Tokens in the longest span that occurs twice, overlapping or not.

    Bisection over the length: where a span of m tokens occurs twice, so does one of m - 1.
    """
    low, high = 0, max(len(tokens) - 1, 0)
    while low < high:
        middle = (low + high + 1) // 2
        grams = [tuple(tokens[i : i + middle]) for i in range(len(tokens) - middle + 1)]
        low, high = (middle, high) if len(set(grams)) < len(grams) else (low, middle - 1)
    return low
