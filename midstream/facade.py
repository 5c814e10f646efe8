"""What a user types in Python: load a model, read a text, look at the reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Unpack

from midstream.errors import RequestError, choices
from midstream.lens.lens import Lens as LensValue
from midstream.lens.read.request import ReadOptions, Request, request
from midstream.model.load import load
from midstream.model.model import Model
from midstream.record import Array, ReadingTable, ScoreTable, SummaryTable
from midstream.run.score import ScoreOptions
from midstream.run.score import score as run_score
from midstream.run.text import encode, read_text, tracks
from midstream.view.chart import DEFAULT

if TYPE_CHECKING:
    from midstream.store.query import Answer
    from midstream.store.store import Store as StoreFiles

__all__ = ["Lens", "Reading", "Score", "Store", "Summary", "fit", "load", "open", "read", "scan", "score"]


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
        from midstream.store.write import write_parquet

        write_parquet(_parquet(path), [self])

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
        from midstream.store.write import write_score

        write_score(_parquet(path), self)


@dataclass(frozen=True, eq=False)
class Summary(SummaryTable):
    """Averages of a store with the ways to look at them; see ``SummaryTable`` for the columns and conversions."""

    def show(self, *, every: int | None = None) -> None:
        """Print the tables to the terminal; ``every`` k: each k-th layer, counted back from the last."""
        from rich.console import Console

        from midstream.view.summary_table import table

        Console().print(table(self, every=every))

    def plot(self, path: str | Path, *, measures: Sequence[str] | None = None) -> None:
        """Draw the curves by layer as an SVG, PNG or PDF figure, by the ending of ``path``."""
        from midstream.view.summary_plot import save

        save(self, path, names=measures)

    def save(self, path: str | Path) -> None:
        """Write the estimates to one Parquet file, whole or not at all. Raises RequestError for another ending."""
        from midstream.store.write import write_summary

        write_summary(_parquet(path), self)


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

        Raises RequestError for SQL that is wrong, writes, or reads other files.
        """
        from midstream.store.query import sql

        return sql(self.files, text)

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
        corpus: the text: a .txt, .jsonl, .parquet, a folder of these, or ``hf:OWNER/NAME``.
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


def scan(
    model: Model,
    corpus: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    where: Sequence[str] = (),
    **options: Any,
) -> Store:
    """Read a corpus into a store, or go on with one; ``midstream scan`` is the same on the command line.

    Args:
        model: from ``load``.
        corpus: the text: a .txt, .jsonl, .parquet, a folder of these, ``hf:OWNER/NAME``, or several.
        out: folder of the store.
        where: conditions ``FIELD=VALUE`` on the documents.
        options: those of ``read`` (lens, layers, every, site, top_k = 5, watch, precision, special, seed), those of
            ``run.scan.ScanOptions`` (statistics, share, tokens, characters, strict), and ``runner`` (``serial``,
            ``pool`` or ``ray``), ``workers``, ``address``.

    Returns the store. Raises RequestError for a store of another scan, and what ``read`` raises.
    """
    from midstream.corpus.source import open_corpus
    from midstream.run.scan import ScanOptions, Work
    from midstream.run.scan import scan as run_scan
    from midstream.run.workers import runner

    if not isinstance(model, Model):  # pyright: ignore[reportUnnecessaryIsInstance]  a user's types are checked by nobody
        raise RequestError(f"a model was given as {shorten(repr(model), 80)}: expected what midstream.load returns.")
    own = [entry.name for entry in fields(ScanOptions) if entry.name != "where"]
    reads, works = list(ReadOptions.__annotations__), ["runner", "workers", "address"]
    if unknown := set(options) - {*own, *reads, *works}:
        raise choices("option", min(unknown), sorted({*own, *reads, *works}))
    asked: Any = {"top_k": 5, "seed": 0, **{name: options[name] for name in reads if name in options}}
    wanted = request(model, asked)
    where = [where] if isinstance(where, str) else where
    chosen = ScanOptions(where=tuple(where), **{name: options[name] for name in own if name in options})
    who = {name: options[name] for name in ("workers", "address") if name in options}
    work = Work(runner(model, options.get("runner", "serial"), **who))
    run_scan(model, open_corpus(corpus, where=where, lenient=True), out, wanted, chosen, work=work)
    return open(out)


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
        corpus: held-out text: a .txt, .jsonl, .parquet, a folder of these, or ``hf:OWNER/NAME``; without it only
            ``prompts`` are read.
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
