"""How surprising a token was, read by a linear map where it is read: beyond what can be told without the stream there.

Two least-squares maps to ``-log p(x_{i+1})``, nats, the number that position i gave, are held against each other: from
what is known without the stream at i + 1 (the token's input row, its type's mean surprise, its surprise under a bigram
model, and the entropy of the guess at i, which is the surprise to be expected there), and from these and the stream.
Type means and bigram counts are of fit documents that the maps are not fitted on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from midstream.lens.fit.least_squares import HELD_OUT, solve, steadying
from midstream.lens.fit.sums import Batch, Key, Sums
from midstream.record import Array
from midstream.stream.capture import capture
from midstream.stream.vector import sinks
from midstream.study.aftermath.condition import FIRST, SIZES, layers
from midstream.study.output import ids_of, logprobs, predicted
from midstream.study.refit import QUARTERS, RIDGE, Maps, fitted, grouped
from midstream.study.refit import memory as sums_memory
from midstream.study.study import Ground, Text

KNOWN: Key = ("token", 0)
TARGET = "surprise"

ORDINARY = 0.95
"""Share of the positions that is counted on not to be sinks."""

PRIOR = 4.0
"""Occurrences that a type's mean surprise is drawn towards the mean of all by."""


@dataclass(frozen=True, eq=False)
class Expected:
    """What a token's surprise is expected to be from itself and the token before it.

    Attributes:
        single: ``[V]`` how often each token occurs; pairs: ``x V + y`` -> how often y follows x.
        follows: ``[V]`` how many tokens follow each; different: how many different ones.
        mean: ``[V]`` mean surprise of each type, drawn towards that of all where it is rare.
    """

    single: Array
    pairs: dict[int, int]
    follows: Array
    different: Array
    mean: Array

    @classmethod
    def of(cls, vocabulary: int, texts: Sequence[Sequence[int]], surprises: Sequence[tuple[int, float]]) -> Expected:
        """From texts, and (token, surprise) of some positions."""
        follows, different = np.zeros(vocabulary), np.zeros(vocabulary)
        single, pairs = np.zeros(vocabulary), dict[int, int]()
        for ids in texts:
            np.add.at(single, np.asarray(ids), 1)
            for x, y in pairwise(ids):
                code = x * vocabulary + y
                different[x] += code not in pairs
                follows[x] += 1
                pairs[code] = pairs.get(code, 0) + 1
        types, values = np.array([t for t, _ in surprises], np.int64), np.array([s for _, s in surprises])
        total = np.bincount(types, values, vocabulary) + PRIOR * values.mean()
        return cls(single, pairs, follows, different, total / (np.bincount(types, minlength=vocabulary) + PRIOR))

    def bigram(self, x: Array, y: Array) -> Array:
        """``-log p(y | x)``, nats: Witten and Bell (1991), over token counts of which each had one more."""
        vocabulary = len(self.single)
        pair = np.array([self.pairs.get(int(a) * vocabulary + int(b), 0) for a, b in zip(x.flat, y.flat, strict=True)])
        alone = (self.single[y] + 1) / (self.single.sum() + vocabulary)
        follows, different = self.follows[x], np.maximum(self.different[x], 1)
        return -np.log((pair.reshape(y.shape) + different * alone) / (follows + different))


def columns(width: int) -> int:
    """Inputs of the larger map: the stream, the token's row, and three numbers."""
    return 2 * width + 3


