"""A study's report as a value: text, tables and charts to be drawn; views turn it into Markdown, HTML and figures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from midstream.record import Estimate, Provenance
from midstream.study.verdict import WORKS, Counts, Verdict


@dataclass(frozen=True)
class Line:
    """One curve: ``y`` over ``x`` with the ends of its intervals; NaN where there is none.

    Attributes:
        role: ``main`` for what the chart is about, ``control`` for what it is held against.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    role: str = "main"


@dataclass(frozen=True)
class Chart:
    """Curves over one axis.

    Attributes:
        name: of its file, without ending.
        title: what it shows, as a sentence without a full stop.
        x, y: what the axes are, with units.
        ticks: positions on x and their texts; empty: as the numbers fall.
        caption: what to look for, and how the intervals were made.
    """

    name: str
    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    caption: str
    ticks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Grid:
    """A table: texts, all rows as long as the heading."""

    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A part of the report: paragraphs, then a table, then a chart, each if there is one."""

    title: str
    text: tuple[str, ...] = ()
    grid: Grid | None = None
    chart: Chart | None = None


@dataclass(frozen=True)
class LinedUp:
    """What somebody else found, beside it what this study found, and why the two may differ."""

    source: str
    theirs: str
    ours: str
    why: str


@dataclass(frozen=True)
class Report:
    """Everything a reader needs, in order.

    Attributes:
        name: of the study.
        question: in the words of the one who asked, with the source.
        prediction: what was written before the run.
        answer: one to three sentences with their intervals.
        about: first what the model is, then the text, the sets, the unit that intervals count.
        verdicts: the primary claim first.
        notes: what the numbers do not say.
        caveat: what must be known before the answer, such as that the run was a quick one; empty for nothing.
    """

    name: str
    question: str
    prediction: str
    answer: str
    about: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    sections: tuple[Section, ...]
    lined_up: tuple[LinedUp, ...]
    notes: tuple[str, ...]
    provenance: Provenance = field(default_factory=Provenance)
    caveat: str = ""


def shown(estimate: Estimate, digits: int = 4) -> str:
    """``+0.0123 (+0.0050 to +0.0196)``, a dash where it is undefined."""
    if math.isnan(estimate.value):
        return "–"
    value = f"{estimate.value:+.{digits}f}"
    if math.isnan(estimate.low):
        return f"{value} (no interval)"
    return f"{value} ({estimate.low:+.{digits}f} to {estimate.high:+.{digits}f})"


def counted(estimate: Estimate, what: Counts = WORKS) -> str:
    """``30 works, the largest holds 12 % of the tokens``; seeds weigh alike: ``5 seeds``."""
    if what != WORKS or math.isnan(estimate.largest_share):
        return f"{estimate.clusters} {what}"
    return f"{estimate.clusters} works, the largest holds {100 * estimate.largest_share:.0f} % of the tokens"
