"""What a user types in Python: load a model, read a text, look at the reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from textwrap import shorten
from typing import Any, Unpack

from midstream.errors import RequestError
from midstream.lens.request import ReadOptions, Request, request
from midstream.model.load import load
from midstream.model.model import Model
from midstream.record import Array, ReadingTable
from midstream.run.text import encode, read_text, tracks
from midstream.view.chart import DEFAULT

__all__ = ["Reading", "load", "read"]


@dataclass(frozen=True, eq=False)
class Reading(ReadingTable):
    """A reading with the ways to look at it; see ``ReadingTable`` for its columns and conversions.

    In a notebook it displays itself as the interactive grid. For that it keeps the model, to read the text once more
    for the curves of the tokens that lead; a copy or a pickle does without.
    """

    _model: Model | None = field(default=None, repr=False, compare=False)
    _request: Request | None = field(default=None, repr=False, compare=False)
    _rows: int = field(default=0, repr=False, compare=False)

    def show(self, statistic: str = DEFAULT) -> None:
        """Print the grid to the terminal, coloured by ``statistic``."""
        from rich.console import Console

        from midstream.view.terminal import grid

        Console().print(grid(self, statistic=statistic))

    def html(self, path: str | Path | None = None, *, title: str | None = None) -> str:
        """The interactive grid as one self-contained page; written to ``path`` where given.

        Raises RequestError when the file cannot be written; nothing is left of it then.
        """
        from midstream.store.write import atomic
        from midstream.view.html import page

        text = page(self, tracks=self._tracks(), title=title)
        if path is not None:
            with atomic(path) as file:
                file.write_text(text, encoding="utf-8")
        return text

    def plot(self, path: str | Path, *, statistic: str = DEFAULT) -> None:
        """Draw the grid as an SVG, PNG or PDF figure, by the ending of ``path``."""
        from midstream.view.plot import save

        save(self, path, statistic=statistic)

    def save(self, path: str | Path) -> None:
        """Write the columns to one Parquet file, whole or not at all. Raises RequestError for another ending."""
        if Path(path).suffix != ".parquet":
            raise RequestError(f"cannot save {str(path)!r}: expected a name that ends in .parquet.")
        from midstream.store.write import write_parquet

        write_parquet(path, [self])

    def _repr_html_(self) -> str:
        from midstream.view.html import fragment

        return fragment(self, tracks=self._tracks())

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the model, which may be large and cannot always be pickled."""
        return self.__dict__ | {"_model": None, "_request": None}

    def _tracks(self) -> dict[str, Array] | None:
        picked = len(self) != self._rows
        if self._model is None or self._request is None or picked:
            return None
        return tracks(self._model, self, self._request)


def read(
    model: Model,
    text: str | None = None,
    *,
    messages: Sequence[Mapping[str, str]] | None = None,
    **options: Unpack[ReadOptions],
) -> Reading:
    """Read a text: what each layer of ``model`` already believes about the next token.

    Args:
        model: from ``load``.
        text: the text; read as it is.
        messages: instead of a text, chat messages ``{"role", "content"}`` put in the model's chat template.
        options: see ``ReadOptions``: lens, layers, every, site, top_k, watch, precision, special.

    Returns the reading, one row a lens, site, layer and position. Raises RequestError for what the model lacks.
    """
    if not isinstance(model, Model):  # pyright: ignore[reportUnnecessaryIsInstance]  a user's types are checked by nobody
        raise RequestError(f"a model was given as {shorten(repr(model), 80)}: expected what midstream.load returns.")
    wanted = request(model, options)
    encoded = encode(model, text, messages, special=options.get("special", False))
    shown = {"text" if messages is None else "messages": shorten(repr(text if messages is None else messages), 200)}
    shown |= {name: shorten(repr(value), 200) for name, value in options.items()}
    call = ", ".join(f"{name}={value}" for name, value in shown.items())
    table = read_text(model, encoded, wanted, command=f"midstream.read(model, {call})")
    plain: dict[str, Any] = {entry.name: getattr(table, entry.name) for entry in fields(ReadingTable)}
    return Reading(**plain, _model=model, _request=wanted, _rows=len(table))
