"""What every figure shares: its formats, fonts and the bytes of its file; the same data give the same bytes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midstream.errors import choices
from midstream.store.write import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "png", "pdf")

UNDATED: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
"""Metadata that keeps time and version out of a figure: the same data give the same bytes."""

FONTS = ("DejaVu Sans", "Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Arabic", "Noto Sans Hebrew",
         "Noto Sans Devanagari", "Noto Sans Thai", "Arial Unicode MS", "Noto Sans Symbols 2", "Noto Emoji")  # fmt: skip
"""Tried in this order for each character, as far as they are installed."""


def save(path: str | Path, draw: Callable[[], Figure]) -> None:
    """Draw a figure and write it to ``path``, whole or not at all, as its ending says.

    Raises RequestError: unknown ending, or a folder that cannot be written.
    """
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise choices("figure format", kind, FORMATS)
    data = render(kind, draw)
    with atomic(path) as file:
        file.write_bytes(data)


def render(kind: str, draw: Callable[[], Figure]) -> bytes:
    """The figure as the bytes of an ``svg``, ``png`` or ``pdf`` file."""
    import matplotlib  # half a second that only a figure pays

    with warnings.catch_warnings(), matplotlib.rc_context(settings()):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # drawn as a box, which says enough
        out = io.BytesIO()
        draw().savefig(out, format=kind, dpi=200, metadata=UNDATED[kind], bbox_inches="tight", pad_inches=0.06)
    return out.getvalue()


def settings() -> dict[Any, Any]:
    """What every figure is drawn with: fonts that are installed, the same bytes each time."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return {
        "font.family": [name for name in FONTS if name in installed],
        "svg.hashsalt": "midstream",
        "pdf.fonttype": 42,
        "text.parse_math": False,  # a dollar sign in a token is a dollar sign
        "axes.unicode_minus": True,
    }
