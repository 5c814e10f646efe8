"""What a user types in Python: load a model, read a text, look at the reading."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from textwrap import shorten
from typing import Any, Unpack

from midstream.errors import RequestError, choices
from midstream.handle import Lens, Patching, Reading, Sample, Score, Store, Summary, as_lens, open
from midstream.lens.lens import Lens as LensValue
from midstream.lens.read.request import ReadOptions, request
from midstream.model.load import load
from midstream.model.model import Model
from midstream.record import PatchTable, ReadingTable, ScoreTable
from midstream.run.edit_spec import edits_of
from midstream.run.edit_vector import Setting
from midstream.run.score import ScoreOptions
from midstream.run.score import score as run_score
from midstream.run.text import encode, read_text
from midstream.sample.anchor import Anchor
from midstream.stream.change import Add, Interpolate, ProjectOut, Replace, Scale, SetCoordinates
from midstream.stream.edit import Edit
from midstream.stream.edit_file import load_edits, save_edits

__all__ = [
    "Add", "Edit", "Interpolate", "Lens", "Patching", "ProjectOut", "Reading", "Replace", "Sample", "Scale", "Score",
    "SetCoordinates", "Store", "Summary", "fit", "generate", "load", "load_edits", "open", "patch", "read",
    "run_study", "save_edits", "scan", "score",
]  # fmt: skip


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

    _check(model)
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

    _check(model)
    own = [entry.name for entry in fields(ScanOptions) if entry.name != "where"]
    reads = [name for name in ReadOptions.__annotations__ if name not in ("edits", "versus")]
    works = ["runner", "workers", "address"]
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
    _check(model)
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
        options: see ``ReadOptions``: lens, layers, every, site, top_k, watch, precision, special, seed, edits, versus.
            An edit may also be a text that describes it, as ``run.edit_spec`` says.

    Returns the reading, one row a lens, site, layer and position. Raises RequestError for what the model lacks.
    """
    _check(model)
    encoded = encode(model, text, messages, special=options.get("special", False))
    if edits := options.get("edits", ()):
        setting = Setting(model, encoded.ids, seed=options.get("seed") or 0)
        options["edits"] = edits_of(setting, [edits] if isinstance(edits, (str, Edit)) else edits)
    wanted = request(model, options)
    shown = {"text" if messages is None else "messages": shorten(repr(text if messages is None else messages), 200)}
    shown |= {name: shorten(repr(value), 200) for name, value in options.items()}
    call = ", ".join(f"{name}={value}" for name, value in shown.items())
    table = read_text(model, encoded, wanted, command=f"midstream.read(model, {call})")
    plain: dict[str, Any] = {entry.name: getattr(table, entry.name) for entry in fields(ReadingTable)}
    return Reading(**plain, _model=model, _request=wanted, _rows=len(table))


