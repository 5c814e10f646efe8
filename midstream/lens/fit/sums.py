"""Streamed second moments: what least squares needs of a text, in memory that does not grow with it.

Every key (an input of maps: the stream at a layer, or the baselines' input rows) keeps sums over positions of the input
less a fixed shift, of all targets less theirs, and of their products. Rows wait in a tile; tiles are multiplied in
float32 and merged in float64. Sums of different documents add up, and come off again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.lens.lens import Source
from midstream.model.product import full_float32, product

Key = tuple[Source, int]
"""An input of maps: ``("stream", layer)``, ``("token", 0)`` or ``("tokens", 0)``."""

TILE = 2048
"""Positions multiplied at once."""

SINK = 20.0
"""Positions whose norm exceeds this many times the layer's median are left out: attention sinks, not text."""

NEAR = 1e-3
"""Calibrations that differ by less, relative to the rows' size, are the same but for rounding."""


@dataclass(frozen=True)
class Calibration:
    """What is fixed before the first sum, from the first positions of the corpus, so that parts of it agree.

    Attributes:
        shifts: key -> ``[d_in]`` float32, about the mean of its input.
        targets: target -> ``[d_out]`` float32, about its mean; the order is that of the sums' columns.
        limits: key -> largest norm of a row that counts; infinite where every row does.
        last: the same for the stream at layer L, which the targets ``final:k`` are made of.
    """

    shifts: Mapping[Key, Tensor]
    targets: Mapping[str, Tensor]
    limits: Mapping[Key, float]
    last: float

    def columns(self, target: str) -> slice:
        """Where a target stands among the columns of all targets side by side."""
        start = 0
        for name, shift in self.targets.items():
            if name == target:
                return slice(start, start + len(shift))
            start += len(shift)
        raise KeyError(target)

    def only(self, keys: Sequence[Key]) -> Calibration:
        """The same for some of its keys."""
        return replace(
            self, shifts={key: self.shifts[key] for key in keys}, limits={key: self.limits[key] for key in keys}
        )


Batch = tuple[Mapping[Key, Tensor], Mapping[str, Tensor], Tensor | None]
"""Rows of m positions: key -> ``[m, d_in]``; target -> ``[m, d_out]``; and ``[m]``, the largest norm at layer L among
the vectors that the targets of each position are made of (None where none is)."""


def calibrate(batches: Iterable[Batch]) -> Calibration:
    """The calibration of a sample of positions, in the memory of one batch.

    A row beyond ``SINK`` times its batch's median norm counts for no shift; the limits are from the norms of all.
    """
    shifts: dict[Key, _Mean] = {}
    targets: dict[str, _Mean] = {}
    norms: dict[Key, list[Tensor]] = {}
    every: list[Tensor] = []
    for x, y, last in batches:
        for key, rows in x.items():
            size = rows.float().norm(dim=1).cpu()
            norms.setdefault(key, []).append(size)
            shifts.setdefault(key, _Mean()).add(rows, size if key[0] == "stream" else None)
        for name, rows in y.items():
            targets.setdefault(name, _Mean()).add(rows, last)
        every += [] if last is None else [last.cpu()]
    limits = {key: _limit(found) if key[0] == "stream" else math.inf for key, found in norms.items()}
    return Calibration(
        {key: mean.value() for key, mean in shifts.items()},
        {name: mean.value() for name, mean in targets.items()},
        limits,
        _limit(every) if every else math.inf,
    )


def _limit(norms: Sequence[Tensor]) -> float:
    return SINK * float(torch.cat(list(norms)).nanmedian())


class _Mean:
    """The mean of rows, sinks and broken ones left out."""

    def __init__(self) -> None:
        self.count = 0
        self.total = torch.zeros(0, dtype=torch.float64)

    def add(self, rows: Tensor, norms: Tensor | None) -> None:
        rows = rows.float().cpu()
        if norms is not None:
            rows = rows[norms.cpu() <= SINK * norms.nanmedian().cpu()]
        self.total = rows.sum(0, dtype=torch.float64) + (self.total if self.count else 0)
        self.count += len(rows)

    def value(self) -> Tensor:
        return (self.total / max(self.count, 1)).float()


