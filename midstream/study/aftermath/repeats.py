"""Rare tokens that come a second time, against tokens as rare in the same part of a text that are new there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from midstream.record import Array
from midstream.study.aftermath.condition import SIZES
from midstream.study.aftermath.panel import Panel
from midstream.study.matched import alike
from midstream.study.study import Ground

RARE = 1e-4
"""Share of the tokens of the fit documents up to which a type counts as rare."""

GAP = 8
"""Tokens from a first occurrence to the second, at least: what is nearer may be one word."""

PARTS = 4
"""Parts of a text in which positions are held against each other: text is predicted better the longer it goes on."""


@dataclass(frozen=True, eq=False)
class Repeats:
    """Positions i whose next token is rare.

    Attributes:
        first: ``[n, p]`` surprise of x_{i+1} where it came first, nats, at positions whose next token comes a second
            time; NaN elsewhere.
        keys: ``[n, p]`` whole numbers: frequency class, whether a word starts, part of the text.
        second, fresh: ``[n, p]`` weights, as of ``matched.alike``: second occurrences, and tokens that are new.
    """

    first: Array
    keys: Array
    second: Array
    fresh: Array

    def of(self, chosen: Array) -> Repeats:
        """Only these second occurrences ``[n, p]`` bool, against those they are matched with."""
        second, fresh, _ = alike(chosen & (self.second > 0), self.fresh > 0, self.keys)
        return Repeats(self.first, self.keys, second, fresh)

    @property
    def missed(self) -> Array:
        """Which second occurrences were in the upper half of surprise when they came first, ``[n, p]`` bool."""
        again = self.second > 0
        return again & (self.first > np.median(self.first[again])) if again.any() else again


def repeats(ground: Ground, panel: Panel) -> Repeats:
    """Those of one set of texts; made once."""
    key = f"repeats {id(panel)}"
    if key not in ground.keep:
        ground.keep[key] = _found(ground, panel)
    return ground.keep[key]


def _found(ground: Ground, panel: Panel) -> Repeats:
    n, p = panel.surprise.shape
    counts = np.bincount(np.concatenate([text.ids for text in ground.texts["fit"]]), minlength=panel.target.max() + 1)
    rare = counts[panel.target] <= RARE * counts.sum()
    first, new = np.full((n, p), np.nan), np.zeros((n, p), bool)
    for row in range(n):
        seen: dict[int, int] = {int(panel.token[row, 0]): -1}  # type -> position that predicted it, -2: came twice
        for i, token in enumerate(panel.target[row].tolist()):
            if token not in seen:
                seen[token], new[row, i] = i, True
            elif (before := seen[token]) >= -1:
                seen[token] = -2
                if before >= 0 and i - before >= GAP and panel.usable[row, before]:
                    first[row, i] = panel.surprise[row, before]
    again = panel.usable & rare & ~np.isnan(first)
    starts = _starts(ground, panel.target)
    keys = (np.log2(counts + 1).astype(int)[panel.target] * 2 + starts) * PARTS + np.arange(p) * PARTS // p
    second, fresh, _ = alike(again, panel.usable & rare & new, keys)
    return Repeats(first, keys, second, fresh)


def _starts(ground: Ground, tokens: Array) -> Array:
    """Which tokens start a word: those that begin with white space."""
    types, at = np.unique(tokens, return_inverse=True)
    found = [ground.model.tokenizer.token_bytes(int(token))[:1].isspace() for token in types]
    return np.array(found)[at].reshape(tokens.shape)


def read(ground: Ground, panel: Panel) -> Repeats:
    """As many of them as are read through lenses."""
    found = repeats(ground, panel)
    draw, most = panel.draw(), SIZES[panel.size].deep
    again, new = _some(found.second > 0, most, draw), _some(found.fresh > 0, 2 * most, draw)
    second, fresh, _ = alike(again, new, found.keys)
    return Repeats(found.first, found.keys, second, fresh)


def _some(of: Array, most: int, draw: np.random.Generator) -> Array:
    order = np.where(of, draw.random(of.shape), np.inf)
    return of & (order <= np.sort(order, axis=None)[min(most, of.size) - 1])
