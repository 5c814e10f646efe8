"""Options that two or more commands share, each defined once."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from midstream.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    from rich.progress import Progress, ProgressColumn, TaskID

    from midstream.lens.lens import Lens
    from midstream.model.model import Model
    from midstream.run.runner import Runner

ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Hub name, folder or .gguf file; without it $MIDSTREAM_MODEL, or else the bundled SmolLM2-135M-Instruct.",
    ),
]
EngineName = Annotated[
    Literal["plain", "transformers"] | None, typer.Option("--engine", help="Which implementation runs the model.")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option("--dtype", help="Of the blocks; float32 unless it would take over half the free memory."),
]
Precision = Annotated[
    Literal["exact", "fast"],
    typer.Option("--precision", help="exact: float32 products; fast: 8-bit screening, float32 decides."),
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Seed of every random draw, recorded; a plain reading draws nothing.")
]

EditTexts = Annotated[
    list[str] | None,
    typer.Option("--edit", help="Change the stream, as docs/edit.md says; may be given again.", show_default=False),
]
Layers = Annotated[str | None, typer.Option("--layers", help="For example 0,8,16 or 0-8,30; -1 is the last.")]
Every = Annotated[int, typer.Option("--every", help="Every k-th layer, counted back from the last.")]
Where = Annotated[
    list[str] | None, typer.Option("--where", help="Only documents with FIELD=VALUE; may be given again.")
]
RunnerName = Annotated[
    Literal["serial", "pool", "ray"],
    typer.Option("--runner", help="serial: this process; pool: several of this machine; ray: a Ray cluster."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="How many; without it one a core, each with one thread.", min=1)
]
Address = Annotated[
    str | None, typer.Option("--address", help="Of a Ray cluster: host:port or auto; else one on this machine.")
]


def load_model(name: str | None, *, engine: str | None, device: str, dtype: str | None) -> Model:
    """The model that the options name; what loading has to say goes to standard error."""
    from midstream.model.load import load

    model = load(name, engine=engine, device=device, dtype=dtype)
    for note in model.notes:
        print(f"midstream: {note}", file=sys.stderr)
    return model


def say_notes(lenses: Iterable[Lens]) -> None:
    """What the files of lenses warn of, such as layers that seem shifted in an import, on standard error."""
    for lens in lenses:
        for note in lens.about.get("notes", ()):
            print(f"midstream: {note}", file=sys.stderr)


@contextmanager
def bars(*columns: str | ProgressColumn, left: bool = True) -> Generator[Progress]:
    """Progress on standard error, gone when it is done; nothing where that is no terminal.

    Args:
        columns: what stands to the right of a task's description and bar: a column, or a text that formats ``task``.
        left: say how long it will still take.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    shown = [TextColumn("{task.description}"), BarColumn()]
    shown += [TextColumn(column) if isinstance(column, str) else column for column in columns]
    shown += [TimeRemainingColumn()] if left else []
    with Progress(*shown, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress


@contextmanager
def counted() -> Generator[Callable[[str, int, int], None]]:
    """Progress of parts that are counted: told of a part, what is done of it, and how much there is."""
    with bars("{task.completed:,}/{task.total:,}") as shown:
        tasks: dict[str, TaskID] = {}

        def advance(part: str, done: int, of: int) -> None:
            if part not in tasks:
                tasks[part] = shown.add_task(part, total=of)
            shown.update(tasks[part], completed=done)

        yield advance


FIGURE = (".svg", ".png", ".pdf")
"""What a figure's name may end in."""


def check_targets(*files: tuple[str, Path | None, tuple[str, ...]]) -> None:
    """Refuse, before long work, a file that cannot be written.

    Args:
        files: option, what was given, and what its name may end in.
    """
    from midstream.store.write import check_target

    for option, path, endings in files:
        if path is None:
            continue
        if path.suffix.lower() not in endings:
            raise RequestError(f"{option} {str(path)!r}: expected a name that ends in {' or '.join(endings)}.")
        check_target(path)


def runner_of(model: Model, name: str, workers: int | None, address: str | None) -> Runner:
    """Who does the work, from the options. Raises RequestError for options that do not go together."""
    from midstream.run.workers import runner

    return runner(model, name, workers=workers, address=address)
