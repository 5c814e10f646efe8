"""What the facade hands out: lenses, readings, scores, summaries and stores with the ways to keep and look at them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midstream.errors import RequestError, choices
from midstream.lens.lens import Lens as LensValue
from midstream.lens.read.request import Request
from midstream.model.model import Model
from midstream.record import Array, PatchTable, ReadingTable, ScoreTable, SummaryTable, Table
from midstream.run.text import tracks
from midstream.view.chart import usual

if TYPE_CHECKING:
    from rich.console import RenderableType

    from midstream.run.sample import Piece
    from midstream.sample.generate import Step
    from midstream.store.query import Answer
    from midstream.store.store import Store as StoreFiles


@dataclass(frozen=True, eq=False)
class Lens(LensValue):
    """A lens with the ways to keep it; see ``lens.lens.Lens`` for what it is made of."""

    def save(self, path: str | Path) -> None:
        """Write it to one ``.safetensors`` file, whole or not at all. Raises RequestError when that cannot be done."""
        from midstream.lens.file.artifact import save

        save(self, path)

    @classmethod
    def load(cls, path: str | Path, model: Model | None = None) -> Lens:
        """The lens in a file, or whatever ``--lens`` names, checked against the model.

        Args:
            path: a lens file; with a model also the name of a kind, a tuned-lens folder, a Jacobian-lens ``.pt``, or
                ``hf:OWNER/NAME/FILE``.
            model: the model it is to read; None: only look at the file, unchecked.

        Raises RequestError for a damaged file and for a lens of another model.
        """
        if model is None:
            from midstream.lens.file.artifact import load

            return as_lens(load(path))
        from midstream.lens.file.find import find

        return as_lens(find(model, path))


def as_lens(lens: LensValue) -> Lens:
    """The lens with the ways to keep it."""
    return Lens(**{entry.name: getattr(lens, entry.name) for entry in fields(LensValue)})


class _Seen(Table):
    """A result that prints as one line, and that a notebook shows as the terminal does."""

    def __repr__(self) -> str:
        """What it is; the numbers are in ``columns``."""
        return f"<{type(self).__name__}: {self._about()}>"

    def _about(self) -> str:
        return f"{len(self):,} rows"

    def _view(self, **options: Any) -> RenderableType:
        raise NotImplementedError

    def _print(self, **options: Any) -> None:
        from rich.console import Console

        Console().print(self._view(**options))

    def _repr_html_(self) -> str:
        from midstream.view.html import printed

        return printed(self._view())


@dataclass(frozen=True, eq=False, repr=False)
class Reading(_Seen, ReadingTable):
    """A reading with the ways to look at it; see ``ReadingTable`` for its columns and conversions.

    In a notebook it displays itself as the interactive grid, coloured by how far the edits moved each cell where it was
    read ``versus``, else by the log-probability of the output's top token. For that it keeps the model, to read the
    text once more for the curves of the tokens that lead; a copy or a pickle does without.
    """

    _model: Model | None = field(default=None, repr=False, compare=False)
    _request: Request | None = field(default=None, repr=False, compare=False)
    _rows: int = field(default=0, repr=False, compare=False)

    def show(self, statistic: str | None = None) -> None:
        """Print the grid to the terminal, coloured by ``statistic``; None: as a notebook shows it."""
        self._print(statistic=statistic or self._start)

    def html(self, path: str | Path | None = None, *, title: str | None = None, statistic: str | None = None) -> str:
        """The interactive grid as one self-contained page, coloured by ``statistic`` until another is chosen.

        None: as a notebook shows it. Written to ``path`` where given. Raises RequestError when the file cannot be
        written; nothing is left of it then.
        """
        from midstream.store.write import atomic
        from midstream.view.html import page

        text = page(self, tracks=self._tracks(), title=title, statistic=statistic or self._start)
        if path is not None:
            with atomic(path) as file:
                file.write_text(text, encoding="utf-8")
        return text

    def plot(
        self, path: str | Path, *, statistic: str | None = None, lenses: Sequence[str] | None = None, every: int = 1
    ) -> None:
        """Draw the grid as an SVG, PNG or PDF figure, by the ending of ``path``.

        ``statistic`` None: as a notebook shows it. ``lenses``: those drawn, by name; None: all. ``every`` k: each k-th
        layer, counted back from the last.
        """
        from midstream.view.plot import save

        save(self, path, statistic=statistic or self._start, lenses=lenses, every=every)

    def save(self, path: str | Path) -> None:
        """Write the columns to one Parquet file, whole or not at all. Raises RequestError for another ending."""
        from midstream.store.write import write_parquet

        write_parquet(_parquet(path), [self])

    @property
    def _start(self) -> str:
        return usual("kl_unedited" in self.columns)

    def _about(self) -> str:
        from midstream.view.html import about

        return about(self)

    def _view(self, **options: Any) -> RenderableType:
        from midstream.view.terminal import grid

        return grid(self, **options)

    def _repr_html_(self) -> str:
        from midstream.view.html import fragment

        return fragment(self, tracks=self._tracks(), statistic=self._start)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the model, which may be large and cannot always be pickled."""
        return self.__dict__ | {"_model": None, "_request": None}

    def _tracks(self) -> dict[str, Array] | None:
        picked = len(self) != self._rows
        if self._model is None or self._request is None or picked:
            return None
        return tracks(self._model, self, self._request)


