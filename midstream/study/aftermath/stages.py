"""The order of the work: the model's own samples, all texts as they are, then chosen positions of them more closely."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from midstream.record import Array
from midstream.study.aftermath import measure, probe, repeats
from midstream.study.aftermath.condition import HIDDEN, NEAR, PARTNERS, READ, SIZES, SPAN, decided, layers, starts
from midstream.study.aftermath.measure import Spots
from midstream.study.aftermath.panel import OWN, Panel, texts
from midstream.study.study import Columns, Cost, Ground, Records, Stage, Text, Unit


def _samples(ground: Ground, _records: Records) -> list[Unit]:
    together, members = SIZES[ground.size].together, ground.texts["confirm"]
    return [
        Unit(f"samples-{start // together:03d}", (members[start : start + together], (ground.seed + start) % 2**31))
        for start in range(0, len(members), together)
    ]


def _batches(ground: Ground, records: Records, own: str) -> Iterator[tuple[str, slice, Sequence[Text]]]:
    members, size = texts(ground, records, own), SIZES[ground.size].batch
    for start in range(0, len(members), size):
        yield f"{own}-{start // size:03d}", slice(start, start + size), members[start : start + size]


def _plain(own: str) -> Callable[[Ground, Records], list[Unit]]:
    return lambda ground, records: [Unit(name, part) for name, _, part in _batches(ground, records, own)]


def _deep(own: str) -> Callable[[Ground, Records], list[Unit]]:
    """One unit a batch that has positions to be read."""

    def units(ground: Ground, records: Records) -> list[Unit]:
        panel = Panel.of(ground, records, own)
        after = (panel.deep.high > 0) | (panel.deep.low > 0)
        again = repeats.read(ground, panel)
        wanted = after | (again.second > 0) | (again.fresh > 0)
        return [
            Unit(name, (part, _spots(wanted[at], after[at])))
            for name, at, part in _batches(ground, records, own)
            if wanted[at].any()
        ]

    return units


def _spots(wanted: Array, after: Array) -> Spots:
    row, at = np.nonzero(wanted)
    return Spots(row, at, after[wanted])


def _hidden(own: str) -> Callable[[Ground, Records], list[Unit]]:
    """One unit a text; of the samples only what the claims need."""

    def units(ground: Ground, records: Records) -> list[Unit]:
        panel, last = Panel.of(ground, records, own), ground.model.anatomy.layers
        every = [(layer, which) for layer in starts(last) for which in HIDDEN]
        how = [(decided(last), which) for which in (READ, NEAR)] if own == OWN else every
        wanted: Array = ((panel.hidden.high > 0) | (panel.hidden.low > 0)) & (panel.near >= 0)
        return [
            Unit(f"{own}-{row:04d}", (text, at, panel.near[row, at], how))
            for row, text in enumerate(texts(ground, records, own))
            if len(at := np.flatnonzero(wanted[row]))
        ]

    return units


def _measure_samples(ground: Ground, unit: Unit) -> Columns:
    return measure.sampled(ground, *unit.what)


def _measure_plain(ground: Ground, unit: Unit) -> Columns:
    return measure.plain(ground, unit.what)


def _measure_deep(ground: Ground, unit: Unit) -> Columns:
    return measure.deep(ground, *unit.what)


def _measure_hidden(ground: Ground, unit: Unit) -> Columns:
    return measure.hidden(ground, *unit.what)


MAIN = (
    Stage("samples", _samples, _measure_samples),
    *(Stage(own, _plain(own), _measure_plain) for own in ("tune", "confirm", OWN)),
    *(Stage(f"{own}-hidden", _hidden(own), _measure_hidden) for own in ("confirm", OWN)),
    *(Stage(f"{own}-deep", _deep(own), _measure_deep) for own in ("confirm", OWN)),
)


def cost(ground: Ground) -> Cost:
    """What the main arm takes, its seconds from one batch on this machine; lenses are not counted."""
    size, last = SIZES[ground.size], ground.model.anatomy.layers
    tune, confirm = len(ground.texts["tune"]), len(ground.texts["confirm"])
    t, part = len(ground.texts["confirm"][0].ids), probe.cut(ground)
    # for the maps and for what types are expected to do
    fit = 1.5 * len(part) * probe.tokens(ground) / t
    # of a hundred positions about three are surprising with a partner, or partners; five are rare tokens that come
    # again, or those that they are held against
    found, again = confirm * t * 3 // 100, confirm * t * 5 // 100
    hidden, deep = min((1 + PARTNERS) * size.hidden, found), min(2 * size.deep, found) + min(3 * size.deep, again)
    branch = (SPAN + 1) * hidden / t
    above = {start: 1 - start / last for start in starts(last)}
    hiding = sum(above.values()) * (confirm + len(HIDDEN) * branch) + above[decided(last)] * (confirm + 2 * branch)
    forwards = fit + tune + 2 * confirm + 4 * confirm + hiding + confirm  # the last as samples
    plain = t * (fit + tune + 2 * confirm)
    reads = plain + SPAN * hidden * (len(HIDDEN) * len(above) + 4) + 2 * len(layers(ground)) * 5 * deep
    seconds = _trial(ground, confirm, size.batch)
    made = 2 * seconds * confirm  # a sampled token costs about as much as three that are read together
    factored = 5 * len(layers(ground)) * probe.columns(ground.model.anatomy.width) ** 3 * 7e-10
    return Cost(forwards, int(forwards * t), int(reads), seconds * (0.8 * forwards + 0.2 * reads / t) + made + factored)


def _trial(ground: Ground, confirm: int, batch: int) -> float:
    """Seconds that one text takes as it is and read, the second time that a batch of them is run."""
    part = ground.texts["confirm"][: min(batch, confirm)]
    measure.read_out(ground, part)
    start = time.perf_counter()
    measure.read_out(ground, part)
    return (time.perf_counter() - start) / len(part)
