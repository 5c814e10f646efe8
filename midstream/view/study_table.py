"""A study's verdicts in a terminal: a table where there is room, else one claim under another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text

from midstream.study.report import Report
from midstream.study.verdict import Found, Verdict
from midstream.view import study_text, token_text
from midstream.view.sheet import DIM

ROOM = 140
"""Columns from which on the verdicts stand in a table."""

COLOURS: dict[Found, Style] = {
    "supported": Style(color="green", bold=True),
    "refuted": Style(color="red", bold=True),
    "undecided": Style(color="yellow", bold=True),
}

_STRONG = Style(bold=True)


@dataclass(frozen=True)
class StudyView:
    """The verdicts as something rich can print; it takes the width of the console it is printed on."""

    report: Report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The study's name and answer, then every verdict, then how the intervals were made."""
        text: Callable[[str], str] = _ascii if options.ascii_only else study_text.prose
        yield Text(text(self.report.name), _STRONG)
        if self.report.caveat:
            yield Text(text(self.report.caveat), _STRONG)
        yield Text(text(self.report.answer))
        if not self.report.verdicts:
            return
        yield Text("")
        if options.max_width >= ROOM:
            yield _table(self.report.verdicts, text)
            yield Text("")
        else:
            yield from _blocks(self.report.verdicts, text)
        if method := study_text.method(self.report.verdicts):
            yield Text(text(f"method of the intervals: {method}"), DIM)


def table(report: Report) -> StudyView:
    """Of each claim: the estimate with its interval, in how many works, the verdict and why."""
    return StudyView(report)


def _ascii(text: str) -> str:
    return token_text.ascii_only(study_text.prose(text))


def _table(verdicts: tuple[Verdict, ...], text: Callable[[str], str]) -> Table:
    made = Table(box=None, padding=(0, 3, 1, 0), pad_edge=False, header_style=DIM)
    made.add_column("claim", min_width=24, ratio=3)
    made.add_column("estimate", min_width=18, ratio=2)
    made.add_column("interval", min_width=16, ratio=2)
    made.add_column("verdict", no_wrap=True)
    made.add_column("reason", min_width=24, ratio=3)
    shared = bool(study_text.method(verdicts))
    for verdict in verdicts:
        claim = Text.assemble((text(verdict.claim.name), _STRONG), "\n", (text(verdict.claim.says), DIM))
        works = Text(text(study_text.interval(verdict.estimate, method=not shared, counts=verdict.claim.counts)))
        made.add_row(claim, _estimate(verdict, text, "\n"), works, _badge(verdict, text), Text(text(verdict.reason)))
    return made


def _blocks(verdicts: tuple[Verdict, ...], text: Callable[[str], str]) -> Iterator[RenderableType]:
    """Claim after claim: verdict and name in a line, the rest set in below."""
    shared = bool(study_text.method(verdicts))
    for verdict in verdicts:
        yield Text.assemble(_badge(verdict, text), "  ", (text(verdict.claim.name), _STRONG))
        below = [
            Text(text(verdict.claim.says), DIM),
            _estimate(verdict, text, "; "),
            Text(text(study_text.interval(verdict.estimate, method=not shared, counts=verdict.claim.counts))),
            Text(text(verdict.reason)),
        ]
        yield from (Padding(line, (0, 0, 0, 2), expand=False) for line in below)
        yield Text("")


def _estimate(verdict: Verdict, text: Callable[[str], str], between: str) -> Text:
    parts = [text(study_text.value(verdict.estimate)), text(study_text.p_of(verdict))]
    return Text(between.join(part for part in parts if part))


def _badge(verdict: Verdict, text: Callable[[str], str]) -> Text:
    """The verdict; without its sign on a terminal that cannot write it."""
    shown = study_text.badge(verdict.found)
    return Text(shown if text is study_text.prose else verdict.found, COLOURS[verdict.found])
