"""Fits lenses: one plan, one pass over the text for all of them, one factorisation a layer, then the KL stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from midstream.corpus.source import Corpus, open_corpus
from midstream.errors import FitError, MidstreamError, RequestError
from midstream.lens.file import artifact, folder, sums_file
from midstream.lens.file.sums_file import ENDING, Gathered
from midstream.lens.fit import jacobian as fit_jacobian
from midstream.lens.fit.beta import Factors
from midstream.lens.fit.least_squares import solve, solve_shared
from midstream.lens.fit.sums import Calibration, Key
from midstream.lens.kind import Kind
from midstream.lens.lens import Lens, Transport
from midstream.model.linear import FastLinear
from midstream.model.model import Model
from midstream.readout.reader import Reader, input_reader, output_reader
from midstream.record import ScoreTable, as_list
from midstream.run.fit_cost import PASSES, costs, reading
from midstream.run.fit_lenses import (
    Solved,
    assemble,
    fit_numbers,
    fit_scores,
    keys_of,
    provenance,
    scaled,
    scales,
    starts,
)
from midstream.run.fit_pass import CALIBRATED, Lookout, Stopped, blank, calibration, counted, gather
from midstream.run.fit_plan import FitOptions, Plan, groups, plan, target_of
from midstream.run.fit_progress import Meter, Progress
from midstream.run.fit_refine import Refined, refine
from midstream.run.score import ScoreOptions, score
from midstream.run.score_text import Held


@dataclass
class FitResult:
    """What a fit has made.

    Attributes:
        lenses: in the order of the kinds asked for; none where only a part's sums were gathered.
        files: kind, or ``part P/N``, -> the file it was written to.
        problems: what went wrong without stopping the fit, one sentence each.
        scores: of the lenses on the held-out documents; None where there are none.
    """

    lenses: list[Lens] = field(default_factory=list[Lens])
    files: dict[str, Path] = field(default_factory=dict[str, Path])
    problems: list[str] = field(default_factory=list[str])
    scores: ScoreTable | None = None


def fit(
    model: Model, corpus: Corpus | str | Path, options: FitOptions, *, progress: Progress | None = None
) -> FitResult:
    """Fits the lenses that ``options`` name and writes each to its file.

    Args:
        corpus: the text, or where it is.
        progress: told where the fit stands; see ``Update``.

    Raises:
        RequestError: too little text, sums of another plan, a folder that takes no files.
        FitError: the fit broke down; the sums gathered until then are in a file that the error names.
    """
    meter = Meter(progress)
    corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
    return fit_plan(model, planned(model, corpus, options, meter), meter, options.out or folder.folder(model))


def planned(model: Model, corpus: Corpus, options: FitOptions, meter: Meter) -> Plan:
    """The plan of a fit, and word of what the corpus had that cannot be read. Raises RequestError as ``fit`` does."""
    meter.begin("reading the corpus", 0, "")
    found = plan(model, corpus, options)
    if str(corpus.skipped):
        meter.note(f"the corpus had {corpus.skipped} documents, which are left out.")
    return found


def fit_plan(model: Model, plan: Plan, meter: Meter, out: Path, *, scored: bool = True) -> FitResult:
    """Fits what a plan says and writes it into the folder ``out``, which is made; ``scored``: on held-out text too.

    Raises as ``fit`` does.
    """
    out.mkdir(parents=True, exist_ok=True)
    with FastLinear():
        return _Fit(model, plan, meter, out).run(scored)


class _Fit:
    """One fit under way."""

    def __init__(self, model: Model, planned: Plan, meter: Meter, out: Path) -> None:
        self.model, self.plan, self.meter, self.out = model, planned, meter, out
        self.lookout = Lookout(model, planned)
        self.output: Reader = output_reader(model.anatomy)
        self.last = model.anatomy.layers
        self.solved = Solved()
        self.result = FitResult()
        self.kept: list[Path] = []
        self.failed: list[str] = []

    def run(self, scored: bool) -> FitResult:
        """All stages, the scores if they are wanted."""
        options = self.plan.options
        split = groups(self.model, self.plan)
        if len(split) > 1 and any(kind.shared for kind in options.kinds):
            raise RequestError(
                "a shared map needs the sums of all layers at once, and --memory does not allow them: raise it, or "
                "leave input:j:shared out."
            )
        self.meter.plan(costs(self.model, self.plan, len(split)))
        if split:
            gathered = self._resumed(split)
            for number, keys in enumerate(split):
                # taken out of the list, so that a group's sums are freed before the next one's are made
                self._group(number, len(split), keys, gathered.pop(0))
            if options.part is not None:
                return self.result
        try:
            self._lenses()
            if self.result.lenses and scored:
                self._scores()
        except BaseException:
            if self.kept:
                files = " ".join(f"--resume {file}" for file in self.kept)
                self.meter.note(f"the sums are kept: to go on without reading again, add {files} to the same command.")
            raise
        for file in self.kept:
            file.unlink(missing_ok=True)
        if self.failed:
            others = ", ".join(map(str, self.result.files.values()))
            raise FitError(f"{' '.join(self.failed)} The others are written: {others}.")
        return self.result

    def _resumed(self, split: Sequence[Sequence[Key]]) -> list[Gathered | None]:
        """The sums of earlier runs, group by group."""
        anatomy, files = self.model.anatomy, self.plan.options.resume
        found: list[Gathered | None] = [None] * len(split)
        if not files:
            return found
        shapes = [blank(self.plan, anatomy.width, anatomy.vocabulary, keys, None) for keys in split]
        for file in files:
            number, sums = sums_file.load(file, shapes)
            before = found[number]
            found[number] = sums if before is None else before.merged(sums)
        return found

    def _group(self, number: int, of: int, keys: Sequence[Key], start: Gathered | None) -> None:
        """One group of layers, to its maps or, of a part, to its file of sums."""
        plan, anatomy = self.plan, self.model.anatomy
        if start is None:
            start = blank(plan, anatomy.width, anatomy.vocabulary, keys, self._calibrated())
        self.solved.calibration = _together(self.solved.calibration, start.fit.calibration)
        read = set(start.done.tolist())
        total = sum(unit.usable for unit in plan.mine() if unit.number not in read)
        self.meter.begin(reading(of)[number], total)
        try:
            done = gather(self.lookout, self.output, start, self.meter.advance)
        except Stopped as stopped:
            self._rescue(stopped, number)
        if plan.options.part is not None:
            part = f"part-{plan.options.part[0]}-of-{plan.options.part[1]}"
            file = self.out / f"{part}{'' if of == 1 else f'.{number + 1}'}{ENDING}"
            sums_file.save(done, file)
            self.result.files[f"{part}.{number + 1}" if of > 1 else part] = file
            return
        if of > 1 or any(kind.name in ("tuned", "future") for kind in plan.options.kinds):
            with suppress(RequestError):  # a convenience: the fit itself goes on without
                sums_file.save(done, self._file(number))
                self.kept.append(self._file(number))
        self._solve(done)

    def _calibrated(self) -> Calibration:
        if self.solved.calibration is None or set(self.solved.calibration.shifts) != set(self.plan.inputs()):
            self.meter.begin("calibrating", CALIBRATED)
            self.solved.calibration = calibration(self.lookout, self.meter.advance)
        return self.solved.calibration

    def _file(self, number: int) -> Path:
        return self.out / f"unfinished-{self.plan.digest[:8]}-{number + 1}{ENDING}"

    def _rescue(self, stopped: Stopped, number: int) -> NoReturn:
        """Save what an interrupted pass had gathered, say where, and go on with what interrupted it."""
        cause = stopped.__cause__
        assert cause is not None
        done = len(stopped.gathered.done)
        try:
            sums_file.save(stopped.gathered, self._file(number))
        except MidstreamError as error:
            said = f"its sums could not be kept: {error}"
        else:
            files = " ".join(f"--resume {file}" for file in [*self.kept, self._file(number)])
            said = (
                f"the sums of {done:,} of {len(self.plan.units):,} windows are kept: go on with the same command and "
                f"{files}"
            )
        if isinstance(cause, Exception):
            raise FitError(f"the fit stopped: {cause} {said}.") from cause
        self.meter.note(f"the fit stopped; {said}.")
        raise cause

    def _solve(self, gathered: Gathered) -> None:
        """Least squares of one group, its sums no longer needed after."""
        solved, plan = self.solved, self.plan
        self.meter.begin("solving", len(gathered.fit.moments), "layers")
        found = solve(gathered.fit, gathered.held, advance=self.meter.advance)
        solved.maps |= found
        for kind in plan.options.kinds:
            if kind.shared and (target := target_of(kind)) is not None:
                solved.shared[target] = solve_shared(gathered.fit, gathered.held, target)
        for key, moments in gathered.fit.moments.items():
            mean = moments.x / moments.count
            if any(kind.name in ("tuned", "future") for kind in plan.options.kinds):
                solved.covariances[key] = moments.xx / moments.count - torch.outer(mean, mean)
            solved.positions[key], solved.left_out[key] = moments.count, moments.left_out
        solved.counts |= gathered.counts

    def _lenses(self) -> None:
        """Every lens, saved as soon as it is made: those by least squares first, so that they are safe."""
        base = artifact.about(self.model)
        made: dict[Kind, Lens] = {}
        order = {"shortcut": 0, "input": 0, "tuned": 1, "future": 1, "jacobian": 2}
        for kind in sorted(self.plan.options.kinds, key=lambda kind: order[kind.name]):
            try:
                made[kind] = self._lens(kind, base)
            except MidstreamError as error:
                if len(self.plan.options.kinds) == 1:
                    raise
                self.failed.append(f"{kind} could not be fitted: {error}")
                continue
            self.result.files[str(kind)] = self.out / kind.file
            artifact.save(made[kind], self.out / kind.file)
        self.result.lenses = [made[kind] for kind in self.plan.options.kinds if kind in made]

    def _scores(self) -> None:
        """What the lenses are good for on the held-out documents, kept in their files."""
        self.meter.begin("scoring", ScoreOptions().positions, "positions")
        held = [Held(one.cluster, one.ids, one.sha256) for one in self.plan.documents if one.held]
        done = 0

        def advance(_counted: str, count: int, _of: int) -> None:
            nonlocal done
            self.meter.advance(count - done)
            done = count

        try:
            table = score(self.model, self.result.lenses, held, progress=advance)
        except RequestError as error:
            self.result.problems.append(f"there are no held-out scores: {error}")
            self.meter.note(self.result.problems[-1])
            return
        self.result.scores = table
        for number, lens in enumerate(self.result.lenses):
            mine = table.columns["lens"] == lens.name
            scores = {name: as_list(values[mine]) for name, values in table.columns.items()}
            self.result.lenses[number] = replace(lens, about={**lens.about, "scores": scores})
            artifact.save(self.result.lenses[number], self.result.files[lens.name])

    def _jacobian(self, kind: Kind, base: Mapping[str, Any]) -> Lens:
        passes = PASSES * self.model.anatomy.width
        self.meter.begin("jacobian", passes, "passes")
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            self.meter.advance(count - done)
            done = count

        texts = (one.ids.tolist() for one in self.plan.documents if not one.held)
        found = fit_jacobian.fit(self.model, texts, passes=passes, seed=self.plan.options.seed, progress=advance)
        maps: dict[Key, Transport] = {
            ("stream", layer): Transport(found.maps[layer]) for layer in self.plan.layers if layer in found.maps
        }
        numbers = fit_numbers(self.plan, kind, self.solved, [], None)
        numbers |= {"prompts": found.prompts, "passes": found.passes, "method": found.method}
        return assemble(self.lookout, kind, maps, {}, provenance(self.lookout, base, numbers), None)

    def _lens(self, kind: Kind, base: Mapping[str, Any]) -> Lens:
        target = target_of(kind)
        if target is None:
            return self._jacobian(kind, base)
        begin: Mapping[Key, Transport] = starts(self.plan, kind, self.solved, self.last)
        maps, refined = begin, None
        if kind.name in ("tuned", "future") and begin:
            refined = self._refined(kind, begin)
            maps = refined.maps
            if refined.stopped:
                self.result.problems.append(f"{kind}: {refined.stopped} The best maps until then are kept.")
                self.meter.note(self.result.problems[-1])
        factors: Mapping[Key, Factors] = {}
        if kind.reader == "input":
            self.meter.begin(f"calibrating {kind}", len(maps), "layers")
            factors = fit_scores(self.lookout, input_reader(self.model.anatomy), kind, maps, self.meter.advance)
            maps = scaled(maps, factors)
        numbers = fit_numbers(self.plan, kind, self.solved, keys_of(self.plan, kind, self.last), refined)
        numbers |= scales(factors)
        counts = self.solved.counts.get(target) if target in counted(self.plan) and kind.number else None
        return assemble(self.lookout, kind, maps, factors, provenance(self.lookout, base, numbers), counts)

    def _refined(self, kind: Kind, begin: Mapping[Key, Transport]) -> Refined:
        covariances = {key: self.solved.covariances[key] for key in begin}
        fixed = self.solved.calibration
        assert fixed is not None
        return refine(self.lookout, self.output, kind, (begin, covariances), fixed, self.meter)


def _together(one: Calibration | None, other: Calibration) -> Calibration:
    """The calibration of the keys of both."""
    if one is None:
        return other
    return Calibration({**one.shifts, **other.shifts}, one.targets, {**one.limits, **other.limits}, one.last)
