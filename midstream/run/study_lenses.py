"""The lenses that studies read with: fitted on their own texts, kept in the lens folder, made once for all."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from midstream.lens.file import artifact, folder
from midstream.lens.file.sums_file import ENDING
from midstream.lens.kind import Kind, parse
from midstream.lens.lens import Lens
from midstream.model.model import Model
from midstream.run.fit import fit_plan
from midstream.run.fit_plan import FitOptions, PlannedDocument, plan_of
from midstream.run.fit_progress import Meter, Update
from midstream.store.refuse import lock
from midstream.study.fitting import share
from midstream.study.study import Lenses, Text

PERCENT = 100

PAUSE = 0.5
"""Seconds between looks at whether another run has made the lenses."""

Progress = Callable[[str, int, int], None]
"""Told of what is done, how much of it, and how much there is."""


def place(model: Model, texts: Sequence[Text], wanted: Lenses, seed: int) -> Path:
    """Where lenses fitted on these texts are: in the model's lens folder, by a hash of all that they depend on."""
    layers, most = wanted.layers(model.anatomy.layers), _share(texts, wanted)
    parts = [[text.work, *text.ids[:most]] for text in texts], wanted.tokens, layers, seed
    return folder.folder(model) / "studies" / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def missing(model: Model, texts: Sequence[Text], wanted: Lenses, seed: int) -> list[Kind]:
    """The kinds that are still to be fitted."""
    home = place(model, texts, wanted, seed)
    return [kind for kind in map(parse, wanted.kinds) if not (home / kind.file).is_file()]


def digests(model: Model, texts: Sequence[Text], wanted: Lenses, seed: int) -> dict[str, str]:
    """Kind -> sha256 of its file, for a report; a kind whose file is not there is left out."""
    home = place(model, texts, wanted, seed)
    files = {kind: home / parse(kind).file for kind in wanted.kinds}
    return {kind: hashlib.sha256(file.read_bytes()).hexdigest() for kind, file in files.items() if file.is_file()}


class Shelf(Mapping[str, Lens]):
    """Kind -> lens; those that are not there yet are fitted when one is asked for, a stopped fit is gone on with.

    Where another run fits them, it is waited for. Raises RequestError, when one is asked for: too little text, a
    damaged file, a folder that takes no files.
    """

    def __init__(self, model: Model, texts: Sequence[Text], wanted: Lenses, seed: int, progress: Progress) -> None:
        """``progress`` is told of a fit's share that is done, in percent."""
        self._given = model, texts, wanted, seed
        self._progress = progress

    def __getitem__(self, kind: str) -> Lens:
        """The lens of a kind that is wanted."""
        return self._lenses[kind]

    def __iter__(self) -> Iterator[str]:
        """The kinds that are wanted."""
        return iter(self._given[2].kinds)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._given[2].kinds)

    @cached_property
    def _lenses(self) -> dict[str, Lens]:
        model, texts, wanted, seed = self._given
        home = place(model, texts, wanted, seed)
        if kinds := missing(model, texts, wanted, seed):
            home.mkdir(parents=True, exist_ok=True)
            handle = lock(home, wait=self._pause)
            try:
                if kinds := missing(model, texts, wanted, seed):  # less what was waited for
                    _fit(model, texts, replace(wanted, kinds=tuple(map(str, kinds))), seed, self._progress)
            finally:
                os.close(handle)
        return {kind: artifact.load(home / parse(kind).file, model) for kind in wanted.kinds}

    def _pause(self) -> None:
        self._progress("waiting for lenses that another run fits", 0, PERCENT)
        time.sleep(PAUSE)


def _fit(model: Model, texts: Sequence[Text], wanted: Lenses, seed: int, progress: Progress) -> None:
    home = place(model, texts, wanted, seed)

    def tell(update: Update) -> None:
        progress(f"lenses: {', '.join(wanted.kinds)}", round(PERCENT * update.share), PERCENT)

    options = FitOptions(
        tuple(map(parse, wanted.kinds)), wanted.tokens, layers=wanted.layers(model.anatomy.layers), seed=seed
    )
    most = _share(texts, wanted)
    plan = plan_of(model, "texts of a study", (_planned(text, most) for text in texts), options, in_turn=True)
    resume = tuple(sorted(home.glob(f"unfinished-{plan.digest[:8]}-*{ENDING}")))
    fit_plan(model, replace(plan, options=replace(options, resume=resume)), Meter(tell), home, scored=False)
    for file in resume:
        file.unlink(missing_ok=True)
    progress(f"lenses: {', '.join(wanted.kinds)}", PERCENT, PERCENT)


def _share(texts: Sequence[Text], wanted: Lenses) -> int:
    return share([len(text.ids) for text in texts], wanted.tokens)


def _planned(text: Text, most: int) -> PlannedDocument:
    ids = np.array(text.ids[:most], np.int32)
    return PlannedDocument(text.number, hashlib.sha256(ids.tobytes()).hexdigest(), ids, text.work, held=False)
