"""Whether weight decay makes the stream change gradually with depth: small models of bytes, alike but for it.

Models of one seed see the same batches, and those that differ in their decay alone start from the same weights. They
learn at different speeds, so none is compared after a number of steps: what is read at the two looks between which a
model's validation loss falls below a level, set beforehand, is taken to that level, linearly in the loss. The learning
rate stays after its rise; were it to fall, it would have fallen differently far. What counts is the change from the
model's own start, since models without the usual scale of the first writes start elsewhere.

The primary number is ``distance``, the logarithm of 1 less the cosine of successive layers, without each layer's mean.
The cosine itself comes near 1, where nothing moves it further; and a vector that all positions share, which biases feed
and decay does not touch, keeps the plain one there whatever becomes of the text. The step from the embedding to the
first block's output, which opens the stream, stands apart.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.model.plain import PlainLM
from midstream.record import Array
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

UNSEEN = 2
"""The first seed that counts: models of seeds 0 and 1 had been read when the primary number was chosen."""


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
        levels: validation losses at which models are compared, nats a byte, falling; training ends with the last.
        look: steps between two looks at the loss.
    """

    shape: Shape
    training: Training
    levels: tuple[float, ...]
    look: int
    seeds: int

    @property
    def numbers(self) -> range:
        """Seeds, so many."""
        return range(UNSEEN, UNSEEN + self.seeds)


SIZES = {
    "quick": Size(Shape(32, 4, 2, 48), Training(200, 8, 0.008, 8, last=1.0), (2.85,), look=10, seeds=2),
    "default": Size(Shape(64, 8, 4, 64), Training(1600, 16, 0.008, 50, last=1.0), (2.35, 2.2), look=20, seeds=5),
    "large": Size(Shape(256, 12, 8, 128), Training(1500, 16, 0.002, 100, last=1.0), (2.3, 2.0), look=20, seeds=5),
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
    named = [(recipe, recipe.name.replace(",", "").replace(" ", "-")) for recipe in RECIPES]
    numbers = SIZES[ground.size].numbers
    return [Unit(f"seed-{number}-{name}", (number, recipe)) for number in numbers for recipe, name in named]


@dataclass(frozen=True, eq=False)
class Look:
    """A model as it is after so many steps.

    Attributes:
        loss: validation loss, nats a byte.
        module: a copy, which goes on being what it was.
    """

    step: int
    loss: float
    module: PlainLM


def measure(ground: Ground, unit: Unit) -> Columns:
    """Trains one model; L rows, one a layer, for its start and for each level: NaN for one that it did not come to."""
    number, recipe = unit.what
    size, seed = SIZES[ground.size], 100 * ground.seed + number
    training, window = replace(size.training, decay=recipe.decay), size.shape.window
    module = fresh(size.shape, seed, scaled=recipe.scaled)

    def look(step: int) -> Look:
        return Look(step, _loss(ground, module, "tune"), copy.deepcopy(module))

    start = _reading(ground, look(0))
    found = {START: start} | {level: {name: np.nan * value for name, value in start.items()} for level in size.levels}

    def see(level: float, above: Look, below: Look) -> None:
        share = (above.loss - level) / (above.loss - below.loss)
        one, other = _reading(ground, above), _reading(ground, below)
        found[level] = {name: (1 - share) * one[name] + share * other[name] for name in one}
        found[level]["apart"] = above.loss - below.loss

    data = batches(bytes_of(ground, "fit"), window, training, seed)
    train(module, watched(data, size, look, see), next_byte(plain_scores), training)
    layers = size.shape.blocks
    columns: dict[str, Array] = {
        name: np.concatenate([np.broadcast_to(row[name], layers) for row in found.values()]) for name in start
    }
    n = len(found) * layers
    return columns | {
        "level": np.repeat([*found], layers),
        "layer": np.tile(np.arange(layers), len(found)),
        "seed": np.full(n, number),
        "recipe": np.full(n, recipe.name),
        "size": np.full(n, ground.size),
        "parameters": np.full(n, sum(weight.numel() for weight in module.parameters())),
    }


def _reading(ground: Ground, look: Look) -> dict[str, Any]:
    """What is measured of a model, by layer ``[L]`` or one number."""
    made = continuity(look.module, cut(bytes_of(ground, "confirm"), SIZES[ground.size].shape.window))
    decayed = [weight.detach() for weight in look.module.parameters() if weight.dim() > 1]
    squares = sum(float(weight.double().square().sum()) for weight in decayed)
    return {
        "step": float(look.step),
        "tune": look.loss,
        "apart": 0.0,
        "cosine": made.cosine,
        "centred": made.centred,
        "distance": np.log(1 - made.centred),
        "agreement": made.agreement,
        "positions": float(made.positions),
        "sinks": made.sinks,
        "confirm": _loss(ground, look.module, "confirm"),
        "matrices": math.sqrt(squares / sum(weight.numel() for weight in decayed)),
    }


def _loss(ground: Ground, module: PlainLM, name: str) -> float:
    """Nats a byte over all documents of a set."""
    nats, count = evaluate(module, bytes_of(ground, name), plain_scores, SIZES[ground.size].shape.window)
    return float(nats.sum() / count.sum())


def watched(
    data: Iterable[Tensor], size: Size, look: Callable[[int], Look], see: Callable[[float, Look, Look], None]
) -> Iterator[Tensor]:
    """Batches, for as long as a model that is trained with each before the next is asked for has a level before it.

    Args:
        look: the model as it is, after so many steps.
        see: told of a level and the two looks between which the loss first fell to it or below; of none that it did
            not come to.
    """
    left, before = list(size.levels), None
    for step, batch in enumerate(data):
        if step % size.look == 0:
            now = look(step)
            if before is not None:
                for level in [one for one in left if before.loss > one >= now.loss]:
                    see(level, before, now)
                    left.remove(level)
            if not left:
                return
            before = now
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
    """About: a training ends after half its steps, as that of the seed tried."""
    size = SIZES[ground.size]
    steps, window, models = size.training.steps / 2, size.shape.window, size.seeds * len(RECIPES)
    tune, confirm = (
        sum(len(windows(len(document), window)) for document in bytes_of(ground, name)) for name in ("tune", "confirm")
    )
    looks, reads = steps / size.look, 1 + 2 * len(size.levels)
    trained = steps * size.training.batch
    # windows that overlap by half are twice as many as those that do not, which are read twice, and out at every layer
    read = looks * tune + reads * 2 * confirm
    readouts = window * (trained + looks * tune + reads * confirm * (1 + (size.shape.blocks + 1) / 2))
    forwards = models * (trained + read)
    step = step_seconds(size.shape, size.training, next_byte(plain_scores)) / size.training.batch
    seconds = models * step * (trained + read / 3)  # no way back
    return Cost(forwards, int(forwards * window), int(models * readouts), seconds)