@dataclass(frozen=True, eq=False, repr=False)
class Score(_Seen, ScoreTable):
    """A score with the ways to look at it; see ``ScoreTable`` for its columns and conversions."""

    def show(self) -> None:
        """Print the tables to the terminal."""
        self._print()

    def plot(self, path: str | Path) -> None:
        """Draw the curves by layer as an SVG, PNG or PDF figure, by the ending of ``path``."""
        from midstream.view.score_plot import save

        save(self, path)

    def save(self, path: str | Path) -> None:
        """Write the estimates to one Parquet file, whole or not at all. Raises RequestError for another ending."""
        from midstream.store.write import write_score

        write_score(_parquet(path), self)

    def _view(self, **options: Any) -> RenderableType:
        from midstream.view.score_table import table

        return table(self, **options)


@dataclass(frozen=True, eq=False, repr=False)
class Summary(_Seen, SummaryTable):
    """Averages of a store with the ways to look at them; see ``SummaryTable`` for the columns and conversions."""

    def show(self, *, every: int | None = None) -> None:
        """Print the tables to the terminal; ``every`` k: each k-th layer, counted back from the last."""
        self._print(every=every)

    def plot(self, path: str | Path, *, measures: Sequence[str] | None = None) -> None:
        """Draw the curves by layer as an SVG, PNG or PDF figure, by the ending of ``path``."""
        from midstream.view.summary_plot import save

        save(self, path, names=measures)

    def save(self, path: str | Path) -> None:
        """Write the estimates to one Parquet file, whole or not at all. Raises RequestError for another ending."""
        from midstream.store.write import write_summary

        write_summary(_parquet(path), self)

    def _view(self, **options: Any) -> RenderableType:
        from midstream.view.summary_table import table

        return table(self, **options)


@dataclass(frozen=True)
class Store:
    """What a scan has kept, to be asked; made by ``open``.

    Attributes:
        files: the opened store: its ``path``, ``header`` (model, lenses, layers ...) and finished shards.
    """

    files: StoreFiles

    def sql(self, text: str) -> Answer:
        """The answer to one SELECT over ``readings``, ``documents``, ``positions``, ``tokens``, ``by_layer`` and, where
        tokens were watched, ``watched``: ``.names``, ``.rows()``, ``.arrow()``, ``.pandas()``, ``.polars()``.

        Warns of shards that are left out. Raises RequestError for SQL that is wrong, writes, or reads other files.
        """
        from midstream.store.query import sql

        answer = sql(self.files, text)
        for note in answer.notes:
            warnings.warn(note, stacklevel=2)
        return answer

    def summary(self, by: str = "layer", **options: Any) -> Summary:
        """Averages with intervals that count documents; see ``store.summary.summary``.

        Args:
            by: ``layer``, ``position``, ``frequency`` (of the target in the store) or a field of the documents.
            options: measures (names; None: the KLs, logprob, entropy, accuracy, agreement), cluster, min_context, seed.
        """
        from midstream.store.summary import summary

        return _summary(summary(self.files, by, **_known(options)))

    def difference(self, other: Store | str | Path, by: str = "layer", **options: Any) -> Summary:
        """The same averages less those of another store, over the documents that both hold, paired by document."""
        from midstream.store.difference import difference

        less = other if isinstance(other, Store) else open(other)
        return _summary(difference(self.files, less.files, by, **_known(options)))


