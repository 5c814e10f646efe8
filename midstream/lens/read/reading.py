"""The one place where capture, transport and read-out meet: a model, a text and lenses in, rows out.

A chunk's stream is captured at the places asked for, moved by each lens, and read in one pass over the vocabulary
for each kind of reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from midstream.corpus.window import Window
from midstream.errors import RequestError
from midstream.lens.lens import Lens, Source
from midstream.lens.read.chunks import Chunk, Texts, Wanted, cut
from midstream.lens.read.request import START, Request
from midstream.lens.read.table import Part, table
from midstream.model.anatomy import Anatomy
from midstream.model.model import Model
from midstream.model.product import full_float32, product
from midstream.model.tokenizer import Encoded
from midstream.readout.read import Precision, Rows, read, top1
from midstream.readout.reader import Reader, input_reader, output_reader
from midstream.record import Array, ReadingTable
from midstream.stream.edit import verify
from midstream.stream.site import Place

READERS = {"output": output_reader, "input": input_reader}
"""What makes the reader that a lens names."""

TOKENS = 4
"""Input rows that the source ``tokens`` puts side by side."""


@dataclass(frozen=True, eq=False)
class Readers:
    """The readers of a request's lenses, for any number of documents.

    Attributes:
        by_name: what a lens calls its reader -> the reader.
        positions: that are read with them in all, which decides whether to compile; 0: those of each document.
    """

    by_name: dict[str, Reader]
    positions: int = 0

    @classmethod
    def of(cls, model: Model, lenses: Sequence[Lens], *, positions: int = 0) -> Readers:
        """Those that the lenses need; an input reader copies the input rows."""
        needed = {lens.reader for lens in lenses}
        return cls({name: make(model.anatomy) for name, make in READERS.items() if name in needed}, positions)

    def at_least(self, positions: int) -> Readers:
        """The same for a job of so many positions or more."""
        return replace(self, positions=max(self.positions, positions))


@dataclass(frozen=True, eq=False)
class Document:
    """A text being read, or several laid one after another.

    Attributes:
        texts: its tokens.
        named: ``[tokens, T]`` ids followed at each position, -1 = none.
        request: what is read of it.
        lenses: those of the request, in the order in which they are read.
        leaves: place -> the last lens that needs its stream.
    """

    texts: Texts
    named: Tensor
    request: Request
    lenses: list[Lens]
    leaves: dict[Place, Lens]

    @classmethod
    def of(cls, texts: Texts, request: Request, named: Array | None = None) -> Document:
        """As ``request`` reads it; the watched tokens are followed where none are ``named``."""
        if named is None:
            named = np.tile(np.asarray(request.watch, dtype=np.int64), (len(texts.ids), 1))
        lenses = sorted(request.lenses, key=lambda lens: list(READERS).index(lens.reader))
        leaves = {place: lens for lens in lenses for place in _needed(lens, request)}
        return cls(texts, torch.from_numpy(named), request, lenses, leaves)

    def wanted(self, positions: Tensor, model: Model) -> Wanted:
        """What reading the ``positions`` takes from the passes."""
        ahead = frozenset(lens.offset - 1 for lens in self.lenses if _compared(lens))
        last: Place = (model.anatomy.layers, "resid_post")
        places = frozenset(self.leaves) | ({last} if ahead else set())
        return Wanted(places, positions, ahead, self.request.reach, self.request.edits)

    def read(
        self,
        model: Model,
        chunk: Chunk,
        readers: Readers,
        unedited: Chunk | None = None,
        output: Output | None = None,
    ) -> ReadingTable:
        """The rows of a chunk; ``unedited``: the same without edits; ``output``: the model's own there, if known."""
        parts: list[Part] = []
        for name, reader in readers.by_name.items():
            rows = _Rows(reader, self, chunk, unedited, model.anatomy, readers.positions)
            lenses = [lens for lens in self.lenses if lens.reader == name]
            compared = any(_compared(lens) for lens in lenses)
            parts += rows.read(lenses, (output or self.output(model, chunk, readers)) if compared else None)
        parts.sort(key=lambda part: self.request.lenses.index(part.lens))
        return table(model, self.texts, chunk, parts)

    def output(self, model: Model, chunk: Chunk, readers: Readers) -> Output | None:
        """What the model says itself, here and ahead; None where no lens is compared with it."""
        if not any(_compared(lens) for lens in self.lenses):
            return None
        with full_float32():
            return Output.of(readers.by_name["output"], chunk, model.anatomy.layers, self.request.precision)


