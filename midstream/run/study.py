"""Run a study: sets of documents in, records of every unit kept as they are made, a report out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from midstream.corpus.source import Corpus
from midstream.errors import RequestError, choices
from midstream.lens.read.request import request
from midstream.model.model import Model
from midstream.run import study_lenses
from midstream.run.provenance import provenance
from midstream.run.study_text import Sets, gather, texts
from midstream.store.columns import read_columns, write_columns
from midstream.store.layout import LOCK
from midstream.store.refuse import lock
from midstream.store.sealed import DamagedError, dump, read_json, seal
from midstream.store.write import atomic
from midstream.study.report import Report
from midstream.study.study import Columns, Cost, Ground, Need, Records, Stage, Study, Unit
from midstream.study.verdict import WORKS, detectable

MAIN = "main"

PLAN, DONE = "plan.json", "done.json"
"""What an arm's records depend on; the units of each stage, once all are there."""

SIZES = ("quick", "default", "large")

Progress = Callable[[str, int, int], None]
"""Told of a stage, units done, and units in all."""


@dataclass(frozen=True)
class StudyOptions:
    """What a user may ask of a study.

    Attributes:
        size: ``quick`` to see that it works, ``default``, or ``large``.
        arm: ``main``, or one that is run on its own.
        cluster: field of the documents that says which belong together; None: ``work``, or the document.
        force: run although an effect that matters could be missed.
        seed: of every draw, 0 to 2^31 - 1.
    """

    size: str = "default"
    arm: str = MAIN
    cluster: str | None = None
    force: bool = False
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Prepared:
    """A study that can be run: documents chosen.

    Attributes:
        said: what a user is told before it runs, one line each.
        short: why its size could miss an effect of the primary claim that matters; empty where it could not.
        weak: the other claims of which it could, in a sentence; empty for none.
    """

    study: Study
    options: StudyOptions
    sets: Sets
    ground: Ground
    said: tuple[str, ...]
    short: str
    weak: str


def prepare(model: Model, study: Study, corpus: Corpus, options: StudyOptions) -> Prepared:
    """Choose documents and predict what the run takes; nothing is written.

    Raises:
        RequestError: an unknown size or arm, a model or text that the study cannot be asked of, a seed out of range.
    """
    if options.size not in SIZES:
        raise choices("size of a study", options.size, SIZES)
    if options.arm not in study.arms:
        raise choices(f"arm of {study.name}", options.arm, study.arms)
    if not 0 <= options.seed < 2**31:
        raise RequestError(f"the seed is {options.seed}: expected a number from 0 to {2**31 - 1}.")
    sets = gather(corpus, _needs(study), cluster=options.cluster, seed=options.seed)
    made = _prepared(model, study, sets, options)
    arm = study.arms[options.arm]
    arm.check(made.ground)
    return replace(made, said=(_takes(made, arm.cost(made.ground)), *_first(made), *made.said))


def _first(prepared: Prepared) -> list[str]:
    """What is said of the lenses that have to be made."""
    ground, options = prepared.ground, prepared.options
    wanted = prepared.study.arms[options.arm].lenses.get(options.size)
    if wanted is None or not (kinds := study_lenses.missing(ground.model, ground.texts["fit"], wanted, ground.seed)):
        return []
    return [
        f"lenses are fitted first and kept for other studies, which is not counted: {', '.join(map(str, kinds))}, on "
        f"up to {wanted.tokens:,} tokens."
    ]


def _needs(study: Study) -> dict[str, list[Need]]:
    """Set -> what any arm at any size asks of it."""
    found: dict[str, list[Need]] = {}
    for arm in study.arms.values():
        for needs in arm.needs.values():
            for name, need in needs.items():
                found.setdefault(name, []).append(need)
    return found


def _prepared(model: Model, study: Study, sets: Sets, options: StudyOptions) -> Prepared:
    """The documents of an arm, and what its size can show."""
    found = texts(model, sets, study.arms[options.arm].needs[options.size])
    works = {name: len({text.work for text in members}) for name, members in found.items()}
    unit = _units(sets.unit)
    listed = "; ".join(f"{len(found[name]):,} documents of {n:,} {unit} to {name}" for name, n in works.items())
    drawn = "" if sets.by_field else f" (drawn by {sets.unit}: no document has split=fit, reserve or eval)"
    outside = f"; {sets.outside:,} have another split and are left out" if sets.outside else ""
    said, weak = [f"reads {listed}{drawn}{outside}."], dict[str, str]()
    for claim in (one for one in study.claims if options.arm == MAIN and one.counts == WORKS):
        least = detectable(claim, works["confirm"])
        said.append(
            f"{claim.name}: {least:.2g} {claim.unit} would be told from {claim.threshold:g} in 80 % of runs; "
            f"{claim.matters:g} is the smallest that matters."
        )
        if not least <= claim.matters:
            weak[claim.name] = f"{claim.name} ({least:.2g} against {claim.matters:g} {claim.unit})"
    primary = weak.pop(study.claims[0].name, "")
    short = f"too small to see an effect that matters: {primary}" if primary else ""
    rest = f"An effect that matters could be missed, in more than 20 % of runs, of {'; '.join(weak.values())}."
    ground = Ground(model, found, options.size, options.seed)
    return Prepared(study, options, sets, ground, tuple(said), short, rest if weak else "")


