"""Whether weight decay makes the stream change gradually with depth: small models of bytes, alike but for it.

Models of one seed see the same batches, and those that differ in their decay alone start from the same weights. They
learn at different speeds, so none is read after a number of steps: each is read at the first look at which its
validation loss lies within ``HIT`` of a level set beforehand, and two models that are compared lie no further than
twice that apart. The learning rate stays after its rise; were it to fall, it would have fallen differently far. What
counts is the change from the model's own start, since models without the usual scale of the first writes start
elsewhere.

The primary number is the cosine of successive layers without each layer's mean (``Continuity.centred``): a vector that
all positions share, which biases feed and decay does not touch, keeps the plain cosine near 1 whatever becomes of the
text. The step from the embedding to the first block's output, which opens the stream, stands apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.model.plain import PlainLM
from midstream.study.aftermath.continuity import continuity
from midstream.study.study import Columns, Cost, Ground, Need, Records, Unit
from midstream.study.toy import (
    Shape,
    Training,
    batches,
    bytes_of,
    check_room,
    evaluate,
    fresh,
    next_byte,
    plain_scores,
    step_seconds,
    train,
    windows,
)

START = math.inf
"""The level of the model before its first step."""

HIT = 0.005
"""Nats a byte: how far from a level the validation loss of a model that is read there may lie."""

NEAR = 0.05
"""Nats a byte above a level, from which on the loss is looked at ``SELDOM`` times as often."""

SELDOM = 4


@dataclass(frozen=True)
class Recipe:
    """What models of one seed differ in; see ``Training.decay`` and ``fresh`` of ``study.toy``."""

    name: str
    decay: float
    scaled: bool = True


RECIPES = (
    Recipe("decay 0", 0.0),
    Recipe("decay 0.1", 0.1),
    Recipe("decay 0.3", 0.3),
    Recipe("decay 0.1, unscaled", 0.1, scaled=False),
)


@dataclass(frozen=True)
class Size:
    """How much is done; ``seeds`` models of each recipe are trained.

    Attributes:
        training: for no more than its steps.
        levels: validation losses at which models are read, nats a byte, falling; training ends with the last.
        look: steps between two looks at the loss, near a level.
    """

    shape: Shape
    training: Training
    levels: tuple[float, ...]
    look: int
    seeds: int


SIZES = {
    "quick": Size(Shape(32, 4, 2, 48), Training(200, 8, 0.008, 8, last=1.0), (2.85,), look=2, seeds=2),
    "default": Size(Shape(64, 8, 4, 64), Training(1600, 16, 0.008, 50, last=1.0), (2.35, 2.2), look=5, seeds=5),
    "large": Size(Shape(256, 12, 8, 128), Training(1500, 16, 0.002, 100, last=1.0), (2.3, 2.0), look=10, seeds=5),
}
"""Rate and levels of the default are from the losses alone of a seed that is not used, on other texts: the slowest
recipe, the unscaled one, came to 2.2 after 840 steps, the fastest after 420. ``large`` has 10 million parameters; its
levels were not tried."""


def _needs(fit: int, tune: int, confirm: int) -> dict[str, Need]:
    return {
        "fit": Need(fit, 700, whole=False),
        "tune": Need(tune, 128, whole=False),
        "confirm": Need(confirm, 192, whole=False),
    }


NEEDS = {"quick": _needs(150, 6, 12), "default": _needs(1500, 30, 60), "large": _needs(1500, 60, 60)}


def units(ground: Ground, _records: Records) -> list[Unit]:
    """One training each: seed by seed, so that what is there can be compared."""
    numbers = range(SIZES[ground.size].seeds)
    named = [(recipe, recipe.name.replace(",", "").replace(" ", "-")) for recipe in RECIPES]
    return [Unit(f"seed-{number}-{name}", (number, recipe)) for number in numbers for recipe, name in named]


def measure(ground: Ground, unit: Unit) -> Columns:
    """Trains one model; L rows, one a layer, for its start and for each level at which it was read."""
    number, recipe = unit.what
    size, seed = SIZES[ground.size], 100 * ground.seed + number
    training, window = replace(size.training, decay=recipe.decay), size.shape.window
    module = fresh(size.shape, seed, scaled=recipe.scaled)
    constant = {
        "seed": number,
        "recipe": recipe.name,
        "size": ground.size,
        "parameters": sum(weight.numel() for weight in module.parameters()),
    }
    found: list[Columns] = []

    def see(level: float, step: int, loss: float) -> None:
        row = constant | {"level": level, "step": step, "tune": loss} | _reading(ground, module)
        found.append({name: np.broadcast_to(value, size.shape.blocks) for name, value in row.items()})

    data = batches(bytes_of(ground, "fit"), window, training, seed)
    looked = watched(data, size, lambda: _loss(ground, module, "tune"), see)
    train(module, looked, next_byte(plain_scores), training)
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _reading(ground: Ground, module: PlainLM) -> dict[str, Any]:
    """What is measured of a model as it is, by layer or one number."""
    made = continuity(module, cut(bytes_of(ground, "confirm"), SIZES[ground.size].shape.window))
    decayed = [weight.detach() for weight in module.parameters() if weight.dim() > 1]
    squares = sum(float(weight.double().square().sum()) for weight in decayed)
    return {
        "layer": np.arange(len(made.cosine)),
        "cosine": made.cosine,
        "centred": made.centred,
        "agreement": made.agreement,
        "positions": made.positions,
        "sinks": made.sinks,
        "confirm": _loss(ground, module, "confirm"),
        "matrices": math.sqrt(squares / sum(weight.numel() for weight in decayed)),
    }


def _loss(ground: Ground, module: PlainLM, name: str) -> float:
    """Nats a byte over all documents of a set."""
    nats, count = evaluate(module, bytes_of(ground, name), plain_scores, SIZES[ground.size].shape.window)
    return float(nats.sum() / count.sum())


def watched(
    data: Iterable[Tensor], size: Size, loss: Callable[[], float], see: Callable[[float, int, float], None]
) -> Iterator[Tensor]:
    """Batches, for as long as a model that is trained with each before the next is asked for has a level before it.

    A level is missed where no look finds the loss at it before it is ``NEAR`` below; it is not come back to.

    Args:
        loss: the validation loss of the model as it is.
        see: told of a level, the steps done and the loss: first of ``START``, then of each level that is not missed.
    """
    left, due = [START, *size.levels], 0
    for step, batch in enumerate(data):
        if step == due:
            now = loss()
            for level in tuple(left):
                if level == START or abs(now - level) <= HIT:
                    see(level, step, now)
                    left.remove(level)
                elif now < level - NEAR:
                    left.remove(level)
            if not left:
                return
            due += size.look * (1 if now < left[0] + NEAR else SELDOM)
        yield batch


def cut(documents: Sequence[bytes], window: int) -> Tensor:
    """Windows that do not overlap, ``[n, window]`` int64; what is left of a document is not read."""
    parts = [document[i : i + window] for document in documents for i in range(0, len(document) - window + 1, window)]
    return torch.tensor([list(part) for part in parts], dtype=torch.int64).reshape(-1, window)


def check(ground: Ground) -> None:
    """Raise RequestError where there are too few bytes to train on, or none to read."""
    size = SIZES[ground.size]
    check_room(bytes_of(ground, "fit"), size.shape.window, size.training)
    for name, fewest in (("tune", 2), ("confirm", size.shape.window)):
        if (most := max(map(len, bytes_of(ground, name)), default=0)) < fewest:
            raise RequestError(f"the longest document to {name} has {most} bytes: expected {fewest} or more.")


def cost(ground: Ground) -> Cost:
    """About: a training ends after half its steps, a quarter of them near a level, as that of the seed tried."""
    size = SIZES[ground.size]
    steps, window, models = size.training.steps / 2, size.shape.window, size.seeds * len(RECIPES)
    tune, confirm = (
        sum(len(windows(len(document), window)) for document in bytes_of(ground, name)) for name in ("tune", "confirm")
    )
    looks = steps / size.look * (1 / 4 + 3 / 4 / SELDOM)
    reads = 1 + len(size.levels)
    trained = steps * size.training.batch
    # windows that overlap by half are twice as many as those that do not, which are read twice, and out at every layer
    read = looks * tune + reads * 2 * confirm
    readouts = window * (trained + looks * tune + reads * confirm * (1 + (size.shape.blocks + 1) / 2))
    forwards = models * (trained + read)
    step = step_seconds(size.shape, size.training, next_byte(plain_scores)) / size.training.batch
    seconds = models * step * (trained + read / 3)  # no way back
    return Cost(forwards, int(forwards * window), int(models * readouts), seconds)