def read_chunks(
    model: Model,
    encoded: Encoded,
    request: Request,
    *,
    named: Array | None = None,
    positions: Array | None = None,
    readers: Readers | None = None,
) -> Iterator[ReadingTable]:
    """Read a document, one table a chunk, positions ascending.

    Args:
        encoded: the document's tokens.
        named: ``[tokens, T]`` ids followed at each position instead of the request's watched tokens; -1 = none.
        positions: those to read, ascending; the model runs no further than they need. None: all.
        readers: those of the request's lenses, where several documents are read; None: made for this one.
    """
    at = positions_of(positions, len(encoded.ids))
    readers = (readers or Readers.of(model, request.lenses)).at_least(len(at))
    document = Document.of(Texts.of({0: encoded}), request, named)
    wanted = document.wanted(at, model)
    verify(model.anatomy, request.edits, len(encoded.ids))
    unedited = cut(model, document.texts.ids, replace(wanted, edits=())) if request.versus else repeat(None)
    for chunk, other in zip(cut(model, document.texts.ids, wanted), unedited, strict=False):
        yield document.read(model, chunk, readers, other)


def read_by_layers(
    model: Model, encoded: Encoded, request: Request, groups: Sequence[Sequence[int]]
) -> Iterator[ReadingTable]:
    """Read a document chunk by chunk, and each chunk one group of layers after the other: for who watches it come.

    Args:
        groups: the layers of the request, each in one of them, in the order in which they are read; each group costs
            as much as two layers more.
    """
    document = Document.of(Texts.of({0: encoded}), request)
    at = positions_of(None, len(encoded.ids))
    readers, wanted = Readers.of(model, request.lenses), document.wanted(at, model)
    verify(model.anatomy, request.edits, len(encoded.ids))
    made = [(_of_layers(document, layers, number == 0), len(layers)) for number, layers in enumerate(groups)]
    # of a job as large as the whole: the same pass is chosen, and the numbers are those of read_chunks
    parts = [
        (part, readers.at_least(-(-len(at) * len(request.layers) // layers))) for part, layers in made if part.lenses
    ]
    unedited = cut(model, document.texts.ids, replace(wanted, edits=())) if request.versus else repeat(None)
    for chunk, other in zip(cut(model, document.texts.ids, wanted), unedited, strict=False):
        output = document.output(model, chunk, readers)
        for part, sized in parts:  # each takes its places out of a copy
            before = None if other is None else replace(other, stream=dict(other.stream))
            yield part.read(model, replace(chunk, stream=dict(chunk.stream)), sized, before, output)


def _of_layers(document: Document, layers: Sequence[int], first: bool) -> Document:
    """The same document, only some layers of it; the ``first`` group has the lenses that do not read the stream."""
    some = replace(document.request, layers=tuple(sorted(layers)))
    lenses = [lens for lens in some.lenses if (some.places(lens) if lens.source == "stream" else first)]
    return Document.of(document.texts, replace(some, lenses=tuple(lenses)))


def read_captured(
    model: Model, encoded: Encoded, request: Request, position: int, stream: dict[Place, Tensor], readers: Readers
) -> ReadingTable:
    """The rows of one position whose stream has been captured: place -> ``[d]``, the last layer's among them.

    For lenses about the next token or earlier ones; those about later tokens have nothing to be compared with yet.
    """
    document = Document.of(Texts.of({0: encoded}), request)
    here = torch.tensor([position])
    rows = {place: h[None] for place, h in stream.items()}
    window = Window(0, len(encoded.ids), 0)
    return document.read(model, Chunk(window, here, position + 1, rows, here[:0], None), readers.at_least(1))


def positions_of(given: Array | None, tokens: int) -> Tensor:
    """The positions to read, ``[n]`` int64; all where none are given. Raises RequestError unless they ascend."""
    if given is None:
        return torch.arange(tokens)
    at = torch.from_numpy(np.asarray(given, dtype=np.int64))
    if len(at) and (int(at[0]) < 0 or int(at[-1]) >= tokens or not bool((at[1:] > at[:-1]).all())):
        raise RequestError(f"positions {at.tolist()[:8]}...: expected ascending ones from 0 to {tokens - 1}.")
    return at


def _compared(lens: Lens) -> bool:
    """Whether its readings are of what the model's own output says, there or further on."""
    return lens.reader == "output" and lens.offset > 0


def _needed(lens: Lens, request: Request) -> list[Place]:
    """The places whose stream a lens reads, layer 0 for comparison included."""
    if lens.source != "stream":
        return []
    return request.places(lens) + ([START] if _has_base(lens) else [])


def _has_base(lens: Lens) -> bool:
    return lens.reader == "output" and lens.reads(*START)


@dataclass(frozen=True, eq=False)
class Output:
    """The model's own output at the positions of a chunk and at those its lenses look ahead to.

    Attributes:
        x: ``[m, d]`` prepared; own: the first ``[n, d]`` of them, the same tensor where there are no others.
        choice: ``[m]`` int64, its first choice, -1 where undefined.
        first: the lowest of the positions; index ``[span]``: which row of x is that of position ``first + j``, or -1.
    """

    x: Tensor
    own: Tensor
    choice: Tensor
    first: int
    index: Tensor

    @classmethod
    def of(cls, reader: Reader, chunk: Chunk, layers: int, precision: Precision) -> Output:
        """Of a model of so many ``layers``, by the parts of it that this reader has."""
        h = chunk.stream[layers, "resid_post"]
        x = reader.prepare(h if chunk.final is None else torch.cat([h, chunk.final]))
        own = x if chunk.final is None else x[: len(chunk.positions)]
        at = torch.cat([chunk.positions, chunk.later]) - chunk.positions[0]
        index = torch.full((int(at.max()) + 1,), -1)
        index[at] = torch.arange(len(at))
        return cls(x, own, top1(reader, x, precision=precision), int(chunk.positions[0]), index)

    def rows(self, at: Tensor) -> Tensor:
        """Which rows of x are those of the positions ``at``; -1 where there are none."""
        inside = at < self.first + len(self.index)
        return torch.where(inside, self.index[(at - self.first).clamp(max=len(self.index) - 1)], -1)


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of one reader in one chunk, and in ``unedited``; ``positions``: those of the whole job."""

    reader: Reader
    document: Document
    chunk: Chunk
    unedited: Chunk | None
    anatomy: Anatomy
    positions: int

    @property
    def request(self) -> Request:
        """What is read."""
        return self.document.request

    def read(self, lenses: list[Lens], output: Output | None) -> list[Part]:
        """Every (lens, site, layer) in one pass; ``output``: what those about later tokens are compared with."""
        rows: list[Rows] = []
        before: list[Rows] = []
        labels: list[tuple[Lens, str, int, Array]] = []
        with full_float32():
            for lens in lenses:
                reference = self._reference(lens, output)
                tokens = self._tokens(lens, reference, output)
                vectors = self._vectors(lens, self.chunk, output)
                others = {} if self.unedited is None else self._vectors(lens, self.unedited, None)
                base = vectors[START] if _has_base(lens) else None
                for layer, site in self.request.places(lens):
                    x, beta = vectors[layer, site], lens.betas.get(layer, 1.0)
                    if others:
                        base = others[layer, site] if beta == 1.0 else others[layer, site] * beta
                        before.append(Rows(base, tokens, torch.full_like(reference, -1), beta=beta))
                    rows.append(Rows(x if beta == 1.0 else x * beta, tokens, reference, base, beta))
                    labels.append((lens, site, layer, tokens.numpy()))
        final = None if output is None else output.x
        request, every = self.request, [*rows, *before]
        job = len(every) * self.positions
        done = read(self.reader, every, reference=final, top_k=request.top_k, precision=request.precision, job=job)
        own, unedited = done[: len(rows)], done[len(rows) :] or [None] * len(rows)
        triples = zip(labels, own, unedited, strict=True)
        return [Part(*label, columns, other) for label, columns, other in triples]

    def _vectors(self, lens: Lens, chunk: Chunk, output: Output | None) -> dict[Place, Tensor]:
        """Place -> ``[n, d]`` prepared: what the lens reads in a chunk, and layer 0 for comparison."""
        if lens.source != "stream":
            rows = input_rows(self.anatomy, self.document.texts, chunk.positions, lens.source)
            return {START: self.reader.prepare(_moved(lens, 0, rows))}
        vectors: dict[Place, Tensor] = {}
        stream, leaves = chunk.stream, self.document.leaves
        for place in dict.fromkeys(_needed(lens, self.request)):
            h = stream.pop(place) if leaves[place] is lens else stream[place]
            layer = place[0]
            if output is not None and place == (self.anatomy.layers, "resid_post") and layer not in lens.transports:
                vectors[place] = output.own  # by identity the read-out sees that it needs no product of its own
            else:
                vectors[place] = self.reader.prepare(_moved(lens, layer, h))
        return vectors

    def _reference(self, lens: Lens, output: Output | None) -> Tensor:
        """``[n]`` int64, which row of ``output`` each reading is compared with; -1 for none."""
        at = self.chunk.positions
        if output is None or not _compared(lens):
            return torch.full_like(at, -1)
        there = at + lens.offset - 1
        return torch.where(there < self.document.texts.stop[at], output.rows(there), -1)

    def _tokens(self, lens: Lens, reference: Tensor, output: Output | None) -> Tensor:
        """``[n, 3 + T]``: the target, the output's first choice, the token read, then the followed ones."""
        texts, at = self.document.texts, self.chunk.positions
        target = at + lens.offset
        inside = (target >= texts.start[at]) & (target < texts.stop[at])
        about = torch.where(inside, texts.ids[target.clamp(0, len(texts.ids) - 1)], -1)
        choice = reference if output is None else output.choice[reference]
        first = torch.where(reference < 0, reference, choice)
        return torch.cat([torch.stack([about, first, texts.ids[at]], dim=1), self.document.named[at]], dim=1)


def _moved(lens: Lens, layer: int, h: Tensor) -> Tensor:
    """Rows ``h`` ``[n, d_in]`` transported in float32, ``[n, d]``: as ``Lens.transport``, by the fastest product."""
    h = h.float()
    move = lens.transports.get(layer)
    if move is None:
        return h
    moved = product(h, move.weight.to(h.device, torch.float32))
    return moved if move.bias is None else moved + move.bias.to(h.device)


def input_rows(anatomy: Anatomy, texts: Texts, at: Tensor, source: Source) -> Tensor:
    """What a lens that does not read the stream transports at the positions ``at``: ``[n, d]`` or ``[n, 4 d]``.

    Args:
        source: ``token`` or ``tokens``.
    """
    rows: list[Tensor] = []
    for lag in range(TOKENS if source == "tokens" else 1):
        row = anatomy.input_rows(texts.ids[(at - lag).clamp(min=0)])
        row[at - lag < texts.start[at]] = 0.0  # before the document
        rows.append(row)
    return torch.cat(rows, dim=1)
