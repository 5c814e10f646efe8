"""What studies fit on: the same texts in each, so that lenses are made once for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from midstream.study.study import Lenses, Need

WHOLE = 16_384
"""Tokens of a document that may be read to fit on: nearly every document, to its end."""

FIT = {
    "quick": Need(40, WHOLE, whole=False),
    "default": Need(240, WHOLE, whole=False),
    "large": Need(480, WHOLE, whole=False),
}
"""Size -> what is read of the set ``fit``."""

TOKENS = {"quick": 15_000, "default": 100_000, "large": 400_000}
"""Size -> usable tokens of these texts that lenses are fitted on, at most: about as many of each."""

FEW = 8
"""Steps over the depth of a model in which a quick run reads."""


def lenses(*kinds: str) -> Mapping[str, Lenses]:
    """Size -> lenses of these kinds: at every layer, in a quick run at few."""
    return {size: Lenses(kinds, tokens, few if size == "quick" else every) for size, tokens in TOKENS.items()}


def every(blocks: int) -> tuple[int, ...]:
    """All layers of a model, 0 to L."""
    return tuple(range(blocks + 1))


def few(blocks: int) -> tuple[int, ...]:
    """Some layers of a model, 0 and L among them."""
    return tuple(sorted({round(step * blocks / FEW) for step in range(FEW + 1)}))


def share(lengths: Sequence[int], tokens: int) -> int:
    """Tokens of each text that are read so that all together have about so many, and no long one has them all."""
    left = tokens
    for number, length in enumerate(sorted(lengths)):
        if length * (len(lengths) - number) >= left:
            return -(-left // (len(lengths) - number))
        left -= length
    return max(lengths, default=0)
