"""The back-off table: what most often came after the same two tokens, a baseline that has no vectors at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from midstream.errors import RequestError
from midstream.lens.lens import BackOff


@dataclass(frozen=True)
class Counts:
    """How often each answer was seen after the last two tokens; counts of several texts add up.

    Attributes:
        vocabulary: V.
        codes: ``[m]`` int64 ascending, ``(x_{i-1} V + x_i) V + answer``.
        times: ``[m]`` int64.
    """

    vocabulary: int
    codes: Tensor
    times: Tensor

    @classmethod
    def none(cls, vocabulary: int) -> Counts:
        """Nothing seen. Raises RequestError for a vocabulary whose triples do not fit 63 bits."""
        if vocabulary > 2_000_000:
            raise RequestError(f"a vocabulary of {vocabulary:,} tokens is too large for a back-off table.")
        return cls(vocabulary, torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))

    @classmethod
    def seen(cls, vocabulary: int, previous: Tensor, current: Tensor, answer: Tensor) -> Counts:
        """Of positions ``[n]`` int64 each; one whose answer is negative does not count."""
        known = answer >= 0
        codes = ((previous * vocabulary + current) * vocabulary + answer)[known]
        unique, times = codes.unique(return_counts=True)
        return cls(vocabulary, unique, times)

    def merged(self, *others: Counts) -> Counts:
        """The counts of all."""
        every = [self, *others]
        unique, inverse = torch.cat([part.codes for part in every]).unique(return_inverse=True)
        times = torch.zeros_like(unique).index_add_(0, inverse, torch.cat([part.times for part in every]))
        return Counts(self.vocabulary, unique, times)


def back_off(counts: Counts) -> BackOff:
    """The table of the most frequent answers; of equally frequent ones the smaller id. Raises RequestError if empty."""
    if not len(counts.codes):
        raise RequestError("no position to make a back-off table of: expected some text.")
    size = counts.vocabulary
    codes, times = counts.codes.numpy(), counts.times.numpy()
    pairs, pair_answers = _most(codes // size, codes % size, times)
    singles, single_answers = _most(codes // size % size, codes % size, times)
    _, overall = _most(np.zeros_like(codes), codes % size, times)
    return BackOff(pairs, pair_answers, singles, single_answers, int(overall[0]), size)


def predict(table: BackOff, previous: Tensor, current: Tensor) -> Tensor:
    """The table's answers ``[n]`` int64 after tokens ``previous``, ``current`` ``[n]`` int64 (previous -1: none)."""
    answers = torch.full_like(current, table.answer)
    single, known = _found(table.singles, current)
    answers[known] = table.single_answers[single[known]]
    pair, known = _found(table.pairs, previous * table.vocabulary + current)
    known &= previous >= 0
    answers[known] = table.pair_answers[pair[known]]
    return answers


def _most(group: np.ndarray, answer: np.ndarray, times: np.ndarray) -> tuple[Tensor, Tensor]:
    """Groups, ascending, and each one's most frequent answer; entries of one group and answer are added first."""
    order = np.lexsort((answer, group))
    group, answer, times = group[order], answer[order], times[order]
    new = np.r_[True, (group[1:] != group[:-1]) | (answer[1:] != answer[:-1])]
    total = np.add.reduceat(times, np.flatnonzero(new))
    group, answer = group[new], answer[new]
    order = np.lexsort((answer, -total, group))
    group, answer = group[order], answer[order]
    first = np.r_[True, group[1:] != group[:-1]]
    return torch.from_numpy(group[first].copy()), torch.from_numpy(answer[first].copy())


def _found(table: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Where each value stands in an ascending table, and whether it is there."""
    at = torch.searchsorted(table, wanted).clamp(max=len(table) - 1)
    return at, table[at] == wanted
