"""What a lens is held against: its own map fitted on the tokens alone, and answers that need no vector at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from midstream.lens.fit.back_off import predict
from midstream.lens.lens import Lens, Source
from midstream.lens.read.reading import TOKENS
from midstream.lens.score.estimates import Baseline, Group, measures
from midstream.record import Array, ReadingTable

HERE = ("resid_post", 0)
"""Site and layer of every baseline: it knows no more than what enters the first block."""


def maps(lenses: Sequence[Lens]) -> tuple[Lens, ...]:
    """The baselines of capacity equal to a lens's own, each under its own name, to be read beside the lenses."""
    return tuple(replace(base, name=f"{lens.name} | {base.source}") for lens in lenses for base in lens.baselines)


def baselines(lenses: Sequence[Lens]) -> list[Baseline]:
    """Every baseline of the lenses, in the order in which a table names them."""
    found: list[Baseline] = []
    for lens in lenses:
        found += [Baseline(base.name, lens.name, measures(base)) for base in maps([lens])]
        if _has_table(lens):
            seen = ("agreement", "accuracy") if lens.reader == "output" else ("accuracy",)
            found.append(Baseline(f"{lens.name} | back-off", lens.name, seen))
        if lens.reader == "input":
            found.append(Baseline(f"{lens.name} | most frequent", lens.name, ("accuracy",)))
    return found


def notes(lenses: Sequence[Lens]) -> list[str]:
    """Which baselines know the answer, in sentences."""
    told = {lens.name: [base.source for base in lens.baselines if _holds_answer(lens, base.source)] for lens in lenses}
    return [
        f"{name} | {' and '.join(sources)}: holds the answer's own input row, and so says what such a map can reach at "
        "most, not what a lens must beat."
        for name, sources in told.items()
        if sources
    ]


def _holds_answer(lens: Lens, source: Source) -> bool:
    return lens.reader == "input" and -lens.offset < (TOKENS if source == "tokens" else 1)


def _has_table(lens: Lens) -> bool:
    """Whether it stands beside a back-off table; one that is asked for a token it is told answers nothing."""
    return lens.back_off is not None and not (lens.reader == "input" and lens.offset > -2)


class Answers:
    """The baselines without vectors, for all documents that are scored.

    Args:
        lenses: those scored.
        documents: ids ``[tokens]`` int64 of each and the positions ``[n]`` read of it, of all that are scored.
    """

    def __init__(self, lenses: Sequence[Lens], documents: Iterable[tuple[Array, Array]]) -> None:
        self._tables = [lens for lens in lenses if _has_table(lens)]
        self._inputs = [lens for lens in lenses if lens.reader == "input"]
        seen = {lens.name: Counter[int]() for lens in self._inputs}
        for ids, at in documents:
            for lens in self._inputs:
                seen[lens.name].update(ids[at + lens.offset].tolist())
        self._constant = {name: max(count, key=lambda token: (count[token], -token)) for name, count in seen.items()}

    def named(self, ids: Array) -> Array:
        """``[tokens, T]`` int64, what each back-off table answers at every position of a document."""
        current = torch.from_numpy(ids)
        previous = torch.cat([torch.tensor([-1]), current[:-1]])
        answers = [predict(lens.back_off, previous, current).numpy() for lens in self._tables if lens.back_off]
        return np.stack(answers, axis=1) if answers else np.zeros((len(ids), 0), np.int64)

    def values(self, ids: Array, at: Array, tables: Sequence[ReadingTable]) -> dict[Group, dict[str, Array]]:
        """Group -> measure -> ``[n]``, its value at each position ``at`` ``[n]`` of a document.

        Args:
            tables: its reading, with what ``named`` gave followed at each position.
        """
        found: dict[Group, dict[str, Array]] = {}
        answers = self.named(ids)
        for number, lens in enumerate(self._tables):
            right = {"accuracy": answers[at, number] == ids[at + lens.offset]}
            if lens.reader == "output":
                right["agreement"] = _agrees(lens, number, tables)
            found[f"{lens.name} | back-off", *HERE] = right
        for lens in self._inputs:
            right = ids[at + lens.offset] == self._constant[lens.name]
            found[f"{lens.name} | most frequent", *HERE] = {"accuracy": right}
        return found


def _agrees(lens: Lens, number: int, tables: Sequence[ReadingTable]) -> Array:
    """Whether the followed token ``number`` is the model's own first choice: a lens gives both the same rank and logit.

    The reading does not say which token the model's output puts first further on, only how the lens ranks it.
    """
    agree: list[Array] = []
    for table in tables:
        own, followed = (_first_place(lens, columns) for columns in (table.columns, table.watched))
        rank, logprob = (followed[name].reshape(-1, len(own["rank"]))[number] for name in ("rank", "logprob"))
        same = (rank == own["final_top1_rank"]) & (logprob == own["final_top1_logprob"])
        agree.append(np.where(own["final_top1_rank"] < 1, np.nan, same))
    return np.concatenate(agree)


def _first_place(lens: Lens, columns: Mapping[str, Array]) -> dict[str, Array]:
    """The rows of a lens at the first layer and site that it has there."""
    mine = columns["lens"] == lens.name
    first = int(np.flatnonzero(mine)[0])
    mine &= (columns["layer"] == columns["layer"][first]) & (columns["site"] == columns["site"][first])
    return {name: values[mine] for name, values in columns.items()}
