"""Maps fitted to a study's own texts, and again without a quarter of them each, to see what numbers owe to it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

from midstream.lens.fit.least_squares import Fitted, solve
from midstream.lens.fit.sums import Batch, Calibration, Key, Sums, calibrate
from midstream.study.study import Ground, Text

QUARTERS = 4
"""Parts of the fit documents that maps are refitted without, one at a time."""

RIDGE = 8
"""One work in so many chooses the ridge of the maps."""

MOST = 8e9
"""Bytes of memory that a study may take, the model not counted."""

CALIBRATED = 8
"""Texts that the shifts of the sums are taken from."""

Maps = dict[tuple[Key, str], Fitted]
"""(input, target) -> map."""

Solver = Callable[[Sums, Sums], Maps]
"""Maps from sums."""


def grouped(texts: Sequence[Text]) -> tuple[list[list[Text]], list[Text]]:
    """The texts in quarters that share no work, and those that choose the ridge."""
    quarters: list[list[Text]] = [[] for _ in range(QUARTERS)]
    works = list(dict.fromkeys(text.work for text in texts))
    chosen = set(works[RIDGE - 1 :: RIDGE])
    others = {work: number for number, work in enumerate(work for work in works if work not in chosen)}
    for text in texts:
        if text.work in others:
            quarters[others[text.work] % QUARTERS].append(text)
    return quarters, [text for text in texts if text.work in chosen]


def fitted(
    ground: Ground, name: str, rows: Callable[[Sequence[Text]], Iterable[Batch]], solved: Solver = solve
) -> list[Maps]:
    """Least squares on the fit texts: with all of them, then without each quarter; made once under ``name``.

    Args:
        rows: of some texts, their positions as inputs and targets, batch by batch.
        solved: the maps of the sums of those to fit on and of those that choose the ridge.

    Raises:
        RequestError: there are too few positions.
    """
    if name not in ground.keep:
        ground.keep[name] = list(_fitted(ground.texts["fit"], rows, solved))
    return ground.keep[name]


def memory(widths: Sequence[int]) -> float:
    """Bytes that ``fitted`` holds at once, for inputs of these widths: sums of the quarters, of those that choose the
    ridge, of all, and of all but a quarter; and six matrices of the input that is being solved for."""
    squares = [8.0 * width**2 for width in widths]
    return (QUARTERS + 3) * sum(squares) + 6 * max(squares)


def _fitted(texts: Sequence[Text], rows: Callable[[Sequence[Text]], Iterable[Batch]], solved: Solver) -> Iterator[Maps]:
    quarters, ridge = grouped(texts)
    fixed = calibrate(rows(quarters[0][:CALIBRATED]))
    sums = [_summed(fixed, rows(group)) for group in quarters]
    held = _summed(fixed, rows(ridge))
    whole = functools.reduce(Sums.merged, sums)
    yield solved(whole, held)
    for part in sums:
        yield solved(whole.without(part), held)


def _summed(fixed: Calibration, batches: Iterable[Batch]) -> Sums:
    sums = Sums.empty(fixed, "a study's texts")
    for x, y, last in batches:
        sums.add(x, y, last)
    sums.release()
    return sums
