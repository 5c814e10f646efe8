"""The maps from the stream to the row of a token: those of lenses as least squares left them, and the study's own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from midstream.lens.fit.least_squares import Fitted, solve, solve_shared
from midstream.lens.fit.sums import Batch, Key, Sums
from midstream.lens.lens import Lens
from midstream.stream.capture import capture
from midstream.stream.vector import sinks
from midstream.study.fitting import share
from midstream.study.recovery.plan import (
    FIRST,
    HELD,
    HELD_SHARE,
    NOISY,
    OTHER,
    OWN,
    SHARED,
    SIZES,
    Cell,
    depth,
    steps,
)
from midstream.study.recovery.token import unseen
from midstream.study.refit import Maps, fitted
from midstream.study.study import Ground, Text

ROW = "row"

AVERAGED = 16
"""Texts to fit on whose mean stream lenses are taken apart about."""

ALL: Key = ("stream", -1)
"""The key of a map for all layers together."""


@dataclass(frozen=True)
class Reading:
    """Rows predicted from the stream.

    Attributes:
        row: ``[n, d]`` float32 by least squares.
        scored, beta: ``[n, d]`` and a factor, what calibrated log-probabilities are made from; None where there are
            none.
    """

    row: Tensor
    scored: Tensor | None = None
    beta: float = 1.0


def predicted(ground: Ground, cell: Cell, h: Tensor, rows: Tensor, draw: int) -> Reading:
    """What a cell's map makes of the stream of its layer.

    Args:
        h: ``[n, d]`` float32, the stream.
        rows: ``[n, d]`` float32, the rows of the tokens read, for the control that has no stream.
        draw: number of that control's noise.
    """
    if cell.reader == NOISY:
        return Reading(_noisy(ground, cell.layer, rows, draw))
    if cell.refit >= 0:
        found = refits(ground)[cell.refit + 1]
        return Reading(found[ALL if cell.reader == SHARED else ("stream", cell.layer), ROW].transport(h))
    if cell.reader == HELD:
        return Reading(disjoint(ground)[("stream", cell.layer), ROW].transport(h))
    lens = ground.lenses[f"input:{cell.lag}{':shared' if cell.reader == SHARED else ''}"]
    layer = depth(ground.model.anatomy.layers, 0.5) if cell.reader == OTHER else cell.layer
    move, scale = lens.transports[layer], float(lens.about["fit"]["scale"][str(layer)])
    scored = move(h)
    beta = lens.betas.get(cell.layer)
    calibrated = cell.reader == OWN and beta is not None
    # a lens's prediction is scaled away from its mean, see lens.fit.beta: the squared error wants it as it was
    mean = move(means(ground, lens)[layer][None])
    return Reading(mean + (scored - mean) / scale, scored if calibrated else None, beta or 1.0)


def means(ground: Ground, lens: Lens) -> dict[int, Tensor]:
    """The mean stream at each layer of a lens over some texts to fit on, sinks left out: layer -> ``[d]`` float32."""
    if "means" not in ground.keep:
        layers = list(lens.layers or ())
        total = {layer: torch.zeros(ground.model.anatomy.width, dtype=torch.float64) for layer in layers}
        count = 0
        for _, stream in passes(ground, ground.texts["fit"][:AVERAGED], layers):
            count += len(next(iter(stream.values())))
            for layer, h in stream.items():
                total[layer] += h.sum(0, dtype=torch.float64).cpu()
        ground.keep["means"] = {layer: (value / count).float() for layer, value in total.items()}
    return ground.keep["means"]


def per_text(ground: Ground) -> int:
    """Tokens of each text to fit on that the study's own maps are fitted on."""
    lengths = [len(text.ids) for text in ground.texts["fit"]]
    return min(share(lengths, SIZES[ground.size].refit), ground.model.context)


