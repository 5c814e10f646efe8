"""Markdown whose texts are text: what a reader of Markdown would take for markup is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

from midstream.view.study_text import prose

SPECIAL = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
"""Characters with a meaning wherever they stand; an underscore inside a word has none."""

BLOCK, NUMBERED = re.compile(r"^(?=[#>=]|[-+](?:[\s+-]|$))"), re.compile(r"^(\d{1,9})(?=[.)](?:\s|$))")
"""What at a line's beginning would make it a heading, a quotation, a list or a rule."""


class Made(str):
    """Markdown, as this module made it: not escaped again."""

    __slots__ = ()


def plain(text: str) -> Made:
    """``text`` as one line of a paragraph. A web address stays one, which some readers make a link."""
    if isinstance(text, Made):
        return text
    line = " ".join(prose(text).split())
    line = re.sub(r"&(?=#?\w+;)", "&amp;", line).replace("<", "&lt;")
    line = SPECIAL.sub(lambda found: "\\" + found[0], line)
    return Made(NUMBERED.sub(r"\1\\", BLOCK.sub(r"\\", line)))


def heading(level: int, text: str) -> str:
    """A heading; a ``#`` at its end stays part of it."""
    return f"{'#' * level} " + re.sub(r"#(?=#*$)", r"\\#", plain(text))


def bulleted(items: Iterable[str]) -> Iterator[str]:
    """The items as one list; nothing for none."""
    lines = [f"- {plain(item)}" for item in items]
    if lines:
        yield "\n".join(lines)


def cells(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[bool] = ()) -> str:
    """A table; ``numbers``: which columns stand right."""
    rules = ["---:" if i < len(numbers) and numbers[i] else "---" for i in range(len(head))]
    lines = [head, *rows]
    return "\n".join([_row(map(plain, lines[0])), _row(rules), *(_row(map(plain, row)) for row in lines[1:])])


def _row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def link(text: str, path: str) -> Made:
    """A link to a relative path."""
    return Made(f"[{plain(text)}]({quote(path.lstrip('/'), safe='/.-_~')})")


def image(title: str, path: str) -> str:
    """A figure by its relative path; its title stands in for it where it is not shown."""
    return f"!{link(title, path)}"
