"""``midstream read``: one text through one or more lenses, as a grid, a page, a figure or a file."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from midstream.cli.options import (
    FIGURE,
    Device,
    Dtype,
    EditTexts,
    EngineName,
    Every,
    Layers,
    ModelName,
    Precision,
    Seed,
    bars,
    check_targets,
    load_model,
    say_notes,
)
from midstream.errors import RequestError
from midstream.run.numbers import numbers
from midstream.view.chart import statistic, usual

if TYPE_CHECKING:
    from midstream.lens.read.request import Request
    from midstream.model.model import Model
    from midstream.model.tokenizer import Encoded
    from midstream.record import ReadingTable
    from midstream.stream.edit import Edit

LONG = 256
"""Tokens from which on progress is shown."""

Format = Literal["grid", "json", "csv"]


def read(
    text: Annotated[str | None, typer.Argument(help="The text to read.", show_default=False)] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Read this UTF-8 file instead; - is standard input.")
    ] = None,
    model: ModelName = None,
    lens: Annotated[
        list[str] | None,
        typer.Option(
            "--lens",
            help="logit, input, a fitted kind (tuned, future:2, input:0 ...) or a file; may be given again. "
            "Without it: logit, and tuned once that has been fitted.",
            show_default=False,
        ),
    ] = None,
    layers: Layers = None,
    every: Every = 1,
    site: Annotated[
        list[str] | None,
        typer.Option("--site", help="resid_post, resid_mid, attn_out, mlp_out or all; may be repeated."),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", help="Best tokens kept at each layer and position.")] = 10,
    watch: Annotated[
        list[str] | None, typer.Option("--watch", help='Follow this token at every layer, for example " Paris".')
    ] = None,
    edit: EditTexts = None,
    versus: Annotated[bool, typer.Option("--versus", help="Beside the edited run also read the unedited one.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Put the text in the model's chat template.")] = False,
    special: Annotated[bool, typer.Option("--special", help="Parse special tokens in the text.")] = False,
    color: Annotated[
        str | None, typer.Option("--color", help="Statistic that colours grid, page and figure.", show_default=False)
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the interactive page here.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write a figure here: .svg, .png or .pdf.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write every column here: .parquet.")] = None,
    output: Annotated[
        Format | None, typer.Option("--format", help="What to print; grid unless --out is given.")
    ] = None,
    engine: EngineName = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    precision: Precision = "exact",
    seed: Seed = None,
) -> None:
    """Read one text: what each layer already believes about the next token."""
    given = text_of(text, file)
    if not given:
        raise RequestError("the text is empty: expected at least two tokens to read.")
    color = _color(color, versus)
    check_targets(("--html", html, (".html", ".htm")), ("--plot", plot, FIGURE), ("--out", out, (".parquet",)))
    loaded = load_model(model, engine=engine, device=device, dtype=dtype)

    from midstream.lens.read.request import request
    from midstream.run.text import encode

    messages = [{"role": "user", "content": given}] if chat else None
    encoded = encode(loaded, None if chat else given, messages, special=special)
    wanted = request(
        loaded,
        {
            "lens": lens or None,
            "layers": None if layers is None else numbers("layers", layers),
            "every": every,
            "site": site or None,
            "top_k": top_k,
            "watch": watch or (),
            "precision": precision,
            "seed": seed,
            "edits": _edits(loaded, encoded, edit, seed),
            "versus": versus,
        },
    )
    say_notes(wanted.lenses)
    if out and not (output or html or plot):
        _stream(loaded, encoded, wanted, out)
        return
    table = _whole(loaded, encoded, wanted, page=html is not None)
    _write(table, out)
    _page(html, loaded, table, wanted, color)
    _draw(table, plot, output or (None if out else "grid"), color)


def _color(given: str | None, versus: bool) -> str:
    """The statistic that colours the readings: what edits have moved, where that is measured."""
    if given and statistic(given).versus and not versus:
        raise RequestError(f"--color {given} is what --versus measures: add it, with an --edit.")
    return given or usual(versus)


def _edits(model: Model, encoded: Encoded, given: list[str] | None, seed: int | None) -> list[Edit]:
    """The edits that the options describe."""
    if not given:
        return []
    from midstream.run.edit_spec import edits_of
    from midstream.run.edit_vector import Setting

    return edits_of(Setting(model, encoded.ids, seed=seed or 0), given)


def text_of(text: str | None, file: Path | None) -> str:
    """What the user gave, as text. Raises RequestError where it is missing, twice there, unreadable or not UTF-8."""
    if text is not None and file is not None:
        raise RequestError("a text and --file were given: expected one of the two.")
    if text is not None:
        return text
    if file is None:
        raise RequestError(
            'no text given: expected midstream read "some text", --file FILE, or --file - for standard input.'
        )
    try:
        if str(file) == "-" and sys.stdin is None:
            raise RequestError("standard input is closed: expected a text there, or --file FILE.")
        raw = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise RequestError(f"cannot read {str(file)!r}: {error.strerror}; expected a text file.") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{str(file)!r} is not UTF-8 at byte {error.start} (0x{raw[error.start]:02x}): expected UTF-8 text; "
            "convert it first, for example with iconv."
        ) from error


def _whole(model: Model, encoded: Encoded, request: Request, *, page: bool) -> ReadingTable:
    """The reading as one table; with ``page`` one that a page can hold."""
    from midstream.run.text import check_page, read_text

    if page:
        check_page(encoded, request)
    with _progress(len(encoded.ids)) as advance:
        return read_text(model, encoded, request, command=_command(), progress=advance)


def _stream(model: Model, encoded: Encoded, request: Request, out: Path) -> None:
    """Write the columns as they are made, in bounded memory."""
    from midstream.run.text import chunks
    from midstream.store.write import write_parquet

    with _progress(len(encoded.ids)) as advance:
        write_parquet(out, chunks(model, encoded, request, command=_command(), progress=advance))


def _write(table: ReadingTable, out: Path | None) -> None:
    if out is not None:
        from midstream.store.write import write_parquet

        write_parquet(out, [table])


def _page(path: Path | None, model: Model, table: ReadingTable, request: Request, color: str) -> None:
    if path is None:
        return
    from midstream.run.text import tracks
    from midstream.store.write import atomic
    from midstream.view.html import page

    text = page(table, tracks=tracks(model, table, request), statistic=color)
    with atomic(path) as file:
        file.write_text(text, encoding="utf-8")


def _draw(table: ReadingTable, plot: Path | None, printed: Format | None, color: str) -> None:
    if plot is not None:
        from midstream.view.plot import save

        save(table, plot, statistic=color)
    if printed == "grid":
        from rich.console import Console

        from midstream.view.terminal import grid

        Console().print(grid(table, statistic=color))
    elif printed == "json":
        print(table.json())
    elif printed == "csv":
        from midstream.store.write import write_csv

        write_csv(table, sys.stdout)


@contextmanager
def _progress(tokens: int) -> Generator[Callable[[int], None] | None]:
    """On standard error: tokens done, tokens per second and what is left, for a text that takes a while."""
    if tokens < LONG:
        yield None
        return
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed or 0:,.0f} tokens/s")

    with bars("{task.completed:,}/{task.total:,} tokens", Speed()) as shown:
        task = shown.add_task("reading", total=tokens)
        yield lambda done: shown.update(task, completed=done)


def _command() -> str:
    return shlex.join(["midstream", *sys.argv[1:]])
