"""Readings -> marks: what each statistic is called, its unit, scale and limits, and the colours it is drawn in.

All three outputs (terminal, page, figure) take label, unit, limits and colour from here, and the cells from ``layout``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from midstream.errors import choices
from midstream.record import Array, ReadingTable

LIGHT = ("#f8f6ed", "#d8e1bc", "#9dd2a7", "#59bfaa", "#1aa4b1", "#0f86ad", "#2567a0", "#2e4a8b", "#2b336b")
DARK = ("#1b1e28", "#263253", "#274b7a", "#196994", "#008a9e", "#30aa9c", "#65c792", "#b0dd72", "#faec6a")
"""Anchors of the two colour ramps, even in OKLab lightness, worst reading first: it fades into its background."""

LIGHT_CHANGE = ("#8f4100", "#b86313", "#cd935d", "#dfc09f", "#efece8", "#a8cbe9", "#6ea6dc", "#3b7fcc", "#1a57ad")
DARK_CHANGE = ("#feb858", "#d38b2a", "#9c682e", "#65472c", "#282b31", "#39506d", "#4578ad", "#4da3ed", "#94cefe")
"""The same for a change: orange where it falls, grey for none, blue where it rises; both sides equally light."""

ENDS = ("less likely", "more likely")
"""What the low and the high end of a change mean."""

SHADES = 65
"""Colours in a ramp."""

INKS = ("#ffffff", "#050608")
"""Text colours; one of them has contrast 4.5 or more with every colour there is."""

Form = Literal["value", "exp", "logit", "change"]
Spacing = Literal["linear", "log", "log1p"]


@dataclass(frozen=True)
class Statistic:
    """How one statistic is made from the columns of a reading and how it is shown.

    Attributes:
        column: the column it comes from; ``top1`` is the first of ``top_logprobs``.
        form: ``value`` the column itself, ``exp`` its exponential, ``logit`` column + lse, ``change`` the column less
            the one without edits: on a scale as far below 0 as above, in a ramp of two colours.
        unit: ``nats``, ``%`` for probabilities, empty for ranks and logits.
        scale: ``log`` where ratios matter; ``log1p`` (of the distance from 0) where what lies near 0 matters most, but
            a few values lie far away: unreadable layers are tens of nats off.
        good: the end that is drawn strong (``high`` or ``low``).
        meaning: one plain sentence.
    """

    name: str
    label: str
    column: str
    form: Form
    unit: str
    scale: Spacing
    good: Literal["high", "low"]
    meaning: str

    @property
    def versus(self) -> bool:
        """Whether it compares the reading with one without the edits."""
        return self.column == "kl_unedited" or self.form == "change"


_TOP = "the token shown in the cell"
_NEXT = "the token that really came"
_FINAL = "the token that the model's output puts first"
_INPUT = "the token read at this position"

_ROWS: tuple[tuple[str, str, str, Form, str, Spacing, Literal["high", "low"], str], ...] = (
    ("final_top1_logprob", "log-probability of the output's top token", "final_top1_logprob", "value", "nats",
     "log1p", "high", _FINAL),
    ("final_top1_probability", "probability of the output's top token", "final_top1_logprob", "exp", "%",
     "linear", "high", _FINAL),
    ("final_top1_rank", "rank of the output's top token", "final_top1_rank", "value", "", "log", "low", _FINAL),
    ("top1_probability", "probability of the shown token", "top1", "exp", "%", "linear", "high", _TOP),
    ("top1_logprob", "log-probability of the shown token", "top1", "value", "nats", "log1p", "high", _TOP),
    ("top1_logit", "logit of the shown token", "top1", "logit", "", "linear", "high", _TOP),
    ("probability", "probability of the next token", "logprob", "exp", "%", "linear", "high", _NEXT),
    ("logprob", "log-probability of the next token", "logprob", "value", "nats", "log1p", "high", _NEXT),
    ("logit", "logit of the next token", "logprob", "logit", "", "linear", "high", _NEXT),
    ("rank", "rank of the next token", "rank", "value", "", "log", "low", _NEXT),
    ("entropy", "entropy", "entropy", "value", "nats", "linear", "low", "how undecided the reading is"),
    ("kl_final_lens", "KL(output ‖ reading)", "kl_final_lens", "value", "nats", "log1p", "low",
     "what is lost when the reading stands in for the model's output"),
    ("kl_lens_final", "KL(reading ‖ output)", "kl_lens_final", "value", "nats", "log1p", "low",
     "what is lost when the model's output stands in for the reading"),
    ("input_rank", "rank of the input token", "input_rank", "value", "", "log", "low", _INPUT),
    ("input_logprob", "log-probability of the input token", "input_logprob", "value", "nats",
     "log1p", "high", _INPUT),
    ("kl_unedited", "KL(unedited ‖ edited)", "kl_unedited", "value", "nats", "log1p", "high",
     "how far the edits have moved the reading"),
    ("logprob_change", "change in log p of the next token", "logprob", "change", "nats", "log1p", "high",
     "log-probability of the token that really came, edited − unedited"),
    ("kl_input_lens", "KL(layer 0 ‖ reading)", "kl_input_lens", "value", "nats", "log1p", "low",
     "how far the reading has moved from that of the input"),
)  # fmt: skip

STATISTICS: dict[str, Statistic] = {row[0]: Statistic(*row) for row in _ROWS}
"""Every statistic that a view can colour by, in the order in which they are offered."""

DEFAULT = "final_top1_logprob"
"""Shows noise turning into the output; undefined for a lens about a token that was already read."""

INSTEAD = ("logprob", "rank")
"""Tried in this order for a lens that lacks the statistic asked for: how well it reads what it is about."""


def usual(versus: bool) -> str:
    """What a view is coloured by until another is chosen: what edits have moved, where that was read."""
    return "kl_unedited" if versus else DEFAULT


def statistic(name: str) -> Statistic:
    """The statistic of that name. Raises RequestError with the valid names."""
    if name not in STATISTICS:
        raise choices("statistic", name, STATISTICS)
    return STATISTICS[name]


def about(offset: int) -> str:
    """The token that a lens of that offset reads about, in words."""
    named = {0: "input token", 1: "next token"}
    return named.get(offset, f"token {'+' if offset > 0 else '−'}{abs(offset)}")


def label(stat: Statistic, offset: int) -> str:
    """What the statistic is called for a lens of that offset, with its unit where it is nats."""
    named = stat.label.replace("next token", about(offset))
    if offset > 1:
        named = named.replace("output's top token", f"output's top for {about(offset)}")
    return named + (" in nats" if stat.unit == "nats" else "")


def choose(table: ReadingTable, name: str) -> Statistic:
    """``statistic(name)``; where it has no value in ``table`` (one lens's rows), the first of the others that has one.

    A lens about a token already read has no output to be held against, and one that only ranks no probabilities.
    """
    stats = [statistic(one) for one in (name, DEFAULT, *INSTEAD)] + list(STATISTICS.values())
    return next((stat for stat in stats if np.isfinite(values(table, stat)).any()), stats[0])


def values(table: ReadingTable, stat: Statistic) -> Array:
    """float64, one entry a row of ``table``: the statistic, NaN where it is undefined."""
    if stat.column == "top1":
        column = table.columns["top_logprobs"][:, 0]
    else:
        column = table.columns.get(stat.column, np.full(len(table), np.nan))
    known = column.astype(np.float64)
    if column.dtype.kind == "i":
        known[column < 0] = np.nan
    if stat.form == "exp":
        return np.exp(known)
    if stat.form == "change":
        return known - table.columns.get(f"unedited_{stat.column}", np.full(len(table), np.nan)).astype(np.float64)
    return known + table.columns["lse"].astype(np.float64) if stat.form == "logit" else known


@dataclass(frozen=True)
class Scale:
    """From a statistic's value to a place on its colour ramp.

    Attributes:
        low, high: the values at the two ends, in the statistic's unit; outside values take the end's colour.
    """

    stat: Statistic
    low: float
    high: float

    def place(self, value: Array) -> Array:
        """0 (drawn faint) to 1 (drawn strong), NaN where ``value`` is."""
        low, high = self._bend(np.array([self.low, self.high]))
        part = (self._bend(np.clip(value, self.low, self.high)) - low) / (high - low)
        return 1.0 - part if self.stat.good == "low" else part

    def _bend(self, value: Array) -> Array:
        if self.stat.scale == "log":
            return np.log(value)
        return np.sign(value) * np.log1p(np.abs(value)) if self.stat.scale == "log1p" else np.asarray(value, float)

    def shade(self, value: Array) -> Array:
        """int64 index into ``ramp``; -1 where ``value`` is NaN."""
        place = self.place(value)
        return np.where(np.isnan(place), -1, np.rint(np.nan_to_num(place) * (SHADES - 1))).astype(np.int64)

    def ticks(self) -> list[float]:
        """Values to write beside a legend, from faint to strong."""
        if self.stat.scale == "log":
            tens = np.arange(0, np.floor(np.log10(self.high)) + 1)
            found = [float(10**ten) for ten in tens[:: max(1, len(tens) // 4)]]
        elif self.stat.scale == "log1p":
            far = max(self.high, -self.low)
            tens, threes = [0.0, 1.0, 10.0, 100.0, 1000.0], [3.0, 30.0, 300.0]  # two sides leave room for fewer
            marks = tens if self.stat.form == "change" else tens + threes
            steps = [mark for mark in marks if np.log1p(mark) <= 0.75 * np.log1p(far)] + [far]
            found = sorted({sign * step + 0.0 for step in steps for sign in np.sign([self.low, self.high]).tolist()})
        else:
            found = [float(v) for v in np.linspace(self.low, self.high, 5)]
        return found[::-1] if self.stat.good == "low" else found


def scale(table: ReadingTable, stat: Statistic) -> Scale:
    """Limits for ``table``: 0 to 1 for probabilities, 1 up for ranks, else what most cells span, on round numbers."""
    known = values(table, stat)
    known = known[np.isfinite(known)]
    if stat.unit == "%" or not len(known):
        return Scale(stat, *((1.0, 10.0) if stat.scale == "log" else (0.0, 1.0)))
    if stat.scale == "log":
        return Scale(stat, 1.0, float(10.0 ** max(1.0, np.ceil(np.log10(known.max()) - 1e-9))))
    low, high = (float(v) for v in np.percentile(known, [0, 100] if stat.versus else [2, 98]))  # an edit may move few
    if stat.scale == "log1p" or stat.column == "entropy":
        far = max(abs(low), abs(high))
        step = 10.0 ** np.floor(np.log10(max(far, 1e-2)))
        far = next(float(round(n * step, 9)) for n in (1, 2, 3, 5, 10) if n * step >= far)
        if stat.form == "change":
            return Scale(stat, -far, far)
        return Scale(stat, -far, 0.0) if stat.good == "high" and not stat.versus else Scale(stat, 0.0, far)
    step = 10.0 ** np.floor(np.log10(max(high - low, 1e-3)))
    return Scale(stat, float(np.floor(low / step) * step), float(np.floor(high / step + 1) * step))


def ramp(theme: Literal["light", "dark"], form: Form = "value") -> list[str]:
    """``SHADES`` colours ``#rrggbb`` from faint to strong; their luminance only falls (light) or only rises (dark).

    That of a change is strong at both ends, each in its own colour, and faint in the middle.
    """
    one, two = (LIGHT, LIGHT_CHANGE) if theme == "light" else (DARK, DARK_CHANGE)
    anchors = np.array([_rgb(colour) for colour in (two if form == "change" else one)])
    at = np.linspace(0, len(anchors) - 1, SHADES)
    mixed = np.stack([np.interp(at, np.arange(len(anchors)), anchors[:, c]) for c in range(3)], 1)
    return ["#" + "".join(f"{round(float(part)):02x}" for part in row) for row in mixed]


def ink(colour: str) -> str:
    """The text colour that is easier to read on ``colour`` (WCAG contrast)."""
    return max(INKS, key=lambda text: contrast(text, colour))


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two colours ``#rrggbb``, 1 to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in _rgb(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def written(stat: Statistic, value: float) -> str:
    """A value as text with its unit, as every output writes it; ``–`` where undefined."""
    if not np.isfinite(value):
        return "–"
    if stat.unit == "%":
        return f"{100 * value:.{1 if value < 0.9995 else 0}f} %"
    if stat.column.endswith("rank"):
        return f"{value:,.0f}"
    sign = "+" if stat.form == "change" and round(value, 2) > 0 else ""
    return f"{sign}{round(value, 2) + 0.0:.2f}".replace("-", "−") + (f" {stat.unit}" if stat.unit else "")


def tick_text(stat: Statistic, value: float) -> str:
    """A round value beside a colour scale; the unit stands elsewhere, but for ``%``."""
    if stat.column.endswith("rank"):
        return written(stat, value)
    if stat.unit == "%":
        return f"{100 * value:g} %"
    sign = "+" if stat.form == "change" and value > 0 else ""
    return f"{sign}{round(value, 2) + 0.0:g}".replace("-", "−")
