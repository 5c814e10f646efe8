"""The KL stage of a fit: which positions it sees, in which order, and when it looks at held-out text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from midstream.corpus.window import Window
from midstream.errors import FitError
from midstream.lens.fit.kl import STEP, Refinement
from midstream.lens.fit.sums import Calibration, Key
from midstream.lens.kind import Kind
from midstream.lens.lens import Transport
from midstream.lens.passage import MIN_CONTEXT
from midstream.readout.gradient import Target, reference
from midstream.readout.reader import Reader
from midstream.run.fit_pass import Lookout, usable
from midstream.run.fit_plan import Plan, Unit
from midstream.run.fit_progress import Meter

SAMPLE = {"tuned": 20_000, "future": 7_000}
"""Positions that the stage sees for each kind, spread over the fit documents."""

SHORT = 10_000
"""From here on it sees a quarter of the fit positions at most, where they are not cheap: a short fit stays short."""

CHEAP = 2e13
"""Operations that the stage may always take, about a minute of two cores: a small model sees more for them."""

EPOCHS = 2
"""Times that it sees a position at most; more gain little (LOG, 2026-11-24)."""

HELD_SHARE = 0.1
"""Held-out positions looked at, as a share of those."""

LOOK = 128
"""Positions looked at together on held-out text."""

POOL = 8
"""Documents whose positions are mixed before they are cut into steps."""

OPENING = 512
"""Tokens of a document that are read for it."""

CHECKS = 5
"""Looks at held-out text while it runs, the last one at its end; one more is before it."""


@dataclass(frozen=True)
class Refined:
    """What the stage made of the maps.

    Attributes:
        maps: the best of each key on held-out text, the least-squares map among them.
        before, after: key -> mean KL(output || lens) on the held-out sample, nats.
        positions, held: positions that the steps saw, and that the checks looked at.
        stopped: why it ended before its time; empty if it did not.
    """

    maps: Mapping[Key, Transport]
    before: Mapping[Key, float]
    after: Mapping[Key, float]
    positions: int
    held: int
    stopped: str = ""


@dataclass(frozen=True)
class Sample:
    """Positions of some documents.

    Attributes:
        units: the first window of each document, cut to ``OPENING`` tokens.
        stride: every which of its usable positions counts.
        most: positions together.
    """

    units: tuple[Unit, ...]
    stride: int
    most: int


@dataclass(frozen=True)
class Batch:
    """Rows of some positions: key -> ``[n, d_in]`` float32, and the stream at layer L that the readings are about."""

    x: dict[Key, Tensor]
    final: Tensor

    def pick(self, rows: Tensor | slice) -> Batch:
        """Some of the positions."""
        return Batch({key: value[rows] for key, value in self.x.items()}, self.final[rows])


def planned(kind: str, usable: int, operations: float) -> int:
    """Positions that the steps see together: the sample, or what is cheap where that is more.

    Args:
        kind: name of the kind.
        usable: positions of the fit documents.
        operations: that a position costs.
    """
    dear = min(SAMPLE[kind], usable, max(SHORT, usable // 4))
    return max(dear, min(EPOCHS * usable, int(CHEAP / operations)))


def sample(lookout: Lookout, *, held: bool, wanted: int) -> Sample:
    """``wanted`` positions spread evenly over the fit or held-out documents, as far as there are so many.

    Of the openings of documents every second position, or each; of all windows, whole, where those do not suffice.
    """
    plan = lookout.plan
    units = [unit for unit in plan.units if unit.document.held == held]
    openings = [_opening(unit) for unit in units if unit.window.start == 0]
    if sum(map(_size(plan), openings)) < wanted:
        openings = units
    total = sum(map(_size(plan), openings))
    stride = 2 if total >= 2 * wanted else 1
    total //= stride
    count = len(openings) if total <= wanted else max(1, math.ceil(len(openings) * wanted / total))
    spread = [openings[index * len(openings) // count] for index in range(count)]
    return Sample(tuple(spread), stride, min(wanted, total))


def refine(
    lookout: Lookout,
    reader: Reader,
    kind: Kind,
    maps: tuple[Mapping[Key, Transport], Mapping[Key, Tensor]],
    fixed: Calibration,
    meter: Meter,
) -> Refined:
    """Takes least-squares maps down the divergence from the model's output ``kind.number`` positions later.

    Args:
        maps: key -> the map it starts from, and key -> the covariance of its input.
        fixed: its norm limits say which positions count here too.

    A breakdown is no loss: the best maps until then come back, with the reason.
    """
    starts, covariances = maps
    plan, operations = lookout.plan, 4.0 * reader.weight.numel() * len(starts)
    wanted = planned(kind.name, sum(unit.usable for unit in plan.units if not unit.document.held), operations)
    seen = sample(lookout, held=False, wanted=wanted)
    stage = Refinement(reader, starts, covariances, planned=max(1, wanted))
    draw = torch.Generator().manual_seed(plan.options.seed)
    view = _View(lookout, reader, kind.number, tuple(starts), fixed)
    most = max(1, round(HELD_SHARE * SAMPLE[kind.name]))
    held = list(view.batches(sample(lookout, held=True, wanted=most), draw, LOOK))
    kept: list[dict[Key, float]] = []
    looked = sum(len(batch.final) for batch in held)
    # a look costs one product of a position where a step costs two
    meter.begin(f"KL stage of {kind}", wanted + (CHECKS + 1) * looked // 2)

    def check() -> bool:
        sums = dict.fromkeys(starts, 0.0)
        for batch in held:
            for key, values in stage.evaluate(batch.x, view.target(batch)).items():
                sums[key] += float(values.sum(dtype="float64"))
        kept.append({key: value / looked for key, value in sums.items()})
        meter.advance(looked // 2)
        return stage.checkpoint(kept[-1])

    stopped = ""
    try:
        check()
        every = max(1, math.ceil(wanted / STEP / CHECKS))
        for number, batch in enumerate(view.epochs(seen, draw, wanted), start=1):
            stage.step(batch.x, view.target(batch))
            meter.advance(len(batch.final))
            if number % every == 0 and check():
                break
        else:
            check()
    except FitError as error:
        stopped = str(error)
    best = {key: min((entry[key] for entry in kept if entry[key] == entry[key]), default=math.nan) for key in starts}
    first = kept[0] if kept else dict.fromkeys(starts, math.nan)
    return Refined(stage.result(), first, best, stage.seen, looked, stopped)


@dataclass(frozen=True)
class _View:
    """The rows of one lens's stage."""

    lookout: Lookout
    reader: Reader
    ahead: int
    keys: tuple[Key, ...]
    fixed: Calibration

    def epochs(self, chosen: Sample, draw: torch.Generator, wanted: int) -> Iterator[Batch]:
        """Steps over the sample, again and again in another order, until they have seen ``wanted`` positions."""
        left = wanted
        while left > 0 and chosen.most > 0:
            before = left
            for batch in self.batches(replace(chosen, most=min(chosen.most, left)), draw, STEP):
                yield batch
                left -= len(batch.final)
            if left == before:  # every position of the sample is a sink
                return

    def batches(self, chosen: Sample, draw: torch.Generator, size: int) -> Iterator[Batch]:
        """Batches of ``size`` positions, the last one shorter, each mixed from several documents."""
        left, rest = chosen.most, None
        for start in range(0, len(chosen.units), POOL):
            pool = [self._rows(unit, chosen.stride) for unit in chosen.units[start : start + POOL]]
            mixed = _joined(pool if rest is None else [rest, *pool])
            mixed = mixed.pick(torch.randperm(len(mixed.final), generator=draw))
            whole = len(mixed.final) // size * size
            for first in range(0, min(whole, left), size):
                yield mixed.pick(slice(first, min(first + size, left)))
            rest = mixed.pick(slice(whole, None))
            left -= min(whole, left)
        if rest is not None and len(rest.final) and left > 0:
            yield rest.pick(slice(0, left))

    def target(self, batch: Batch) -> Target:
        return reference(self.reader, self.reader.prepare(batch.final))

    def _rows(self, unit: Unit, stride: int) -> Batch:
        name = f"final:{self.ahead}"
        seen = self.lookout.passage(unit, self.lookout.places(self.keys))
        at = usable(self.lookout.plan, seen)[::stride]
        rows = self.lookout.rows(seen, at, self.keys, [name])
        keep = torch.ones(len(at), dtype=torch.bool) if rows.last is None else rows.last <= self.fixed.last
        for key, value in rows.x.items():
            keep &= value.float().norm(dim=1).cpu() <= self.fixed.limits[key]
        return Batch({key: value[keep].float() for key, value in rows.x.items()}, rows.y[name][keep].float())


def _size(plan: Plan) -> Callable[[Unit], int]:
    return lambda unit: max(
        0, unit.window.stop - plan.ahead - max(unit.window.first, unit.window.start + max(MIN_CONTEXT, plan.lag))
    )


def _opening(unit: Unit) -> Unit:
    stop = min(unit.window.stop, OPENING)
    return Unit(unit.number, unit.document, Window(0, stop, 0), unit.usable)


def _joined(batches: Sequence[Batch]) -> Batch:
    x = {key: torch.cat([batch.x[key] for batch in batches]) for key in batches[0].x}
    return Batch(x, torch.cat([batch.final for batch in batches]))