def generate(
    model: Model,
    prompt: str | Sequence[str],
    *,
    edits: Sequence[Edit | str] | Edit | str = (),
    anchor: Anchor | str | None = None,
    read: ReadOptions | None = None,
    **options: Any,
) -> Sample:
    """Continue a prompt, or several, under edits; ``midstream sample`` is the same on the command line.

    Args:
        model: from ``load``.
        prompt: the text to continue, as it is.
        edits: changes to the stream, as for ``read``; positions count from the start of each prompt, and vectors that
            are taken from a text from the first one's.
        anchor: moves what lies behind each generated token towards it: ``"15:0.1"``, as ``run.anchor_spec`` says.
        read: what to read where each token is chosen, as for ``read``; None: nothing.
        options: tokens, stop, seed, and those of ``sample.choose.Choice``: temperature, top_k, top_p, min_p,
            repetition_penalty.

    Returns what iterates as it goes. Warns of settings that change nothing, such as top_k without a temperature.
    Raises RequestError, before anything runs, for what does not fit.
    """
    from midstream.run.anchor_spec import anchor_of
    from midstream.run.sample import ends_of
    from midstream.run.sample import sample as run_sample
    from midstream.sample.choose import Choice
    from midstream.sample.generate import Options

    _check(model)
    own, choice = ("tokens", "stop", "seed"), [entry.name for entry in fields(Choice)]
    if unknown := set(options) - {*own, *choice}:
        raise choices("option", min(unknown), [*own, *choice])
    stop = options.get("stop", ())
    listed = [prompt] if isinstance(prompt, str) else prompt
    # a user's types are checked by nobody
    texts = isinstance(listed, (list, tuple)) and all(isinstance(text, str) for text in listed)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not texts:
        raise RequestError(f"a prompt was given as {shorten(repr(prompt), 80)}: expected a text, or a list of texts.")
    if not (isinstance(anchor, (str, Anchor)) or anchor is None) or not (isinstance(read, dict) or read is None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RequestError("expected an anchor like '15:0.1', and what to read as a dict like {'layers': [10, 20]}.")
    prompts = [model.tokenizer.encode(text) for text in listed]
    setting = Setting(model, prompts[0].ids if prompts else [], generated=True, seed=options.get("seed", 0))
    chosen = Choice(**{name: options[name] for name in choice if name in options})
    wanted = Options(
        tokens=options.get("tokens", 50),
        choice=chosen,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        ends=ends_of(model),
        seed=options.get("seed", 0),
        edits=tuple(edits_of(setting, [edits] if isinstance(edits, (str, Edit)) else edits or ())),
        anchor=anchor_of(model, anchor) if isinstance(anchor, str) else anchor,
    )
    asked = None if read is None else request(model, read)
    if chosen.note:
        warnings.warn(chosen.note, stacklevel=2)
    return Sample(model, run_sample(model, prompts, wanted, asked), len(prompts))


def patch(model: Model, text: str, other: str, token: str, **options: Any) -> Patching:
    """Put the stream of another text into a text, place by place: what that does to a token at its end.

    Args:
        model: from ``load``.
        other: as many tokens as ``text``.
        token: the text of a single token; its log-probability at the last position is measured.
        options: see ``run.patching.PatchOptions``: layers, every, site, along, control.

    Raises RequestError for texts of unequal length, and for what the model lacks.
    """
    from midstream.run.patching import PatchOptions, patch_texts

    _check(model)
    known = [entry.name for entry in fields(PatchOptions)]
    if unknown := set(options) - set(known):
        raise choices("option", min(unknown), known)
    call = f"midstream.patch(model, {shorten(repr((text, other, token)), 300)})"
    table = patch_texts(model, text, other, token, PatchOptions(**options), command=call)
    return Patching(**{entry.name: getattr(table, entry.name) for entry in fields(PatchTable)})


def run_study(model: Model, name: str, corpus: str | Path, out: str | Path, **options: Any) -> Any:
    """Answer a declared question about a model: docs/studies.md; ``midstream study`` is the same on the command line.

    Args:
        model: from ``load``.
        name: of the study, such as ``does_anchoring_help``.
        corpus: documents, with fields ``work`` and ``split`` where there are such.
        out: folder of this study, where records, figures and report are kept; one that is there is gone on with.
        options: see ``run.study.StudyOptions``: size, arm, cluster, force, seed; and ``where``, as for ``fit``.

    Returns the ``study.report.Report``; None for an arm that is run before the main one. Raises RequestError for what
    the study cannot be asked of, and for a size that could miss an effect that matters unless ``force``.
    """
    from midstream.corpus.source import open_corpus
    from midstream.run.study import StudyOptions, prepare, run
    from midstream.study.catalog import study as named
    from midstream.view.study_file import write

    _check(model)
    where = options.pop("where", ())
    known = [entry.name for entry in fields(StudyOptions)]
    if unknown := set(options) - set(known):
        raise choices("option", min(unknown), known)
    prepared = prepare(model, named(name), open_corpus(corpus, where=where), StudyOptions(**options))
    report = run(prepared, Path(out), command=f"midstream.run_study(model, {shorten(repr((name, str(corpus))), 300)})")
    if report is not None:
        write(report, Path(out))
    return report


def _check(model: object) -> None:
    """Raise RequestError for what is no model: a user's types are checked by nobody."""
    if not isinstance(model, Model):
        raise RequestError(f"a model was given as {shorten(repr(model), 80)}: expected what midstream.load returns.")
