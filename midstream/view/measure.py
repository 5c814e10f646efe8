"""Scores and summaries -> marks: what each measure is called and written like, and its curves over the layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from midstream.errors import RequestError, choices
from midstream.record import Array, ScoreTable, SummaryTable

Good = Literal["high", "low", ""]


@dataclass(frozen=True)
class Measure:
    """How one measure of a score is shown.

    Attributes:
        unit: ``nats``, ``%``, or empty for plain numbers.
        good: the end that is better; empty where neither is.
    """

    name: str
    label: str
    unit: str
    good: Good

    @property
    def heading(self) -> str:
        """Label and unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def factor(self) -> float:
        """What a value of the table is multiplied by to be written in ``unit``."""
        return 100.0 if self.unit == "%" else 1.0


_KNOWN: dict[str, tuple[str, Good]] = {
    "kl": ("KL(output ‖ lens)", "low"),
    "kl_final_lens": ("KL(output ‖ lens)", "low"),
    "kl_reverse": ("KL(lens ‖ output)", "low"),
    "kl_lens_final": ("KL(lens ‖ output)", "low"),
    "cross_entropy": ("cross-entropy of the real token", "low"),
    "logprob": ("log p of the real token", "high"),
    "entropy": ("entropy", ""),
    "agreement": ("same first choice as the output", "high"),
    "accuracy": ("real token put first", "high"),
    "final_top1_logprob": ("log p of the output's first choice", "high"),
    "input_accuracy": ("token read put first", ""),
    "input_logprob": ("log p of the token read", ""),
    "kl_input_lens": ("KL(lens at layer 0 ‖ lens)", ""),
    "lse": ("log-sum-exp of the logits", ""),
    "spearman": ("causal: predicted against real, Spearman", "high"),
    "effect": ("causal: effect beyond random", "high"),
}
_SHARES = ("agreement", "accuracy", "input_accuracy")

Estimates = ScoreTable | SummaryTable

PASS = re.compile(r"pass@(\d+)( null| - null)? (\S.*)")
"""The measure of prompts: k, whether it is the null or the value less the null, and which items it is over: the name of
their file (which may be ``null``, and has no blanks), and ``, known``."""


def names(table: Estimates) -> list[str]:
    """The measures that occur by layer, in the order in which they are shown."""
    found = dict.fromkeys(table.columns["measure"].tolist())
    layered = [name for name in found if not PASS.fullmatch(name)]
    return [name for name in _KNOWN if name in layered] + [name for name in layered if name not in _KNOWN]


def chosen(table: Estimates, wanted: Sequence[str] | None) -> list[str]:
    """The measures asked for, or all there are by layer. Raises RequestError for one that is not among them."""
    found = names(table)
    if not found:
        raise RequestError("there are no curves to draw: there is no measure by layer.")
    for name in wanted or ():
        if name not in found:
            raise choices("measure", name, found)
    return list(wanted or found)


def measure(table: Estimates, name: str) -> Measure:
    """The measure of that name, in the unit that its rows have; one not known here is called by its name."""
    label, good = _KNOWN.get(name, (name, ""))
    units = table.columns["unit"][table.columns["measure"] == name].tolist()
    share = name in _SHARES or PASS.fullmatch(name)
    return Measure(name, label, "%" if share else "" if not units or units[0] == "1" else units[0], good)


@dataclass(frozen=True, eq=False)
class Curve:
    """One measure of one lens (less that of another, of a baseline, or of another store) over the layers, ascending;
    all ``[layers]``."""

    lens: str
    site: str
    against: str
    layers: Array
    value: Array
    low: Array
    high: Array
    clusters: Array
    tokens: Array
    over: tuple[float, float, float]
    """Value, low and high over all layers together; NaN where there is none."""

    @property
    def of(self) -> str:
        """The lens that a baseline belongs to, or the lens itself."""
        return self.lens.removesuffix(f" {self.site}").partition(" | ")[0]

    @property
    def baseline(self) -> str:
        """Which baseline it is: the part of its name after the bar; empty for a lens."""
        return self.lens.partition(" | ")[2]

    @property
    def difference(self) -> str:
        """``tuned − logit``; a lens's own baseline goes by its short name."""
        return f"{self.lens} − {self.against.removeprefix(f'{self.of} | ')}"


def curves(table: Estimates, name: str, *, paired: bool, group: str | None = None) -> list[Curve]:
    """The curves of one measure in the order of the table: of lenses and baselines, or of their ``paired`` differences.

    A site other than ``resid_post`` is part of the name. ``group``: of a summary, only that one.
    """
    columns = table.columns if group is None else table.pick(table.columns["group"] == group).columns
    own = (columns["measure"] == name) & ((columns["against"] != "") == paired)
    keys = zip(*(columns[part][own].tolist() for part in ("lens", "site", "against")), strict=True)
    made: list[Curve] = []
    for lens, site, against in dict.fromkeys(keys):
        rows = np.flatnonzero(
            own & (columns["lens"] == lens) & (columns["site"] == site) & (columns["against"] == against)
        )
        rows = rows[np.argsort(columns["layer"][rows], kind="stable")]
        whole, layered = rows[columns["layer"][rows] < 0], rows[columns["layer"][rows] >= 0]
        over = tuple(
            float(columns[part][whole[0]]) if len(whole) else float("nan") for part in ("value", "low", "high")
        )
        shown = lens if site in ("resid_post", "") else f"{lens} {site}"
        parts = (columns[part][layered] for part in ("layer", "value", "low", "high", "clusters", "tokens"))
        made.append(Curve(shown, site, against, *parts, over=(over[0], over[1], over[2])))
    return made


def digits(half: Array, factor: float = 1.0) -> int:
    """Decimals that show two digits of the median of the half widths ``half``: at least 2 (1 of a share), at most 5."""
    fewest = 1 if factor == 100 else 2
    known = factor * half[np.isfinite(half) & (half > 0)]
    return int(np.clip(1 - np.floor(np.log10(np.median(known))), fewest, 5)) if len(known) else fewest


def written(value: float, factor: float = 1.0, decimals: int | None = None) -> str:
    """A number of a table: 2 ``decimals`` (1 of a share) unless given, ``–`` where undefined."""
    if np.isnan(value):
        return "–"
    if np.isinf(value):
        return "∞" if value > 0 else "−∞"
    places = decimals if decimals is not None else 1 if factor == 100 else 2
    return f"{round(factor * value, places) + 0.0:.{places}f}".replace("-", "−")


def interval(value: float, low: float, high: float, factor: float = 1.0, decimals: int | None = None) -> str:
    """``±0.11`` where the interval is even about the value, else ``[2.40, 2.70]``; empty where there is none."""
    if np.isnan(low) or np.isnan(high):
        return ""
    below, above = written(value - low, factor, decimals), written(high - value, factor, decimals)
    return f"±{above}" if below == above else f"[{written(low, factor, decimals)}, {written(high, factor, decimals)}]"


def spans(away: Array, layers: Array) -> str:
    """The ``layers`` (ascending) where ``away`` (bool) as ranges over those there are: ``0–12, 14``; else ``–``."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], away, [False]]).astype(np.int8)))
    runs = [(layers[first], layers[past - 1]) for first, past in edges.reshape(-1, 2).tolist()]
    return ", ".join(f"{first}" if first == last else f"{first}–{last}" for first, last in runs) or "–"