@dataclass(frozen=True, eq=False, repr=False)
class Patching(_Seen, PatchTable):
    """A patching with the ways to look at it; see ``PatchTable`` for its columns and conversions."""

    def show(self, *, every: int = 1) -> None:
        """Print the grid to the terminal; ``every`` k: each k-th layer, counted back from the last."""
        self._print(every=every)

    def plot(self, path: str | Path) -> None:
        """Draw the effects and the control's as an SVG, PNG or PDF figure, by the ending of ``path``."""
        from midstream.view.patch_grid import save

        save(self, path)

    def save(self, path: str | Path) -> None:
        """Write the columns to one Parquet file, whole or not at all. Raises RequestError for another ending."""
        from midstream.store.write import write_patching

        write_patching(_parquet(path), self)

    def _view(self, **options: Any) -> RenderableType:
        from midstream.view.patch_grid import PatchGrid

        return PatchGrid(self, **options)


class Sample:
    """Texts on their way: iterate to have each token as it comes; ``texts`` has all that was made, and ends the rest.

    What was made before an error or Ctrl-C stays in ``pieces``; asked for the rest, it says that there is none.
    """

    def __init__(self, model: Model, pieces: Iterator[Piece], count: int) -> None:
        self._model, self._rest, self._count = model, pieces, count
        self._broken = False
        self.pieces: list[Piece] = []

    def __repr__(self) -> str:
        """How many texts, and how far they are; asks for nothing more."""
        return f"<Sample: {self._count} texts · {len(self.pieces):,} tokens so far; texts has all>"

    def __iter__(self) -> Iterator[Piece]:
        """Each token with what was read where it was chosen (``run.sample.Piece``), from the first on."""
        at = 0
        while True:
            while at < len(self.pieces):
                yield self.pieces[at]
                at += 1
            try:
                self.pieces.append(next(self._rest))
            except StopIteration:
                break
            except BaseException:
                self._broken = True
                raise
        if self._broken:
            raise RequestError("the generation was interrupted: what was made is in pieces; begin anew for the rest.")

    @property
    def steps(self) -> list[list[Step]]:
        """The steps of each text (``sample.generate.Step``); generates what is still missing."""
        found: list[list[Step]] = [[] for _ in range(self._count)]
        for piece in self:
            found[piece.step.text].append(piece.step)
        return found

    @property
    def texts(self) -> list[str]:
        """The continuation of each prompt, without an end-of-text token."""
        from midstream.run.sample import written

        ends = [[step.token for step in steps if step.ended != "end"] for steps in self.steps]
        return [written(self._model, tokens) for tokens in ends]

    @property
    def text(self) -> str:
        """The continuation of the only prompt. Raises RequestError where there are several."""
        if self._count != 1:
            raise RequestError(f"there are {self._count} prompts: ask for texts.")
        return self.texts[0]


def open(path: str | Path) -> Store:
    """The store in a folder that a scan has written, also one whose scan goes on. Raises RequestError for no store."""
    from midstream.store.store import open_store

    return Store(open_store(path))


def _known(options: dict[str, Any]) -> dict[str, Any]:
    names = ("measures", "cluster", "min_context", "seed")
    if unknown := set(options) - set(names):
        raise choices("option", min(unknown), names)
    return options


def _summary(table: SummaryTable) -> Summary:
    return Summary(**{entry.name: getattr(table, entry.name) for entry in fields(SummaryTable)})


def _parquet(path: str | Path) -> str | Path:
    if Path(path).suffix != ".parquet":
        raise RequestError(f"cannot save {str(path)!r}: expected a name that ends in .parquet.")
    return path
