"""Marks -> one self-contained page, and the same grid as a fragment for notebooks; no outside request in either."""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from importlib.resources import files
from io import StringIO

from rich.console import Console, RenderableType

from midstream.record import Array, ReadingTable
from midstream.view import chart, pack, token_text
from midstream.view.layout import lay_out

SCRIPTS = ("data.js", "paint.js", "detail.js", "follow.js", "controls.js", "grid.js", "mount.js")
"""The component's files, in the order in which they become one script."""

TITLE = 110
"""Characters of the text that stand in the page's title."""

PLAIN_POSITIONS, PLAIN_ROWS = 12, 8
"""Size of the table for readers without script: the last positions, every so many layers."""

WIDTH = 110
"""Characters of a line of what ``printed`` gives."""


def script() -> str:
    """The component as one script that defines ``window.MidstreamGrid`` and opens every waiting grid on the page."""
    return '(() => {\n"use strict";\n' + "\n".join(_static(name) for name in SCRIPTS) + "})();\n"


def style() -> str:
    """The component's style sheet."""
    return _static("grid.css")


def page(
    table: ReadingTable,
    *,
    tracks: dict[str, Array] | None = None,
    title: str | None = None,
    statistic: str = chart.DEFAULT,
) -> str:
    """A whole HTML page of one text's readings: works from disk, offline, under a strict content policy.

    The title is the text's beginning unless one is given. ``tracks`` (columns of WATCHED) holds the tokens whose
    curves over the layers are to be exact; ``statistic`` colours the grid until another is chosen. Nothing of a token
    is ever markup: tokens travel inside the packed data and, in the table for readers without script, escaped.
    Raises RequestError for a table without rows.
    """
    code, look = script(), style()
    policy = (
        f"default-src 'none'; script-src {_hash(code)}; style-src {_hash(look)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    title = _opening(table) if title is None else title
    shown = escape(token_text.visible(title).replace("·", " "))
    return f"""<!doctype html>
<html lang="en" class="ms-root">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="midstream">
<link rel="icon" href="data:,">
<title>{shown}</title>
<style>{look}</style>
<body class="ms-page">
<header><h1>{shown}</h1>
<p>{escape(about(table))}</p></header>
<main>{_place(table, tracks, statistic)}</main>
<script>{code}</script>
</body>
</html>
"""


def fragment(table: ReadingTable, *, tracks: dict[str, Array] | None = None, statistic: str = chart.DEFAULT) -> str:
    """The grid for a notebook's ``_repr_html_``: needs no kernel and no network, and several may stand on one page.

    Its style goes with the grid into a shadow tree, so that neither disturbs the other's look.
    """
    return f"{_place(table, tracks, statistic, look=f'<style>{style()}</style>')}\n<script>{script()}</script>"


def printed(view: RenderableType) -> str:
    """What the terminal shows of anything else, for a notebook's ``_repr_html_``."""
    console = Console(record=True, file=StringIO(), width=WIDTH, force_jupyter=False)
    console.print(view)
    code = console.export_html(inline_styles=True, code_format="{code}")
    return f'<pre style="font: 13px/1.3 ui-monospace, monospace; overflow-x: auto">{code}</pre>'


def about(table: ReadingTable) -> str:
    """Whose reading, through which lenses, of how much: one line."""
    lenses = list(dict.fromkeys(table.columns["lens"].tolist()))
    count = len(set(table.columns["position"].tolist()))
    parts = [
        table.provenance.model,
        f"{', '.join(lenses)} lens" + ("es" if len(lenses) > 1 else ""),
        f"{table.layers} blocks",
        f"{count:,} token" + ("s" if count != 1 else ""),
        str(table.provenance.precision.get("name", "")),
    ]
    return " · ".join(part for part in parts if part)


def _static(name: str) -> str:
    return files("midstream.view").joinpath("static", name).read_text(encoding="utf-8")


def _hash(inline: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"


def _place(table: ReadingTable, tracks: dict[str, Array] | None, statistic: str = chart.DEFAULT, look: str = "") -> str:
    packed = base64.b64encode(pack.pack(table, tracks=tracks, statistic=statistic)).decode()
    return (
        f'<div data-midstream="waiting">{look}<script type="application/x-midstream">{packed}</script>'
        f'<div class="ms-plain">{_plain(table)}</div></div>'
    )


def _opening(table: ReadingTable) -> str:
    """The text itself, as its tokens give it, cut at about a line; bytes that were split over tokens are joined."""
    text = "".join(table.vocabulary[token] for token in lay_out(table).tokens[:80])
    text = re.sub(r"(\\x[89a-f][0-9a-f])+", lambda found: _joined(found[0]), text)
    return text if len(text) <= TITLE else text[: TITLE - 1] + "…"


def _joined(escaped: str) -> str:
    try:
        return bytes.fromhex(escaped.replace("\\x", "")).decode()
    except UnicodeDecodeError:
        return escaped


def _plain(table: ReadingTable) -> str:
    """The first lens's top tokens for readers without script: last positions, some layers, the output on top."""
    first = lay_out(table).sites[0]
    site = "resid_post" if "resid_post" in table.columns["site"] else first
    layout = lay_out(table, sites=[site], every=1)
    layout = lay_out(table, sites=[site], every=-(-len(layout.layers) // PLAIN_ROWS))
    columns = range(max(0, len(layout.positions) - PLAIN_POSITIONS), len(layout.positions))
    tops, right = layout.tops(table), layout.right(table)

    def word(token: int) -> str:
        return escape(token_text.visible(table.vocabulary[token])) if token >= 0 else "–"

    head = "".join(f"<th scope=col>{layout.positions[c]} <bdi>{word(layout.tokens[c])}</bdi></th>" for c in columns)
    lines = []
    for row in reversed(range(len(layout.layers))):
        cells = (f"<td><bdi>{word(int(tops[row, c]))}</bdi>{' ✓' if right[row, c] else ''}</td>" for c in columns)
        lines.append(f"<tr><th scope=row>{layout.row_label(row)}</th>{''.join(cells)}</tr>")
    caption = f"<caption>{escape(layout.lens)} lens: {chart.about(layout.offset)}</caption>"
    return (
        f"<table>{caption}<thead><tr><th scope=col>layer</th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )
