"""The report: what the estimates say, in tables, curves and sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from midstream.band import band
from midstream.record import Array, Estimate
from midstream.study.aftermath import analysis, probe
from midstream.study.aftermath.analysis import NATS, Weights, placed
from midstream.study.aftermath.condition import AFTER, GUESS, HIDDEN, NEAR, READ, SPAN, decided, layers, starts
from midstream.study.aftermath.panel import OWN, Panel
from midstream.study.aftermath.repeats import GAP, RARE, Repeats
from midstream.study.aftermath.repeats import read as repeats_read
from midstream.study.aftermath.repeats import repeats as repeats_of
from midstream.study.matched import Events
from midstream.study.report import Chart, Grid, Line, Section, shown
from midstream.study.study import Ground, Records

SETS = {"confirm": "the texts", OWN: "the model's own samples"}
"""What is compared: text, and text in which a surprise is chance alone."""

NOTICEABLE = 0.02
"""Excess loss, nats, below which it counts as gone; R² gain from which on a surprise counts as readable."""


def hidden(ground: Ground, records: Records) -> Section:
    """What hiding a position costs those that follow."""
    panel = Panel.of(ground, records, "confirm")
    weights = Weights.of(panel, panel.hidden)
    last = ground.model.anatomy.layers
    rows: list[tuple[str, ...]] = []
    lines: list[Line] = []
    for which in HIDDEN:
        values = [costs(panel, records, "confirm", start, which) for start in starts(last)]
        rows += [
            (WHERE[which], f"after layer {start}", *map(shown, analysis.arms(one, weights, panel.seed, NATS)))
            for start, one in zip(starts(last), values, strict=True)
        ]
        found = analysis.curve(values, weights, panel.seed, NATS)
        lines.append(_line(WHERE[which], starts(last), found, "main" if which == READ else "control"))
    own = Panel.of(ground, records, OWN)
    of_own = costs(own, records, OWN, decided(last), READ)
    found = analysis.arms(of_own, Weights.of(own, own.hidden), own.seed, NATS)
    rows.append((f"{WHERE[READ]}, {SETS[OWN]}", f"after layer {decided(last)}", *map(shown, found)))
    return Section(
        "Who reads the token that surprised",
        (
            f"From every block after a layer on, what later positions read at one earlier position is replaced by the "
            f"mean position's keys and values; that position itself goes on as before. The numbers are what this costs "
            f"the {SPAN} predictions at i + 2 to i + {SPAN + 1}, nats a token. {_pairs(panel, panel.hidden)}",
            "A position near to its readers is read more than one far away, whatever it holds: so the difference "
            "between surprises and matched tokens counts, not the cost itself.",
        ),
        Grid(("hidden", "from", "after a surprise", "after matched tokens", "difference"), tuple(rows)),
        Chart(
            "hidden",
            "What later positions lose more after a surprise",
            "layer after which the position is hidden",
            "difference of costs, nats a token",
            tuple(lines),
            "Above 0 a position is read more after a surprise than after the same token unsurprising. Each curve's "
            "intervals hold at once in 95 % of samples of works.",
        ),
    )


WHERE = {READ: "i + 1, where it is read", GUESS: "i, where it was guessed", NEAR: "one of the 15 before i"}


def costs(panel: Panel, records: Records, own: str, start: int, which: str) -> Array:
    """What hiding costs, ``[n, p]``, NaN where nothing was hidden."""
    return placed(panel, records[f"{own}-hidden"], "cost", layer=start, hidden=which)


def _pairs(panel: Panel, used: Events) -> str:
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
    base = 1 - _share(panel, probe.name(probe.TOKEN))
    return Section(
        "Is the surprise written down where the token is read",
        (
            "A linear map reads, at i + 1, the surprise that position i had. What the token tells of it (its input "
            "row, its type's mean surprise, its surprise under a bigram model) is given to both maps; the numbers are "
            f"what the stream adds to R², within works. The token alone has R² {base:.3f}. The first layer whose whole "
            f"band lies above {NOTICEABLE:g}: {'none' if first is None else first}. The maps are fitted on text; on "
            "the samples the same maps are used.",
        ),
        Grid(("layer", *(f"R² gain, {name}" for name in SETS.values())), tuple(rows)),
        Chart(
            "readable",
            "What the stream at i + 1 adds to R² of the surprise at i",
            "layer",
            "R² gain",
            tuple(_line(name, places, found[own], _role(own)) for own, name in SETS.items()),
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


READINGS = {
    "token": ("token_rank", "The token itself at i + 1", "share where it is the nearest input row"),
    "previous": ("previous_rank", "The token before it at i + 1", "share where it is the nearest input row"),
    "guess": ("guess_rank", "The true token at i", "mean log2 of its rank, tuned lens; apart at the end by choice"),
    "attention": ("attn_out", "What attention adds at i + 1", "length over that of the stream before"),
    "mlp": ("mlp_out", "What the MLP adds at i + 1", "length over that of the stream before"),
}
"""Name -> column of what was read at chosen positions, what it is of, and what is shown of it."""


def kept(ground: Ground, records: Records) -> list[Section]:
    """The token, the token before it and the blocks' writes at i + 1, and the true token at i."""
    sections: list[Section] = []
    for name, (column, _, _) in READINGS.items():
        places = layers(ground)[1:] if name in ("attention", "mlp") else layers(ground)
        found = {own: [_read(ground, records, own, column, layer) for layer in places] for own in SETS}
        if not all(np.isnan(one).all() for one in found["confirm"]):  # a family may not tell its writes apart
            sections.append(_two_sides(ground, records, name, places, found))
    return sections


