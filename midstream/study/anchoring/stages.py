"""The order of the work: texts as they are, all conditions on the works that choose, the best on others, generation."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from math import ceil

from midstream.study.anchoring import generation, measure
from midstream.study.anchoring.analysis import best_of, threshold_of
from midstream.study.anchoring.condition import (
    RANDOM,
    SIZES,
    TRUE,
    Condition,
    declared,
    refits,
    tried,
)
from midstream.study.study import Columns, Cost, Ground, Records, Stage, Text, Unit

REFITTED = 4
"""One batch in so many is run with refitted maps too: enough to see how much the map moves the number."""


def confirmed(ground: Ground, records: Records) -> list[Condition]:
    """What is run on the works that confirm: what was fixed beforehand, with and without sinks, and the best ones."""
    first, best = declared(ground.model.anatomy.layers), best_of(ground, records)
    sinks = [replace(first, token=token, sinks=True) for token in (TRUE, RANDOM)]
    after = [best.surprise, replace(best.surprise, token=RANDOM)]
    return list(dict.fromkeys([first, *first.controls(), *sinks, best.whole, *best.whole.controls(), *after]))


def _batches(ground: Ground, name: str) -> Iterator[tuple[str, Sequence[Text]]]:
    texts, size = ground.texts[name], SIZES[ground.size].batch
    for start in range(0, len(texts), size):
        yield f"{name}-{start // size:03d}", texts[start : start + size]


def _plain(ground: Ground, _records: Records) -> list[Unit]:
    return [Unit(name, texts) for own in ("tune", "confirm") for name, texts in _batches(ground, own)]


def _moved(ground: Ground, own: str, conditions: Sequence[Condition], threshold: float) -> list[Unit]:
    """One unit a batch and layer: what shares the pass up to there."""
    by_layer = [
        (layer, tuple(members))
        for layer, members in groupby(sorted(conditions, key=lambda c: c.layer), key=lambda c: c.layer)
    ]
    return [
        Unit(f"{name}-layer-{layer:03d}", (texts, members, threshold))
        for name, texts in _batches(ground, own)
        for layer, members in by_layer
    ]


def _grid(ground: Ground, records: Records) -> list[Unit]:
    return _moved(ground, "tune", list(tried(ground)), threshold_of(ground, records))


def _confirm(ground: Ground, records: Records) -> list[Unit]:
    threshold = threshold_of(ground, records)
    units = _moved(ground, "confirm", confirmed(ground, records), threshold)
    for one in dict.fromkeys(best_of(ground, records)):
        again = tuple(condition for pair in refits(one) for condition in pair)
        batches = list(_batches(ground, "confirm"))[::REFITTED] if again else []
        units += [Unit(f"{name}-refits-{one.slug}", (texts, again, threshold)) for name, texts in batches]
    return units


def _generation(ground: Ground, records: Records) -> list[Unit]:
    size, last = SIZES[ground.size], ground.model.anatomy.layers
    conditions = list(dict.fromkeys([None, declared(last), best_of(ground, records).whole]))
    texts, threshold = one_a_work(ground.texts["confirm"], size.prompts), threshold_of(ground, records)
    return [
        Unit(f"{how}-{number}", (texts, condition, how, size.tokens, threshold))
        for how in generation.CHOICES
        for number, condition in enumerate(conditions)
    ]


def one_a_work(texts: Sequence[Text], count: int) -> list[Text]:
    """So many texts, of as many works as there are."""
    seen: dict[str, int] = {}
    order: list[tuple[int, int]] = []
    for index, text in enumerate(texts):
        order.append((seen.setdefault(text.work, 0), index))
        seen[text.work] += 1
    return [texts[index] for index in sorted(index for _, index in sorted(order)[:count])]


def _measure_plain(ground: Ground, unit: Unit) -> Columns:
    return measure.plain(ground, unit.what)


def _measure_moved(ground: Ground, unit: Unit) -> Columns:
    return measure.moved(ground, *unit.what)


def _measure_generation(ground: Ground, unit: Unit) -> Columns:
    return generation.continued(ground, *unit.what)


MAIN = (
    Stage("plain", _plain, _measure_plain),
    Stage("grid", _grid, _measure_moved),
    Stage("confirm", _confirm, _measure_moved),
    Stage("generation", _generation, _measure_generation),
)


def cost(ground: Ground) -> Cost:
    """What the main arm takes, its seconds from one pass of a batch on this machine, plain and read."""
    size, last = SIZES[ground.size], ground.model.anatomy.layers
    tune, confirm, fit = (ground.texts.get(name, ()) for name in ("tune", "confirm", "fit"))
    window = len(confirm[0].ids)
    # twice the positions above the layer, and the pass up to the end that gives the stream there
    above = [2 * (1 - condition.layer / last) for condition in tried(ground)]
    first = declared(last)
    later = [2 * (1 - first.layer / last)] * 16  # the best one's layer is not known yet: as the first's
    forwards = len(tune) * (1 + sum(above)) + len(confirm) * (2 + sum(later)) + len(fit)
    reads = len(tune) * (1 + len(above)) + len(confirm) * 18
    steps = len(generation.CHOICES) * size.tokens * 5  # plain, and two anchored ones of twice the positions
    seconds = _trial(ground, confirm[: size.batch])
    share = 0.25  # of it is the read-out, as measured on the default model
    predicted = seconds * ((1 - share) * forwards + share * reads) + steps * seconds * ceil(size.prompts / 8) * 0.15
    return Cost(forwards, int(forwards * window), int(reads * (window - 1)), predicted)


def _trial(ground: Ground, texts: Sequence[Text]) -> float:
    """Seconds that one text takes as it is, the second time that a batch of them is run."""
    measure.plain(ground, texts)
    start = time.perf_counter()
    measure.plain(ground, texts)
    return (time.perf_counter() - start) / len(texts)
