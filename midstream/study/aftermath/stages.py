"""The order of the work: the model's own samples, all texts as they are, then chosen positions of them more closely."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from midstream.record import Array
from midstream.study.aftermath import measure, repeats
from midstream.study.aftermath.condition import HIDDEN, PROMPT, READ, SIZES, SPAN, decided, layers, starts
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
        how = [(decided(last), READ)] if own == OWN else every
        wanted: Array = (panel.hidden.high > 0) | (panel.hidden.low > 0)
        return [
            Unit(f"{own}-{row:04d}", (text, at, how))
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
    t, (count, long) = len(ground.texts["confirm"][0].ids), size.probe
    fit = min(count, len(ground.texts["fit"])) * long / t
    above = [1 - start / last for start in starts(last)]
    branch = (SPAN + 1) / t  # of a text
    spots = min(2 * size.hidden, confirm * t // 40)  # about a twentieth of the tokens is surprising and has a partner
    hiding = sum(above) * (confirm + len(HIDDEN) * spots * branch) + above[1] * (confirm + spots * branch) + 2 * confirm
    forwards = 2 * fit + tune + 2 * confirm + 2 * confirm + confirm + hiding  # maps, plain, deep, samples
    reads = t * (2 * fit + tune + 2 * confirm) + (len(HIDDEN) * len(above) + 1) * spots * SPAN + 2 * confirm * t
    reads += len(layers(ground)) * 2 * (3 * 2 * min(size.deep, confirm * t // 40))
    seconds = _trial(ground, confirm, size.batch)
    read, step = 0.2 * seconds / t, 0.1 * seconds  # a position's read-out; what a sampled token costs beyond its pass
    made = confirm / size.together * (t - PROMPT) * step * size.together**0.5
    factoring = len(layers(ground)) * 6 * 3e-9 * (2 * ground.model.anatomy.width) ** 3
    return Cost(forwards, int(forwards * t), int(reads), seconds * forwards * 0.8 + read * reads + made + factoring)


def _trial(ground: Ground, confirm: int, batch: int) -> float:
    """Seconds that one text takes as it is, the second time that a batch of them is run."""
    part = ground.texts["confirm"][: min(batch, confirm)]
    measure.read_out(ground, part)
    start = time.perf_counter()
    measure.read_out(ground, part)
    return (time.perf_counter() - start) / len(part)