@dataclass
class Moments:
    """The sums of one key, float64, of shifted inputs x' ``[d_in]`` and shifted targets y' ``[D]`` side by side.

    Attributes:
        count: positions; left_out: positions beyond the norm limits.
        x: ``[d_in]`` sum of x'; xx: ``[d_in, d_in]`` of x' x'^T; y: ``[D]`` of y'; xy: ``[d_in, D]`` of x' y'^T.
        yy: ``[targets]`` of |y'|^2, one number a target.
    """

    x: Tensor
    xx: Tensor
    y: Tensor
    xy: Tensor
    yy: Tensor
    count: int
    left_out: int

    @classmethod
    def zero(cls, width: int, columns: int, targets: int) -> Moments:
        """No positions yet: ``width`` d_in, ``columns`` D."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64)

        x, y = (zeros(width), zeros(width, width)), (zeros(columns), zeros(width, columns), zeros(targets))
        return cls(*x, *y, count=0, left_out=0)

    def plus(self, other: Moments, sign: int = 1) -> Moments:
        """The sums of both, or with ``sign`` -1 those of this one's other positions."""
        return Moments(
            x=self.x + sign * other.x,
            xx=self.xx + sign * other.xx,
            y=self.y + sign * other.y,
            xy=self.xy + sign * other.xy,
            yy=self.yy + sign * other.yy,
            count=self.count + sign * other.count,
            left_out=self.left_out + sign * other.left_out,
        )

    def moved(self, dx: Tensor, dy: Tensor, widths: Sequence[int]) -> Moments:
        """The same positions about other shifts, lower by ``dx`` ``[d_in]`` and ``dy`` ``[D]``: x'' = x' + dx."""
        n, dx, dy = self.count, dx.double(), dy.double()
        cross = torch.outer(self.x, dx)
        parts = (2 * self.y * dy + n * dy.square()).split(list(widths))
        return Moments(
            x=self.x + n * dx,
            xx=self.xx + cross + cross.T + n * torch.outer(dx, dx),
            y=self.y + n * dy,
            xy=self.xy + torch.outer(self.x, dy) + torch.outer(dx, self.y) + n * torch.outer(dx, dy),
            yy=self.yy + torch.stack([part.sum() for part in parts]),
            count=n,
            left_out=self.left_out,
        )