def _read(ground: Ground, records: Records, own: str, column: str, layer: int) -> Array:
    values = placed(Panel.of(ground, records, own), records[f"{own}-deep"], column, layer=layer)
    if column == "guess_rank":
        return np.log2(values)
    return np.where(np.isnan(values), np.nan, values == 1) if column.endswith("rank") else values


def _two_sides(
    ground: Ground, records: Records, name: str, places: Sequence[int], found: dict[str, list[Array]]
) -> Section:
    _, title, y = READINGS[name]
    panels = {own: Panel.of(ground, records, own) for own in SETS}
    panel, weights = panels["confirm"], Weights.of(panels["confirm"], panels["confirm"].deep)
    every = {
        own: [analysis.arms(one, Weights.of(panels[own], panels[own].deep), panel.seed, "1") for one in values]
        for own, values in found.items()
    }
    rows = [
        (str(layer), *(shown(one, 3) for one in text), shown(chance.difference, 3))
        for layer, text, chance in zip(places, every["confirm"], every[OWN], strict=True)
    ]
    lines = tuple(
        _line(label, places, _level(found["confirm"], weights._replace(low=side), panel), role)
        for label, side, role in (("surprising", weights.high, "main"), ("matched", weights.low, "control"))
    )
    return Section(
        title,
        (f"{y[0].upper()}{y[1:]}, by layer.", *((_pairs(panel, panel.deep),) if name == "token" else ())),
        Grid(("layer", "surprising", "matched", "difference", f"difference, {SETS[OWN]}"), tuple(rows)),
        Chart(
            f"kept-{name}",
            title,
            "layer",
            y,
            lines,
            "The same types on both sides. Bands hold a whole curve at once in 95 % of samples of works.",
        ),
    )


def late_writes(ground: Ground, records: Records) -> str:
    """How much the last block adds at i + 1, in a sentence."""
    last, panel = ground.model.anatomy.layers, Panel.of(ground, records, "confirm")
    parts: list[str] = []
    for name in ("attention", "mlp"):
        values = _read(ground, records, "confirm", READINGS[name][0], last)
        if not np.isnan(values).all():
            high, low, _ = analysis.arms(values, Weights.of(panel, panel.deep), panel.seed, "1")
            parts.append(f"{name} {high.value:.2f} after a surprise, {low.value:.2f} else")
    return f"What the last block adds, as a share of the stream's length: {'; '.join(parts) or 'not told apart'}."


def _level(values: Sequence[Array], weights: Weights, panel: Panel) -> list[Estimate]:
    """Means under the weights ``low``, with simultaneous intervals."""
    there = [np.where(np.isnan(one), 0.0, weights.low) for one in values]
    sums = np.array([(w * np.nan_to_num(one)).sum(1) for w, one in zip(there, values, strict=True)])
    counts = np.array([w.sum(1) for w in there])
    return band(sums, counts, clusters=panel.works, generator=panel.draw(), unit="1")


def plasma(ground: Ground, records: Records) -> list[Section]:
    """Rare tokens that come again."""
    rows: list[tuple[str, ...]] = []
    for own, name in SETS.items():
        panel = Panel.of(ground, records, own)
        found = repeats_of(ground, panel)
        for label, part in parts(found).items():
            three = analysis.arms(-panel.surprise, Weights.again(panel, part), panel.seed, NATS)
            rows.append((name, label, f"{part.second.sum():.0f}", *(shown(one, 2) for one in three)))
        rows.append((name, "a nat of surprise at the first", "", "", "", shown(analysis.slope(panel, found), 3)))
    text = (
        f"Types that make up at most {100 * RARE:g} % of the fit documents' tokens, where they come a second time, "
        f"{GAP} tokens or more after the first, against types of the same frequency class, with or without a space "
        "before, in the same quarter of a text, that have not come before. The last row of each set: change of the "
        "log-probability at the second occurrence per nat of surprise at the first, within frequency class and work.",
    )
    heading = ("in", "which", "how many", "log p, second time", "log p, new ones", "difference, nats")
    return [
        Section("A rare token that comes again", text, Grid(heading, tuple(rows))),
        _plasma_by_layer(ground, records),
    ]


