"""The report: what the estimates say, in tables, curves and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from midstream.record import Array, Estimate
from midstream.study.aftermath import analysis, probe, slopes
from midstream.study.aftermath.analysis import NATS, Weights, placed
from midstream.study.aftermath.condition import AFTER, GUESS, HIDDEN, NEAR, READ, SPAN, decided, layers, starts
from midstream.study.aftermath.panel import OWN, Panel
from midstream.study.matched import Events
from midstream.study.report import Chart, Grid, Line, Section, shown
from midstream.study.study import Ground, Records

SETS = {"confirm": "the texts", OWN: "the model's own samples"}
"""What is compared: text, and text in which a surprise is chance alone."""

NOTICEABLE = 0.02
"""R² gain from which on a surprise counts as readable."""


def hidden(ground: Ground, records: Records, estimates: Hidden) -> Section:
    """What hiding a position costs those that follow."""
    panel, last = Panel.of(ground, records, "confirm"), ground.model.anatomy.layers
    weights, times = Weights.of(panel, panel.hidden), slopes.distance(panel)
    rows: list[tuple[str, ...]] = []
    lines: list[Line] = []
    for which in HIDDEN:
        values = [costs(panel, records, "confirm", start, which) for start in starts(last)]
        found = slopes.effects(panel, slopes.slopes(panel, values, usable(panel)), times)
        for start, one, effect in zip(starts(last), values, found, strict=True):
            high, low, _ = analysis.arms(one, weights, panel.seed, NATS)
            rows.append((WHERE[which], f"after layer {start}", shown(high), shown(low), shown(effect)))
        lines.append(line(WHERE[which], starts(last), found, "main" if which == READ else "control"))
    own, of_text, from_ = SETS[OWN], SETS["confirm"], f"after layer {decided(last)}"
    rows += [
        (label, from_, "", "", shown(one))
        for label, one in (
            (f"i + 1 less the near one (the first claim), {of_text}", estimates.read),
            (f"the same without the type {_quoted(ground, estimates.type)}", estimates.without),
            (f"the same, {own}, at the texts' distance", estimates.own),
            (f"i + 1 less {estimates.ratio:.1f} times the near one, {of_text}", estimates.scaled),
            ("i + 1 less i", estimates.place),
        )
    ]
    return Section(
        "Who reads the token that surprised",
        (
            f"From every block after a layer on, what later positions read at one earlier position is replaced by the "
            f"mean position's keys and values; that position itself goes on as before. The numbers are what this costs "
            f"the {SPAN} predictions at i + 2 to i + {SPAN + 1}, nats a token. {pairs(panel, panel.hidden)}",
            "The last column is the cost's slope on the surprise, types, works and quarters of a text with levels of "
            f"their own, times the {times:.1f} nats that surprises lie above matched tokens. A position near to its "
            "readers is read more than one far away, whatever it holds, and where text is hard everything near is "
            "read more: so the near position's number is taken off. It is no control at equal distance: after matched "
            f"tokens i + 1 costs {estimates.ratio:.1f} times as much to hide. If a hard place multiplies all costs, so "
            "many times the near number is to be taken off. The type left out is the one that adds most.",
        ),
        Grid(("hidden", "from", "after a surprise", "after matched tokens", "what the surprise adds"), tuple(rows)),
        Chart(
            "hidden",
            "What later positions lose more after a surprise",
            "layer after which the position is hidden",
            "what the surprise adds to the cost, nats a token",
            tuple(lines),
            "Above 0 a position is read more the more surprising the same token was. Each curve's intervals hold at "
            "once in 95 % of samples of works.",
        ),
    )


class Hidden(NamedTuple):
    """What a surprise adds to the cost of hiding, from the decided layer on.

    Attributes:
        read: i + 1 less near; beyond: the same less that of the samples; own: that of the samples.
        scaled: i + 1 less ``ratio`` times near, that of their mean costs after matched tokens.
        place: i + 1 less i; without: ``read`` without the positions whose token is ``type``, which adds most to it.
    """

    read: Estimate
    beyond: Estimate
    own: Estimate
    scaled: Estimate
    ratio: float
    place: Estimate
    without: Estimate
    type: int

    @classmethod
    def of(cls, ground: Ground, records: Records) -> Hidden:
        """From the records of the main arm."""
        start, panels = decided(ground.model.anatomy.layers), [Panel.of(ground, records, own) for own in SETS]
        panel, own = panels
        times = slopes.distance(panel)
        cost = {
            (one, which): costs(panels[number], records, one, start, which)
            for number, one in enumerate(SETS)
            for which in HIDDEN
        }
        less = [cost[one, READ] - cost[one, NEAR] for one in SETS]
        sums = [slopes.slopes(one, [values], usable(one)) for one, values in zip(panels, less, strict=True)]
        place = slopes.slopes(panel, [cost["confirm", READ] - cost["confirm", GUESS]], usable(panel))
        both = cost["confirm", READ], cost["confirm", NEAR]
        scaled, ratio = slopes.in_proportion(panel, both, usable(panel), panel.hidden.low)
        type_ = slopes.weightiest(panel, less[0], usable(panel))
        without = slopes.slopes(panel, [less[0]], usable(panel) & (panel.target != type_))
        return cls(
            slopes.effects(panel, sums[0], times)[0],
            slopes.beyond(panel, sums[0], sums[1], times),
            slopes.effects(own, sums[1], times)[0],
            slopes.effects(panel, scaled, times)[0],
            ratio,
            slopes.effects(panel, place, times)[0],
            slopes.effects(panel, without, times)[0],
            type_,
        )


def usable(panel: Panel) -> Array:
    """Positions of the panel that were hidden, ``[n, p]`` bool."""
    return (panel.hidden.high > 0) | (panel.hidden.low > 0)


def _quoted(ground: Ground, token: int) -> str:
    return f"“{ground.model.tokenizer.token(token)}”" if token >= 0 else "(none)"


WHERE = {READ: "i + 1, where it is read", GUESS: "i, where it was guessed", NEAR: "one of the 15 before i"}


def costs(panel: Panel, records: Records, own: str, start: int, which: str) -> Array:
    """What hiding costs, ``[n, p]``, NaN where nothing was hidden."""
    return placed(panel, records[f"{own}-hidden"], "cost", layer=start, hidden=which)


def pairs(panel: Panel, used: Events) -> str:
    """How surprises and matched tokens were chosen, and how many of them are used."""
    every = panel.events
    return (
        f"Surprising: the tenth of all tokens above {every.threshold:.1f} nats; matched: tokens of the same type below "
        f"{every.median:.1f} nats, weighted so that types count alike. {every.high.sum():.0f} surprises have such "
        f"partners ({100 * every.alone:.0f} % have none and are left out), {used.high.sum():.0f} of them are used here."
    )


def readable(ground: Ground, records: Records) -> Section:
    """How much of the surprise a linear map reads, by layer."""
    places = layers(ground)
    found = {own: analysis.gains(Panel.of(ground, records, own), places) for own in SETS}
    rows = [(str(layer), *(shown(found[own][number]) for own in SETS)) for number, layer in enumerate(places)]
    first = first_readable(places, found["confirm"])
    panel = Panel.of(ground, records, "confirm")
    base = 1 - _share(panel, probe.name(probe.KNOWN))
    return Section(
        "Is the surprise written down where the token is read",
        (
            "A linear map reads, at i + 1, the surprise that position i had. What is known without that stream (the "
            "token's input row, its type's mean surprise, its surprise under a bigram model, and the entropy of the "
            "guess at i, which is the surprise to be expected) is given to both maps; the numbers are what the stream "
            f"adds to R², within works. Without it R² is {base:.3f}. The first layer whose whole band lies above "
            f"{NOTICEABLE:g}: {'none' if first is None else first}. The maps are fitted on text; on the samples the "
            "same maps are used.",
        ),
        Grid(("layer", *(f"R² gain, {name}" for name in SETS.values())), tuple(rows)),
        Chart(
            "readable",
            "What the stream at i + 1 adds to R² of the surprise at i",
            "layer",
            "R² gain",
            tuple(line(name, places, found[own], role(own)) for own, name in SETS.items()),
            f"Readable from {NOTICEABLE:g} on. Bands hold a whole curve at once in 95 % of samples of works; what "
            "refitted maps add is in the verdict only.",
        ),
    )


def first_readable(places: Sequence[int], found: Sequence[Estimate]) -> int | None:
    """The first layer whose whole band lies above what counts as readable."""
    return next((layer for layer, one in zip(places, found, strict=True) if one.low > NOTICEABLE), None)


def _share(panel: Panel, name: str) -> float:
    """Of the surprise's variance within works, what a map leaves."""
    left = analysis.centred(panel.surprise - panel.readings[name], panel.usable, panel.works)
    whole = analysis.centred(panel.surprise, panel.usable, panel.works)
    return float((left**2).sum() / (whole**2).sum())


