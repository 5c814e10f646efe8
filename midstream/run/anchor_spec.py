"""An anchor as a user writes it: ``15:0.1``, or ``15:0.1 vector=unembedding surprise=3``.

LAYER:STRENGTH                          l0 and alpha of ``sample.anchor.Anchor``
vector=embedding                        or unembedding, or lens:NAME: what the lens's map takes to the token's row
keep_norm=no                            the moved stream may change its length
every_layer=yes                         it is moved again after every later block
surprise=3                              only where the token that came had less than exp(-3) of the probability
"""

from __future__ import annotations

import shlex
from collections.abc import Callable

import torch
from torch import Tensor

from midstream.errors import RequestError, choices
from midstream.lens.file.find import find
from midstream.model.model import Model
from midstream.run.numbers import pairs
from midstream.sample.anchor import Anchor, check

KEYS = ("vector", "keep_norm", "every_layer", "surprise")


def anchor_of(model: Model, given: str) -> Anchor:
    """The anchor that a text describes. Raises RequestError for a text that is none, or does not fit the model."""
    try:
        place, *pieces = shlex.split(given)
        layer, strength = place.split(":")
        numbers = int(layer), float(strength)
    except ValueError:
        raise RequestError(f"the anchor {given!r} is none: expected LAYER:STRENGTH, for example 15:0.1.") from None
    values = pairs(f"the anchor {given!r}", pieces)
    if unknown := set(values) - set(KEYS):
        raise choices("key of an anchor", min(unknown), KEYS)
    name = values.get("vector", "embedding")
    try:
        surprise = float(values.get("surprise", "0"))
    except ValueError:
        raise RequestError(f"surprise is {values['surprise']!r}: expected nats, 0 or more.") from None
    if not 0 <= surprise < float("inf"):
        raise RequestError(f"surprise is {surprise}: expected nats, 0 or more.")
    keep, every = _yes(values, "keep_norm", "yes"), _yes(values, "every_layer", "no")
    anchor = Anchor(*numbers, _rows(model, name, numbers[0]), name, keep, every, surprise)
    check(model, anchor)
    return anchor


def _yes(values: dict[str, str], key: str, default: str) -> bool:
    given = values.get(key, default)
    if given not in ("yes", "no"):
        raise choices(f"value of {key}", given, ("yes", "no"))
    return given == "yes"


def _rows(model: Model, name: str, layer: int) -> Callable[[Tensor], Tensor]:
    if name == "embedding":
        return model.anatomy.input_rows
    if name == "unembedding":
        return model.anatomy.output_rows
    source, colon, lens_name = name.partition(":")
    if source != "lens" or not colon:
        raise choices("vector of an anchor", name, ("embedding", "unembedding", "lens:NAME"))
    lens = find(model, lens_name)
    if lens.source != "stream" or not lens.reads(layer, "resid_post"):
        raise RequestError(f"lens {lens.name!r} does not read resid_post at layer {layer}: choose another layer.")
    rows = model.anatomy.output_rows if lens.reader == "output" else model.anatomy.input_rows
    move = lens.transports.get(layer)
    if move is None:
        return rows
    # least-norm: the map of a fitted lens need not have an inverse
    back = torch.linalg.pinv(move.weight.double())
    shift = torch.zeros(len(back)) if move.bias is None or lens.reader == "output" else move.bias

    def needed(tokens: Tensor) -> Tensor:
        target = rows(tokens)
        return ((target - shift.to(target.device)).double() @ back.T.to(target.device)).float()

    return needed
