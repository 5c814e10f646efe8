"""``midstream fit``: lenses of one or more kinds, fitted to a text in one pass."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midstream.cli.options import (
    Address,
    Device,
    Dtype,
    EngineName,
    Layers,
    ModelName,
    RunnerName,
    Where,
    Workers,
    bars,
    load_model,
    runner_of,
)
from midstream.errors import RequestError
from midstream.run.numbers import numbers

if TYPE_CHECKING:
    from rich.table import Table

    from midstream.run.fit import FitResult
    from midstream.run.fit_progress import Update

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def fit(
    kinds: Annotated[
        list[str], typer.Argument(help="shortcut, tuned, jacobian, future:K, input:J, input:J:shared; several at once.")
    ],
    corpus: Annotated[
        str, typer.Option("--corpus", help="Text to fit to: .txt, .jsonl, .parquet, a folder, hf:OWNER/NAME, or -.")
    ],
    model: ModelName = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the lenses; else the lens folder.")] = None,
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens to read, held-out ones included.")] = 200_000,
    where: Where = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Field whose values the split never cuts; work where there is one.")
    ] = None,
    site: Annotated[str, typer.Option("--site", help="resid_post, resid_mid, attn_out or mlp_out.")] = "resid_post",
    layers: Layers = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the split and of every random draw.")] = 0,
    memory: Annotated[
        str | None, typer.Option("--memory", help="What the sums may take, such as 500M; else a third of what is free.")
    ] = None,
    part: Annotated[
        str | None, typer.Option("--part", help="P/N: gather only the sums of part P of N, to be added by --resume.")
    ] = None,
    resume: Annotated[
        list[Path] | None, typer.Option("--resume", help="Go on with the sums in this file; may be given again.")
    ] = None,
    runner: RunnerName = "serial",
    workers: Workers = None,
    address: Address = None,
    engine: EngineName = None,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Fit lenses: one pass over a text for all of them."""
    from midstream.corpus.source import open_corpus
    from midstream.lens.kind import parse
    from midstream.run.fit_plan import FitOptions

    options = FitOptions(
        kinds=tuple(parse(kind) for kind in kinds),
        tokens=tokens,
        site=site,
        layers=None if layers is None else tuple(numbers("layers", layers)),
        seed=seed,
        cluster=cluster,
        memory=None if memory is None else _bytes(memory),
        part=None if part is None else _part(part),
        resume=_files(resume or []),
        out=None if out is None else _folder(out),
    )
    text = open_corpus(corpus, where=where or ())
    loaded = load_model(model, engine=engine, device=device, dtype=dtype)

    from midstream.run.fit import fit as run
    from midstream.run.fit_parts import fit_in_parts

    who = runner_of(loaded, runner, workers, address)
    with _progress() as progress:
        if runner == "serial":
            result = run(loaded, text, options, progress=progress)
        else:
            result = fit_in_parts(loaded, text, options, who, progress=progress)
    _print(result)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)B?", text.strip().upper())
    if not found or not int(float(found[1]) * _UNITS[found[2]]):
        raise RequestError(f"--memory {text!r}: expected bytes such as 500M or 2G.")
    return int(float(found[1]) * _UNITS[found[2]])


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if not found:
        raise RequestError(f"--part {text!r}: expected P/N, such as 1/4.")
    return int(found[1]), int(found[2])


def _files(paths: list[Path]) -> tuple[Path, ...]:
    for path in paths:
        if not path.is_file():
            raise RequestError(
                f"--resume {str(path)!r}: there is no such file; expected sums that midstream fit saved."
            )
    return tuple(paths)


def _folder(path: Path) -> Path:
    """The folder, made if it is missing. Raises RequestError where it takes no files."""
    from midstream.store.write import check_target

    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"--out {str(path)!r}: {error.strerror}; expected a folder, or a name for a new one."
        ) from error
    check_target(path / "tuned.safetensors")
    return path


@contextmanager
def _progress() -> Generator[Callable[[Update], None]]:
    """On standard error: a bar for the stage and the time left for the whole fit; one line a stage off a terminal."""
    counts = "{task.completed:,}/{task.total:,} {task.fields[unit]}"
    with bars(counts, "{task.fields[rate]}", "{task.fields[left]}", left=False) as shown:
        task = shown.add_task("fit", total=1, unit="", rate="", left="")
        yield _Shown(shown, task, shown.console.is_terminal)


class _Shown:
    """Turns updates into what a user sees."""

    def __init__(self, shown: Any, task: Any, live: bool) -> None:
        from time import monotonic

        self._bars, self._task, self._live, self._now = shown, task, live, monotonic
        self._begun = self._stage_begun = monotonic()
        self._stage = ""

    def __call__(self, update: Update) -> None:
        if update.note:
            self._bars.console.print(f"midstream: {update.note}", markup=False, highlight=False, soft_wrap=True)
            return
        now = self._now()
        if update.stage != self._stage:
            self._stage, self._stage_begun = update.stage, now
            if not self._live:
                size = f", {update.total:,} {update.unit}" if update.total else ""
                times = ", ".join(
                    filter(None, [f"after {_clock(now - self._begun)}", _left(now - self._begun, update.share)])
                )
                print(f"midstream: {update.stage}{size} ({times})", file=sys.stderr)
        rate = update.done / max(now - self._stage_begun, 1e-3)
        self._bars.update(
            self._task,
            description=update.stage,
            completed=update.done,
            total=update.total,
            unit=update.unit,
            rate=f"{rate:,.0f} {update.unit}/s" if update.done else "",
            left=_left(now - self._begun, update.share),
        )


def _left(spent: float, share: float) -> str:
    """Time left for the whole fit, from the share of its operations that are done."""
    if share < 0.01:
        return ""
    return f"{_clock(spent * (1 - share) / share)} left in all"


def _clock(seconds: float) -> str:
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


def _print(result: FitResult) -> None:
    """The held-out scores, or where there are none the variance that each lens leaves unexplained; and the files."""
    import numpy as np
    from rich.console import Console

    if result.scores is not None:
        from midstream.view.score_table import table

        scores = result.scores
        reads_input = np.char.startswith(scores.columns["lens"].astype(str), "input:")
        shown = scores.columns["measure"] == np.where(reads_input, "accuracy", "kl")
        Console().print(table(scores.pick(shown)))
        print("Every other measure is in the files: midstream lens show FILE.")
    elif result.lenses:
        Console().print(_unexplained(result))
    for name, file in result.files.items():
        print(f"{name}: {file}")


def _unexplained(result: FitResult) -> Table:
    from rich.table import Table

    drawn = Table("layer", *(lens.name for lens in result.lenses), box=None, pad_edge=False)
    drawn.title, drawn.title_justify = "variance unexplained on held-out text", "left"
    values = [lens.about["fit"].get("fvu_held", {}) for lens in result.lenses]
    for name in dict.fromkeys(name for column in values for name in column):
        drawn.add_row(name, *(f"{column[name]:.3f}" if name in column else "" for column in values))
    return drawn
