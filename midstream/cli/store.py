"""``midstream store``: what a store is, whether it is sound, and its averages with intervals."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from midstream.cli.fields import fields
from midstream.cli.options import FIGURE, bars, check_targets

if TYPE_CHECKING:
    from midstream.record import SummaryTable
    from midstream.store.check import Damage
    from midstream.store.store import Store

app = typer.Typer(name="store", no_args_is_help=True, help="Show, check and average what a scan has kept.")

Folder = Annotated[Path, typer.Argument(help="Folder of a store.")]
Format = Annotated[Literal["text", "json"], typer.Option("--format", help="How to print it.")]


@app.command()
def show(store: Folder, output: Format = "text") -> None:
    """Print what a store is: model, lenses, layers, and how much of what is in it."""
    from midstream.store.store import open_store

    found = _described(open_store(store))
    if output == "json":
        print(json.dumps(found, ensure_ascii=False))
        return
    from rich.console import Console

    Console().print(fields(_shown(found)))


@app.command()
def check(store: Folder, output: Format = "text") -> None:
    """Read every byte and name each damaged or missing file. Exit code 1 where there is one."""
    from midstream.store.check import check as run

    with _progress() as progress:
        found = run(store, progress)
    if output == "json":
        print(json.dumps(asdict(found), ensure_ascii=False))
    else:
        for damage in found.damages:
            print(_sentence(damage))
        for name in found.strangers:
            print(f"{name} is no file of this store")
        state = "its scan has ended" if found.finished else "its scan has not ended: give it again to go on"
        counts = f"{found.documents:,} documents, {found.tokens:,} tokens, {found.rows:,} rows"
        sound = "sound" if not found.damages else "otherwise sound"
        shards = f"{found.shards:,} shard{'' if found.shards == 1 else 's'}"
        print(f"{sound}: {shards}, {counts}; {state}")
    if found.damages:
        raise typer.Exit(1)


@app.command()
def summary(
    store: Folder,
    by: Annotated[
        str, typer.Option("--by", help="layer, position, frequency (of the target) or a field of the documents.")
    ] = "layer",
    against: Annotated[
        Path | None, typer.Option("--against", help="Another store: its values are subtracted, paired by document.")
    ] = None,
    measure: Annotated[
        list[str] | None, typer.Option("--measure", help="Only this measure; may be given again.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Field that says which documents belong together; work if there is.")
    ] = None,
    min_context: Annotated[
        int, typer.Option("--min-context", help="Leave out positions with fewer tokens before them.", min=0)
    ] = 4,
    every: Annotated[
        int | None, typer.Option("--every", help="Print every k-th layer, counted back from the last.", min=1)
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw it here: .svg, .png or .pdf.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write every estimate here: .parquet.")] = None,
    output: Format = "text",
    seed: Annotated[int, typer.Option("--seed", help="Of the intervals' draws.")] = 0,
) -> None:
    """Average a store's readings by layer, position, frequency or field, with intervals that count documents."""
    check_targets(("--out", out, (".parquet",)), ("--plot", plot, FIGURE))

    from midstream.store.store import open_store

    options: dict[str, Any] = {"by": by, "measures": measure, "cluster": cluster}
    options |= {"min_context": min_context, "seed": seed}
    opened = open_store(store)
    if against is None:
        from midstream.store.summary import summary as average

        table = average(opened, **options)
    else:
        from midstream.store.difference import difference

        table = difference(opened, open_store(against), **options)
    command = shlex.join(["midstream", *sys.argv[1:]])
    table = replace(table, provenance=replace(table.provenance, command=command))
    _write(table, out, plot)
    if output == "json":
        print(table.json())
        return
    from rich.console import Console

    from midstream.view.summary_table import table as drawn

    Console().print(drawn(table, every=every))


def _sentence(damage: Damage) -> str:
    redone = "the next scan writes it anew" if damage.shard is None else f"the next scan redoes shard {damage.shard}"
    return f"{damage.file} {damage.reason}; {damage.then or redone}"


def _described(store: Store) -> dict[str, Any]:
    """What a store is, as JSON values."""
    header, entries = store.header, store.entries
    totals = {name: sum(getattr(entry, name) for entry in entries) for name in ("tokens", "rows", "faults")}
    own = {
        "store": str(store.path),
        "schema": header.schema,
        "model": header.model,
        "identity": header.identity,
        "blocks": header.layers,
        "lenses": dict(header.lenses),
    }
    return {
        **own,
        **header.request,
        **header.select,
        **own,  # whatever fields a hostile request has
        "cut": dict(header.cut),
        "corpus": list(header.corpus),
        "where": [f"{field}={value}" for field, value in header.where],
        "shards": len(entries),
        "documents": sum(entry.files["documents"].rows for entry in entries),
        **totals,
        "bytes": sum(file.bytes for entry in entries for file in entry.files.values()),
        "damaged_shards": list(store.damaged),
        "finished": store.finished is not None,
        "midstream": header.midstream,
        "circumstances": dict(header.circumstances),
    }


def _shown(found: dict[str, Any]) -> dict[str, Any]:
    """The same for people: what is not there is left out, numbers say what they count."""
    from midstream.store.layout import STATISTICS

    kept, share = found["statistics"], found["share"]
    drawn = f"a share of {share:g}, drawn with seed {found['seed']}"
    words: dict[str, Any] = {name: found[name] for name in ("store", "model", "identity")}
    words["lenses"] = list(found["lenses"])
    words["layers"] = f"{_spaced(found['layers'])} of 0 to {found['blocks']}"
    words |= {name: found.get(name) for name in ("sites", "top_k", "watch", "precision")}
    words["statistics"] = "all" if set(kept) == set(STATISTICS) else ", ".join(kept)
    words["positions"] = "all" if share == 1 else drawn
    words |= {name: found[name] for name in ("corpus", "where", "shards", "documents", "tokens", "rows")}
    words["bytes"] = f"{found['bytes']:,}, {found['bytes'] / max(found['rows'], 1):.0f} a row"
    words["faults"] = f"{found['faults']:,}: documents that could not be read" if found["faults"] else ""
    words["damaged"] = f"{len(found['damaged_shards']):,} shards: midstream store check names them"
    words["finished"] = "yes" if found["finished"] else "no: midstream scan, given again, goes on"
    words |= {name: found[name] for name in ("midstream", "circumstances")}
    if not found["damaged_shards"]:
        del words["damaged"]
    return {name: value for name, value in words.items() if value not in ([], {}, None, "")}


def _spaced(layers: list[int]) -> str:
    """Layers in one line: ``0 to 30``, ``0, 3 ... 30`` or all of them."""
    steps = {after - before for before, after in pairwise(layers)}
    if len(layers) < 4 or len(steps) > 1:
        return ", ".join(map(str, layers))
    return f"{layers[0]} to {layers[-1]}" if steps == {1} else f"{layers[0]}, {layers[1]} ... {layers[-1]}"


def _write(table: SummaryTable, out: Path | None, plot: Path | None) -> None:
    if out is not None:
        from midstream.store.write import write_summary

        write_summary(out, table)
    if plot is not None:
        from midstream.view.summary_plot import save

        save(table, plot)


@contextmanager
def _progress() -> Generator[Callable[[int, int], None]]:
    """On standard error, where that is a terminal: shards read, and what is left."""
    with bars("{task.completed:,}/{task.total:,}") as shown:
        task = shown.add_task("shards read", total=1)
        yield lambda done, of: shown.update(task, completed=done, total=of)
