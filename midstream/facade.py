"""What a user types in Python: load a model, read a text, look at the reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from textwrap import shorten
from typing import Any, Unpack

from midstream.errors import RequestError, choices
from midstream.lens.lens import Lens as LensValue
from midstream.lens.read.request import ReadOptions, Request, request
from midstream.model.load import load
from midstream.model.model import Model
from midstream.record import Array, ReadingTable, ScoreTable
from midstream.run.score import ScoreOptions
from midstream.run.score import score as run_score
from midstream.run.text import encode, read_text, tracks
from midstream.view.chart import DEFAULT

__all__ = ["Lens", "Reading", "Score", "fit", "load", "read", "score"]


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

    def plot(
        self, path: str | Path, *, statistic: str = DEFAULT, lenses: Sequence[str] | None = None, every: int = 1
    ) -> None:
        """Draw the grid as an SVG, PNG or PDF figure, by the ending of ``path``.

        ``lenses``: those drawn, by name; None: all. ``every`` k: each k-th layer, counted back from the last.
        """
        from midstream.view.plot import save

        save(self, path, statistic=statistic, lenses=lenses, every=every)

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


@dataclass(frozen=True, eq=False)
class Score(ScoreTable):
    """A score with the ways to look at it; see ``ScoreTable`` for its columns and conversions."""

    def show(self) -> None:
        """Print the tables to the terminal."""
        from rich.console import Console

        from midstream.view.score_table import table

        Console().print(table(self))

    def plot(self, path: str | Path) -> None:
        """Draw the curves by layer as an SVG, PNG or PDF figure, by the ending of ``path``."""
        from midstream.view.score_plot import save

        save(self, path)

    def save(self, path: str | Path) -> None:
        """Write the estimates to one Parquet file, whole or not at all. Raises RequestError for another ending."""
        if Path(path).suffix != ".parquet":
            raise RequestError(f"cannot save {str(path)!r}: expected a name that ends in .parquet.")
        from midstream.store.write import write_score

        write_score(path, self)


def fit(
    model: Model,
    corpus: str | Path,
    kind: str | Sequence[str] = "tuned",
    *,
    where: Sequence[str] = (),
    out: str | Path | None = None,
    **options: Any,
) -> Any:
    """Fit lenses to a text, all of them in one pass; ``midstream fit`` is the same on the command line.

    Args:
        model: from ``load``.
        corpus: the text, a .txt or .jsonl.
        kind: ``tuned``, ``shortcut``, ``jacobian``, ``future:2``, ``input:0`` or ``input:0:shared``; or several.
        where: conditions ``FIELD=VALUE`` on the documents.
        out: folder for the lens files; without it none is written, and the lens is only returned.
        options: see ``run.fit_plan.FitOptions``: tokens, site, layers, seed, cluster, memory, resume.

    Returns the ``Lens``, or a list of them where several kinds were given. Raises RequestError for too little text.
    """
    from tempfile import TemporaryDirectory

    from midstream.corpus.source import open_corpus
    from midstream.lens.kind import parse
    from midstream.run.fit import fit as run_fit
    from midstream.run.fit_plan import FitOptions

    if not isinstance(model, Model):  # pyright: ignore[reportUnnecessaryIsInstance]  a user's types are checked by nobody
        raise RequestError(f"a model was given as {shorten(repr(model), 80)}: expected what midstream.load returns.")
    known = ("tokens", "site", "layers", "seed", "cluster", "memory", "resume")
    if unknown := set(options) - set(known):
        raise choices("option", min(unknown), known)
    kinds = tuple(parse(one) for one in ([kind] if isinstance(kind, str) else kind))
    if options.get("layers") is not None:
        options["layers"] = tuple(options["layers"])
    with TemporaryDirectory(prefix="midstream-") as scratch:
        wanted = FitOptions(kinds, out=Path(scratch if out is None else out), **options)
        lenses = [as_lens(lens) for lens in run_fit(model, open_corpus(corpus, where=where), wanted).lenses]
    return lenses[0] if isinstance(kind, str) else lenses


def score(
    model: Model,
    lens: str | Path | LensValue | Sequence[str | Path | LensValue],
    corpus: str | Path | None = None,
    **options: Any,
) -> Score:
    """What lenses are good for, on text that none of them was fitted on: measures by layer, with intervals.

    Args:
        model: from ``load``.
        lens: a lens, the name of one, or several, each compared with those after it.
        corpus: held-out text, a .txt or .jsonl; without it only ``prompts`` are read.
        options: see ``run.score.ScoreOptions``: tokens, positions, layers, every, where, cluster, unseen, prompts,
            strip, causal, precision, seed.

    Raises RequestError for text that a lens was fitted on, and for what the model lacks.
    """
    if not isinstance(model, Model):  # pyright: ignore[reportUnnecessaryIsInstance]  a user's types are checked by nobody
        raise RequestError(f"a model was given as {shorten(repr(model), 80)}: expected what midstream.load returns.")
    known = [entry.name for entry in fields(ScoreOptions)]
    if unknown := set(options) - set(known):
        raise choices("option", min(unknown), known)
    lenses = [lens] if isinstance(lens, (str, Path, LensValue)) else list(lens)
    if isinstance(options.get("prompts"), (str, Path)):
        options["prompts"] = [options["prompts"]]
    shown = ", ".join(f"{name}={shorten(repr(value), 200)}" for name, value in options.items())
    names = [one.name if isinstance(one, LensValue) else str(one) for one in lenses]
    call = f"midstream.score(model, {names}, {str(corpus)!r}{', ' if shown else ''}{shown})"
    table = run_score(model, lenses, corpus, ScoreOptions(**options), command=call)
    return Score(**{entry.name: getattr(table, entry.name) for entry in fields(ScoreTable)})


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
