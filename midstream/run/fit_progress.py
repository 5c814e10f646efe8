"""How far a fit is, and how much is left of all of it, from counts of operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Update:
    """Where a fit stands.

    Attributes:
        stage: what it is doing, as a user reads it.
        done, total: of the stage, in ``unit``.
        share: of the whole fit's work that is done, 0 to 1.
        note: something to be said once; empty otherwise.
    """

    stage: str
    done: int
    total: int
    unit: str
    share: float
    note: str = ""


Progress = Callable[[Update], None]


class Meter:
    """Counts the work of a fit; each stage of ``costs`` takes its share of the whole by its operations."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._costs: Mapping[str, float] = {}
        self._spent = 0.0
        self._now = Update("", 0, 0, "", 0.0)

    def plan(self, costs: Mapping[str, float]) -> None:
        """What every stage will cost, in operations."""
        self._costs = costs

    def begin(self, stage: str, total: int, unit: str = "tokens") -> None:
        """The next stage begins; the one before has ended."""
        self._spent += self._costs.get(self._now.stage, 0.0)
        whole = sum(self._costs.values())
        self._now = Update(stage, 0, total, unit, min(1.0, self._spent / whole) if whole else 0.0)
        self._tell(self._now)

    def advance(self, amount: int) -> None:
        """``amount`` more of the stage is done."""
        now = self._now
        done = min(now.done + amount, now.total)
        whole = sum(self._costs.values())
        work = self._spent + self._costs.get(now.stage, 0.0) * done / max(now.total, 1)
        self._now = Update(now.stage, done, now.total, now.unit, min(1.0, work / whole) if whole else 0.0)
        self._tell(self._now)

    def note(self, text: str) -> None:
        """Something a user should know."""
        now = self._now
        self._tell(Update(now.stage, now.done, now.total, now.unit, now.share, text))

    def _tell(self, update: Update) -> None:
        if self._progress is not None:
            self._progress(update)
