"""What a study leaves in its folder: report.md, report.html, report.json and figures; and the page over all studies."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from midstream.errors import RequestError
from midstream.record import Estimate
from midstream.store.rows import explained
from midstream.store.sealed import DamagedError, Fields, read_file, read_json, seal
from midstream.store.write import atomic
from midstream.study.report import Report
from midstream.study.verdict import Found, holm
from midstream.view import study_chart, study_page
from midstream.view.study_index import Card, index_html, index_markdown


def write(report: Report, folder: Path) -> list[Path]:
    """Writes a report, each file whole or not at all, and returns the files; the JSON holds all of it, sealed.

    Raises RequestError when nothing can be written there.
    """
    figures = folder / "figures"
    with explained(figures):
        figures.mkdir(exist_ok=True)
    charts = [section.chart for section in report.sections if section.chart is not None]
    drawn = {chart.name: study_chart.render(chart) for chart in charts}
    made = {figures / f"{name}.svg": data for name, data in drawn.items()}
    made[folder / "report.md"] = study_page.markdown(report, {name: f"figures/{name}.svg" for name in drawn}).encode()
    made[folder / "report.html"] = study_page.html(report, drawn).encode()
    made[folder / "report.json"] = seal(_plain(asdict(report)))
    for path, data in made.items():
        with atomic(path) as file:
            file.write_bytes(data)
    return list(made)


def index(folder: Path) -> list[Path]:
    """Writes index.md and index.html over the reports in the folders of ``folder``, and returns them.

    Raises RequestError where there is no report, or one that is not what was written.
    """
    cards = list(_cards(folder))
    if not cards:
        raise RequestError(f"{str(folder)!r} holds no study with a report: expected the folder that studies write to.")
    made = {folder / "index.md": index_markdown(cards), folder / "index.html": index_html(cards)}
    for path, text in made.items():
        with atomic(path) as file:
            file.write_text(text, encoding="utf-8")
    return list(made)


def _cards(folder: Path) -> Iterator[Card]:
    folders = sorted(path.parent for path in folder.glob("*/report.json"))
    found = [_read(at) for at in folders]
    corrected = holm([card.p for card in found])
    for card, p_holm in zip(found, corrected, strict=True):
        yield replace(card, p_holm=p_holm)


def _read(at: Path) -> Card:
    """What the index shows of one report. Raises RequestError for one that is not what ``write`` wrote."""
    try:
        one = read_json(at, "report.json")
        primary = one["verdicts"][0]
        numbers = {
            name: _number(primary["estimate"][name]) for name in ("value", "low", "high", "largest_share", "level")
        }
        of = Fields(primary["estimate"])
        words = {name: of.text(name) for name in ("method", "unit")}
        counts = {name: of.whole(name) for name in ("clusters", "documents", "tokens")}
        entries: dict[str, Any] = {**numbers, **counts, **words}
        chart = next((section["chart"]["name"] for section in one["sections"] if section["chart"]), None)
        name, said = f"{at.name}/figures/{chart}.svg", Fields(one)
        svg = b"" if chart is None else _figure(at / "figures" / f"{Path(chart).name}.svg")
        return Card(
            name=said.text("name"),
            question=said.text("question"),
            answer=said.text("answer"),
            short=Fields(primary["claim"]).text("name"),
            claim=Fields(primary["claim"]).text("says"),
            found=_FOUND[primary["found"]],
            estimate=Estimate(**entries),
            p=_number(primary["p"]),
            p_holm=math.nan,
            href=f"{at.name}/report.html",
            caveat=said.text("caveat"),
            figure=name if svg else "",
            svg=svg,
        )
    except DamagedError as error:
        raise RequestError(f"{str(at / error.file)!r} {error.reason}: run that study again, or remove it.") from error
    except (LookupError, TypeError, ValueError) as error:
        raise RequestError(
            f"{str(at / 'report.json')!r} is no report of this version: run that study again, or remove it."
        ) from error


_FOUND: dict[str, Found] = {"supported": "supported", "refuted": "refuted", "undecided": "undecided"}

LARGEST_FIGURE = 1 << 22
"""Bytes of the largest figure that the index takes in."""


def _figure(path: Path) -> bytes:
    """An ordinary file beside the report, no link; nothing where there is none."""
    try:
        return b"".join(read_file(path, largest=LARGEST_FIGURE))
    except ValueError:
        return b""


def _number(value: Any) -> float:
    if value is not None and type(value) not in (int, float):
        raise ValueError("no number")
    return math.nan if value is None else float(value)


def _plain(value: Any) -> Any:
    """The value with null for what is undefined; infinite ends, which few clusters can have, are null as well."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else json.loads(json.dumps(value))
