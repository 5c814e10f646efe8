"""The report: what the estimates say, in tables, curves and sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from midstream.interval import paired_ratio
from midstream.record import Estimate
from midstream.study.anchoring import toy as toy_arm
from midstream.study.anchoring.analysis import Panel, best_of
from midstream.study.anchoring.condition import (
    CONTROLS,
    FIRST,
    NOTABLE,
    RANDOM,
    SIZES,
    SPAN,
    TRUE,
    Condition,
    declared,
    layers,
    tried,
)
from midstream.study.report import Chart, Grid, Line, Section, counted, shown
from midstream.study.study import Ground, Records

MEASURES = {
    "distinct_2": ("distinct 2-grams over all", "1", 3),
    "distinct_3": ("distinct 3-grams over all", "1", 3),
    "repeated": ("longest repeated span", "tokens", 2),
    "logprob": ("log-probability under the model as it is", "nats a token", 3),
}
"""Column of the generation stage -> what it is, its unit, digits that are shown."""


def chosen(ground: Ground, records: Records) -> list[Section]:
    """How the best condition was chosen, on works that confirm nothing."""
    panel = Panel.of(ground, records, "tune", "grid")
    every, best = list(tried(ground)), best_of(ground, records)
    text = (
        f"Every condition was run on {len(panel.works)} documents of {len(np.unique(panel.works))} works that confirm "
        f"nothing. Chosen there: for the whole text {best.whole.name}, which cost least; for the tokens "
        f"after a surprise {best.surprise.name}, of the strengths from {NOTABLE:g} on the one whose gain on the random "
        "token was largest against its own interval. What they are worth is said by other works only, above.",
    )
    whole = _pivot(every, {condition: panel.whole(condition).value for condition in every})
    contrast = _pivot(every, {condition: panel.arms(condition).contrast.value for condition in every})
    after = (
        f"The same conditions: the mean cost in the {SPAN} tokens after a surprise less that after matched tokens. Few "
        "surprises have partners among so few documents: read signs, not digits.",
    )
    return [
        Section("Choosing where and how far", text, whole, _curves(ground, panel, every)),
        Section("The same, after a surprise", after, contrast),
    ]


def _pivot(every: Sequence[Condition], values: Mapping[Condition, float]) -> Grid:
    """Rows: vector, whose, rule and strength; columns: layers."""
    places = sorted({condition.layer for condition in every})
    cells: dict[tuple[str, ...], dict[int, float]] = {}
    for condition in every:
        row = (condition.vector, condition.token, condition.rule, f"{condition.strength:g}")
        cells.setdefault(row, {})[condition.layer] = values[condition]
    rows = sorted(cells)
    heading = ("vector", "whose", "moved at", "strength", *(f"layer {place}" for place in places))
    return Grid(heading, tuple((*row, *(_number(cells[row][place]) for place in places)) for row in rows))


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:+.4f}"


def _curves(ground: Ground, panel: Panel, every: Sequence[Condition]) -> Chart:
    strength = _middle(SIZES[ground.size].strengths)
    lines: list[Line] = []
    for vector in dict.fromkeys(condition.vector for condition in every):
        for token in (TRUE, RANDOM):
            wanted = (vector, token, "every", strength)
            of = [one for one in every if (one.vector, one.token, one.rule, one.strength) == wanted]
            if of:
                name = vector if token == TRUE else f"{vector}, {token}"
                lines.append(_line(name, of, panel.curve(of), "main" if token == TRUE else "control"))
    return Chart(
        "choice",
        f"What moving the stream costs, strength {strength:g}, at every position",
        "layer after which the stream is moved",
        "CE(moved) − CE(plain), nats a token",
        tuple(lines),
        "Below 0 the moved stream predicts better. Bands hold a whole curve at once in 95 % of samples of works.",
    )


def _middle(strengths: Sequence[float]) -> float:
    return strengths[len(strengths) // 2] if len(strengths) > 2 else strengths[0]


def _line(name: str, of: Sequence[Condition], found: Sequence[Estimate], role: str) -> Line:
    return Line(
        name,
        tuple(float(condition.layer) for condition in of),
        tuple(one.value for one in found),
        tuple(one.low for one in found),
        tuple(one.high for one in found),
        role,
    )


def confirmed(ground: Ground, records: Records) -> list[Section]:
    """What was chosen, and what was fixed beforehand, against their controls, on other works."""
    panel = Panel.of(ground, records, "confirm", "confirm")
    first, best = declared(ground.model.anatomy.layers), best_of(ground, records)
    return [_after(panel, dict.fromkeys([best.surprise, best.whole, first])), _whole(panel, first, best.whole)]


def _after(panel: Panel, conditions: Iterable[Condition]) -> Section:
    events = panel.events
    rows: list[tuple[str, ...]] = []
    for one in conditions:
        own, gain = panel.arms(one), panel.gained(one, again=True)
        rows.append((one.name, *map(shown, own)))
        rows.append((f"the same, less {RANDOM}", *map(shown, gain)))
    text = (
        f"Surprising: the tenth of all tokens above {events.threshold:.1f} nats; matched: tokens of the "
        "same type below "
        f"{events.median:.1f} nats, weighted so that types count alike on both sides. "
        f"{events.high.sum():.0f} surprises "
        f"have such partners; {100 * events.alone:.0f} % of all have none and are left out.",
        f"Numbers are means over the {SPAN} tokens after: what the moved stream costs there, nats a "
        "token, below 0 where "
        "it helps. The first line of each pair holds the true token, the second its gain on a random token of equal "
        "angle; the lower right number of the first pair is the primary one.",
    )
    heading = ("condition", "after a surprise", "after matched tokens", "difference")
    return Section("After a surprise", text, Grid(heading, tuple(rows)))


def _whole(panel: Panel, first: Condition, best: Condition) -> Section:
    rows = tuple(
        (condition.name, shown(panel.whole(condition, again=condition.name in (best.name, first.name))))
        for one in dict.fromkeys([best, first])
        for condition in [one, *one.controls()]
    )
    text = (
        f"{len(panel.works)} documents, {counted(panel.whole(best))}; positions from {FIRST} on, sinks "
        "left out. Controls "
        "are turned by the same angle at every position, at the same length: towards the vector of a random token, of "
        "the model's own guess, of the token read, and the true one turned by a fixed random rotation. At strength 0 "
        "nothing changes, by construction (tested).",
    )
    heading = ("condition", "cost, nats a token")
    return Section("The whole text", text, Grid(heading, rows), _controls(panel, first, best))


def _controls(panel: Panel, first: Condition, best: Condition) -> Chart:
    names = (TRUE, *CONTROLS)
    ticks = tuple((float(number), name) for number, name in enumerate(names))
    lines: list[Line] = []
    for one, role in ((best, "main"), (first, "control")):
        of = [replace(one, token=name) for name in names]
        have = [(number, condition) for number, condition in enumerate(of) if condition.name in panel.moved]
        found = panel.curve([condition for _, condition in have])
        lines.append(
            Line(
                ("best: " if one == best else "fixed beforehand: ")
                + f"layer {one.layer}, {one.strength:g}, {one.vector}",
                tuple(float(number) for number, _ in have),
                tuple(point.value for point in found),
                tuple(point.low for point in found),
                tuple(point.high for point in found),
                role,
            )
        )
    if best == first:
        lines = lines[:1]
    return Chart(
        "controls",
        "What each displacement of equal angle costs",
        "towards the vector of",
        "CE(moved) − CE(plain), nats a token",
        tuple(lines),
        "If anchoring helped by what it tells, the true token would lie below all controls and 0. Each "
        "curve's intervals hold "
        "at once in 95 % of samples of works; what refitted maps add is in the table only.",
        ticks,
    )


def sinks(ground: Ground, records: Records) -> Section:
    """How much of an apparent effect is the attention sink's."""
    panel = Panel.of(ground, records, "confirm", "confirm")
    first = declared(ground.model.anatomy.layers)
    rows = [
        (
            f"{token}, {'position 0 and other sinks moved too' if moved else 'sinks left alone'}",
            shown(panel.whole(replace(first, token=token, sinks=moved))),
        )
        for token in (TRUE, RANDOM)
        for moved in (False, True)
    ]
    apart = {token: panel.whole(replace(first, token=token, sinks=True)).value for token in (TRUE, RANDOM)}
    left = {token: panel.whole(replace(first, token=token)).value for token in (TRUE, RANDOM)}
    grown = ", ".join(f"{token} by {apart[token] - left[token]:+.4f}" for token in apart)
    text = (
        f"{first.name}. Position 0 and positions whose norm exceeds ten times the median hold what other positions "
        "attend to for want of anything else (Xiao et al. 2023). Moving them with the rest changes the "
        f"cost of {grown} "
        "nats a token: that is the sink's, not the token's, and everything else in this report leaves "
        "sinks as they are.",
    )
    return Section("Attention sinks", text, Grid(("moved", "cost, nats a token"), tuple(rows)))


