"""Make a token visible: one line of text that holds no control, bidi or invisible character and is never markup."""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len, set_cell_size

MARKS = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍", "": "∅"}
"""What is drawn for the characters that tokens hold most often and that would not be seen."""

BLANK = frozenset(
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u2800\u3164\uffa0"
    + "".join(map(chr, range(0xFE00, 0xFE10)))
)
"""Characters that draw nothing although Unicode counts them as letters, marks or symbols (fillers, selectors)."""

STACK = 3
"""Combining marks that one base carries; more would climb over the lines above (each further three get a base)."""

ASCII = {"·": "_", "⏎": "\\n", "⇥": "\\t", "␍": "\\r", "∅": "()", "✓": "*", "−": "-", "→": ">", "–": "-"}


def visible(token: str) -> str:
    """``token`` as one line that can be seen: ``·`` space, ``⏎`` newline, ``⇥`` tab, ``␀`` controls, else ``\\uXXXX``.

    The marks themselves are escaped where a token holds them, so that two tokens never look alike; invalid bytes
    arrive as ``\\xNN`` and stay so. A combining mark without its own base sits on a dotted circle.
    """
    if not token:
        return MARKS[""]
    shown: list[str] = []
    room = 0
    for char in token:
        category = unicodedata.category(char)
        if category in ("Mn", "Mc", "Me") and char not in BLANK:
            shown.append(char if room else "◌" + char)
            room = (room or STACK) - 1
            continue
        text = _visible(char, category)
        room = STACK if text == char else 0
        shown.append(text)
    return "".join(shown)


def _visible(char: str, category: str) -> str:
    if char in MARKS:
        return MARKS[char]
    if char < "\x20" or char == "\x7f":
        return chr(0x2400 + ord(char)) if char != "\x7f" else "␡"
    if category[0] in "CZ" or char in BLANK or char in MARKS.values():
        return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
    return char


def width(text: str) -> int:
    """Terminal columns that ``text`` takes: two for East Asian wide characters and emoji, none for combining marks."""
    return cell_len(text)


def fit(text: str, columns: int, *, cut: str = "…") -> str:
    """``text`` in exactly ``columns`` (at least 1) of a terminal: padded, or cut at a whole character and marked."""
    if width(text) <= columns:
        return text + " " * (columns - width(text))
    return set_cell_size(set_cell_size(text, columns - 1).rstrip(" ") + cut, columns)


def ascii_only(text: str) -> str:
    """``text`` for an output that can write ASCII only; longer than ``text`` in general, so convert before ``fit``."""
    plain = "".join(ASCII.get(char, char) for char in text)
    return plain.encode("ascii", "backslashreplace").decode("ascii")


def name(text: str, columns: int) -> str:
    """A name, such as a field's value, as one line of at most so many ``columns``: as ``visible``, blanks as blanks."""
    shown = visible(text).replace(MARKS[" "], " ") if text else ""
    return fit(shown, min(columns, max(1, width(shown)))) if shown else ""
