"""``midstream score``: what lenses are good for, on text that none was fitted on, and on prompts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from midstream.cli.options import (
    FIGURE,
    Device,
    Dtype,
    EngineName,
    Every,
    Layers,
    ModelName,
    Precision,
    Where,
    check_targets,
    counted,
    load_model,
    say_notes,
)
from midstream.errors import RequestError
from midstream.run.numbers import numbers

if TYPE_CHECKING:
    from midstream.record import ScoreTable


def score(
    lenses: Annotated[
        list[str],
        typer.Argument(help="logit, a kind that was fitted, or a lens file; each is compared with those after."),
    ],
    corpus: Annotated[
        str | None,
        typer.Option("--corpus", help="Held-out text: .txt, .jsonl, .parquet, a folder, hf:OWNER/NAME, or -."),
    ] = None,
    prompts: Annotated[
        list[Path] | None, typer.Option("--prompts", help="Prompt file for pass@k; may be given again.")
    ] = None,
    strip: Annotated[bool, typer.Option("--strip", help="Take the blanks off the end of each prompt.")] = False,
    causal: Annotated[
        bool, typer.Option("--causal", help="Also move the stream as each lens reads it, and see what the model does.")
    ] = False,
    model: ModelName = None,
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens read of each document, its first.")] = 256,
    positions: Annotated[int, typer.Option("--positions", help="Positions read in all, evenly spread.")] = 4000,
    where: Where = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Field that says which documents belong together; work if there is.")
    ] = None,
    unseen: Annotated[
        bool, typer.Option("--unseen", help="Leave out documents that a lens was fitted on, do not refuse them.")
    ] = False,
    layers: Layers = None,
    every: Every = 1,
    out: Annotated[Path | None, typer.Option("--out", help="Write every estimate here: .parquet.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the curves here: .svg, .png or .pdf.")] = None,
    output: Annotated[Literal["text", "json"], typer.Option("--format", help="How to print it.")] = "text",
    engine: EngineName = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    precision: Precision = "exact",
    seed: Annotated[int, typer.Option("--seed", help="Of every random draw.")] = 0,
) -> None:
    """Score lenses: KL, cross-entropy, accuracy by layer, pass@k on prompts, and differences, with intervals."""
    _check(corpus, prompts or [], out, plot)
    loaded = load_model(model, engine=engine, device=device, dtype=dtype)

    from midstream.lens.file.find import find_all
    from midstream.run.score import ScoreOptions
    from midstream.run.score import score as run

    found = find_all(loaded, lenses)
    say_notes(found)

    options = ScoreOptions(
        tokens=tokens,
        positions=positions,
        layers=None if layers is None else numbers("layers", layers),
        every=every,
        where=where or (),
        cluster=cluster,
        unseen=unseen,
        prompts=prompts or (),
        strip=strip,
        causal=causal,
        precision=precision,
        seed=seed,
    )
    with counted() as progress:
        table = run(loaded, found, corpus, options, command=shlex.join(["midstream", *sys.argv[1:]]), progress=progress)
    _write(table, out, plot)
    if output == "json":
        print(table.json())
        return
    from rich.console import Console

    from midstream.view.score_table import table as drawn

    Console().print(drawn(table))


def _check(corpus: str | None, prompts: list[Path], out: Path | None, plot: Path | None) -> None:
    """Refuse what cannot be read or written before the model is loaded."""
    if corpus is None and not prompts:
        raise RequestError("nothing to score on: expected --corpus FILE, --prompts FILE, or both.")
    if corpus is None and plot is not None:
        raise RequestError("--plot draws curves by layer, which prompts alone do not give: expected --corpus FILE too.")
    if corpus is not None:
        from midstream.corpus.source import open_corpus

        open_corpus(corpus)
    for path in prompts:
        if not path.is_file():
            raise RequestError(f"--prompts {str(path)!r}: there is no such file; expected a prompt file.")
    check_targets(("--out", out, (".parquet",)), ("--plot", plot, FIGURE))


def _write(table: ScoreTable, out: Path | None, plot: Path | None) -> None:
    if out is not None:
        from midstream.store.write import write_score

        write_score(out, table)
    if plot is not None:
        from midstream.view.score_plot import save

        save(table, plot)