def passes(ground: Ground, texts: Sequence[Text], layers: Sequence[int]) -> Iterator[tuple[Tensor, dict[int, Tensor]]]:
    """The first tokens of texts to fit on, at positions that count: ids ``[n]``, and layer -> ``[n, d]`` float32."""
    model, most = ground.model, per_text(ground)
    for text in texts:
        ids = torch.tensor(text.ids[:most])
        if len(ids) <= FIRST:
            continue
        stream = capture(model, ids[None].to(model.device), layers=layers)
        kept = torch.stack([~sinks(h) for h in stream.values()]).all(0)[0]
        kept[:FIRST] = False
        yield ids[kept.cpu()], {layer: h[0, kept].float() for layer, h in stream.items()}


def refits(ground: Ground) -> list[Maps]:
    """Least squares at ``steps``, a map a layer and one for all: of all fit texts, then without a quarter each."""
    return fitted(ground, "recovery", lambda texts: _rows(ground, texts), solved=_with_shared)


def disjoint(ground: Ground) -> Maps:
    """The same without a fifth of the token types."""
    return fitted(ground, "recovery, unseen types", lambda texts: _rows(ground, texts, left_out=True))[0]


def _with_shared(fit: Sums, held: Sums) -> Maps:
    shared: dict[tuple[Key, str], Fitted] = {(ALL, ROW): solve_shared(fit, held, ROW)[0]}
    return solve(fit, held) | shared


def _rows(ground: Ground, texts: Sequence[Text], left_out: bool = False) -> Iterator[Batch]:
    for ids, stream in passes(ground, texts, _steps(ground)):
        kept = ~unseen(ground, HELD_SHARE)[ids] if left_out else torch.ones(len(ids), dtype=torch.bool)
        x: dict[Key, Tensor] = {("stream", layer): h[kept.to(h.device)] for layer, h in stream.items()}
        yield x, {ROW: ground.model.anatomy.input_rows(ids[kept].to(ground.model.device))}, None


def _steps(ground: Ground) -> tuple[int, ...]:
    return steps(ground.model.anatomy.layers)


def spread(ground: Ground) -> tuple[Tensor, Tensor, Tensor]:
    """Of the rows in the texts to fit on, as they come: mean ``[d]``, variances ``[d]``, directions ``[d, d]``.

    float64, on the CPU.
    """
    if "spread" not in ground.keep:
        ids = torch.tensor([token for text in ground.texts["fit"] for token in text.ids])
        token, times = ids.unique(return_counts=True)
        rows, weight = ground.model.anatomy.input_rows(token.to(ground.model.device)).double().cpu(), times.double()
        mean = weight @ rows / weight.sum()
        centred = (rows - mean) * (weight / weight.sum()).sqrt()[:, None]
        values, basis = torch.linalg.eigh(centred.T @ centred)
        ground.keep["spread"] = mean, values.clamp(min=0), basis
    return ground.keep["spread"]


def _noisy(ground: Ground, layer: int, rows: Tensor, draw: int) -> Tensor:
    """The best linear prediction of rows from themselves and white noise, as good by R² as the layer's own map.

    With variances λ and noise σ² it is ``mean + Q λ/(λ + σ²) Qᵀ (row - mean + noise)``, of R² ``Σ λ²/(λ+σ²) / Σ λ``.
    NaN where the layer's map explains nothing.
    """
    mean, values, basis = spread(ground)
    wanted = 1 - float(ground.lenses["input:0"].about["fit"]["fvu_held"][str(layer)])
    noise = noise_of(values, wanted)
    drawn = np.random.default_rng([ground.seed, layer, draw]).standard_normal(tuple(rows.shape)) * noise**0.5
    shrunk = values / (values + noise).clamp(min=1e-300)
    moved = (rows.double().cpu() - mean + torch.from_numpy(drawn)) @ basis
    return (mean + (moved * shrunk) @ basis.T).float().to(rows.device)


def noise_of(values: Tensor, r2: float) -> float:
    """The variance of white noise under which rows with variances λ ``[d]`` can be predicted with an R², by halving.

    NaN for an R² that no noise gives.
    """
    if not 0 < r2 <= 1:
        return math.nan
    total, low, high = float(values.sum()), 0.0, 1e9 * float(values.max())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((values**2 / (values + middle)).sum()) / total > r2 else (low, middle)
    return low
