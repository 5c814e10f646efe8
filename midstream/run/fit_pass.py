"""The pass over the text: windows through the model, rows into sums; stopped at any moment and gone on with later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from midstream.interrupt import undisturbed
from midstream.lens.file.sums_file import Gathered
from midstream.lens.fit.back_off import Counts
from midstream.lens.fit.sums import Batch, Calibration, Key, Sums, calibrate
from midstream.lens.passage import Passage, passage
from midstream.model.model import Model
from midstream.readout.read import top1
from midstream.readout.reader import Reader
from midstream.run.fit_plan import BASELINES, Plan, Unit
from midstream.stream.site import Place

CALIBRATED = 4096
"""Positions of the fit documents that shifts and norm limits are taken from."""

PENDING = 200_000
"""Answers that wait before they are counted."""


@dataclass(frozen=True)
class Rows:
    """What one window gives to a fit, at its usable positions.

    Attributes:
        x: key -> ``[m, d_in]``; y: target -> ``[m, d]``.
        last: ``[m]`` largest norm of the stream at layer L among what the targets are made of; None where none is.
    """

    x: dict[Key, Tensor]
    y: dict[str, Tensor]
    last: Tensor | None


@dataclass(frozen=True)
class Lookout:
    """Runs windows for a plan and takes the rows out."""

    model: Model
    plan: Plan

    @property
    def final(self) -> Place:
        """Where the model's own output is."""
        return self.model.anatomy.layers, "resid_post"

    def places(self, keys: Iterable[Key]) -> list[Place]:
        """What has to be captured for some keys and all targets."""
        wanted = [(layer, self.plan.options.site) for source, layer in keys if source == "stream"]
        needs_final = any(name.startswith("final:") for name in self.plan.targets)
        return list(dict.fromkeys([*wanted, *([self.final] if needs_final else [])]))

    def passage(self, unit: Unit, places: Sequence[Place]) -> Passage:
        """Run one window."""
        return passage(self.model, unit.document.ids.tolist(), unit.window, places)

    def rows(self, seen: Passage, at: Tensor, keys: Sequence[Key], targets: Sequence[str]) -> Rows:
        """The rows of a window at positions ``at`` ``[m]``."""
        entered = self._entered(seen, at, keys, targets)
        x = {key: self._input(seen, at, key, entered) for key in keys}
        y: dict[str, Tensor] = {}
        norms: list[Tensor] = []
        for name in targets:
            kind, number = name.split(":")
            if kind == "row":
                y[name] = entered[at - int(number)]
            else:
                y[name] = _taken(seen.stream[self.final], at + int(number))
                norms.append(y[name].float().norm(dim=1))
        return Rows(x, y, torch.stack(norms).amax(0).cpu() if norms else None)

    def answers(self, reader: Reader, seen: Passage, at: Tensor, targets: Iterable[str]) -> dict[str, Counts]:
        """What a back-off table should answer at these positions: the model's own later first choice, or the token."""
        size = self.model.anatomy.vocabulary
        choice = torch.zeros(0)
        if any(name.startswith("final:") for name in targets):
            choice = top1(reader, reader.prepare(seen.stream[self.final]))
        found: dict[str, Counts] = {}
        for name in targets:
            kind, number = name.split(":")
            answer = choice[at + int(number)] if kind == "final" else seen.ids[at - int(number)]
            found[name] = Counts.seen(size, seen.ids[at - 1], seen.ids[at], answer)
        return found

    def _entered(self, seen: Passage, at: Tensor, keys: Sequence[Key], targets: Sequence[str]) -> Tensor:
        needed = any(name.startswith("row:") for name in targets) or any(source != "stream" for source, _ in keys)
        if not needed or not len(at):
            return torch.zeros(len(seen.ids), self.model.anatomy.width)
        return self.model.anatomy.input_rows(seen.ids.to(self.model.device))

    def _input(self, seen: Passage, at: Tensor, key: Key, entered: Tensor) -> Tensor:
        source, layer = key
        if source == "stream":
            return _taken(seen.stream[layer, self.plan.options.site], at)
        # a usable position has at least MIN_CONTEXT tokens before it, more than a baseline looks back
        return torch.cat([entered[at - back] for back in range(BASELINES[source])], dim=1)


def _taken(rows: Tensor, at: Tensor) -> Tensor:
    """``rows[at]``, without a copy where these follow each other, as they nearly always do."""
    if len(at) and int(at[-1] - at[0]) == len(at) - 1 and bool((at.diff() == 1).all()):
        return rows[int(at[0]) : int(at[-1]) + 1]
    return rows[at]