def _takes(prepared: Prepared, cost: Cost) -> str:
    options = prepared.options
    return (
        f"{prepared.study.name}, {options.size} size, arm {options.arm}: {cost.forwards:,.0f} passes of a text, "
        f"{cost.tokens:,} tokens, {cost.readouts:,} read-outs, about {_minutes(cost.seconds)}."
    )


def run(prepared: Prepared, folder: Path, *, command: str = "", progress: Progress | None = None) -> Report | None:
    """Measure what ``folder`` does not hold yet, and analyse all of it.

    Args:
        folder: one study's own; records of each arm are kept in it, a file a unit.

    Returns:
        The report; None for an arm that is run before the main one, which the report needs.

    Raises:
        RequestError: the size is too small and not forced, or the folder holds another run.
    """
    study, options = prepared.study, prepared.options
    _refuse_others(study, folder)
    if prepared.short and options.size != "quick" and not options.force:
        raise RequestError(
            f"{study.name} would be {prepared.short}. Give a corpus of more works, or --force to run it nevertheless."
        )
    folder = Path(os.path.realpath(folder))
    handle = _claim(prepared, folder / options.arm)
    progress = progress or (lambda *_: None)
    try:
        records = {options.arm: _measured(_equipped(prepared, progress), folder / options.arm, progress)}
    finally:
        os.close(handle)
    main, left = prepared, list[str]()
    for name in study.arms:
        if name == options.arm or not (folder / name / PLAN).is_file():
            continue
        if (kept := _kept(prepared, name, folder / name)) is None:
            left.append(f"The arm {name} of this folder is left out: it is not complete, or was run otherwise.")
        else:
            main = kept[0] if name == MAIN else main
            records[name] = kept[1]
    if MAIN not in records:
        return None
    return _signed(main, study.analyse(main.ground, records), command, left)


def _equipped(prepared: Prepared, progress: Progress) -> Prepared:
    """With the lenses of its arm, which are made when the first unit asks for them."""
    ground, options = prepared.ground, prepared.options
    wanted = prepared.study.arms[options.arm].lenses.get(options.size)
    if wanted is None:
        return prepared
    made = study_lenses.Shelf(ground.model, ground.texts["fit"], wanted, ground.seed, progress)
    return replace(prepared, ground=replace(ground, lenses=made))


def _refuse_others(study: Study, folder: Path) -> None:
    """Raise RequestError for a folder whose reports would be overwritten and are no study's."""
    if any((folder / name / PLAN).is_file() for name in study.arms):
        return
    if taken := [name for name in ("report.html", "report.md", "report.json", "figures") if (folder / name).exists()]:
        raise RequestError(
            f"{str(folder)!r} holds {taken[0]!r} and no study: expected a new folder, or one of this study."
        )


def _signed(main: Prepared, report: Report, command: str, left: Sequence[str]) -> Report:
    """The report with its provenance, and what must be known before its answer."""
    model, options = main.ground.model, main.options
    made = provenance(model, request(model, {"lens": ["logit"], "seed": options.seed}), [], command)
    settings = {"size": options.size, "intervals count": _units(main.sets.unit), "documents": main.sets.seen}
    wanted = main.study.arms[MAIN].lenses.get(options.size)
    lenses = study_lenses.digests(model, main.ground.texts["fit"], wanted, options.seed) if wanted else {}
    caveat = "A quick run, to see that it works: nothing is decided by it." if options.size == "quick" else ""
    if main.short and not caveat:
        caveat = f"Forced though it was {main.short}: nothing is decided by it."
    about = [*report.about, *([main.weak] if main.weak else []), *left]
    if main.sets.unit != "work":
        about.append(f"What is called a work below is a {main.sets.unit} here: that is what intervals count.")
    return replace(
        report,
        caveat=caveat,
        about=tuple(about),
        provenance=replace(made, lenses=lenses, corpus=main.sets.digest, settings=made.settings | settings),
    )


