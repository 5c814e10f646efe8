"""What training with the anchor does: small models of bytes, trained and read under it from the start.

Moving the stream of a model that was never trained so tests how robust it is; the idea is a way to train. It was
thought to cost the parallel training of all positions, since what position i shows to later ones depends on the token
at i + 1. It does not: with the text given, that token is known, and one pass over two copies of it
(``sample.anchor.doubled``) gives every prediction as generation would.

Models of one seed start equal and see the same batches. Besides the plain model and the anchored one there is one whose
stream is moved as much towards the token just read, which tells nothing new: same passes, same parameters, no news.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from midstream.band import runs
from midstream.errors import RequestError
from midstream.model.plain import GPT2Trunk, Pass, PlainLM, begin
from midstream.record import Array, Estimate
from midstream.sample.anchor import doubled
from midstream.study.anchoring.condition import OWN, TRUE
from midstream.study.study import Arm, Columns, Cost, Ground, Need, Records, Stage, Unit
from midstream.study.toy import (
    Scoring,
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

PLAIN = "plain"
ARMS = (PLAIN, TRUE, OWN)
"""How a model is trained and read: as it is, moved towards the true next token, moved towards the token read."""

UNTRAINED = "plain, moved"
"""A model trained as it is and read under the anchor."""

ALPHA = 0.5
"""Strength of the interpolation: strong, since the model is trained with it."""

UNIT = "nats a byte"


@dataclass(frozen=True)
class Size:
    """How much is done; ``seeds`` models of each arm are trained."""

    shape: Shape
    training: Training
    seeds: int

    @property
    def layer(self) -> int:
        """l0, half of the blocks."""
        return self.shape.blocks // 2


SIZES = {
    "quick": Size(Shape(32, 4, 2, 64), Training(steps=40, batch=8, rate=0.008, warmup=8), seeds=2),
    "default": Size(Shape(64, 4, 4, 96), Training(steps=1000, batch=16, rate=0.008, warmup=50), seeds=5),
    "large": Size(Shape(96, 4, 6, 128), Training(steps=4000, batch=16, rate=0.006, warmup=100), seeds=5),
}
"""The default rate and the scale of the first embeddings were chosen by the plain model's loss in 500 steps of training
with seed 7 alone: in the plain model's favour, and before any other arm had run at this size."""

NEEDS = {
    "quick": {"fit": Need(150, 700, whole=False), "confirm": Need(12, 256, whole=False)},
    "default": {"fit": Need(1500, 700, whole=False), "confirm": Need(60, 256, whole=False)},
    "large": {"fit": Need(1500, 700, whole=False), "confirm": Need(60, 256, whole=False)},
}


def anchored_scores(module: PlainLM, ids: Tensor, layer: int, alpha: float, toward: str) -> Tensor:
    """What each position predicts, all positions before it moved; differentiable in every parameter.

    The blocks up to l0 run once. From there on the text stands twice: copies that are moved and seen by later
    positions, and copies that stay as they are and predict. Position 0, where attention rests for want of anything
    else, is not moved.

    Args:
        module: a GPT-2.
        ids: ``[b, t]`` int64.
        layer: l0, 1 to L - 1.
        alpha: 0 to 1; at 0 this is the ordinary pass, bit for bit.
        toward: whose embedding the stream at i is moved to: that of the token at i + 1 (``true``), or at i
            (``token read``).

    Returns:
        Logits ``[b, t, V]``.

    Raises:
        RequestError: for another kind of model, layer, strength or token.
    """
    trunk = module.model
    if not isinstance(trunk, GPT2Trunk) or not 1 <= layer < len(trunk.h):
        blocks = len(trunk.h) if isinstance(trunk, GPT2Trunk) else 0
        raise RequestError(f"layer {layer} of {blocks} GPT-2 blocks: expected a GPT-2 and layer 1 to {blocks - 1}.")
    if not 0 <= alpha <= 1 or toward not in (TRUE, OWN):
        raise RequestError(f"strength {alpha} towards {toward!r}: expected 0 to 1, {TRUE!r} or {OWN!r}.")
    if alpha == 0:
        return module(ids).logits
    t = ids.shape[1]
    now = begin(ids, None, None, None)
    h = trunk.wte(ids) + trunk.wpe(now.positions)  # [b, t, d]
    for block in trunk.h[:layer]:
        h = block(h, now)
    target = torch.cat([ids[:, 1:], ids[:, -1:]], dim=1) if toward == TRUE else ids
    place = torch.arange(t, device=ids.device)[:, None]
    chosen = (place > 0) & (place < t - 1)  # nothing comes after the last one that would see it
    h = torch.cat([torch.where(chosen, moved(h, trunk.wte(target), alpha), h), h], dim=1)  # [b, 2t, d]
    sight = doubled(t, ids.device)
    now = Pass(sight.positions, sight.additive(ids.device, h.dtype), None)
    for block in trunk.h[layer:]:
        h = block(h, now)
    return module.lm_head(trunk.ln_f(h[:, t:]))