def usable(plan: Plan, seen: Passage) -> Tensor:
    """The positions of a window that the fit may use, ``[m]``."""
    return seen.usable(lag=plan.lag, ahead=plan.ahead)


def calibration(lookout: Lookout, advance: Callable[[int], None]) -> Calibration:
    """Shifts and norm limits of every key, from the first positions of the fit documents."""
    return calibrate(_first_rows(lookout, advance))


def _first_rows(lookout: Lookout, advance: Callable[[int], None]) -> Iterator[Batch]:
    plan, left = lookout.plan, CALIBRATED
    keys = plan.inputs()
    for unit in plan.units:
        if unit.document.held:
            continue
        seen = lookout.passage(unit, lookout.places(keys))
        at = usable(plan, seen)[:left]
        rows = lookout.rows(seen, at, keys, plan.targets)
        yield rows.x, rows.y, rows.last
        left -= len(at)
        advance(len(at))
        if not left:
            return


def blank(plan: Plan, width: int, vocabulary: int, keys: Sequence[Key], fixed: Calibration | None) -> Gathered:
    """Nothing gathered yet for some keys; without a calibration, only the shapes that a file of sums must have."""
    label = f"{plan.options.site} of model {plan.model[:16]}"
    none = torch.zeros(0, dtype=torch.int64)
    counts = {name: Counts.none(vocabulary) for name in counted(plan)} if _first(plan, keys) else {}
    if fixed is not None:
        part = fixed.only(keys)
        return Gathered(plan.digest, Sums.empty(part, label), Sums.empty(part, label), counts, none)
    shifts = {key: torch.zeros(width * BASELINES.get(key[0], 1)) for key in keys}
    part = Calibration(shifts, {name: torch.zeros(width) for name in plan.targets}, dict.fromkeys(keys, 0.0), 0.0)
    return Gathered(plan.digest, Sums(part, label, {}), Sums(part, label, {}), counts, none)


def counted(plan: Plan) -> list[str]:
    """The targets that get a back-off table: those of future lenses, and of input lenses that look back."""
    kinds = [kind for kind in plan.options.kinds if kind.name in ("future", "input") and kind.number]
    return list(dict.fromkeys(f"{'final' if kind.name == 'future' else 'row'}:{kind.number}" for kind in kinds))


class Stopped(Exception):
    """A pass that did not reach its end, with all that it had gathered until then."""

    def __init__(self, gathered: Gathered) -> None:
        super().__init__("stopped")
        self.gathered = gathered


def gather(lookout: Lookout, reader: Reader, start: Gathered, advance: Callable[[int], None]) -> Gathered:
    """Reads the units of this part that are not in ``start`` yet, and adds them to it.

    Args:
        reader: the model's output, where back-off tables are made.

    Raises Stopped, from whatever stopped it, while the sums are whole.
    """
    plan = lookout.plan
    keys = list(start.fit.moments)
    read = set(start.done.tolist())
    done: list[int] = []
    waiting: list[dict[str, Counts]] = []
    counts = dict(start.counts)

    def gathered() -> Gathered:
        start.fit.release()
        start.held.release()
        merged = {name: mine.merged(*(part[name] for part in waiting)) for name, mine in counts.items()}
        units = torch.cat([start.done, torch.tensor(done, dtype=torch.int64)]).sort().values
        return replace(start, counts=merged, done=units)

    whole = True
    try:
        # one side after the other: only one of the two tiles is held
        for unit in sorted(plan.mine(), key=lambda unit: unit.document.held):
            if unit.number in read:
                continue
            seen = lookout.passage(unit, lookout.places(keys))
            at = usable(plan, seen)
            rows = lookout.rows(seen, at, keys, plan.targets)
            answers = lookout.answers(reader, seen, at, counts) if counts and not unit.document.held else None
            if unit.document.held:
                start.fit.release()
            with undisturbed():
                whole = False
                (start.held if unit.document.held else start.fit).add(rows.x, rows.y, rows.last)
                if answers is not None:
                    waiting.append(answers)
                done.append(unit.number)
                whole = True
            if sum(len(part.codes) for answer in waiting for part in answer.values()) > PENDING:
                counts = {name: mine.merged(*(part[name] for part in waiting)) for name, mine in counts.items()}
                waiting.clear()
            advance(len(at))
    except BaseException as error:
        if whole and (done or len(start.done)):
            raise Stopped(gathered()) from error
        raise
    return gathered()


def _first(plan: Plan, keys: Sequence[Key]) -> bool:
    """Whether this group of keys is the one that also counts answers."""
    return bool(keys) and keys[0] == plan.inputs()[0]
