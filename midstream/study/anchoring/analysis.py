"""Estimates from the records: whole texts, and after a surprise less after matched tokens; by work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from midstream.band import band, refitted
from midstream.interval import contrast, ratio
from midstream.record import Array, Estimate
from midstream.study.anchoring.condition import (
    FIRST,
    NOTABLE,
    RANDOM,
    SPAN,
    SURPRISING,
    Condition,
    refits,
    tried,
)
from midstream.study.matched import Events, events, following, room
from midstream.study.output import ordered
from midstream.study.study import Ground, Records


class Arms(NamedTuple):
    """Means over the tokens after a surprise, after matched tokens, and the first less the second; nats a token."""

    surprise: Estimate
    matched: Estimate
    contrast: Estimate


@dataclass(frozen=True, eq=False)
class Panel:
    """What was measured of one set of texts, as ``[n, p]`` arrays: n texts, p positions with a next token.

    Attributes:
        works: ``[n]`` which work each is of.
        plain: log-probability of each next token, nats; targets: the tokens.
        usable: positions that count: context enough, and no attention sink at any layer where streams are moved.
        moved: name of a condition -> log-probabilities under it; NaN for texts that were not run.
        matched: surprises and their partners, where they were found among more texts than these.
    """

    works: Array
    plain: Array
    targets: Array
    usable: Array
    moved: dict[str, Array]
    seed: int
    matched: Events | None = None

    @classmethod
    def of(cls, ground: Ground, records: Records, own: str, stage: str) -> Panel:
        """The panel of ``tune`` or ``confirm``, from the stages ``plain`` and ``stage``; made once."""
        made = ground.keep.setdefault("panels", {})
        key = (own, id(records[stage]["logprob"]))
        if key not in made:
            made[key] = cls._made(ground, records, own, stage)
        return made[key]

    @classmethod
    def _made(cls, ground: Ground, records: Records, own: str, stage: str) -> Panel:
        texts = ground.texts[own]
        numbers = np.array([text.number for text in texts])
        p = len(texts[0].ids) - 1
        plain = ordered(records["plain"], numbers, p)
        columns = records[stage]
        names = np.asarray(columns["condition"])
        moved = {
            str(name): ordered({key: values[names == name] for key, values in columns.items()}, numbers, p)["logprob"]
            for name in np.unique(names)
        }
        usable = (np.arange(p) >= FIRST) & (plain["sink"] == 0)
        works = np.array([text.work for text in texts])
        return cls(works, plain["logprob"].astype(np.float64), plain["target"], usable, moved, ground.seed)

    def cost(self, condition: Condition) -> Array:
        """What a condition costs at each position: cross-entropy with the stream moved less without, nats."""
        return self.plain - self.moved[condition.name].astype(np.float64)

    @cached_property
    def events(self) -> Events:
        """Surprised positions and those they are held against."""
        if self.matched is not None:
            return self.matched
        fitting = room(self.plain.shape[1], len(self.plain), first=FIRST, span=SPAN)
        return events(-self.plain, self.targets, self.usable & fitting, share=SURPRISING)

    def whole(self, condition: Condition, again: bool = False) -> Estimate:
        """CE(moved) - CE(plain) over all positions that count, nats a token.

        With ``again`` the interval is widened by refitted maps, where the condition's vector is from a map.
        """
        found = ratio(*self._sums(self.cost(condition)), clusters=self.works, generator=self._draw(), unit="nats")
        pairs = refits(condition) if again else []
        part = self._part([one for pair in pairs for one in pair])
        return refitted(found, [part.whole(one).value for one, _ in pairs]) if pairs else found

    def curve(self, conditions: Sequence[Condition]) -> list[Estimate]:
        """``whole`` of several, with simultaneous intervals."""
        pairs = [self._sums(self.cost(condition)) for condition in conditions]
        sums, counts = np.array([pair[0] for pair in pairs]), pairs[0][1]
        return band(sums, counts, clusters=self.works, generator=self._draw(), unit="nats")

    def arms(self, condition: Condition) -> Arms:
        """What a condition costs in the tokens after a surprise."""
        return self._arms(self.cost(condition))

    def gained(self, condition: Condition, again: bool = False) -> Arms:
        """What the true token costs more than the random one in the tokens after a surprise; ``again`` as above."""
        found = self._arms(self.cost(condition) - self.cost(replace(condition, token=RANDOM)))
        pairs = refits(condition) if again else []
        part = self._part([one for pair in pairs for one in pair])
        values = [part._arms(part.cost(true) - part.cost(other)).contrast.value for true, other in pairs]
        return found._replace(contrast=refitted(found.contrast, values)) if pairs else found

    def _arms(self, values: Array) -> Arms:
        means = following(values, SPAN, self.usable)
        undefined = np.isnan(means)  # too near the end, or nothing but sinks follows: counts for nothing
        weights = [np.where(undefined, 0.0, weight) for weight in (self.events.high, self.events.low)]
        sums = np.array([(weight * np.where(undefined, 0.0, means)).sum(1) for weight in weights])
        counts = np.array([weight.sum(1) for weight in weights])
        alone = [
            ratio(s, c, clusters=self.works, generator=self._draw(), unit="nats")
            for s, c in zip(sums, counts, strict=True)
        ]
        both = contrast(sums, counts, clusters=self.works, generator=self._draw(), unit="nats")
        return Arms(alone[0], alone[1], both)

    def _part(self, conditions: Sequence[Condition]) -> Panel:
        """The texts that were run under all of these."""
        kept = np.ones(len(self.works), dtype=bool)
        for condition in conditions:
            kept &= ~np.isnan(self.moved[condition.name]).any(1)
        moved = {name: values[kept] for name, values in self.moved.items()}
        part = self.works[kept], self.plain[kept], self.targets[kept], self.usable[kept]
        matched = replace(self.events, high=self.events.high[kept], low=self.events.low[kept])
        return Panel(*part, moved, self.seed, matched)

    def _sums(self, values: Array) -> tuple[Array, Array]:
        return np.where(self.usable, values, 0.0).sum(1), self.usable.sum(1)

    def _draw(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


def threshold_of(ground: Ground, records: Records) -> float:
    """Surprise from which on the rule ``surprise`` moves, nats: the top tenth of the works that choose."""
    numbers = [text.number for text in ground.texts["tune"]]
    plain = records["plain"]
    counts = np.isin(plain["document"], numbers) & (plain["position"] >= FIRST)
    return float(np.quantile(-plain["logprob"][counts], 1 - SURPRISING))


class Best(NamedTuple):
    """What was chosen, on the works that choose, for each claim: the conditions of the true token that did best."""

    surprise: Condition
    whole: Condition


def best_of(ground: Ground, records: Records) -> Best:
    """For the whole text the condition that costs least. After a surprise, of the strengths that could have an effect
    that matters, the one whose gain on the random token is largest against its own uncertainty (half an interval)."""
    made = ground.keep.setdefault("best", {})
    key = id(records["grid"]["logprob"])
    if key not in made:
        made[key] = _best(ground, records)
    return made[key]


def _best(ground: Ground, records: Records) -> Best:
    panel = Panel.of(ground, records, "tune", "grid")
    conditions = [condition for condition in tried(ground) if condition.token != RANDOM]
    costs = [panel.whole(condition).value for condition in conditions]
    strong = [condition for condition in conditions if condition.strength >= NOTABLE]
    gains = [panel.gained(condition).contrast for condition in strong]
    clear = [_clarity(gain) for gain in gains]
    # where no surprise has a partner of its type nothing can be told, and the first stands for all
    return Best(strong[int(np.argmin(np.nan_to_num(clear, nan=np.inf)))], conditions[int(np.argmin(costs))])


def _clarity(gain: Estimate) -> float:
    """A gain in half-widths of its interval; 0 where there is neither, NaN where it is undefined."""
    half = gain.high - gain.value
    return gain.value / half if half > 0 else (0.0 if gain.value == gain.value else np.nan)
