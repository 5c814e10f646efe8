"""Every study on one page, as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from midstream.record import Estimate
from midstream.study.verdict import Found
from midstream.view import study_html, study_text
from midstream.view.study_markdown import bulleted, cells, heading, image, link, plain


@dataclass(frozen=True)
class Card:
    """One study as the index shows it.

    Attributes:
        question: in the words of the one who asked.
        answer: one sentence with its interval.
        short, claim: the primary claim in a few words and as a sentence.
        p, p_holm: of the primary claim; the second corrected for the number of studies. NaN where there is none.
        href: of the report, relative to the index.
        figure: its path, relative to the index, for Markdown; empty for none.
        svg: the figure itself, SVG or PNG, for HTML; empty for none.
        caveat: what must be known before the answer; empty for nothing.
    """

    name: str
    question: str
    answer: str
    short: str
    claim: str
    found: Found
    estimate: Estimate
    p: float
    p_holm: float
    href: str
    figure: str = ""
    svg: bytes = b""
    caveat: str = ""


def index_markdown(cards: Sequence[Card]) -> str:
    """All studies in a table, then each with its question, answer, verdict, p and figure."""
    rows = [
        (
            link(card.name, card.href),
            study_text.badge(card.found),
            study_text.value(card.estimate),
            study_text.p_value(card.p),
            study_text.p_value(card.p_holm),
        )
        for card in cards
    ]
    blocks = [heading(1, "Studies"), cells(study_text.INDEX, rows, [False, False, False, True, True])]
    blocks += [plain(f"{study_text.HOLM} {study_text.COUNTED}"), plain(study_text.MEANING)]
    for card in cards:
        blocks += [heading(2, link(card.name, card.href)), "> " + plain(card.question)]
        blocks += [f"**{plain(card.caveat)}**"] if card.caveat else []
        blocks.append(f"**{plain(study_text.badge(card.found, card.short))}** – {plain(card.answer)}")
        facts = study_text.facts(card.claim, card.estimate, card.p, card.p_holm)
        blocks += bulleted(f"{name}: {text}" for name, text in facts)
        blocks += [image(card.claim, card.figure)] if card.figure else []
    return "\n\n".join(blocks) + "\n"


def index_html(cards: Sequence[Card]) -> str:
    """The same as one HTML file without outside requests; its links are to the reports."""
    return study_html.page("study_index", cards=cards)