def moved(h: Tensor, v: Tensor, alpha: float) -> Tensor:
    """``stream.change.Interpolate`` with gradients: h ``[..., d]`` towards v at the length of h, and given that length.

    ``h' = (1 - alpha) h + alpha v |h| / |v|``, times ``|h| / |h'|``.
    """
    norm = h.norm(dim=-1, keepdim=True)
    return norm * F.normalize((1 - alpha) * h + alpha * norm * F.normalize(v, dim=-1), dim=-1)


def scoring(arm: str, layer: int, alpha: float = ALPHA) -> Scoring:
    """How the models of an arm read: ids ``[b, t]`` to logits ``[b, t, V]``."""
    if arm == PLAIN:
        return plain_scores
    return lambda module, ids: anchored_scores(module, ids, layer, alpha, arm)


def _units(ground: Ground, _records: Records) -> list[Unit]:
    numbers = range(SIZES[ground.size].seeds)
    return [Unit(f"seed-{number}-{arm.replace(' ', '-')}", (number, arm)) for number in numbers for arm in ARMS]


def _measure(ground: Ground, unit: Unit) -> Columns:
    """Trains one model; one row a document of ``confirm`` for each way in which it is read."""
    number, arm = unit.what
    seed = 100 * ground.seed + number
    size = SIZES[ground.size]
    shape, training = size.shape, size.training
    module = fresh(shape, seed)
    data = batches(bytes_of(ground, "fit"), shape.window, training, seed)
    train(module, data, next_byte(scoring(arm, size.layer)), training)
    confirm, numbers = bytes_of(ground, "confirm"), [text.number for text in ground.texts["confirm"]]
    readings = {arm: arm} | ({UNTRAINED: TRUE} if arm == PLAIN else {})
    found = [evaluate(module, confirm, scoring(how, size.layer), shape.window) for how in readings.values()]
    n = len(numbers)
    return {
        "seed": np.full(n * len(found), number, np.int32),
        "arm": np.repeat(np.array([*readings]), n),
        "document": np.tile(np.array(numbers, np.int32), len(found)),
        "nats": np.concatenate([nats for nats, _ in found]),
        "bytes": np.concatenate([count for _, count in found]).astype(np.int32),
        "size": np.full(n * len(found), ground.size),
    }


def check(ground: Ground) -> None:
    """Raise RequestError where there are too few bytes to train on, or none to read."""
    size = SIZES[ground.size]
    check_room(bytes_of(ground, "fit"), size.shape.window, size.training)
    if not any(len(document) > 1 for document in bytes_of(ground, "confirm")):
        raise RequestError("no document that confirms has two bytes: expected text to read.")


