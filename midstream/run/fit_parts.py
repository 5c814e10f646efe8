"""A fit whose sums are gathered by several workers, each from a part of the documents: a map, then a sum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from midstream.corpus.source import Corpus
from midstream.errors import RequestError
from midstream.lens.file import folder, sums_file
from midstream.model.memory import give_back
from midstream.model.model import Model
from midstream.model.placement import free_memory
from midstream.run.fit import FitResult, fit_plan, planned
from midstream.run.fit_pass import blank
from midstream.run.fit_plan import FitOptions, Plan, groups
from midstream.run.fit_progress import Meter, Progress
from midstream.run.runner import Runner
from midstream.store.write import atomic

PARTS = 8
"""Parts that the documents are cut into, unless there are more workers."""


def fit_in_parts(
    model: Model, corpus: Corpus, options: FitOptions, runner: Runner, *, progress: Progress | None = None
) -> FitResult:
    """As ``fit.fit``, the sums gathered by the runner's workers; what is not a sum is done here.

    Each part's sums are kept beside the lenses until these are made: given again, the same fit goes on with them.

    Raises RequestError for a fit in parts of its own (``part``, ``resume``); otherwise as ``fit.fit``.
    """
    if options.part is not None or options.resume:
        raise RequestError("--part and --resume are for fits without --runner, which cuts the fit into parts itself.")
    # of this machine, so that every worker makes the same groups of layers
    memory = (options.memory or free_memory(model.device) // 3) // max(1, runner.here)
    options = replace(options, memory=memory)
    meter = Meter(progress)
    plan = planned(model, corpus, options, meter)
    out = options.out or folder.folder(model)
    out.mkdir(parents=True, exist_ok=True)
    # in one order, whichever part was done first, so that the sums have the same last digits
    files = sorted(_parts(model, plan, runner, meter, out)) if plan.targets else []
    result = fit_plan(model, replace(plan, options=replace(options, resume=tuple(files))), meter, out)
    for file in files:
        file.unlink(missing_ok=True)
    return result


def _parts(model: Model, plan: Plan, runner: Runner, meter: Meter, out: Path) -> Iterator[Path]:
    """The files of all parts' sums, those first that were there."""
    split = groups(model, plan)
    parts = min(max(PARTS, runner.here), len(plan.documents))
    names = [
        [f"unfinished-{plan.digest[:8]}-part-{part}-of-{parts}.{n}{sums_file.ENDING}" for n in range(len(split))]
        for part in range(1, parts + 1)
    ]
    shapes = [blank(plan, model.anatomy.width, model.anatomy.vocabulary, keys, None) for keys in split]
    missing = [part for part in range(parts) if not all(_usable(out / name, shapes) for name in names[part])]
    meter.begin("reading in parts", parts, "parts")
    meter.advance(parts - len(missing))
    yield from (out / name for part in range(parts) if part not in missing for name in names[part])
    for part, made in runner.run(PartJob(plan, parts), (Part(number + 1) for number in missing)):
        for name, content in zip(names[part - 1], made, strict=True):
            with atomic(out / name) as file:
                file.write_bytes(content)
            yield out / name
        meter.advance(1)


def _usable(file: Path, shapes: list[sums_file.Gathered]) -> bool:
    if not file.exists():
        return False
    try:
        sums_file.load(file, shapes)
    except RequestError:
        return False
    return True


class Part(int):
    """The number of a part, from 1."""

    def __str__(self) -> str:
        """As an error names it."""
        return f"part {int(self)}"


@dataclass(frozen=True)
class PartJob:
    """Gathers the sums of parts; see ``runner.Job``."""

    plan: Plan
    parts: int

    def begin(self, model: Model) -> partial[tuple[int, list[bytes]]]:
        """What gathers one part with ``model``."""
        return partial(_gathered, model, self)


def _gathered(model: Model, job: PartJob, part: Part) -> tuple[int, list[bytes]]:
    """The number of a part, and the bytes of its files of sums, one a group of layers."""
    with TemporaryDirectory(prefix="midstream-") as scratch:
        options = replace(job.plan.options, part=(int(part), job.parts), out=Path(scratch))
        made = fit_plan(model, replace(job.plan, options=options), Meter(None), Path(scratch))
        contents = [file.read_bytes() for file in made.files.values()]
    give_back()
    return int(part), contents