MISSED = "badly missed at first"


def parts(found: Repeats) -> dict[str, Repeats]:
    """All second occurrences, those badly missed at the first, and the others."""
    again = found.second > 0
    return {
        "all": found,
        MISSED: found.of(found.missed),
        "less so": found.of(again & ~found.missed),
    }


def _plasma_by_layer(ground: Ground, records: Records) -> Section:
    lines: list[Line] = []
    said: list[str] = []
    for own, name in SETS.items():
        panel, places = Panel.of(ground, records, own), layers(ground)
        values = [placed(panel, records[f"{own}-deep"], "guess_logprob", layer=layer) for layer in places]
        for label, part in list(parts(repeats_read(ground, panel)).items())[1:]:
            curve = analysis.curve(values, Weights.again(panel, part), panel.seed, NATS)
            first = next((layer for layer, one in zip(places, curve, strict=True) if one.low > 0), None)
            said.append(f"{label}, {name}: {'none' if first is None else first}")
            if own == "confirm" or label == MISSED:
                lines.append(_line(f"{label}, {name}", places, curve, "control" if lines else "main"))
    return Section(
        "At which layer it comes back",
        (f"The same comparison under the tuned lens. The first layer whose band lies above 0: {'; '.join(said)}.",),
        None,
        Chart(
            "back",
            "How much likelier a rare token is the second time than new ones of its frequency",
            "layer",
            "difference of log-probabilities, nats",
            tuple(lines),
            "Tuned lens. Bands hold a whole curve at once in 95 % of samples of works.",
        ),
    )


WINDOWS = ((-16, -1), (1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32))
"""Tokens near a surprise, first and last, whose mean excess is in the table."""


def excess(ground: Ground, records: Records) -> Section:
    """How long the loss stays higher after a surprise."""
    lines: list[Line] = []
    rows: list[tuple[str, ...]] = []
    steps = tuple(step for step in range(-8, AFTER + 1) if step)
    said: list[str] = []
    for own, name in SETS.items():
        panel = Panel.of(ground, records, own)
        found = analysis.excess(panel, [(step, step) for step in steps])
        after = analysis.gone(found[steps.index(1) :], NOTICEABLE)
        said.append(f"in {name} {f'token {after}' if after else f'none of the {AFTER}'}")
        lines.append(_line(name, steps, found, _role(own)))
        rows.append((name, *(shown(analysis.excess(panel, [one])[0], 2) for one in WINDOWS)))
    panel = Panel.of(ground, records, "confirm")
    weights = Weights.of(panel, panel.events)
    alone = [analysis.arms(analysis.later(panel, one), weights, panel.seed, NATS).difference for one in WINDOWS]
    rows.append((f"{SETS['confirm']}, matched tokens alone", *(shown(one, 2) for one in alone)))
    return Section(
        "How long the loss stays higher",
        (
            "Cross-entropy near a surprise less that near the same token unsurprising: the slope of a regression on "
            "the surprise, types and works with levels of their own, times the distance in surprise between surprises "
            "and matched tokens. The last row takes these alone. What is higher before a surprise already is no "
            "consequence of it: hard tokens come together.",
            "The first token at which the excess cannot be told from 0 (its band reaches 0, or it is below "
            f"{NOTICEABLE:g} nats; the more text, the later): {'; '.join(said)}.",
            _pairs(panel, panel.events),
        ),
        Grid(("in", *(str(a) if a == b else f"{a} to {b}" for a, b in WINDOWS)), tuple(rows)),
        Chart(
            "excess",
            "Loss near a surprise, less that near the same token unsurprising",
            "tokens after; below 0 before",
            "excess cross-entropy, nats",
            tuple(lines),
            "Bands hold a whole curve at once in 95 % of samples of works.",
        ),
    )


def _role(own: str) -> str:
    return "main" if own == "confirm" else "control"


def _line(name: str, x: Sequence[int], found: Sequence[Estimate], role: str) -> Line:
    y, low, high = (tuple(float(getattr(one, part)) for one in found) for part in ("value", "low", "high"))
    return Line(name, tuple(map(float, x)), y, low, high, role)
