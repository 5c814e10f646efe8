"""What the app is handed to answer with: functions over values, no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from midstream.outline import Outline
from midstream.record import Array, ReadingTable
from midstream.web.ask import FollowAsk, NearAsk, ReadAsk, SampleAsk


class Shown(Protocol):
    """A reading as the desk knows it again."""

    @property
    def outline(self) -> Outline:
        """Its shape."""
        ...


class Token(Protocol):
    """One new token of a continuation: see ``run.desk_sample.New``."""

    branch: str
    token: int
    text: str
    logprob: float
    ended: str


class Kept(NamedTuple):
    """A reading that can still be asked about.

    Attributes:
        statistic: that coloured it.
    """

    shown: Shown
    table: ReadingTable
    statistic: str


class Desk(Protocol):
    """Every function raises RequestError for what cannot be had."""

    @property
    def models(self) -> Sequence[str]:
        """Names that may be chosen."""
        ...

    def choose(self, name: str) -> None:
        """Another model in place of the one in memory."""
        ...

    def about(self) -> Mapping[str, Any]:
        """Of the model in memory: ``model``, ``name``, ``blocks``, ``sites``, ``lenses``, ``usual``, ``tokens``."""
        ...

    def show(self, ask: ReadAsk) -> Shown:
        """What a reading will have."""
        ...

    def code(self, ask: ReadAsk, watch: Sequence[int] = ()) -> Mapping[str, str]:
        """What gives the same elsewhere, with these tokens followed: ``command``, ``python``."""
        ...

    def rows(self, shown: Shown) -> Iterator[ReadingTable]:
        """Its rows as they come."""
        ...

    def follow(self, shown: Shown, ask: FollowAsk) -> Mapping[str, Array]:
        """Exact ranks and log-probabilities: columns of ``record.WATCHED``."""
        ...

    def near(self, shown: Shown, ask: NearAsk) -> Sequence[tuple[int, float]]:
        """Positions and how alike their stream is."""
        ...

    def sample(self, ask: SampleAsk) -> Iterator[Token]:
        """A continuation, token by token."""
        ...
