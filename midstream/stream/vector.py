"""Vectors to edit with: the mean difference of texts, what another run had, chance of equal norm.

A token's rows are those of ``Anatomy.input_rows`` and ``output_rows``; what moves a lens is in ``lens.direction``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.model.model import Model
from midstream.stream.capture import capture, capture_sites
from midstream.stream.change import Replace, SetCoordinates
from midstream.stream.edit import Edit

SINK = 10.0
"""A position whose norm exceeds this many times the median of its layer counts as an attention sink."""


def random_like(vector: Tensor, generator: torch.Generator) -> Tensor:
    """Vectors ``[..., d]`` of uniformly random direction, each as long as the one in its place."""
    drawn = torch.randn(vector.shape, generator=generator, dtype=torch.float64)
    length = vector.double().norm(dim=-1, keepdim=True).cpu()
    return (drawn / drawn.norm(dim=-1, keepdim=True) * length).to(vector.device, vector.dtype)


def sinks(h: Tensor) -> Tensor:
    """Which positions of one layer's stream ``[b, t, d]`` are attention sinks: bool ``[b, t]``.

    Position 0, and those whose norm exceeds ``SINK`` times the median over all positions; they hold what other
    positions attend to for want of anything else, and an edit of one is an edit of all that follows (Xiao et al. 2023).
    """
    norm = h.float().norm(dim=-1)
    found = norm > SINK * norm.median()
    found[:, 0] = True
    return found


def mean_difference(
    model: Model,
    towards: Iterable[Sequence[int]],
    away: Iterable[Sequence[int]],
    layers: Sequence[int],
    *,
    site: str = "resid_post",
    last: bool = False,
) -> dict[int, Tensor]:
    """Steering vectors: the mean stream of some texts less that of others (Turner et al. 2023; Marks and Tegmark 2023).

    Args:
        towards, away: token ids of texts; texts weigh equally, in a text positions do. Sinks are left out.
        layers: at each of which a vector is made.
        last: only the last position of each text counts, whatever it is.

    Returns:
        layer -> ``[d]`` float32.

    Raises:
        RequestError: where one of the two sides has no text, or none without a position that counts.
    """
    means = [
        _mean(model, list(side), layers, site, last, name) for side, name in ((towards, "first"), (away, "second"))
    ]
    return {layer: (means[0][layer] - means[1][layer]).float() for layer in layers}


def _mean(
    model: Model, texts: list[Sequence[int]], layers: Sequence[int], site: str, last: bool, name: str
) -> dict[int, Tensor]:
    total: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for ids in texts:
        if len(ids) < 2:
            continue  # its only position is a sink
        stream = capture(model, torch.tensor([ids], device=model.device), layers=layers, site=site)
        for layer, h in stream.items():
            rows = h[0, -1:] if last else h[0][~sinks(h)[0]]
            if len(rows):
                total[layer].append(rows.double().mean(0))
    empty = [layer for layer, means in total.items() if not means]
    if empty or not total:
        raise RequestError(f"the {name} set of texts has no position to average: give it texts of two tokens or more.")
    return {layer: torch.stack(means).mean(0) for layer, means in total.items()}


def patch(
    model: Model,
    ids: Tensor,
    layers: Sequence[int],
    positions: Sequence[int],
    *,
    onto: Sequence[int] | None = None,
    site: str = "resid_post",
) -> list[Edit]:
    """Edits that put in what another run had: the run over ``ids`` ``[1, t]``, at each of its ``positions``.

    Args:
        onto: positions of the edited text that receive them; None: the same.
    """
    stream = capture(model, ids, layers=layers, site=site)
    pairs = sorted(zip(positions if onto is None else onto, positions, strict=True))
    to, source = tuple(pair[0] for pair in pairs), [pair[1] for pair in pairs]
    return [Edit(site, (layer,), to, Replace(h[:, source])) for layer, h in stream.items()]


def swap(
    model: Model,
    ids: Tensor,
    directions: dict[int, Tensor],
    positions: Sequence[int] | None = None,
    *,
    site: str = "resid_post",
) -> list[Edit]:
    """Edits that exchange what the stream of the text ``ids`` ``[1, t]`` has along two directions, over layers.

    The coordinates come from one run without edits. Read again from the edited stream at each layer, the second swap
    would undo the first, and a band of layers would do nothing or everything by its parity.

    Args:
        directions: layer -> ``[2, d]``.
    """
    at = tuple(range(ids.shape[1])) if positions is None else tuple(sorted({p % ids.shape[1] for p in positions}))
    stream = capture_sites(model, ids, [(layer, site) for layer in directions])
    edits: list[Edit] = []
    for layer, rows in directions.items():
        h = stream[layer, site][:, list(at)].float()
        edits.append(Edit(site, (layer,), at, SetCoordinates(rows, (h @ rows.to(h.device).T).flip(-1))))
    return edits
