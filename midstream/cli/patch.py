"""``midstream patch``: what putting another text's stream in does to a token, layer by layer and place by place."""

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
    check_targets,
    load_model,
)
from midstream.run.numbers import numbers

if TYPE_CHECKING:
    from midstream.record import PatchTable


def patch(
    text: Annotated[str, typer.Argument(help="The text that is patched.")],
    other: Annotated[str, typer.Option("--from", help="The text whose stream is put in; as many tokens.")],
    token: Annotated[str, typer.Option("--token", help='Whose log-probability at the end is measured: " Paris".')],
    control: Annotated[
        str | None, typer.Option("--control", help="An unrelated text, as many tokens; without it a fixed one.")
    ] = None,
    along: Annotated[
        str | None,
        typer.Option("--along", help='Put in only what lies along these: "unembedding: Paris| Rome".'),
    ] = None,
    model: ModelName = None,
    layers: Layers = None,
    site: Annotated[str, typer.Option("--site", help="resid_post, resid_mid, attn_out or mlp_out.")] = "resid_post",
    every: Every = 1,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write a figure here: .svg, .png or .pdf.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write every column here: .parquet.")] = None,
    output: Annotated[
        Literal["grid", "json"] | None, typer.Option("--format", help="What to print; grid unless --out is given.")
    ] = None,
    engine: EngineName = None,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Patch a text with another one's stream, place by place: where does what they differ in come from?"""
    check_targets(("--plot", plot, FIGURE), ("--out", out, (".parquet",)))
    loaded = load_model(model, engine=engine, device=device, dtype=dtype)
    from midstream.run.patching import PatchOptions, patch_texts

    options = PatchOptions(None if layers is None else numbers("layers", layers), every, site, along, control)
    table = patch_texts(loaded, text, other, token, options, command=shlex.join(["midstream", *sys.argv[1:]]))
    if out is not None:
        from midstream.store.write import write_patching

        write_patching(out, table)
    if plot is not None:
        from midstream.view.patch_grid import save

        save(table, plot)
    _print(table, output or (None if out else "grid"))


def _print(table: PatchTable, kind: str | None) -> None:
    if kind == "json":
        print(table.json())
    elif kind == "grid":
        from rich.console import Console

        from midstream.view.patch_grid import PatchGrid

        Console().print(PatchGrid(table))
