"""``midstream scan``: a corpus through lenses into a store, resumable."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midstream.cli.options import (
    Address,
    Device,
    Dtype,
    EngineName,
    Every,
    Layers,
    ModelName,
    Precision,
    RunnerName,
    Where,
    Workers,
    bars,
    load_model,
    runner_of,
    say_notes,
)
from midstream.errors import RequestError, choices
from midstream.run.numbers import numbers

if TYPE_CHECKING:
    from midstream.run.scan import ScanResult, Update

MINUTE = 60
"""Seconds between two lines about where a scan stands, where they go to no terminal."""


def scan(
    corpus: Annotated[
        list[str],
        typer.Option("--corpus", help="A .txt, .jsonl, .parquet, folder, hf:OWNER/NAME or -; may be given again."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the store; one that is there is gone on with.")],
    model: ModelName = None,
    lens: Annotated[
        list[str] | None,
        typer.Option("--lens", help="As for read; may be given again. Without it: logit, and tuned if fitted."),
    ] = None,
    layers: Layers = None,
    every: Every = 1,
    site: Annotated[
        list[str] | None, typer.Option("--site", help="resid_post, resid_mid, attn_out, mlp_out or all.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", help="Best tokens kept at each layer and position.")] = 5,
    watch: Annotated[list[str] | None, typer.Option("--watch", help="Follow this token at every layer.")] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            "--select",
            help="Keep only statistics=entropy,rank or layers=0,8,16 or positions=0.1 (a share, drawn); repeatable.",
        ),
    ] = None,
    where: Where = None,
    tokens: Annotated[int | None, typer.Option("--tokens", help="Read the corpus up to this many.")] = None,
    shard: Annotated[int, typer.Option("--shard", help="Characters of text from which on a shard is full.")] = 16_384,
    special: Annotated[bool, typer.Option("--special", help="Parse special tokens in the text.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="A document that cannot be read ends the scan.")] = False,
    runner: RunnerName = "serial",
    workers: Workers = None,
    address: Address = None,
    engine: EngineName = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    precision: Precision = "exact",
    seed: Annotated[int, typer.Option("--seed", help="Of the draw of positions.")] = 0,
) -> None:
    """Read a corpus: one row a lens, layer and position, kept in a folder that midstream query asks."""
    from midstream.corpus.source import open_corpus
    from midstream.store.layout import STATISTICS

    kept = _selected(select or [], layers)
    text = open_corpus(corpus, where=where or (), lenient=True)
    loaded = load_model(model, engine=engine, device=device, dtype=dtype)

    from midstream.lens.read.request import request
    from midstream.run.scan import ScanOptions, Work
    from midstream.run.scan import scan as run

    wanted = request(
        loaded,
        {
            "lens": lens or None,
            "layers": None if kept.layers is None else numbers("layers", kept.layers),
            "every": every,
            "site": site or None,
            "top_k": top_k,
            "watch": watch or (),
            "precision": precision,
            "seed": seed,
        },
    )
    say_notes(wanted.lenses)
    options = ScanOptions(
        statistics=kept.statistics or STATISTICS,
        share=kept.share,
        seed=seed,
        tokens=tokens,
        characters=shard,
        where=tuple(where or ()),
        special=special,
        strict=strict,
    )
    who = runner_of(loaded, runner, workers, address)
    with _goes_on(out), _progress() as progress:
        result = run(loaded, text, out, wanted, options, work=Work(who, progress))
    _say(result)
    if result.barren:
        raise typer.Exit(1)


@dataclass
class _Selected:
    """What ``--select`` keeps."""

    layers: str | None
    statistics: tuple[str, ...] = ()
    share: float = 1.0
    named: list[str] = field(default_factory=list[str])


def _selected(given: list[str], layers: str | None) -> _Selected:
    kept = _Selected(layers)
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            name, value = "statistics", text
        if name in kept.named or (name == "layers" and layers is not None):
            raise RequestError(f"{name} are selected twice: expected one --select {name}=...")
        kept.named.append(name)
        if name == "statistics":
            kept.statistics = tuple(part.strip() for part in value.split(","))
        elif name == "layers":
            kept.layers = value
        elif name == "positions":
            kept.share = _share(value)
        else:
            raise choices("--select", name, ("statistics=NAME,...", "layers=0,8,16", "positions=SHARE"))
    return kept


def _share(text: str) -> float:
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise RequestError(f"--select positions={text}: expected a share such as 0.1 or 10%.") from None


@contextmanager
def _goes_on(out: Path) -> Generator[None]:
    """Says, where Ctrl-C ends the scan inside, what comes of it."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"midstream: whole shards are kept in {out}: the same command on the same text goes on.", file=sys.stderr)
        raise


@contextmanager
def _progress() -> Generator[Callable[[Update], None]]:
    """On standard error, where that is a terminal: bytes of the corpus, tokens per second, rows, and what is left."""
    with bars("{task.percentage:>3.0f}%", "{task.fields[counts]}") as shown:
        yield _Shown(shown, shown.add_task("checking", total=None, counts=""), shown.console.is_terminal)


class _Shown:
    """Turns updates into what a user sees."""

    def __init__(self, shown: Any, task: Any, live: bool) -> None:
        self._bars, self._task, self._live = shown, task, live
        self._begun = self._said = 0.0

    def __call__(self, update: Update) -> None:
        from time import monotonic

        now = monotonic()
        if update.stage == "reading" and not self._begun:
            self._begun = self._said = now
            self._bars.reset(self._task)
        rate = update.tokens / max(now - self._begun, 1e-3) if update.tokens else 0.0
        counts = f"{update.tokens:,} tokens, {rate:,.0f} tokens/s, {update.rows:,} rows" if update.tokens else ""
        total = update.total and max(update.total, update.done)
        if not self._live and counts and now - self._said >= MINUTE:
            self._said = now
            print(
                f"midstream: {update.done / total:.0%}, {counts}" if total else f"midstream: {counts}", file=sys.stderr
            )
        self._bars.update(
            self._task, description=update.stage, completed=update.done, total=total, counts=counts, refresh=True
        )


def _say(result: ScanResult) -> None:
    """What was done, on standard output; what was left out, on standard error."""
    if result.skipped:
        print(f"midstream: the corpus had {result.skipped} documents, which are left out.", file=sys.stderr)
    if result.unreadable:
        listed = "; ".join(result.faults) + (" ..." if result.unreadable > len(result.faults) else "")
        print(f"midstream: {_count(result.unreadable, 'document')} could not be read: {listed}", file=sys.stderr)
    there = f"{_count(result.kept, 'shard')} there already; " if result.kept else ""
    counts = ((result.documents, "document"), (result.tokens, "token"), (result.rows, "row"))
    print(f"{result.store}: {there}{_count(result.shards, 'shard')} read: {', '.join(_count(*one) for one in counts)}.")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
