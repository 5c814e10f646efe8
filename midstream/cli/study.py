"""``midstream study``: lists studies, runs one, puts all verdicts on one page."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from midstream.cli.options import Device, Dtype, EngineName, ModelName, Where, counted, load_model
from midstream.errors import RequestError

if TYPE_CHECKING:
    from midstream.study.study import Study

HOME = Path("studies")
"""Where studies are kept unless --out says otherwise: a folder each."""


def study(
    name: Annotated[
        str | None, typer.Argument(help="Which one; without it all are listed.", show_default=False)
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option("--corpus", help="A .txt, .jsonl, .parquet, folder, hf:OWNER/NAME or -; may be given again."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of this study; one that is there is gone on with.")
    ] = None,
    arm: Annotated[str, typer.Option("--arm", help="main, or a part that is run on its own, such as toy.")] = "main",
    size: Annotated[Literal["quick", "default", "large"], typer.Option("--size", help="How much is run.")] = "default",
    quick: Annotated[
        bool, typer.Option("--quick", help="The same as --size quick: minutes, to see that it works.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Run though an effect that matters could be missed.")] = False,
    report: Annotated[
        Path | None, typer.Option("--report", help="Put the verdicts of all studies in this folder on one page.")
    ] = None,
    model: ModelName = None,
    where: Where = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Field that says which documents belong together; work if there is.")
    ] = None,
    engine: EngineName = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    seed: Annotated[int, typer.Option("--seed", help="Of every random draw.")] = 0,
) -> None:
    """Answer a question about a model: declared before the run, with controls, intervals and a verdict."""
    if report is not None:
        _index(report)
        return
    if name is None:
        _list(HOME if out is None else out)
        return

    from midstream.run.study import StudyOptions, prepare, run
    from midstream.study.catalog import study as named

    chosen = named(name)
    options = StudyOptions("quick" if quick else size, arm, cluster, force, seed)
    folder = HOME / name if out is None else out
    if not corpus:
        raise RequestError(
            f"{name} reads documents: expected --corpus FILE, such as one with fields text, work and split (fit, "
            "reserve, eval); without split its works are drawn into three sets."
        )

    from midstream.corpus.source import open_corpus

    documents = open_corpus(corpus, where=where or ())
    loaded = load_model(model, engine=engine, device=device, dtype=dtype)
    prepared = prepare(loaded, chosen, documents, options)
    for line in prepared.said:
        print(f"midstream: {line}", file=sys.stderr)
    if prepared.short and (force or options.size == "quick"):
        print(f"midstream: {prepared.short}: no verdict from this run is final.", file=sys.stderr)
    with _goes_on(folder), counted() as progress:
        found = run(prepared, folder, command=shlex.join(["midstream", *sys.argv[1:]]), progress=progress)
    if found is None:
        print(f"{folder}: arm {arm} is measured; the report is made with the main arm: midstream study {name}.")
        return
    _show(found, folder)


def _show(found: Any, folder: Path) -> None:
    from rich.console import Console

    from midstream.view import study_file, study_table

    study_file.write(found, folder)
    Console().print(study_table.table(found))
    print(f"{folder / 'report.html'} (and report.md, figures, records)")


def _list(home: Path) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    from midstream.run.study import state
    from midstream.study.catalog import NAMES
    from midstream.study.catalog import study as named

    console = Console()
    for name in NAMES:
        one: Study = named(name)
        minutes = ", ".join(f"{size} {least:g}" for size, least in one.minutes.items())
        console.print(Text.assemble((name, "bold"), f"  {state(home / name, one)}"))
        console.print(Padding(Text(f"{one.question}\nMinutes, about: {minutes}."), (0, 0, 1, 2)))


def _index(folder: Path) -> None:
    from midstream.view import study_file

    if not folder.is_dir():
        raise RequestError(
            f"--report {str(folder)!r}: there is no such folder; expected the one that studies write to."
        )
    print(" ".join(map(str, study_file.index(folder))))


@contextmanager
def _goes_on(folder: Path) -> Generator[None]:
    """Says, where Ctrl-C ends the study inside, what comes of it."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"midstream: what was measured is kept in {folder}: the same command goes on.", file=sys.stderr)
        raise