def cost(ground: Ground) -> Cost:
    """What the arm takes; a step of training is one pass of each of its windows, its seconds hold the way back too."""
    size = SIZES[ground.size]
    shape, training = size.shape, size.training
    read = [part for document in bytes_of(ground, "confirm") for part in windows(len(document), shape.window)]
    shares = {PLAIN: 1.0, TRUE: 2 - size.layer / shape.blocks}
    many = {PLAIN: 1, TRUE: len(ARMS) - 1}  # models of either kind
    also = {PLAIN: 0, TRUE: 1}  # evaluations of plain models under the anchor
    trained, evaluated = training.steps * training.batch, len(read)
    forwards = seconds = 0.0
    for arm, share in shares.items():
        passes = many[arm] * trained, (many[arm] + also[arm]) * evaluated
        forwards += size.seeds * share * sum(passes)
        once = step_seconds(shape, training, next_byte(scoring(arm, size.layer))) / training.batch
        seconds += size.seeds * once * (passes[0] + passes[1] / 3)  # no way back
    positions = sum(p for _, _, p in read)
    readouts = size.seeds * (len(ARMS) * trained * shape.window + (len(ARMS) + 1) * positions)
    return Cost(forwards, int(forwards * shape.window), readouts, seconds)


def levels(records: Records) -> list[tuple[str, Estimate]]:
    """How well the models of each arm predict: ``-log p``, nats a byte, mean over seeds."""
    found = _by_seed(records)
    names = [name for name in (PLAIN, TRUE, OWN, UNTRAINED) if name in found]
    made = [(name, runs([*found[name].values()], unit=UNIT)) for name in names]
    return [(name, replace(one, method=one.method.replace("paired runs", "runs"))) for name, one in made]


def findings(records: Records) -> list[tuple[str, Estimate]]:
    """Differences of arms in nats a byte, below 0 where the first predicts better; paired over the seeds both have.

    A difference between models of one seed is that of what they were trained for: weights at the start, batches and
    documents read are the same. Intervals are over seeds, for this text and these documents.
    """
    found = _by_seed(records)
    pairs = ((TRUE, PLAIN), (TRUE, OWN), (OWN, PLAIN), (UNTRAINED, PLAIN))
    estimates: list[tuple[str, Estimate]] = []
    for one, other in pairs:
        both = [seed for seed in found.get(one, {}) if seed in found.get(other, {})]
        if both:
            differences = [found[one][seed] - found[other][seed] for seed in both]
            estimates.append((f"{one} − {other}", runs(differences, unit=UNIT)))
    return estimates


def setting(records: Records) -> str:
    """What was trained and read, in sentences."""
    columns = records["toy"]
    size = SIZES[str(columns["size"][0])]
    shape, training = size.shape, size.training
    one = (columns["arm"] == columns["arm"][0]) & (columns["seed"] == columns["seed"][0])
    seeds = len(np.unique(columns["seed"]))
    return (
        f"GPT-2-style models of bytes, {shape.blocks} blocks of width {shape.width}, windows of {shape.window} bytes, "
        f"{training.steps:,} steps of {training.batch} windows; {seeds} seeds, each with the same first weights and "
        f"batches for every arm. The stream is moved after block {size.layer}, strength {ALPHA:g}, towards the "
        f"embedding of the byte that came next ({TRUE}) or of the byte just read ({OWN}); position 0 stays. Read on "
        f"{int(one.sum())} documents, {int(columns['bytes'][one].sum()):,} bytes, each model as it was trained; "
        f"“{UNTRAINED}” is the plain one read under the anchor. Intervals are over seeds alone."
    )


def _by_seed(records: Records) -> dict[str, dict[int, float]]:
    """Arm -> seed -> nats a byte over all documents."""
    columns = records["toy"]
    found: dict[str, dict[int, float]] = {}
    for arm in np.unique(columns["arm"]):
        for seed in np.unique(columns["seed"][columns["arm"] == arm]):
            rows = (columns["arm"] == arm) & (columns["seed"] == seed)
            found.setdefault(str(arm), {})[int(seed)] = float(
                _sum(columns["nats"], rows) / _sum(columns["bytes"], rows)
            )
    return found


def _sum(values: Array, rows: Array) -> float:
    return float(values[rows].sum(dtype=np.float64))


ARM = Arm(needs=NEEDS, stages=(Stage("toy", _units, _measure),), check=check, cost=cost)
"""The arm ``toy`` of the study."""
