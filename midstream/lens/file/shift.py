"""Whether an imported lens counts layers as we do: its maps one layer off must do worse on a short text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from midstream.lens.fit.jacobian import pulled
from midstream.lens.lens import Lens
from midstream.lens.passage import MIN_CONTEXT
from midstream.model.forward import differentiable
from midstream.model.load import PROBE
from midstream.model.model import Model
from midstream.readout.read import Rows, read
from midstream.readout.reader import output_reader
from midstream.stream.capture import capture

MOST = 8
"""Layers that are read: each costs three products with the vocabulary."""
DIRECTIONS = 8
"""Directions that a Jacobian is compared in: each costs a pass backwards."""

Errors = dict[tuple[int, int], float]
"""(layer, layer whose map it is read with) -> how wrong that is."""


def check_layers(lens: Lens, model: Model) -> tuple[dict[str, Any], str]:
    """How wrong a lens is on the probe text as it is, and with its maps one layer off.

    How wrong is KL(final ‖ lens) in nats, at eight layers evenly spread. A Jacobian lens is not made for that and can
    read better one layer off: there it is 1 − cosine between Jᵀv and the derivative itself, over eight directions v.

    Args:
        lens: an output lens at resid_post.

    Returns:
        ``{"measure": ..., "-1": {"as it is", "shifted", "worse", "layers"}, "1": ...}``: means over the layers that
        have both maps, and at how many of how many of them the shift does worse; and a warning where it does better on
        average and at half of them (a Jacobian lens: two thirds), else "".
    """
    near = [layer for layer in sorted(lens.transports) if {layer - 1, layer + 1} & {*lens.transports}]
    jacobian = lens.kind == "jacobian"
    errors = _slopes(lens, model, near) if jacobian else _kl(lens, model, _spread(near))
    measure = "1 - cosine to the derivative" if jacobian else "KL to the model's output, nats"
    check: dict[str, Any] = {"measure": measure}
    note, most = "", 2 / 3 if jacobian else 1 / 2
    for shift, word in ((-1, "back"), (1, "further")):
        both = [layer for layer in near if (layer, layer) in errors and (layer, layer + shift) in errors]
        if not both:
            continue
        own, other = (math.fsum(errors[layer, layer + by] for layer in both) / len(both) for by in (0, shift))
        worse = sum(errors[layer, layer] < errors[layer, layer + shift] for layer in both)
        check[str(shift)] = {"as it is": own, "shifted": other, "worse": worse, "layers": len(both)}
        if (better := 1 - worse / len(both)) >= most and other < own:
            most = better
            note = (
                f"the lens {lens.name!r} does better with the maps of one layer {word} at {len(both) - worse} of "
                f"{len(both)} layers ({measure}: {other:.3g}, {own:.3g} as it is): its layers may be counted in "
                "another way, or it was fitted for another model."
            )
    return check, note


def _kl(lens: Lens, model: Model, layers: list[int]) -> Errors:
    last = model.anatomy.layers
    ids = torch.tensor([model.tokenizer.encode(PROBE).ids[: model.context]], device=model.device)
    stream = {layer: h[0, MIN_CONTEXT:].float() for layer, h in capture(model, ids, layers=[*layers, last]).items()}
    reader = output_reader(model.anatomy)
    device = reader.weight.device
    pairs = [(layer, layer + shift) for layer in layers for shift in (0, -1, 1) if layer + shift in lens.transports]
    moved = [reader.prepare(lens.transports[other](stream[layer].cpu()).to(device)) for layer, other in pairs]
    none = torch.full((len(stream[last]), 1), -1)
    final = reader.prepare(stream[last].to(device))
    done = read(reader, [Rows(x, none) for x in moved], reference=final, top_k=1)
    return {pair: float(np.mean(columns.kl_final_lens)) for pair, columns in zip(pairs, done, strict=True)}


def _slopes(lens: Lens, model: Model, layers: list[int]) -> Errors:
    ids = torch.tensor([model.tokenizer.encode(PROBE * 3).ids[: model.context]], device=model.device)
    stream = differentiable(model.anatomy, ids)
    along = torch.randn(DIRECTIONS, model.anatomy.width, generator=torch.Generator().manual_seed(0))
    true = torch.cat([pulled(stream, v[None].to(model.device)).cpu() for v in along], dim=1)  # [L, 8, d]
    stated = {layer: along @ lens.transports[layer].weight for layer in lens.transports}
    pairs = [(layer, layer + shift) for layer in layers for shift in (0, -1, 1) if layer + shift in lens.transports]
    return {
        (layer, other): 1 - float(torch.cosine_similarity(stated[other].flatten(), true[layer].flatten(), dim=0))
        for layer, other in pairs
        if layer < len(true)
    }


def _spread(layers: list[int]) -> list[int]:
    """At most ``MOST`` of the layers, the first and the last among them."""
    if len(layers) <= MOST:
        return layers
    return [layers[round(number * (len(layers) - 1) / (MOST - 1))] for number in range(MOST)]