@dataclass
class Sums:
    """The moments of every key over some documents.

    Attributes:
        calibration: the fixed shifts and limits.
        label: what the sums are of (model, site, ...): only sums of one label add up.
        moments: key -> its sums.
    """

    calibration: Calibration
    label: str
    moments: dict[Key, Moments]
    _tile: _Tile | None = field(default=None, repr=False)

    @classmethod
    def empty(cls, calibration: Calibration, label: str) -> Sums:
        """Sums of no positions."""
        columns = sum(len(shift) for shift in calibration.targets.values())
        targets = len(calibration.targets)
        moments = {key: Moments.zero(len(shift), columns, targets) for key, shift in calibration.shifts.items()}
        return cls(calibration, label, moments)

    def add(self, x: Mapping[Key, Tensor], y: Mapping[str, Tensor], last: Tensor | None) -> None:
        """Add positions; they count once a tile is full or at ``flush``.

        Args:
            x: key -> ``[m, d_in]``, y: target -> ``[m, d_out]``; every key and target of the calibration.
            last: ``[m]``, the largest norm at layer L among the vectors that the targets of each position are made
                of; None where none is.
        """
        total = len(next(iter(x.values())))
        if self._tile is None:
            self._tile = _Tile.empty(self.calibration)
        start = 0
        while start < total:
            stop = min(total, start + TILE - self._tile.used)
            self._tile.put(self.calibration, x, y, last, slice(start, stop))
            if self._tile.used == TILE:
                self.flush()
            start = stop

    def flush(self) -> None:
        """Count the positions that wait in the tile."""
        tile = self._tile
        if tile is None or not tile.used:
            return
        widths = [len(shift) for shift in self.calibration.targets.values()]
        whole = tile.y[:, : tile.used].contiguous()
        squares = torch.stack([part.square().sum(0, dtype=torch.float64) for part in whole.split(widths)])
        with full_float32():
            for key, moments in self.moments.items():
                keep = tile.keep[key][: tile.used]
                x, y, square = tile.x[key][:, : tile.used], whole, squares
                if not bool(keep.all()):
                    x, y, square = x[:, keep], whole[:, keep].contiguous(), squares[:, keep]
                x = x.contiguous()
                moments.count += x.shape[1]
                moments.left_out += tile.used - x.shape[1]
                moments.x += x.sum(1, dtype=torch.float64)
                moments.y += y.sum(1, dtype=torch.float64)
                moments.yy += square.sum(1)
                moments.xx += product(x, x)
                moments.xy += product(x, y)
        tile.used = 0

    def release(self) -> None:
        """Count what waits and give the tile's memory back."""
        self.flush()
        self._tile = None

    def merged(self, other: Sums) -> Sums:
        """The sums of both sets of documents. Raises RequestError where they are not of one kind."""
        return self._combined(other, 1)

    def without(self, other: Sums) -> Sums:
        """The sums of this one's documents less those of ``other``, which must be among them."""
        return self._combined(other, -1)

    def _combined(self, other: Sums, sign: int) -> Sums:
        self._check(other)
        self.release()
        other.release()
        mine, its = self.calibration, other.calibration
        widths = [len(shift) for shift in mine.targets.values()]
        dy = torch.cat([its.targets[name] - shift for name, shift in mine.targets.items()])
        moments: dict[Key, Moments] = {}
        for key, sums in self.moments.items():
            dx = its.shifts[key] - mine.shifts[key]
            same = not bool(dx.any() or dy.any())
            moments[key] = sums.plus(other.moments[key] if same else other.moments[key].moved(dx, dy, widths), sign)
            if moments[key].count < 0:
                raise RequestError("these sums hold fewer positions than those to be taken off: they are not of them.")
        return Sums(mine, self.label, moments)

    def _check(self, other: Sums) -> None:
        if self.label != other.label:
            raise RequestError(
                f"sums of two kinds cannot be added: one is of {self.label}, the other of {other.label}."
            )
        mine, its = self.calibration, other.calibration
        if list(mine.targets) != list(its.targets) or set(mine.shifts) != set(its.shifts):
            raise RequestError(
                "sums of two kinds cannot be added: they are of other layers or targets (one of "
                f"{_named(mine)}, the other of {_named(its)})."
            )
        pairs = [(mine.shifts[key], its.shifts[key]) for key in mine.shifts]
        pairs += [(shift, its.targets[name]) for name, shift in mine.targets.items()]
        limits = [(mine.limits[key], its.limits[key]) for key in mine.limits] + [(mine.last, its.last)]
        if any(len(a) != len(b) or float((a - b).norm()) > NEAR * float(a.norm() + b.norm()) for a, b in pairs) or any(
            a != b and not abs(a - b) <= NEAR * a for a, b in limits
        ):
            raise RequestError(
                "sums of two calibrations cannot be added: their shifts or norm limits differ, so they were made with "
                "another corpus, another model or other options; make all parts with one command."
            )


@dataclass
class _Tile:
    """Rows that wait to be multiplied, transposed: positions along the last axis."""

    x: dict[Key, Tensor]
    y: Tensor
    keep: dict[Key, Tensor]
    used: int = 0

    @classmethod
    def empty(cls, calibration: Calibration) -> _Tile:
        columns = sum(len(shift) for shift in calibration.targets.values())
        return cls(
            {key: torch.empty(len(shift), TILE) for key, shift in calibration.shifts.items()},
            torch.empty(columns, TILE),
            {key: torch.empty(TILE, dtype=torch.bool) for key in calibration.shifts},
        )

    def put(
        self,
        calibration: Calibration,
        x: Mapping[Key, Tensor],
        y: Mapping[str, Tensor],
        last: Tensor | None,
        rows: slice,
    ) -> None:
        at = slice(self.used, self.used + rows.stop - rows.start)
        # a comparison with NaN is false, so that a broken row is left out as well
        ordinary = True if last is None else last[rows].cpu() <= calibration.last
        for key, shift in calibration.shifts.items():
            taken = x[key][rows].float().cpu()
            self.keep[key][at] = (taken.norm(dim=1) <= calibration.limits[key]) & ordinary
            torch.sub(taken.T, shift[:, None], out=self.x[key][:, at])
        for name, shift in calibration.targets.items():
            torch.sub(y[name][rows].float().cpu().T, shift[:, None], out=self.y[calibration.columns(name), at])
        self.used = at.stop


def _named(calibration: Calibration) -> str:
    layers = sorted(layer for source, layer in calibration.shifts if source == "stream")
    others = sorted(source for source, _ in calibration.shifts if source != "stream")
    inputs = [f"layers {', '.join(map(str, layers))}"] * bool(layers) + others
    return f"{' and '.join(inputs)} for {', '.join(calibration.targets)}"
