"""The report, second half: what lenses read at chosen positions, and rare tokens that come again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from midstream.band import band
from midstream.record import Array, Estimate
from midstream.study.aftermath import analysis, slopes
from midstream.study.aftermath.analysis import NATS, Weights, placed
from midstream.study.aftermath.condition import layers
from midstream.study.aftermath.findings import SETS, line, pairs
from midstream.study.aftermath.measure import WRITES
from midstream.study.aftermath.panel import Panel
from midstream.study.aftermath.repeats import GAP, RARE, Repeats
from midstream.study.aftermath.repeats import read as repeats_read
from midstream.study.aftermath.repeats import repeats as repeats_of
from midstream.study.report import Chart, Grid, Line, Section, shown
from midstream.study.study import Ground, Records

READINGS = {
    "token_rank": "the token at i + 1",
    "previous_rank": "the one before at i + 1",
    "guess_rank": "the true token at i",
    "attn_out": "attention at i + 1",
    "mlp_out": "MLP at i + 1",
}
"""Column of what was read at chosen positions -> what it is of."""

KEPT = {
    "kept-token": (
        ("token_rank", "previous_rank"),
        "What stands at i + 1 of the tokens read",
        "share where it is the nearest input row",
    ),
    "kept-writes": (
        WRITES,
        "How much blocks add at i + 1",
        "length over that of the stream it is added to",
    ),
}
"""Chart -> columns, title, what is shown of them."""


def kept(ground: Ground, records: Records) -> list[Section]:
    """The token and the one before it at i + 1, the true token at i, and the blocks' writes: one table, two charts."""
    places = layers(ground)
    rows = [
        (name, str(layer), *(_difference(ground, records, own, column, layer) for column in READINGS))
        for own, name in SETS.items()
        for layer in places
    ]
    panel = Panel.of(ground, records, "confirm")
    text = (
        "After a surprise less after matched tokens, by layer: share of positions where a token is the nearest input "
        "row to what a map reads at i + 1; log2 of the true token's rank at i under the tuned lens, which lies apart "
        "at the end by choice; and how long what a block adds is, against the stream it is added to. "
        + pairs(panel, panel.deep),
    )
    grid = Grid(("in", "layer", *READINGS.values()), tuple(rows))
    first, writes = (_levels(ground, records, name) for name in KEPT)
    sections = [Section("What is kept where the token is read, and what is added", text, grid, first)]
    return sections + ([Section(writes.title, chart=writes)] if writes else [])


def _difference(ground: Ground, records: Records, own: str, column: str, layer: int) -> str:
    panel, values = Panel.of(ground, records, own), _read(ground, records, own, column, layer)
    if np.isnan(values).all():  # nothing is added at layer 0, and a family may not tell its writes apart
        return "–"
    return shown(analysis.arms(values, Weights.of(panel, panel.deep), panel.seed, "1").difference, 3)


def _read(ground: Ground, records: Records, own: str, column: str, layer: int) -> Array:
    values = placed(Panel.of(ground, records, own), records[f"{own}-deep"], column, layer=layer)
    if column == "guess_rank":
        return np.log2(values)
    return np.where(np.isnan(values), np.nan, values == 1) if column.endswith("rank") else values


def _levels(ground: Ground, records: Records, name: str) -> Chart | None:
    """Both sides of some readings in the texts, by layer; None where none was taken."""
    columns, title, y = KEPT[name]
    panel = Panel.of(ground, records, "confirm")
    weights = Weights.of(panel, panel.deep)
    lines: list[Line] = []
    for column in columns:
        read = {layer: _read(ground, records, "confirm", column, layer) for layer in layers(ground)}
        there = [layer for layer, values in read.items() if not np.isnan(values).all()]
        for label, side, role in (("surprising", weights.high, "main"), ("matched", weights.low, "control")):
            if there:
                found = _level([read[layer] for layer in there], side, panel)
                lines.append(line(f"{READINGS[column]}, {label}", there, found, role))
    caption = "The same types on both sides. Bands hold a whole curve at once in 95 % of samples of works."
    return Chart(name, title, "layer", y, tuple(lines), caption) if lines else None


def late_writes(ground: Ground, records: Records) -> str:
    """How much the last block adds at i + 1, in a sentence."""
    last, panel = ground.model.anatomy.layers, Panel.of(ground, records, "confirm")
    parts: list[str] = []
    for name, column in zip(("attention", "mlp"), WRITES, strict=True):
        values = _read(ground, records, "confirm", column, last)
        if not np.isnan(values).all():
            high, low, _ = analysis.arms(values, Weights.of(panel, panel.deep), panel.seed, "1")
            parts.append(f"{name} {high.value:.2f} after a surprise, {low.value:.2f} else")
    return f"What the last block adds, as a share of the stream it is added to: {'; '.join(parts) or 'not told apart'}."


def _level(values: Sequence[Array], weights: Array, panel: Panel) -> list[Estimate]:
    """Weighted means, with simultaneous intervals."""
    there = [np.where(np.isnan(one), 0.0, weights) for one in values]
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
        rows.append((name, "per nat of surprise at the first", "", "", "", shown(slopes.returned(panel, found), 3)))
    text = (
        f"Types that make up at most {100 * RARE:g} % of the fit documents' tokens, where they come a second time, "
        f"{GAP} tokens or more after the first, against types of the same frequency class, with or without a space "
        "before, in the same quarter of a text, that have not come before. The last row of each set: what is gained "
        "over those new ones per nat of surprise at the first, works with levels of their own. What is hard about a "
        "type beside its frequency is hard both times, and pulls this slope down.",
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
                lines.append(line(f"{label}, {name}", places, curve, "control" if lines else "main"))
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