def generated(ground: Ground, records: Records) -> Section:
    """Repetition and likelihood of continuations, less those without an anchor."""
    columns = records["generation"]
    names = np.asarray(columns["condition"])
    works = {text.number: text.work for text in ground.texts["confirm"]}
    first, best = declared(ground.model.anatomy.layers), best_of(ground, records).whole
    rows: list[tuple[str, ...]] = []
    for how in dict.fromkeys(str(name).partition(", ")[0] for name in names):
        plain = names == f"{how}, plain"
        clusters = [works[int(number)] for number in columns["document"][plain]]
        rows.append(
            (how, "plain", *(f"{columns[key][plain].mean():.{digits}f}" for key, (_, _, digits) in MEASURES.items()))
        )
        for condition in dict.fromkeys([first, best]):
            moved = names == f"{how}, {condition.name}"
            cells = [
                shown(
                    paired_ratio(
                        [columns[key][moved], columns[key][plain]],
                        np.ones(int(plain.sum())),
                        clusters=clusters,
                        generator=np.random.default_rng(ground.seed),
                        unit=unit,
                    ),
                    digits,
                )
                for key, (_, unit, digits) in MEASURES.items()
            ]
            rows.append((how, f"{condition.name}, less plain", *cells))
    count = int((names == names[0]).sum())
    text = (
        f"{count} prompts of {len(set(works.values()))} works at most, continued with and without the anchor from "
        "equal seeds, past an end of text too; intervals over the prompts' works. Higher log-probability "
        "is not better text: "
        "a loop is likely.",
    )
    heading = ("choice", "condition", *(f"{name}, {unit}" for name, unit, _ in MEASURES.values()))
    return Section("In generation", text, Grid(heading, tuple(rows)))


def toy(records: Mapping[str, Records]) -> Section:
    """What training with the anchor does, if that arm has run."""
    if "toy" not in records:
        text = "Not run here. An edit that a model was not trained with tests robustness; only training tests the idea."
        return Section("Trained with it", (f"{text} midstream study does_anchoring_help --arm toy runs it.",))
    rows = [(name, "nats a byte", shown(one)) for name, one in toy_arm.levels(records["toy"])]
    rows += [(name, "difference, paired", shown(one)) for name, one in toy_arm.findings(records["toy"])]
    grid = Grid(("arm", "what", "nats a byte, 95 % interval over seeds"), tuple(rows))
    return Section("Trained with it", (toy_arm.setting(records["toy"]),), grid)


def places(ground: Ground) -> str:
    """The layers that were tried, in a few words."""
    return ", ".join(map(str, layers(ground.model.anatomy.layers)))