def tokens(ground: Ground) -> int:
    """How far each fit document is read, so that maps of this model's width, and the choice of a ridge, have enough."""
    documents, each = SIZES[ground.size].probe
    rows = each * columns(ground.model.anatomy.width) / documents
    fit, ridge = rows / (1 - 1 / QUARTERS) / (1 - 1 / RIDGE), HELD_OUT / ORDINARY / (documents // RIDGE)
    return FIRST + 1 + math.ceil(max(fit, ridge))


def cut(ground: Ground) -> list[Text]:
    """The fit documents that maps are fitted on, as far as they are read."""
    count, length = SIZES[ground.size].probe[0], tokens(ground)
    long = [text for text in ground.texts["fit"] if len(text.ids) >= length]
    return [replace(text, ids=text.ids[:length]) for text in long[:count]]


def positions(ground: Ground) -> tuple[int, int]:
    """Positions of the refit that has fewest, and those that choose the ridge, sinks taken off."""
    quarters, ridge = grouped(cut(ground))
    sizes, each = [len(part) for part in quarters], (tokens(ground) - 1 - FIRST) * ORDINARY
    return int((sum(sizes) - max(sizes)) * each), int(len(ridge) * each)


def expected(ground: Ground) -> Expected:
    """Made once, from the fit documents that maps are not fitted on."""
    if "expected" not in ground.keep:
        taken = {text.number for text in cut(ground)}
        others = [text for text in ground.texts["fit"] if text.number not in taken]
        length, last = tokens(ground), ground.model.anatomy.layers
        surprises: list[tuple[int, float]] = []
        for text in others[: max(1, len(taken) // 2)]:
            ids = torch.tensor([text.ids[:length]], device=ground.model.device)
            logprob, _ = logprobs(ground, capture(ground.model, ids, layers=[last])[last][:, :-1], ids[:, 1:])
            surprises += zip(text.ids[FIRST + 1 : length], (-logprob[0, FIRST:]).tolist(), strict=True)
        vocabulary = ground.model.anatomy.vocabulary
        ground.keep["expected"] = Expected.of(vocabulary, [text.ids for text in others], surprises)
    return ground.keep["expected"]


def maps(ground: Ground) -> list[Maps]:
    """(input, surprise) -> map: from all documents, then without each quarter."""
    part = replace(ground, texts={**ground.texts, "fit": cut(ground)})
    return fitted(part, "probe", lambda texts: _rows(ground, texts), _solved)


def memory(ground: Ground) -> float:
    """Bytes that the sums of the maps hold at once."""
    d = ground.model.anatomy.width
    return sums_memory([d + 3, *(columns(d) for _ in layers(ground))])


def _solved(fit: Sums, held: Sums) -> Maps:
    """Least squares that tells what it never saw by the mean: else a new byte got a surprise of a thousand nats."""
    return solve(fit, held, ridges=steadying(min(moments.count for moments in fit.moments.values())))


def _rows(ground: Ground, texts: Sequence[Text]) -> Iterator[Batch]:
    size, last = SIZES[ground.size].batch, ground.model.anatomy.layers
    for start in range(0, len(texts), size):
        ids = ids_of(ground, texts[start : start + size])
        stream = capture(ground.model, ids, layers=sorted({*layers(ground), last}))
        found = predicted(ground, stream[last][:, :-1], ids[:, 1:])
        kept = torch.stack([~sinks(stream[layer]) for layer in layers(ground)]).all(0)[:, 1:]
        kept[:, :FIRST] = False
        x = {key: rows[kept] for key, rows in features(ground, ids, stream, found.entropy).items()}
        surprise = -torch.from_numpy(found.logprob).reshape(kept.shape).to(kept.device)
        yield x, {TARGET: surprise[kept][:, None]}, None


def features(ground: Ground, ids: Tensor, stream: dict[int, Tensor], entropy: Array) -> dict[Key, Tensor]:
    """What maps are given at positions i + 1 of ``ids`` ``[b, t]``: ``[b, t - 1, d + 3]``, or with a stream 2 d + 3.

    ``entropy``: ``[b (t - 1)]`` of the guess at i, nats. Each part is brought to a spread of about 1 by constants, so
    that one ridge fits all.
    """
    counts, read_ = expected(ground), ids.cpu().numpy()
    rows = ground.model.anatomy.input_rows(ids[:, 1:])
    bigram, mean = counts.bigram(read_[:, :-1], read_[:, 1:]), counts.mean[read_[:, 1:]]
    told = np.stack([bigram, mean, entropy.reshape(mean.shape)], axis=-1)
    known = torch.cat([rows / _unit(ground, "rows", rows), torch.from_numpy(told).to(rows) / 3], dim=-1)
    found: dict[Key, Tensor] = {KNOWN: known}
    for layer in layers(ground):
        h = stream[layer][:, 1:].float()
        found["stream", layer] = torch.cat([h / _unit(ground, f"layer {layer}", h), known], dim=-1)
    return found


def _unit(ground: Ground, name: str, h: Tensor) -> float:
    """The median size of a coordinate, fixed by the first that are seen."""
    key = f"unit {name}"
    if key not in ground.keep:
        ground.keep[key] = float(h.norm(dim=-1).median()) / h.shape[-1] ** 0.5
    return ground.keep[key]


def read(ground: Ground, ids: Tensor, stream: dict[int, Tensor], entropy: Array) -> dict[str, Array]:
    """What each map says of each position i: ``[b, t - 1]`` by name, as ``name`` gives it."""
    made = maps(ground)  # before the first features: they fix the units
    x = features(ground, ids, stream, entropy)
    return {
        name(key, refit - 1): one.transport(x[key].flatten(0, 1).cpu())[:, 0].reshape(x[key].shape[:2]).numpy()
        for refit, found in enumerate(made)
        for (key, _), one in found.items()
    }


def name(key: Key, refit: int = -1) -> str:
    """Of the column that holds a map's readings; ``refit``: the quarter that it has not seen, -1 for none."""
    base = "without the stream" if key == KNOWN else f"layer {key[1]}"
    return base if refit < 0 else f"{base}, refit {refit}"
