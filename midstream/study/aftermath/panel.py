"""What was measured of one set of texts, and the positions that are compared in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from midstream.record import Array
from midstream.study.aftermath.condition import AFTER, FIRST, PARTNERS, SIZES, SPAN, SURPRISING
from midstream.study.matched import Events, events, room, thinned
from midstream.study.output import ordered
from midstream.study.study import Ground, Records, Text

OWN = "sampled"
"""The set of the model's own samples; they count for the works of the texts that they continue."""


@dataclass(frozen=True, eq=False)
class Panel:
    """One set of n texts, as ``[n, p]`` arrays over positions i with a next token.

    Attributes:
        works: ``[n]`` which work each is of; numbers: ``[n]`` of the documents.
        surprise: of x_{i+1}, nats; token: x_i; target: x_{i+1}.
        ordinary: positions i that are neither attention sinks nor special tokens.
        usable: positions that count: context enough, i and i + 1 ordinary.
        readings: name -> what a map made of the stream at i + 1.
    """

    works: Array
    numbers: Array
    surprise: Array
    token: Array
    target: Array
    ordinary: Array
    usable: Array
    readings: dict[str, Array]
    size: str
    seed: int

    @classmethod
    def of(cls, ground: Ground, records: Records, own: str) -> Panel:
        """The panel of ``tune``, ``confirm`` or ``sampled``; made once."""
        made = ground.keep.setdefault("panels", {})
        key = (own, id(records[own]["logprob"]))
        if key not in made:
            made[key] = cls._made(ground, records, own)
        return made[key]

    @classmethod
    def _made(cls, ground: Ground, records: Records, own: str) -> Panel:
        texts = ground.texts["tune" if own == "tune" else "confirm"]
        numbers, p = np.array([text.number for text in texts]), len(texts[0].ids) - 1
        found = ordered(records[own], numbers, p)
        apart = (found["sink"] > 0) | np.isin(found["target"], list(ground.model.tokenizer.special_ids))
        ordinary = np.concatenate([np.zeros((len(numbers), 1), bool), ~apart[:, :-1]], axis=1)
        usable = (np.arange(p) >= FIRST) & ordinary & ~apart
        fixed = ("document", "position", "token", "target", "logprob", "sink")
        readings = {name: values for name, values in found.items() if name not in fixed}
        works = np.array([text.work for text in texts])
        surprise = -found["logprob"].astype(np.float64)
        parts = found["token"], found["target"], ordinary, usable, readings
        return cls(works, numbers, surprise, *parts, ground.size, ground.seed)

    @cached_property
    def events(self) -> Events:
        """Surprised positions and those of the same type that they are held against."""
        n, p = self.surprise.shape
        return events(self.surprise, self.target, self.usable & room(p, n, first=FIRST, span=AFTER), share=SURPRISING)

    @cached_property
    def deep(self) -> Events:
        """As many of them as are read through lenses."""
        return thinned(self.events, self.target, SIZES[self.size].deep, self.draw())

    @cached_property
    def hidden(self) -> Events:
        """As many of them as are hidden from later positions."""
        most = SIZES[self.size].hidden
        return thinned(self.events, self.target, most, self.draw(), partners=PARTNERS)

    @cached_property
    def near(self) -> Array:
        """``[n, p]`` for each position one of the ``SPAN - 1`` before it that is ordinary, at random; -1: none is."""
        n, p = self.surprise.shape
        lot = np.where(self.ordinary, self.draw().random((n, p)), -1.0)
        before = np.concatenate([np.full((n, SPAN - 1), -1.0), lot[:, :-1]], axis=1)
        windows = np.lib.stride_tricks.sliding_window_view(before, SPAN - 1, axis=1)  # [n, p, span - 1]
        return np.where(windows.max(-1) < 0, -1, np.arange(p) - (SPAN - 1) + windows.argmax(-1))

    def draw(self) -> np.random.Generator:
        """Of every draw that an analysis makes."""
        return np.random.default_rng(self.seed)


def samples(ground: Ground, records: Records) -> list[Text]:
    """The model's own samples as texts, under the number and work of the text that each continues."""
    texts = ground.texts["confirm"]
    found = ordered(records["samples"], np.array([text.number for text in texts]), len(texts[0].ids))["token"]
    return [Text(text.number, text.work, tuple(ids.tolist())) for text, ids in zip(texts, found, strict=True)]


def texts(ground: Ground, records: Records, own: str) -> Sequence[Text]:
    """The texts of a set."""
    return samples(ground, records) if own == OWN else ground.texts[own]