WINDOWS = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32))
"""Tokens after a surprise, first and last, whose mean excess is in the table."""

BEFORE = (-16, -1)


def excess(ground: Ground, records: Records, matters: float) -> Section:
    """How long the loss stays higher after a surprise; ``matters``: nats a token from which on an excess does."""
    lines: list[Line] = []
    rows: list[tuple[str, ...]] = []
    steps = tuple(step for step in range(-8, AFTER + 1) if step)
    said: list[str] = []
    panel = Panel.of(ground, records, "confirm")
    times = slopes.distance(panel)
    for own, name in SETS.items():
        one = Panel.of(ground, records, own)
        lines.append(line(name, steps, slopes.excess(one, [(step, step) for step in steps], times), role(own)))
        found = slopes.excess(one, [BEFORE, *WINDOWS], times)
        untold, small = slopes.untold(found[1:]), slopes.small(found[1:], matters)
        can = (
            "it can be told from 0 in all" if untold is None else f"it first cannot be told from 0 at {_window(untold)}"
        )
        stays = "in none is it known to stay" if small is None else f"from {_window(small)} on it stays"
        said.append(f"in {name} {can}, and {stays} below {matters:g} nats")
        rows.append((name, *(shown(each, 2) for each in found)))
    return Section(
        "How long the loss stays higher",
        (
            f"Cross-entropy near a surprise less that of the same text more than {AFTER} tokens away: its slope on the "
            "surprise, types, works and quarters of a text with levels of their own, times the "
            f"{times:.1f} nats that surprises lie above matched tokens. What is higher before a surprise already is no "
            "consequence of it: hard tokens come together.",
            f"Of the windows, {'; '.join(said)}. The first of the two measures how much text there is: the more, the "
            "later.",
        ),
        Grid(("in", *(_named(one) for one in (BEFORE, *WINDOWS))), tuple(rows)),
        Chart(
            "excess",
            "Loss near a surprise, more than near the same token unsurprising",
            "tokens after; below 0 before",
            "excess cross-entropy, nats",
            tuple(lines),
            "Bands hold a whole curve at once in 95 % of samples of works.",
        ),
    )


def _window(number: int) -> str:
    return f"token {_named(WINDOWS[number])}"


def _named(window: tuple[int, int]) -> str:
    return str(window[0]) if window[0] == window[1] else f"{window[0]} to {window[1]}"


def role(own: str) -> str:
    """Of a set's curve: samples are a control."""
    return "main" if own == "confirm" else "control"


def line(name: str, x: Sequence[int], found: Sequence[Estimate], role: str) -> Line:
    """A curve of estimates."""
    y, low, high = (tuple(float(getattr(one, part)) for one in found) for part in ("value", "low", "high"))
    return Line(name, tuple(map(float, x)), y, low, high, role)
