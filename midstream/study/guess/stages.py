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
from midstream.study.guess.analysis import cuts
from midstream.study.guess.chance import OWN, in_bases, turned
from midstream.study.guess.fit import batches, fit, windows
from midstream.study.guess.setting import EPSILONS, FIRST, PRIMARY, SIZES, THIN, layers
from midstream.study.guess.streams import kl, streams, target
from midstream.study.study import Columns, Cost, Ground, Records, Stage, Text, Unit

FEWEST = 4
"""Blocks without which half depth, three quarters and the last but one are not three places."""


BASES = 50
"""Random bases in a unit."""

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


def _choose(ground: Ground, _records: Records) -> list[Unit]:
    return [Unit(f"layer-{layer:03d}", layer) for layer in layers(ground).all]


def _measure_choose(ground: Ground, unit: Unit) -> Columns:
    return measure.chosen(ground, unit.what, ground.texts["tune"])


def _told(ground: Ground, records: Records) -> list[Unit]:
    guess = cuts(records)[layers(ground).last][PRIMARY].k
    parts = batches(ground.texts["confirm"], SIZES[ground.size].batch)
    return [Unit(f"confirm-{number:03d}", (texts, guess)) for number, texts in enumerate(parts)]


def _measure_told(ground: Ground, unit: Unit) -> Columns:
    return measure.told(ground, *unit.what)


def _chance(ground: Ground, _records: Records) -> list[Unit]:
    bases = SIZES[ground.size].bases
    starts = range(OWN, bases, BASES)
    return [Unit(f"bases-{start - OWN:04d}", range(start, min(start + BASES, bases))) for start in starts]


def _measure_chance(ground: Ground, unit: Unit) -> Columns:
    return in_bases(ground, unit.what)


def _turned(ground: Ground, records: Records) -> list[Unit]:
    found = cuts(records)
    return [
        Unit(f"layer-{layer:03d}", (layer, [found[layer][epsilon].k for epsilon in EPSILONS]))
        for layer in layers(ground).all
    ]


def _measure_turned(ground: Ground, unit: Unit) -> Columns:
    return turned(ground, *unit.what)


def _read(ground: Ground, records: Records) -> list[Unit]:
    ks = {layer: found[PRIMARY].k for layer, found in cuts(records).items()}
    parts = batches(one_a_work(ground.texts["confirm"]), SIZES[ground.size].batch)
    return [Unit(f"confirm-{number:03d}", (texts, ks)) for number, texts in enumerate(parts)]


def one_a_work(texts: Sequence[Text]) -> list[Text]:
    """The first text of each work."""
    return list({text.work: text for text in reversed(texts)}.values())[::-1]


def _measure_read(ground: Ground, unit: Unit) -> Columns:
    return reading.parts_read(ground, *unit.what)


MAIN = (
    Stage("weigh", _weigh, _measure_weigh),
    Stage("choose", _choose, _measure_choose),
    Stage("told", _told, _measure_told),
    Stage("chance", _chance, _measure_chance),
    Stage("turned", _turned, _measure_turned),
    Stage("read", _read, _measure_read),
)


def cost(ground: Ground) -> Cost:
    """What the main arm takes, its seconds from one batch on this machine: its pass, and reading it."""
    size, at = SIZES[ground.size], layers(ground)
    tune, confirm = ground.texts["tune"], ground.texts["confirm"]
    length = len(confirm[0].ids)
    again = one_a_work(confirm)
    forwards = sum(map(len, windows(ground))) + len(tune) + 2 * len(confirm) + len(again)
    asked = ASKED * len(tune) * (length - FIRST) // THIN
    alone = 2 * len(reading.PARTS) * len(again) * (length - FIRST)
    reads = len(at.all) * (2 * size.positions + asked) + len(at.shown) * alone
    passing, readout = _trial(ground, confirm[: size.batch])
    products = len(at.all) * size.bases * _product(ground.model.anatomy.width)
    return Cost(forwards, int(forwards * length), int(reads), forwards * passing + reads * readout + products)


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
