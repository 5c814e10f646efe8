"""The order of the work: where to cut on the works that choose; what either side tells on others; chance; reading."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from midstream.errors import RequestError
from midstream.lens.fit.least_squares import FIT_RATIO
from midstream.study.guess import coordinates, measure, reading
from midstream.study.guess.chance import OWN, in_bases, turned
from midstream.study.guess.cut import cuts
from midstream.study.guess.fit import fit, windows
from midstream.study.guess.setting import FIRST, PREDICTED, PRIMARY, SIZES, THIN, layers
from midstream.study.guess.streams import gathered, kl, streams, target
from midstream.study.refit import MOST, QUARTERS
from midstream.study.study import Columns, Cost, Ground, Records, Stage, Text, Unit

FEWEST = 4
"""Blocks without which half depth, three quarters and the last but one are not three places."""


BASES = 50
"""Random bases in a unit."""

ASKED, ALONE, RELEVANT = 28, 3, 4
"""Readings that the search for the smallest k takes at a layer, a part read alone, a position's relevance: as counted
and timed on the default model."""

BASIS, TURN, TOLD, SUMMED = 2, 15, 10, 4
"""Products with a matrix of the stream's width that a random basis takes at a layer, an output turned at random, what
is told of as many positions, and what is summed of them to fit on: about."""


def check(ground: Ground) -> None:
    """Raise RequestError for a model or text that the study cannot be asked of."""
    model, anatomy = ground.model, ground.model.anatomy
    if anatomy.layers < FEWEST:
        raise RequestError(f"{model.name} has {anatomy.layers} blocks: this study needs {FEWEST} or more.")
    longest = max(len(text.ids) for text in ground.texts["confirm"])
    if longest > model.context:
        raise RequestError(f"{model.name} reads {model.context} tokens: the study's texts have {longest}.")
    quarters = windows(ground)
    have = sum(len(members) for members in quarters) * (longest - FIRST)
    if have < FIT_RATIO * anatomy.width or not all(quarters):
        raise RequestError(
            f"the documents to fit on have {have:,} usable positions in windows of {longest} tokens: expected "
            f"{FIT_RATIO * anatomy.width:,} ({FIT_RATIO} for each of the {anatomy.width} dimensions), of at least five "
            "works. Give a larger corpus."
        )
    needed = memory(ground)
    if needed > MOST:
        raise RequestError(
            f"{model.name}, of width {anatomy.width:,}, would take {needed / 1e9:.0f} GB for what the fit texts say of "
            f"it and for the streams of the others: expected {MOST / 1e9:.0f} GB at most. Run it at a smaller --size, "
            "or ask a narrower model."
        )


def memory(ground: Ground) -> float:
    """Bytes that are held at once: sums over the fit texts, streams of the others, one fit and what is made of it.

    In matrices of the width: 4 a layer and quarter for the sums, 4 a layer while chance is measured, 26 for the fit,
    the final prediction of it and of its refits, and what is made on the way.
    """
    d, at = ground.model.anatomy.width, len(layers(ground).all)
    positions = sum(len(text.ids) for name in ("tune", "confirm") for text in ground.texts[name])
    return 8.0 * d * d * (4 * QUARTERS * at + 4 * at + 26) + positions * d * (8.0 + 4.0 * at)


def _weigh(_ground: Ground, _records: Records) -> list[Unit]:
    return [Unit("coordinates", None)]


def _measure_weigh(ground: Ground, _unit: Unit) -> Columns:
    gram = ground.keep.setdefault("gram", coordinates.output_gram(ground.model.anatomy))
    weight, at = gram.diagonal().sqrt().numpy(), layers(ground).all
    return {
        "layer": np.repeat(np.array(at, np.int16), len(weight)),
        "coordinate": np.tile(np.arange(len(weight), dtype=np.int32), len(at)),
        "weight": np.tile(weight, len(at)),
        "variance": np.concatenate([fit(ground, layer).covariance.diagonal().numpy() for layer in at]),
    }


def _by_layer(ground: Ground, _records: Records) -> list[Unit]:
    return [Unit(f"layer-{layer:03d}", layer) for layer in layers(ground).all]


def _measure_choose(ground: Ground, unit: Unit) -> Columns:
    return measure.chosen(ground, unit.what)


def _told(ground: Ground, records: Records) -> list[Unit]:
    at, found = layers(ground), cuts(ground, records)
    guess = {epsilon: found[at.last][epsilon].k for epsilon in PREDICTED}
    units = [Unit(f"layer-{layer:03d}", (layer, -1, guess)) for layer in at.all]
    again = [(layer, quarter) for layer in dict.fromkeys((at.half, at.late, at.before)) for quarter in range(QUARTERS)]
    return units + [Unit(f"layer-{layer:03d}-without-{q}", (layer, q, guess)) for layer, q in again]


def _measure_told(ground: Ground, unit: Unit) -> Columns:
    return measure.told(ground, gathered(ground, "confirm"), *unit.what)


def _chance(ground: Ground, _records: Records) -> list[Unit]:
    bases = SIZES[ground.size].bases
    starts = range(OWN, bases, BASES)
    return [Unit(f"bases-{start - OWN:04d}", range(start, min(start + BASES, bases))) for start in starts]


def _measure_chance(ground: Ground, unit: Unit) -> Columns:
    return in_bases(ground, unit.what)


def _measure_turned(ground: Ground, unit: Unit) -> Columns:
    return turned(ground, unit.what)


def _read(ground: Ground, records: Records) -> list[Unit]:
    found = cuts(ground, records)
    return [Unit(f"layer-{layer:03d}", (layer, found[layer][PRIMARY].k)) for layer in layers(ground).shown]


def _measure_read(ground: Ground, unit: Unit) -> Columns:
    return reading.parts_read(ground, *unit.what)


MAIN = (
    Stage("weigh", _weigh, _measure_weigh),
    Stage("choose", _by_layer, _measure_choose),
    Stage("told", _told, _measure_told),
    Stage("chance", _chance, _measure_chance),
    Stage("turned", _by_layer, _measure_turned),
    Stage("read", _read, _measure_read),
)


def cost(ground: Ground) -> Cost:
    """What the main arm takes, its seconds from one batch on this machine: its pass, reading it, and a product."""
    size, at, d = SIZES[ground.size], layers(ground), ground.model.anatomy.width
    tune, confirm, fitted = ground.texts["tune"], ground.texts["confirm"], sum(map(len, windows(ground)))
    length = len(confirm[0].ids)
    forwards = fitted + len(tune) + len(confirm)
    asked = ASKED * len(tune) * (length - FIRST) // THIN
    alone = ALONE * len(reading.PARTS) * len(reading.one_a_work(confirm)) * (length - FIRST)
    reads = len(at.all) * (RELEVANT * size.positions + asked) + len(at.shown) * alone
    products = len(at.all) * (BASIS * size.bases + TURN * size.turns)
    fits = len(at.all) + (len(at.shown) - 1) * QUARTERS
    products += (TOLD * fits * len(confirm) + SUMMED * len(at.all) * fitted) * length / d
    passing, readout = _trial(ground, confirm[: size.batch])
    seconds = forwards * passing + reads * readout + products * _product(d)
    return Cost(forwards, int(forwards * length), int(reads), seconds)


def _trial(ground: Ground, texts: Sequence[Text]) -> tuple[float, float]:
    """Seconds that a text's pass takes, and one position's reading, the second time that a batch of texts is run."""
    last, times = layers(ground).last, (0.0, 0.0)
    h = streams(ground, texts).h[last]
    final = target(ground, last, h)
    for _ in range(2):
        start = time.perf_counter()
        seen = streams(ground, texts)
        middle = time.perf_counter()
        kl(ground, last, seen.h[last], final)
        times = (middle - start) / len(texts), (time.perf_counter() - middle) / len(seen.row)
    return times


def _product(width: int) -> float:
    """Seconds that a product of two matrices of a width takes, in float64, the second time."""
    x, taken = torch.eye(width, dtype=torch.float64), 0.0
    for _ in range(2):
        start = time.perf_counter()
        x = x @ x
        taken = time.perf_counter() - start
    return taken
