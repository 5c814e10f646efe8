"""What is varied: where the stream is moved, how far, towards what, and after which tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from midstream.study.refit import QUARTERS
from midstream.study.study import Ground

FIRST = 8
"""Positions before it are read under too little context to count."""

SPAN = 16
"""Tokens after a surprise in which its anchor is to help."""

SURPRISING = 0.1
"""Share of the tokens that counts as surprising."""

NOTABLE = 0.1
"""Strength from which on a displacement could have an effect that matters after a surprise."""

TRUE, RANDOM, GUESS, OWN, ROTATED = "true", "random token", "own guess", "token read", "rotated"
CONTROLS = (RANDOM, GUESS, OWN, ROTATED)

VECTORS = ("embedding", "unembedding", "carried", "expected")
"""The token's input row; its output row; the stream that least squares expects at the layer where it is read
(``carried``), and where it comes next (``expected``)."""


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        batch: texts in one pass.
        prompts, tokens: continued in the generation part, and how far.
    """

    strengths: tuple[float, ...]
    batch: int
    prompts: int
    tokens: int


SIZES = {
    "quick": Size((0.1,), 4, 4, 12),
    "default": Size((0.03, 0.1, 0.3), 8, 24, 64),
    "large": Size((0.01, 0.03, 0.1, 0.3, 1.0), 8, 96, 128),
}


@dataclass(frozen=True)
class Condition:
    """One way to move the stream.

    Attributes:
        layer: after which it is moved once, at ``resid_post``.
        strength: alpha of the interpolation towards the true token's vector; controls are turned by the angle that it
            makes with the stream, so that all are displaced equally.
        vector: one of ``VECTORS``.
        token: whose vector: the true one's or a control's.
        rule: ``every`` position, or ``surprise``: those whose next token was in the top tenth.
        sinks: attention sinks are moved too.
        refit: number of the quarter of the fit documents that the map has not seen; -1: it has seen all.
    """

    layer: int
    strength: float
    vector: str
    token: str = TRUE
    rule: str = "every"
    sinks: bool = False
    refit: int = -1

    @property
    def name(self) -> str:
        """As it stands in the records."""
        more = [*(["with sinks"] * self.sinks), *([f"refit {self.refit}"] * (self.refit >= 0))]
        return ", ".join([f"layer {self.layer}", f"{self.strength:g}", self.vector, self.token, self.rule, *more])

    @property
    def slug(self) -> str:
        """As it stands in a file's name."""
        return self.name.replace(", ", "-").replace(" ", "-")

    def controls(self) -> list[Condition]:
        """The same displacement towards what should not help."""
        return [replace(self, token=token) for token in CONTROLS]


def layers(last: int) -> list[int]:
    """Where the stream is moved: half way, at three quarters, three before the last and one before it."""
    return sorted({min(max(layer, 1), last - 1) for layer in (last // 2, 3 * last // 4, last - 3, last - 1)})


def declared(last: int) -> Condition:
    """The origin's proposal at its plainest, fixed beforehand: half way, a tenth, the input row, at every position."""
    return Condition(max(last // 2, 1), 0.1, "embedding")


def vectors(ground: Ground) -> tuple[str, ...]:
    """What the stream is moved towards; the output row only where it is another vector than the input row."""
    rows = ("embedding",) if ground.model.anatomy.tied != "different" else ("embedding", "unembedding")
    return (*rows, "carried", "expected") if ground.texts.get("fit") else rows


def tried(ground: Ground) -> Iterator[Condition]:
    """All that is tried on the works that only choose, each with the true token and a random one."""
    places, strengths = layers(ground.model.anatomy.layers), SIZES[ground.size].strengths
    for layer, strength, vector, rule in product(places, strengths, vectors(ground), ("every", "surprise")):
        yield Condition(layer, strength, vector, rule=rule)
        yield Condition(layer, strength, vector, RANDOM, rule)


def fitted(condition: Condition) -> bool:
    """Whether its vector is made by a fitted map."""
    return condition.vector in ("carried", "expected")


def refits(condition: Condition) -> list[tuple[Condition, Condition]]:
    """A condition and its random token with maps that have not seen a quarter each; none where its vector is a row."""
    pair = condition, replace(condition, token=RANDOM)
    every = range(QUARTERS) if fitted(condition) else ()
    return [(replace(pair[0], refit=quarter), replace(pair[1], refit=quarter)) for quarter in every]
