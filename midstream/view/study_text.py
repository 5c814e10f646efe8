"""What every view of a study says in words: thresholds, intervals, p values, where a report comes from."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from midstream.record import Estimate, Provenance
from midstream.study.report import Chart, counted, shown
from midstream.study.verdict import WORKS, Claim, Counts, Found, Verdict

BADGES: dict[Found, str] = {"supported": "✓", "refuted": "✗", "undecided": "?"}
"""What stands before a verdict, so that it is never told by colour alone."""

MEANING = (
    "A claim is supported where the whole interval lies on its side of the threshold (and the estimate by as much as "
    "is asked there). It is refuted where the whole "
    "interval lies on the other side, or leaves out an effect of s, the smallest that matters. Else it is undecided. "
    "Claims, thresholds and s were written down before the run."
)
"""How verdicts are made: stands above their table."""

COUNTED = (
    "An interval counts works, never tokens, since tokens of one work resemble each other; where models were trained, "
    "seeds. p is two-sided, of the threshold."
)
"""What intervals and p values are of."""

HOLM = (
    "Every study has one primary claim. Holm’s correction holds the chance of any false finding among all of them to "
    "what p alone holds for one."
)
"""What stands above the index of studies."""

VERDICTS, BEFORE, BESIDE = "Verdicts", "Written before the run", "Lined up against"
UNSAID, ORIGIN = "What the numbers do not say", "Where this comes from"
"""Headings of a report."""

LINED_UP = ("source", "theirs", "ours", "why they differ")
INDEX = ("study", "verdict", "estimate and interval", "p", "p, Holm")
"""Headings of tables."""

KEPT = "\u200c\u200d"
"""Invisible characters that stay as they are: the joiners, without which some scripts are spelled wrong."""


def prose(text: str) -> str:
    """``text`` as one line that cannot harm what shows it: white space becomes blanks; controls, bidi marks and halves
    of surrogate pairs are written as ``\\uXXXX``. Other text stays as it is; escaping markup is left to the view.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_seen(char) for char in text)


def _seen(char: str) -> str:
    if char in "\t\n\v\f\r\x85\u2028\u2029":
        return " "
    if unicodedata.category(char) in ("Cc", "Cf", "Cs") and char not in KEPT:
        return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
    return char


def badge(found: Found, claim: str = "") -> str:
    """``✓ supported``; with the name of a claim ``✓ supported: more loss``, where no table names it."""
    return f"{BADGES[found]} {found}" + (f": {claim}" if claim else "")


def threshold(claim: Claim) -> str:
    """Where the number lies if the claim holds: ``below 0 nats``, ``within 0 ± 0.02 nats``."""
    if claim.side == "within":
        return f"within {claim.threshold:g} ± {claim.matters:g} {claim.unit}".rstrip()
    least = f", by {claim.least:g} or more" if claim.least else ""
    return f"{claim.side} {claim.threshold:g} {claim.unit}".rstrip() + least


def matters(claim: Claim) -> str:
    """The smallest effect that matters: ``s = 0.02 nats``."""
    return f"s = {claim.matters:g} {claim.unit}".rstrip()


def value(estimate: Estimate, digits: int = 4) -> str:
    """``-0.0312 nats (-0.0450 to -0.0174)``; a dash where it is undefined."""
    number, gap, ends = shown(estimate, digits).partition(" ")
    return number if math.isnan(estimate.value) else f"{number} {estimate.unit}".rstrip() + gap + ends


def interval(estimate: Estimate, *, method: bool = True, counts: Counts = WORKS) -> str:
    """What the interval is: level, clusters and the largest one's share, ``method``; or that there is none."""
    if not bounded(estimate):
        return f"no interval, {counted(estimate, counts)}"
    how = f"; {estimate.method}" if method and estimate.method else ""
    return f"{100 * estimate.level:g} % interval, {counted(estimate, counts)}{how}"


def bounded(estimate: Estimate) -> bool:
    """Whether it has an interval."""
    return not (math.isnan(estimate.low) or math.isnan(estimate.high))


def method(verdicts: Sequence[Verdict]) -> str:
    """How the intervals were made, if all were made alike, so that it need be said only once; else empty."""
    found = {verdict.estimate.method for verdict in verdicts if bounded(verdict.estimate)}
    return found.pop() if len(found) == 1 else ""


def p_value(p: float) -> str:
    """``0.0042``, ``< 0.0001``; a dash where it is undefined."""
    if math.isnan(p):
        return "–"
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def p_of(verdict: Verdict) -> str:
    """``p = 0.0042``; empty where a claim has none."""
    text = p_value(verdict.p)
    return "" if text == "–" else f"p {text}" if text.startswith("<") else f"p = {text}"


def described(chart: Chart) -> str:
    """A chart in words, for those who do not see it."""
    return f"{chart.title}: {chart.y}, over {chart.x}; curves: {', '.join(line.name for line in chart.lines)}"


def facts(claim: str, estimate: Estimate, p: float, p_holm: float) -> list[tuple[str, str]]:
    """What the index says of a study's primary claim."""
    return [
        ("claim", claim), ("estimate", value(estimate)), ("interval", interval(estimate)),
        ("p", p_value(p)), ("p, Holm", p_value(p_holm)),
    ]  # fmt: skip


def origin(provenance: Provenance) -> list[tuple[str, str]]:
    """Where a report comes from: what it is called and what it is; what is not known is left out."""
    parts = [
        ("model", provenance.model),
        ("identity", provenance.identity and f"sha256 {provenance.identity}"),
        ("circumstances", _pairs(provenance.circumstances)),
        ("lenses", _pairs(provenance.lenses)),
        ("corpus", provenance.corpus and f"sha256 {provenance.corpus}"),
        ("seed", "none: nothing was drawn" if provenance.seed is None else str(provenance.seed)),
        ("precision", _pairs(provenance.precision)),
        ("settings", _pairs(provenance.settings)),
        ("command", provenance.command),
        ("time", provenance.time),
    ]
    return [(name, text) for name, text in parts if text]


def _pairs(found: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}".rstrip() for name, value in found.items())
