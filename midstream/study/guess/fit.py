"""What the fit texts say of the stream: its covariance, what goes with it, and what the output looks at.

Sums over four parts of the fit documents are kept, so that everything can be had again without one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil

import torch
from torch import Tensor

from midstream.lens.fit.sums import Moments
from midstream.study.guess.basis import Basis, ordered, whitened
from midstream.study.guess.relevance import relevance
from midstream.study.guess.setting import FIRST, SIZES, layers, seed
from midstream.study.guess.streams import batches, reader, streams, transport
from midstream.study.refit import grouped
from midstream.study.study import Ground, Text


@dataclass(frozen=True, eq=False)
class Fit:
    """What is known of the stream at one layer, float64 on the CPU.

    Attributes:
        mean, row_mean, last_mean: ``[d]``, of the stream, of the input row of the token read, of the stream at layer L.
        covariance, with_row, with_last: ``[d, d]``, of the stream, and of it with these two.
        relevance: ``[d, d]``, mean over positions of what the output looks at.
    """

    mean: Tensor
    row_mean: Tensor
    last_mean: Tensor
    covariance: Tensor
    with_row: Tensor
    with_last: Tensor
    relevance: Tensor

    @cached_property
    def relevant(self) -> Basis:
        """Coordinates ordered by what the output looks at."""
        return ordered(self.varied, self.relevance)

    @cached_property
    def varied(self) -> Basis:
        """Coordinates ordered by variance: principal components."""
        return whitened(self.mean, self.covariance)

    @cached_property
    def decoded(self) -> Tensor:
        """The input row of each coordinate by relevance, least squares: ``[r, d]``."""
        return self.relevant.into.T @ self.with_row

    @cached_property
    def components(self) -> Tensor:
        """That of each coordinate by variance: ``[r, d]``."""
        return self.varied.into.T @ self.with_row

    @cached_property
    def precision(self) -> Tensor:
        """The covariance's inverse; NaN where it has none, since nothing can be dropped and made up for there."""
        into = self.varied.into
        found = into @ into.T
        return found if into.shape[1] == len(found) else torch.full_like(found, torch.nan)

    @cached_property
    def weights(self) -> Tensor:
        """Least squares of the input row on the stream: ``[d, d]``, rows are coordinates of the stream."""
        return self.varied.into @ self.components


@dataclass(eq=False)
class _Sums:
    """Of one part of the documents at one layer: moments with the input row and the last layer side by side."""

    moments: Moments
    relevance: Tensor
    read: int

    @classmethod
    def none(cls, d: int) -> _Sums:
        return cls(Moments.zero(d, 2 * d, 2), torch.zeros(d, d, dtype=torch.float64), 0)

    def plus(self, other: _Sums) -> _Sums:
        return _Sums(self.moments.plus(other.moments), self.relevance + other.relevance, self.read + other.read)

    def fit(self) -> Fit:
        moments, n, d = self.moments, self.moments.count, len(self.moments.x)
        mean, other = moments.x / n, moments.y / n
        about = moments.moved(-mean, -other, (d, d))
        return Fit(
            mean=mean,
            row_mean=other[:d],
            last_mean=other[d:],
            covariance=about.xx / n,
            with_row=about.xy[:, :d] / n,
            with_last=about.xy[:, d:] / n,
            relevance=self.relevance / self.read,
        )


def fit(ground: Ground, layer: int, without: int = -1) -> Fit:
    """What the fit texts say at a layer; ``without`` a quarter of them, -1: all.

    Only the last one asked for is kept: what is made of it is a dozen matrices of the stream's width.
    """
    kept: dict[tuple[int, int], Fit] = ground.keep.setdefault("fit", {})
    if (layer, without) not in kept:
        kept.clear()
        parts = _parts(ground)
        members = [sums[layer] for number, sums in enumerate(parts) if number != without]
        total = members[0]
        for one in members[1:]:
            total = total.plus(one)
        kept[layer, without] = total.fit()
    return kept[layer, without]


def windows(ground: Ground) -> list[list[Text]]:
    """What is cut out of the fit documents, in four parts that share no work: each of the study's own length.

    A token that the tokenizer puts before a document (beginning of text) stands before every window, since the other
    texts begin with it too.
    """
    quarters, _ = grouped(ground.texts["fit"])
    return [[window for text in members for window in _windows(ground, text)] for members in quarters]


def _windows(ground: Ground, text: Text) -> list[Text]:
    before = len(ground.model.tokenizer.special_ids.intersection(text.ids[:1]))
    length, most = len(ground.texts["confirm"][0].ids) - before, SIZES[ground.size].windows
    ends = range(before + length, min(len(text.ids), before + most * length) + 1, length)
    return [replace(text, ids=text.ids[:before] + text.ids[end - length : end]) for end in ends]


def _parts(ground: Ground) -> list[dict[int, _Sums]]:
    """Layer -> sums, of each quarter; made once."""
    if "parts" not in ground.keep:
        texts, size = windows(ground), SIZES[ground.size]
        share = size.positions / sum(len(members) * (len(members[0].ids) - FIRST) for members in texts if members)
        ground.keep["parts"] = [
            _part(ground, members, min(share, 1.0), seed(ground.seed, "relevance", number))
            for number, members in enumerate(texts)
        ]
    return ground.keep["parts"]


def _part(ground: Ground, texts: Sequence[Text], share: float, drawn: int) -> dict[int, _Sums]:
    d, at = ground.model.anatomy.width, layers(ground)
    found = {layer: _Sums.none(d) for layer in at.all}
    generator, draws = torch.Generator().manual_seed(drawn), SIZES[ground.size].draws
    for members in batches(texts, SIZES[ground.size].batch):
        seen = streams(ground, members)
        n = len(seen.row)
        read = torch.randperm(n, generator=generator)[: ceil(share * n)]
        y = torch.cat([seen.row, seen.h[at.last].cpu().double()], dim=1)
        for layer, h in seen.h.items():
            sums, x = found[layer], h.cpu().double()
            _add(sums.moments, x, y)
            sums.relevance += relevance(reader(ground), transport(ground, layer), h[read], draws, generator)
            sums.read += len(read)
    return found


def _add(moments: Moments, x: Tensor, y: Tensor) -> None:
    d = x.shape[1]
    moments.count += len(x)
    moments.x += x.sum(0)
    moments.y += y.sum(0)
    moments.xx += x.T @ x
    moments.xy += x.T @ y
    moments.yy += torch.stack([part.square().sum() for part in y.split(d, dim=1)])
