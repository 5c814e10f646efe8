"""The maps from the stream to the row of a token: those of lenses as least squares left them, and the study's own."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from midstream.lens.fit.least_squares import Fitted, solve, solve_shared
from midstream.lens.fit.sums import Calibration, Key, Sums, calibrate
from midstream.lens.lens import Lens
from midstream.stream.capture import capture
from midstream.stream.vector import sinks
from midstream.study.fitting import share
from midstream.study.recovery.plan import (
    FIRST,
    HELD,
    HELD_SHARE,
    LESS,
    OTHER,
    OWN,
    SHARED,
    SIZES,
    Cell,
    depth,
    steps,
)
from midstream.study.recovery.token import unseen
from midstream.study.refit import CALIBRATED, Maps, grouped
from midstream.study.study import Ground, Text

ROW = "row"

AVERAGED = 16
"""Texts to fit on whose mean stream lenses are taken apart about."""

ENOUGH = 12
"""Tokens for each dimension of the stream: a quarter of them is left out, an eighth chooses the ridge, a fifth has
types that are not to be seen, and four are needed."""

ALL: Key = ("stream", -1)
"""The key of a map for all layers together."""


@dataclass(frozen=True)
class Reading:
    """Rows predicted from the stream.

    Attributes:
        row: ``[n, d]`` float32 by least squares, for squared errors.
        scored: ``[n, d]`` the same scaled away from its mean, for the nearest row: see ``lens.fit.beta``.
        beta: factor of the scores that makes calibrated log-probabilities of them; None where there is none.
    """

    row: Tensor
    scored: Tensor
    beta: float | None = None

    @classmethod
    def shrunk(cls, row: Tensor, mean: Tensor, scale: float) -> Reading:
        """Of a prediction by least squares, which is shrunk towards ``mean`` ``[d]``."""
        return cls(row, mean + scale * (row - mean))


def predicted(ground: Ground, cell: Cell, h: Tensor) -> Reading:
    """What a cell's map makes of the stream of its layer, h ``[n, d]`` float32.

    All are scaled as the layer's own lens is: one map for all layers has no scale of its own, nor have the study's.
    """
    own = ground.lenses[f"input:{cell.lag}"]
    lens = ground.lenses[f"input:{cell.lag}:shared"] if cell.reader == SHARED else own
    layer = depth(ground.model.anatomy.layers, 0.5) if cell.reader == OTHER else cell.layer
    middle, scale = means(ground, lens)[layer][None], scale_of(own, layer)
    if cell.refit >= 0 or cell.reader in (LESS, HELD):
        found = disjoint(ground) if cell.reader == HELD else refits(ground)[cell.refit + 1]
        move = found[ALL if cell.reader == SHARED else ("stream", cell.layer), ROW].transport
        return Reading.shrunk(move(h), move(middle), scale)
    move = lens.transports[layer]
    mean = move(middle)
    row = mean + (move(h) - mean) / scale_of(lens, layer)
    return replace(Reading.shrunk(row, mean, scale), beta=lens.betas.get(cell.layer) if cell.reader == OWN else None)


def scale_of(lens: Lens, layer: int) -> float:
    """How far an input lens's map was scaled away from its mean."""
    return float(lens.about["fit"]["scale"][str(layer)])


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
    """Tokens of each text to fit on that the study's own maps are fitted on: enough for a wide model's too."""
    lengths = [len(text.ids) for text in ground.texts["fit"]]
    wanted = max(SIZES[ground.size].refit, ENOUGH * ground.model.anatomy.width)
    return min(share(lengths, wanted), ground.model.context)


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
    return _own(ground)[0]


def disjoint(ground: Ground) -> Maps:
    """A map a layer of all fit texts without a fifth of the token types."""
    return _own(ground)[1]


