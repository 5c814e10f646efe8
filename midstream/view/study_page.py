"""A study's report -> Markdown, and one self-contained HTML page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from midstream.study.report import Grid, Report, Section
from midstream.study.verdict import Verdict
from midstream.view import study_html, study_text
from midstream.view.study_markdown import bulleted, cells, heading, image, plain

NUMBER = re.compile(r"[+\-−±<]? ?[\d.].*|[–-]?", re.DOTALL)
"""A cell that stands in a column of numbers."""

LONG = 40
"""Characters from which on a cell is broken into lines."""


def markdown(report: Report, figures: Mapping[str, str]) -> str:
    """The report as Markdown for any reader of it; every text of the report is text, none of it markup.

    ``figures``: chart name -> path of its figure, relative to the page. Raises KeyError for a chart without one.
    """
    blocks = [heading(1, report.name), "> " + plain(report.question)]
    first = next(iter(report.verdicts), None)
    found = f"**{plain(study_text.badge(first.found, first.claim.name))}** – " if first else ""
    blocks += [f"**{plain(report.caveat)}**"] if report.caveat else []
    blocks.append(found + plain(report.answer))
    if report.about:
        blocks += [plain(report.about[0]), *bulleted(report.about[1:])]
    blocks += [heading(2, study_text.BEFORE), plain(report.prediction), *_verdicts(report.verdicts)]
    for section in report.sections:
        blocks += _section(section, figures)
    if report.lined_up:
        rows = [(one.source, one.theirs, one.ours, one.why) for one in report.lined_up]
        blocks += [heading(2, study_text.BESIDE), cells(study_text.LINED_UP, rows)]
    if report.notes:
        blocks += [heading(2, study_text.UNSAID), *bulleted(report.notes)]
    origin = study_text.origin(report.provenance)
    blocks += [heading(2, study_text.ORIGIN), *bulleted(f"{name}: {text}" for name, text in origin)]
    return "\n\n".join(blocks) + "\n"


def html(report: Report, figures: Mapping[str, bytes]) -> str:
    """The report as one HTML file: no outside request, no script, light and dark, readable on a phone and in print.

    ``figures``: chart name -> its figure, SVG or PNG, which becomes part of the file. Raises KeyError for a chart
    without one.
    """
    charts = [section.chart for section in report.sections if section.chart]
    return study_html.page(
        "study",
        report=report,
        figures={chart.name: study_html.inline(figures[chart.name]) for chart in charts},
        method=study_text.method(report.verdicts),
        kind=_kind,
    )


def _interval(verdict: Verdict, *, method: bool) -> str:
    """What the interval is, and p if there is one."""
    said = study_text.interval(verdict.estimate, method=method, counts=verdict.claim.counts)
    return "; ".join(filter(None, (said, study_text.p_of(verdict))))


def _verdicts(verdicts: tuple[Verdict, ...]) -> Iterator[str]:
    if not verdicts:
        return
    method = study_text.method(verdicts)
    rows = [
        (
            f"{verdict.claim.name}: {verdict.claim.says}",
            verdict.claim.estimand,
            f"{study_text.threshold(verdict.claim)}; {study_text.matters(verdict.claim)}",
            study_text.value(verdict.estimate),
            _interval(verdict, method=not method),
            study_text.badge(verdict.found),
            verdict.reason,
        )
        for verdict in verdicts
    ]
    yield heading(2, study_text.VERDICTS)
    yield cells(("claim", "estimand", "threshold and s", "estimate", "interval", "verdict", "reason"), rows)
    yield plain(study_text.MEANING)
    yield plain(study_text.COUNTED + (f" Method of the intervals: {method}." if method else ""))


def _section(section: Section, figures: Mapping[str, str]) -> Iterator[str]:
    yield heading(2, section.title)
    yield from map(plain, section.text)
    if section.grid:
        numbers = [_number(section.grid, column) for column in range(len(section.grid.heading))]
        yield cells(section.grid.heading, section.grid.rows, numbers)
    if section.chart:
        yield image(section.chart.title, figures[section.chart.name])
        yield plain(section.chart.caption)


def _number(grid: Grid, column: int) -> bool:
    return bool(grid.rows) and all(NUMBER.fullmatch(row[column]) and len(row[column]) < LONG for row in grid.rows)


def _kind(grid: Grid, column: int) -> str:
    """The class of a column's cells: numbers stand right, long texts are broken into lines."""
    if _number(grid, column):
        return "number"
    return "long" if any(len(row[column]) >= LONG for row in grid.rows) else "text"
