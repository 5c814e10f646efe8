"""The second stage of tuned and future lenses: from the least-squares maps down the divergence from the model's output.

The loss and the place of the map, before the final norm, are those of Belrose et al. 2023; the start is the
least-squares map and the optimiser Adam (Kingma and Ba 2015) on the map's own coordinates, each row at a rate in
proportion to what the row gives, so that the step means the same for every layer, model and unit of the stream.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from midstream.errors import FitError
from midstream.lens.fit.sums import Key
from midstream.lens.lens import Transport
from midstream.readout.gradient import Target, kl_and_gradient
from midstream.readout.reader import Reader

Floats = npt.NDArray[np.float32]

STEP = 64
"""Positions in a step, drawn from many documents. Of the same positions, steps of 64 make more than steps of 256 do;
steps of 32 would gain another hundredth, and cost more than their products."""

RATE = 0.008
"""How far a weight moves in a step at the start, in units of the spread of its row's output over that of the input;
falls linearly to 0 at the planned number of positions."""

MOMENTUM = 0.9
"""Share of the running mean gradient that a step keeps."""

MEMORY = 0.95
"""Share of the running square of the gradient that a step keeps: short, as a whole fit is a few hundred steps."""

NOTHING = 1e-15
"""Added to the root of that square: a gradient this small moves nothing, and its square is 0 in float32."""

WARM_UP = 3
"""Steps over which the rate rises: the squares are hardly known before."""

PATIENCE = 3
"""Checks without any better map after which to stop."""

DIVERGED = 3.0
"""A held-out divergence this many times that of the start, or ``SMALL``, is no fit any more."""

SMALL = 0.3
"""Nats. Maps of the last layers start closer than this, and may lose for a while more than they have."""


@dataclass(eq=False)
class _Move:
    """One map on its way.

    Attributes:
        now: the map, its bias as the last column: ``[d, d_in + 1]``.
        unit: ``[d, 1]``, a step of size 1 of each row.
        slope, square: running means of the gradient and of its square, ``[d, d_in + 1]``.
        best: the best map so far; least: its held-out divergence; first: that of the start, nats.
    """

    now: Tensor
    unit: Tensor
    slope: Tensor
    square: Tensor
    best: Transport
    least: float = math.inf
    first: float = math.nan

    def __call__(self, x: Tensor) -> Tensor:
        return torch.addmm(self.now[:, -1], x, self.now[:, :-1].T)

    def go(self, gradient: Tensor, step: int, rate: float) -> None:
        """Step number ``step``, from 1, with the ``gradient`` ``[d, d_in + 1]`` of the mean divergence."""
        self.slope.lerp_(gradient, 1 - MOMENTUM)
        self.square.lerp_(gradient.square(), 1 - MEMORY)
        deviation = (self.square / (1 - MEMORY**step)).sqrt_().add_(NOTHING)
        self.now -= (rate / (1 - MOMENTUM**step)) * self.unit * self.slope / deviation

    def transport(self) -> Transport:
        """The map as it is, copied."""
        return Transport(self.now[:, :-1].clone(), self.now[:, -1].clone())


class Refinement:
    """Maps on their way from least squares to the least divergence from the model's output.

    The order of a fit: ``checkpoint`` of what ``evaluate`` says of the start on held-out text; steps, with checkpoints
    between them until one says stop; ``result``.

    Attributes:
        steps, seen: steps made and positions they saw.
    """

    def __init__(
        self,
        reader: Reader,
        starts: Mapping[Key, Transport],
        second_moments: Mapping[Key, Tensor],
        *,
        planned: int,
    ) -> None:
        """Start.

        Args:
            reader: the output reader.
            starts: key -> the least-squares map to the stream at layer L.
            second_moments: key -> ``[d_in, d_in]`` centred covariance of the map's input.
            planned: positions that all steps together will see; the rate falls to 0 over them.
        """
        self.steps = self.seen = 0
        self._reader, self._planned = reader, planned
        self._idle = 0
        self._moves = {key: _begin(start, second_moments[key], reader.weight.device) for key, start in starts.items()}

    def step(self, x: Mapping[Key, Tensor], target: Target) -> dict[Key, float]:
        """One step of every map.

        Args:
            x: key -> ``[n, d_in]`` float32, the map's input at n positions, the same for all keys.
            target: the model's output at the n positions that the readings are about.

        Returns:
            key -> mean divergence before the step, nats.

        Raises:
            FitError: a divergence or gradient is no number; the maps are as they were.
        """
        self.steps += 1
        mapped = {key: move(x[key]) for key, move in self._moves.items()}
        kl, slopes = kl_and_gradient(self._reader, self._prepared(mapped), target, rough=True)
        assert slopes is not None
        means = dict(zip(mapped, kl.mean(1).tolist(), strict=True))
        gradients = {
            key: _gradient(x[key], self._through_norm(mapped[key], slope))
            for key, slope in zip(mapped, slopes, strict=True)
        }
        for key, gradient in gradients.items():
            if not math.isfinite(means[key]) or not bool(gradient.isfinite().all()):
                raise FitError(f"the KL stage broke down at {name(key)}, step {self.steps}: its gradient is no number.")
        rate = RATE * max(0.0, 1 - self.seen / self._planned) * min(1.0, self.steps / WARM_UP)
        for key, move in self._moves.items():
            move.go(gradients[key], self.steps, rate)
        self.seen += len(target)
        return means

    def evaluate(self, x: Mapping[Key, Tensor], target: Target) -> dict[Key, Floats]:
        """key -> ``[n]`` KL(output || reading) of the maps as they are, nats; NaN where a row is no number."""
        mapped = {key: move(x[key]) for key, move in self._moves.items()}
        kl, _ = kl_and_gradient(self._reader, self._prepared(mapped), target, gradient=False)
        return dict(zip(mapped, kl.cpu().numpy(), strict=True))

    def checkpoint(self, held: Mapping[Key, float]) -> bool:
        """Keeps each map that is better than it ever was.

        Args:
            held: key -> mean divergence of the maps as they are on held-out text, nats. The first call is the start's.

        Returns:
            Whether to stop: no map got better at ``PATIENCE`` checks in a row.

        Raises:
            FitError: a divergence is no number, or ``DIVERGED`` times that of the start; the best maps are kept.
        """
        self._idle += 1
        for key, move in self._moves.items():
            if not self.steps:
                move.first = held[key]
            if held[key] < move.least:
                move.best, move.least, self._idle = move.transport(), held[key], 0
        for key, move in self._moves.items():
            if not held[key] <= DIVERGED * max(move.first, SMALL):
                raise FitError(
                    f"the KL stage went astray at {name(key)}, step {self.steps}: {held[key]:.3g} nats on held-out "
                    f"text, {move.first:.3g} at the start."
                )
        return self._idle >= PATIENCE

    def result(self) -> dict[Key, Transport]:
        """The best map of each key on held-out text, the start among them."""
        return {key: move.best for key, move in self._moves.items()}

    @torch.inference_mode()
    def _prepared(self, mapped: Mapping[Key, Tensor]) -> Tensor:
        return torch.stack([self._reader.prepare(h) for h in mapped.values()])

    def _through_norm(self, h: Tensor, slope: Tensor) -> Tensor:
        """``[n, d]`` gradient at the vectors ``h`` from that at the prepared ones."""
        if self._reader.norm is None:
            return slope * self._reader.scale
        with torch.inference_mode(False), torch.enable_grad():
            at = h.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self._reader.norm(at), at, slope.clone() * self._reader.scale)
        return gradient


def name(key: Key) -> str:
    """A map as an error names it."""
    source, layer = key
    return f"layer {layer}" if source == "stream" else f"the baseline on {source}"


def _gradient(x: Tensor, slope: Tensor) -> Tensor:
    """``[d, d_in + 1]``: of the mean over the n positions, from each position's own at the mapped stream."""
    return torch.cat([slope.T @ x, slope.sum(0)[:, None]], 1) / len(x)


def _begin(start: Transport, covariance: Tensor, device: torch.device) -> _Move:
    weight, covariance = (value.detach().cpu().double() for value in (start.weight, covariance))
    bias = weight.new_zeros(len(weight)) if start.bias is None else start.bias.detach().cpu().double()
    given = ((weight @ covariance) * weight).sum(1, keepdim=True)
    now = torch.cat([weight, bias[:, None]], 1).to(device, torch.float32)
    return _Move(
        now=now,
        unit=(given / covariance.trace()).sqrt().to(now),
        slope=torch.zeros_like(now),
        square=torch.zeros_like(now),
        best=start,
    )
