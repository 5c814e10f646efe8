"""The order of the work: where to cut on the works that choose; what either side tells on others; chance; reading."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from midstream.errors import RequestError
from midstream.lens.fit.least_squares import FIT_RATIO
from midstream.study.displace import rotation
from midstream.study.guess import coordinates, measure, reading
from midstream.study.guess.chance import OWN, in_bases, turned
from midstream.study.guess.cut import cuts
from midstream.study.guess.fit import fit, windows
from midstream.study.guess.setting import FIRST, PREDICTED, PRIMARY, SIZES, THIN, layers
from midstream.study.guess.streams import gathered, kl, streams, target
from midstream.study.refit import QUARTERS
from midstream.study.study import Columns, Cost, Ground, Records, Stage, Text, Unit

FEWEST = 4
"""Blocks without which half depth, three quarters and the last but one are not three places."""


BASES = 50
"""Random bases in a unit."""

MOST = 8e9
"""Bytes of memory, the model not counted."""

PRODUCTS = 10
"""Products of the stream with a matrix of its width that one fit takes, about."""

ASKED = 28
"""Reads of a layer that the search for the smallest k takes, as counted on the default model."""


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
    """Bytes that are held at once: sums over the fit texts, streams of the others, one fit and what is made of it."""
    d, at = ground.model.anatomy.width, len(layers(ground).all)
    positions = sum(len(text.ids) for name in ("tune", "confirm") for text in ground.texts[name])
    return 8.0 * d * d * (4 * QUARTERS * at + 16) + positions * d * (8.0 + 4.0 * at)


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
    size, at = SIZES[ground.size], layers(ground)
    tune, confirm = ground.texts["tune"], ground.texts["confirm"]
    length = len(confirm[0].ids)
    forwards = sum(map(len, windows(ground))) + len(tune) + len(confirm)
    asked = ASKED * len(tune) * (length - FIRST) // THIN
    alone = 2 * len(reading.PARTS) * len(reading.one_a_work(confirm)) * (length - FIRST)
    reads = len(at.all) * (2 * size.positions + asked) + len(at.shown) * alone
    passing, readout = _trial(ground, confirm[: size.batch])
    bases = len(at.all) * (size.bases + PRODUCTS * size.turns)
    told = PRODUCTS * (len(at.all) + 3 * QUARTERS) * (1 + len(confirm) * length / ground.model.anatomy.width)
    algebra = (bases + told) * _product(ground.model.anatomy.width)
    return Cost(forwards, int(forwards * length), int(reads), forwards * passing + reads * readout + algebra)


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
    """Seconds that one random basis takes: its drawing, and four products in float64."""
    x = torch.eye(width, dtype=torch.float64)
    start = time.perf_counter()
    rotation(width, 0)
    for _ in range(4):
        x = x @ x
    return time.perf_counter() - start
