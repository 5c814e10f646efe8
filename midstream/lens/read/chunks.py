"""A document in chunks: the stream at the places that lenses read, and what those readings are compared with.

A document is cut into windows, a window into chunks that share the model's cache. A chunk whose lenses are about
tokens farther ahead than the next waits until the model's output at those positions has been seen: it may come from
a later chunk or window. Nothing larger than two chunks' stream is held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from midstream.corpus.window import LONGEST, Window, windows
from midstream.model.forward import new_cache
from midstream.model.model import Model
from midstream.model.tokenizer import Encoded
from midstream.record import Array
from midstream.stream.capture import capture_sites
from midstream.stream.edit import Edit, within
from midstream.stream.site import Place

CHUNK = 256
"""Positions whose stream is held at once: 18 MB for the default model; more is no faster."""


@dataclass(frozen=True, eq=False)
class Texts:
    """A document, or several laid one after another; nothing that is read reaches from one into the next.

    Attributes:
        ids: ``[tokens]`` int64 of all of them; kinds: ``[tokens]`` str, where each comes from.
        number: ``[tokens]`` int64, which document each is of.
        start, stop: ``[tokens]`` int64, where that document starts and stops here.
    """

    ids: Tensor
    kinds: Array
    number: Tensor
    start: Tensor
    stop: Tensor

    @classmethod
    def of(cls, documents: Mapping[int, Encoded]) -> Texts:
        """Those of these numbers, in this order."""
        sizes = torch.tensor([len(document.ids) for document in documents.values()], dtype=torch.int64)
        stops = sizes.cumsum(0)
        number, start, stop = (
            values.repeat_interleave(sizes) for values in (torch.tensor([*documents]), stops - sizes, stops)
        )
        ids = [token for document in documents.values() for token in document.ids]
        kinds = [kind for document in documents.values() for kind in document.kinds]
        return cls(torch.tensor(ids, dtype=torch.int64), np.array(kinds, dtype=object), number, start, stop)


@dataclass(frozen=True, eq=False)
class Wanted:
    """What a reading takes from the passes over a document.

    Attributes:
        places: where in the blocks; with ``ahead`` also the last layer.
        positions: ``[n]`` int64 ascending, those read.
        ahead: the distances k at which readings at i are compared with the model's own output at i + k.
        reach: largest absolute offset of the lenses, in tokens.
        edits: changes to the stream, their positions those of the document.
    """

    places: frozenset[Place]
    positions: Tensor
    ahead: frozenset[int]
    reach: int
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True, eq=False)
class Chunk:
    """Positions of a document that are read together, all of one window.

    Attributes:
        positions: ``[n]`` int64 ascending.
        stop: the document has been run up to here.
        stream: place -> ``[n, d]``; the last lens that needs a place takes it out.
        later: ``[m]`` int64 ascending, other positions whose output these are compared with, in whichever window
            reads them; none past the document's end.
        final: ``[m, d]``, the stream of the last layer at ``later``.
    """

    window: Window
    positions: Tensor
    stop: int
    stream: dict[Place, Tensor]
    later: Tensor
    final: Tensor | None


def cut(model: Model, ids: Tensor, wanted: Wanted) -> Iterator[Chunk]:
    """The chunks of the document ``ids`` ``[tokens]``, ascending; it is run no further than they need."""
    farthest = max(wanted.ahead, default=0)
    held: deque[Chunk] = deque()
    seen: list[Chunk] = []
    for chunk in _Passes(model, ids, wanted, ahead(wanted.positions, wanted, len(ids))).chunks():
        if not farthest:
            yield chunk
            continue
        seen.append(chunk)
        if len(chunk.positions):
            held.append(chunk)
        while held and int(held[0].positions[-1]) + farthest < chunk.stop:
            yield _complete(held.popleft(), seen, wanted, len(ids))
    while held:
        yield _complete(held.popleft(), seen, wanted, len(ids))


def ahead(positions: Tensor, wanted: Wanted, stop: Tensor | int) -> Tensor:
    """Positions ahead of ``positions`` whose output is compared with, ascending; empty where that is only their own.

    Args:
        stop: where the document ends, or, ``[n]``, the one that each position is of.
    """
    apart = [positions + k for k in sorted(wanted.ahead) if k > 0]
    return torch.cat([positions[:0], *(there[there < stop] for there in apart)]).unique()


def _complete(chunk: Chunk, seen: list[Chunk], wanted: Wanted, tokens: int) -> Chunk:
    """The chunk with the outputs that it is compared with; what no later chunk needs is dropped from ``seen``."""
    later = ahead(chunk.positions, wanted, tokens)
    later = later[~torch.isin(later, chunk.positions)]
    at = torch.cat([part.later for part in seen])
    rows = [part.final for part in seen if part.final is not None]
    final = torch.cat(rows)[torch.searchsorted(at, later).to(rows[0].device)] if len(later) else None
    while seen and seen[0].stop <= int(chunk.positions[-1]) + 1:
        seen.pop(0)
    return replace(chunk, later=later, final=final)


@dataclass(frozen=True, eq=False)
class _Passes:
    """The forward passes over one document: in the chunks made here ``later`` are the ``outputs`` that it holds."""

    model: Model
    ids: Tensor
    wanted: Wanted
    outputs: Tensor

    def chunks(self) -> Iterator[Chunk]:
        """Chunks ascending; those without any position to read or to compare with are left out."""
        needed = torch.cat([self.wanted.positions, self.outputs]).unique()
        for window in windows(len(self.ids), min(self.model.context, LONGEST), reach=self.wanted.reach):
            inside = _between(needed, window.first, window.stop)
            if len(inside):
                yield from self._window(window, int(inside[-1]) + 1)

    def _window(self, window: Window, end: int) -> Iterator[Chunk]:
        length = end - window.start
        cache = new_cache(self.model.module, self.model.anatomy) if length > CHUNK else None
        # Without a standard cache the window runs whole, and only what is read of it is cut.
        step = length if cache is None else CHUNK
        for start in range(window.start, end, step):
            stop = min(start + step, end)
            first = max(start, window.first)
            places = sorted(self._places(first, stop))
            tokens = self.ids[None, start:stop].to(self.model.device)
            edits = within(self.wanted.edits, start, stop, len(self.ids))
            stream = capture_sites(self.model, tokens, places, cache=cache, edits=edits)
            for low in range(first, stop, CHUNK):
                high = min(low + CHUNK, stop)
                chunk = self._chunk(window, start, (low, high), stream)
                if high == stop:
                    stream.clear()  # so that the chunk alone holds the tensors, and frees them as it is read
                if len(chunk.positions) or len(chunk.later):
                    yield chunk

    def _places(self, first: int, stop: int) -> frozenset[Place]:
        if len(_between(self.wanted.positions, first, stop)):
            return self.wanted.places
        return frozenset({self._last} if len(_between(self.outputs, first, stop)) else ())

    def _chunk(self, window: Window, start: int, span: tuple[int, int], stream: dict[Place, Tensor]) -> Chunk:
        at, later = (_between(positions, *span) for positions in (self.wanted.positions, self.outputs))
        part = {place: rows_at(h[0], at - start) for place, h in stream.items()} if len(at) else {}
        final = rows_at(stream[self._last][0], later - start) if len(later) else None
        return Chunk(window, at, span[1], part, later, final)

    @property
    def _last(self) -> Place:
        return self.model.anatomy.layers, "resid_post"


def _between(positions: Tensor, low: int, high: int) -> Tensor:
    """Those of the ascending ``positions`` from ``low`` on and below ``high``."""
    first, last = torch.searchsorted(positions, torch.tensor([low, high])).tolist()
    return positions[first:last]


def rows_at(h: Tensor, at: Tensor) -> Tensor:
    """The rows ``at`` (ascending, at least one) of ``h``, without a copy where they lie together."""
    first, last = int(at[0]), int(at[-1]) + 1
    return h[first:last] if last - first == len(at) else h[at.to(h.device)]