def _own(ground: Ground) -> tuple[list[Maps], Maps]:
    """Both, from one pass: sums of different positions add up, so that each part is counted by whether it is seen."""
    if "own maps" not in ground.keep:
        quarters, ridge = grouped(ground.texts["fit"])
        fixed = calibrate((x, y, None) for x, y, _ in _rows(ground, quarters[0][:CALIBRATED]))
        known = [_by_type(ground, fixed, group) for group in (*quarters, ridge)]
        *parts, held = [seen.merged(not_seen) for seen, not_seen in known]
        whole = functools.reduce(Sums.merged, parts)
        refitted = [_with_shared(sums, held) for sums in (whole, *(whole.without(part) for part in parts))]
        *seen, held = [seen for seen, _ in known]
        ground.keep["own maps"] = refitted, solve(functools.reduce(Sums.merged, seen), held)
    return ground.keep["own maps"]


def _by_type(ground: Ground, fixed: Calibration, texts: Sequence[Text]) -> tuple[Sums, Sums]:
    """The sums of the positions whose token's type the maps of ``HELD`` see, and of the others."""
    seen, not_seen = (Sums.empty(fixed, "a study's texts") for _ in range(2))
    for x, y, kept in _rows(ground, texts):
        for sums, where in ((seen, kept), (not_seen, ~kept)):
            sums.add({key: h[where] for key, h in x.items()}, {name: rows[where] for name, rows in y.items()}, None)
    seen.release()
    not_seen.release()
    return seen, not_seen


def _with_shared(fit: Sums, held: Sums) -> Maps:
    shared: dict[tuple[Key, str], Fitted] = {(ALL, ROW): solve_shared(fit, held, ROW)[0]}
    return solve(fit, held) | shared


def _rows(ground: Ground, texts: Sequence[Text]) -> Iterator[tuple[Mapping[Key, Tensor], Mapping[str, Tensor], Tensor]]:
    """Inputs, targets, and ``[n]`` bool, whether the token's type is seen by the maps of ``HELD``."""
    for ids, stream in passes(ground, texts, _steps(ground)):
        x: dict[Key, Tensor] = {("stream", layer): h for layer, h in stream.items()}
        rows = ground.model.anatomy.input_rows(ids.to(ground.model.device))
        yield x, {ROW: rows}, ~unseen(ground, HELD_SHARE)[ids].to(rows.device)


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


def noisy(ground: Ground, rows: Tensor, r2: float, draw: int) -> Tensor:
    """The best linear prediction of rows ``[n, d]`` from themselves and white noise, of an R² at these very rows.

    With variances λ and noise σ² it is ``mean + Q λ/(λ + σ²) Qᵀ (row - mean + noise)``. NaN where no noise gives it.

    Args:
        r2: ``1 − Σ|row − predicted|² / Σ|row − mean|²``, that of the map it is held against.
        draw: number of the noise.
    """
    mean, values, basis = spread(ground)
    a = (rows.double().cpu() - mean) @ basis
    drawn = torch.from_numpy(np.random.default_rng([ground.seed, draw]).standard_normal(tuple(a.shape)))
    noise = noise_of(a, drawn, values, r2)
    return (mean + _shrunk(a, drawn, values, noise) @ basis.T).float().to(rows.device)


def _shrunk(a: Tensor, drawn: Tensor, values: Tensor, noise: float) -> Tensor:
    return (a + noise**0.5 * drawn) * (values / (values + noise).clamp(min=1e-300))


def noise_of(a: Tensor, drawn: Tensor, values: Tensor, r2: float) -> float:
    """The variance of white noise under which rows can be predicted with an R², by halving its logarithm.

    NaN for an R² that no noise gives.

    Args:
        a: ``[n, d]`` rows less their mean, along the directions in which they have variances ``values`` ``[d]``.
        drawn: ``[n, d]`` normal.
    """
    whole = float(a.square().sum())
    if not whole or not r2 <= 1:
        return math.nan

    def reached(noise: float) -> float:
        return 1 - float((a - _shrunk(a, drawn, values, noise)).square().sum()) / whole

    low, high = 1e-12 * float(values.max()), 1e6 * float(values.max())
    if not reached(high) < r2:
        return math.nan
    if r2 >= reached(low):
        return 0.0
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if reached(middle) > r2 else (low, middle)
    return low