def _plan(prepared: Prepared) -> dict[str, Any]:
    """What the records of a folder depend on."""
    model, options = prepared.ground.model, prepared.options
    chosen = {
        name: [f"{text.number}:{text.work}" for text in members] for name, members in prepared.ground.texts.items()
    }
    return {
        "study": prepared.study.name,
        "revision": prepared.study.revision,
        "midstream": version("midstream"),
        "model": model.fingerprint.identity,
        "circumstances": model.fingerprint.circumstances,
        "dtype": str(model.dtype),
        "size": options.size,
        "cluster": prepared.sets.unit,
        "seed": options.seed,
        "documents": prepared.sets.digest,
        "chosen": chosen,
    }


def _claim(prepared: Prepared, folder: Path) -> int:
    """Takes a folder for this run, or finds that it is this run's already; the handle holds it until it is closed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = lock(folder, "study")
    except OSError as error:
        raise RequestError(f"cannot write to {str(folder)!r}: {error.strerror}. Choose another --out.") from error
    try:
        _begin(_plain(_plan(prepared)), folder)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _begin(plan: dict[str, Any], folder: Path) -> None:
    if not (folder / PLAN).exists():
        if others := [path.name for path in folder.iterdir() if path.name != LOCK and path.name[:1] != "."]:
            raise RequestError(
                f"{str(folder)!r} holds {others[0]!r} and no study: expected a new folder, or one of this study."
            )
        with atomic(folder / PLAN) as file:
            file.write_bytes(seal(plan))
        return
    found = _sealed(folder, PLAN)
    if other := [name for name in plan if found.get(name) != plan[name]]:
        raise RequestError(
            f"{str(folder)!r} holds a run with another {' and '.join(other)}: it cannot be gone on with. "
            "Choose another --out, or remove that folder."
        )


def _sealed(folder: Path, name: str) -> dict[str, Any]:
    try:
        return read_json(folder, name)
    except DamagedError as error:
        raise RequestError(
            f"{str(folder / name)!r} {error.reason}: remove {str(folder)!r}, and the study begins anew."
        ) from error


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from a file."""
    return json.loads(dump(value))


def _measured(prepared: Prepared, folder: Path, progress: Progress) -> Records:
    records: dict[str, Columns] = {}
    names: dict[str, list[str]] = {}
    for stage in prepared.study.arms[prepared.options.arm].stages:
        units = stage.units(prepared.ground, records)
        parts: list[Columns] = []
        for done, unit in enumerate(units):
            progress(stage.name, done, len(units))
            parts.append(_unit(prepared.ground, stage, unit, folder / stage.name))
        progress(stage.name, len(units), len(units))
        records[stage.name] = _joined(parts)
        names[stage.name] = [unit.name for unit in units]
    with atomic(folder / DONE) as file:
        file.write_bytes(seal(names))
    return records


def _unit(ground: Ground, stage: Stage, unit: Unit, folder: Path) -> Columns:
    path = folder / f"{unit.name}.parquet"
    kept = read_columns(path)
    if kept is not None:
        return kept
    folder.mkdir(exist_ok=True)
    write_columns(path, stage.measure(ground, unit))
    found = read_columns(path)
    if found is None:
        raise RequestError(f"{str(path)!r} cannot be read right after it was written: is the disk sound?")
    return found


def _kept(prepared: Prepared, name: str, folder: Path) -> tuple[Prepared, Records] | None:
    """Another arm that was run to its end in the same way on the same text, with its records; None where none was."""
    try:
        found, done = read_json(folder, PLAN), read_json(folder, DONE)
        if found.get("documents") != prepared.sets.digest or found.get("size") not in SIZES:
            return None
        options = replace(prepared.options, arm=name, size=found["size"])
        other = _prepared(prepared.ground.model, prepared.study, prepared.sets, options)
    except RequestError:  # damaged, not complete, or of documents that cannot be had this way: not this run's error
        return None
    if _plain(_plan(other)) != found:
        return None
    records: dict[str, Columns] = {}
    for stage, units in done.items():
        parts = [read_columns(folder / stage / f"{unit}.parquet") for unit in units]
        if not parts or any(part is None for part in parts):
            return None
        records[stage] = _joined([part for part in parts if part is not None])
    return other, records


def _joined(parts: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _units(unit: str) -> str:
    """What intervals count, as several."""
    return f"{unit}s" if unit in ("work", "document", "author") else f"values of {unit}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def state(folder: Path, study: Study) -> str:
    """How far a study is in its folder, in a word or two."""
    arms = [name for name in study.arms if (folder / name / DONE).is_file()]
    if (folder / "report.html").is_file():
        return "reported" + (f" ({', '.join(arms)})" if len(arms) > 1 else "")
    begun = any((folder / name / PLAN).is_file() for name in study.arms)
    return "begun" if begun else "not run"
