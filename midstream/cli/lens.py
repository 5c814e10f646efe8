"""``midstream lens``: what a lens file is, which lenses there are, and sending one to the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from midstream.cli.fields import fields, number
from midstream.cli.options import ModelName, load_model

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(name="lens", no_args_is_help=True, help="Show, list and share lens files.")

Format = Annotated[Literal["text", "json"], typer.Option("--format", help="How to print it.")]


@app.command()
def show(
    file: Annotated[str, typer.Argument(help="A lens file, or hf:OWNER/NAME/FILE.")],
    output: Format = "text",
) -> None:
    """Print what a lens file is: kind, model, corpus, fit and held-out scores. Needs no model."""
    from midstream.lens.file.describe import describe
    from midstream.lens.file.hub import PREFIX, download

    found = describe(download(file) if file.startswith(PREFIX) else file)
    if output == "json":
        print(json.dumps(found, ensure_ascii=False))
        return
    from rich.console import Console

    scores = found.pop("scores") if _column(found.get("scores"), "measure") else None
    console = Console()
    console.print(fields(found))
    if scores:
        console.print()
        console.print(_scores(scores, found["name"]))


@app.command("list")
def list_(model: ModelName = None, output: Format = "text") -> None:
    """Print the lenses of the lens folder: with --model those of one model, else all."""
    from midstream.lens.file.folder import root

    rows = _listed(None if model is None else load_model(model, engine=None, device="cpu", dtype=None))
    if output == "json":
        print(json.dumps(rows, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.text import Text

    if not rows:
        print(f"no lenses in {root()}: midstream fit makes them.")
        return
    console = Console()
    for folder in dict.fromkeys(row["folder"] for row in rows):
        own = [row for row in rows if row["folder"] == folder]
        console.print(Text(f"{next((row['model'] for row in own if row['model']), '?')} in {folder}", style="bold"))
        console.print(_lenses(own))
        for row in own:
            if row["fault"]:
                console.print(Text(row["fault"]))
        console.print()


@app.command()
def push(
    file: Annotated[Path, typer.Argument(help="A lens file.")],
    name: Annotated[str, typer.Argument(help="hf:OWNER/NAME, or hf:OWNER/NAME/FILE.")],
) -> None:
    """Send a lens file to a repository of yours on the Hugging Face hub, which is made if it does not exist."""
    from midstream.lens.file.hub import upload

    print(f"sent: --lens {upload(file, name)}")


def _listed(model: Any) -> list[dict[str, Any]]:
    """The lens files, those of one model or of all, each with what is shown of it; a damaged one with its fault."""
    from midstream.errors import RequestError
    from midstream.lens.file.describe import describe
    from midstream.lens.file.folder import files, folder, folders
    from midstream.lens.file.statement import printable

    places = [folder(model)] if model is not None else folders()
    rows: list[dict[str, Any]] = []
    for file in [file for place in places for file in files(place)]:
        row: dict[str, Any] = {
            "kind": printable(file.stem),
            "folder": printable(str(file.parent)),
            "file": printable(file.name),
        }
        row |= {"model": "", "tokens": None, "kl": None, "accuracy": None, "fault": ""}
        try:
            found = describe(file)
        except RequestError as error:
            row["fault"] = printable(str(error))
        else:
            corpus = found.get("corpus")
            row["kind"], row["model"] = found["kind"], str(found.get("model", ""))
            row["tokens"] = corpus.get("tokens") if isinstance(corpus, dict) else None
            for measure in ("kl", "accuracy"):
                curve = _curve(found.get("scores"), found["name"], measure)
                row[measure] = next((value for layer, _, value in curve if layer < 0), None)
        rows.append(row)
    return rows


def _lenses(rows: list[dict[str, Any]]) -> Table:
    """The lenses of one model: a row each, with the mean over layers of its held-out scores."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("lens", overflow="fold")
    for name in ("fitted tokens", "held-out KL, nats", "held-out accuracy"):
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        cells = [row["kind"], *(number(row[name]) for name in ("tokens", "kl", "accuracy"))]
        table.add_row(*map(Text, cells), style="red" if row["fault"] else None)
    return table


def _scores(scores: Any, lens: str) -> Table:
    """Held-out scores, a row a layer and a column a measure: the estimate and its interval."""
    from rich.table import Table
    from rich.text import Text

    measures = dict.fromkeys(name for name in _column(scores, "measure") if isinstance(name, str))
    curves = {measure: _curve(scores, lens, measure) for measure in measures}
    curves = {measure: curve for measure, curve in curves.items() if curve}
    layers = sorted({layer for curve in curves.values() for layer, _, _ in curve}, key=lambda layer: (layer < 0, layer))
    table = Table(box=None, pad_edge=False, title="held-out scores, 95 % interval", title_justify="left")
    table.add_column("layer", justify="right")
    for measure in curves:
        table.add_column(Text(measure), justify="right", overflow="fold")
    cells = {measure: {layer: text for layer, text, _ in curve} for measure, curve in curves.items()}
    for layer in layers:
        shown = [Text(cells[measure].get(layer, "")) for measure in curves]
        table.add_row("all" if layer < 0 else str(layer), *shown)
    return table


def _curve(scores: Any, lens: str, measure: str) -> list[tuple[int, str, Any]]:
    """Layer, text and value of one measure of a lens in a score table by columns; comparisons are left out."""
    names = ("lens", "layer", "measure", "against", "value", "low", "high")
    rows = zip(*(_column(scores, name) for name in names), strict=False)
    curve: list[tuple[int, str, Any]] = []
    for whose, layer, named, against, value, low, high in rows:
        if (whose, named) == (lens, measure) and not against and isinstance(layer, int):
            shown, *ends = (f"{end:.3f}" if isinstance(end, int | float) else "" for end in (value, low, high))
            curve.append((layer, f"{shown} [{', '.join(ends)}]" if all(ends) else shown, value))
    return curve


def _column(scores: Any, name: str) -> list[Any]:
    found = scores.get(name) if isinstance(scores, dict) else None
    return found if isinstance(found, list) else []
