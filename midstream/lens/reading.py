"""The one place where capture, transport and read-out meet: a model, a text and lenses in, rows out.

A document is cut into windows, a window into chunks that share the model's cache; a chunk's stream is captured at
the layers asked for, moved by each lens, and read in one pass over the vocabulary. Nothing larger than one chunk's
stream is held.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from midstream.corpus.window import LONGEST, Window, windows
from midstream.lens.lens import Lens
from midstream.lens.request import Request
from midstream.lens.table import Part, table
from midstream.model.forward import new_cache
from midstream.model.model import Model
from midstream.model.tokenizer import Encoded
from midstream.readout.read import Rows, read, top1
from midstream.readout.reader import Reader, input_reader, output_reader
from midstream.record import Array, ReadingTable
from midstream.stream.capture import capture_sites

CHUNK = 256
"""Positions whose stream is held at once: 18 MB for the default model; more is no faster."""

READERS = {"output": output_reader, "input": input_reader}
"""What makes the reader that a lens names."""

Place = tuple[int, str]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Chunk:
    """Consecutive positions ``first`` to ``stop`` of a document, read in ``window``.

    ``stream`` maps (layer, site) to ``[n, d]``; the last lens that needs a place takes it out.
    """

    window: Window
    first: int
    stop: int
    stream: dict[Place, Tensor]


@dataclass(frozen=True)
class Document:
    """A text being read: its token ids ``[tokens]``, and the ids ``[tokens, T]`` followed at each, -1 = none."""

    ids: Tensor
    named: Tensor


def read_chunks(
    model: Model, encoded: Encoded, request: Request, *, named: Array | None = None, progress: Progress | None = None
) -> Iterator[ReadingTable]:
    """Read a document, one table a chunk, positions ascending.

    Args:
        encoded: the document's tokens.
        named: ``[tokens, T]`` ids followed at each position instead of the request's watched tokens; -1 = none.
        progress: called with the number of positions read so far.
    """
    if named is None:
        named = np.tile(np.asarray(request.watch, dtype=np.int64), (len(encoded.ids), 1))
    document = Document(torch.tensor(encoded.ids, dtype=torch.int64), torch.from_numpy(named))
    kinds = {lens.reader for lens in request.lenses}
    readers = {kind: make(model.anatomy) for kind, make in READERS.items() if kind in kinds}
    lenses = sorted(request.lenses, key=lambda lens: list(readers).index(lens.reader))
    for chunk in _chunks(model, document.ids, request):
        parts: list[Part] = []
        for kind, reader in readers.items():
            group = [lens for lens in lenses if lens.reader == kind]
            rows = _Rows(reader, document, chunk, request, model.anatomy.layers)
            parts += rows.read(group, keep=group[-1] is not lenses[-1])
        parts.sort(key=lambda part: request.lenses.index(part.lens))
        yield table(model, encoded, chunk.window, range(chunk.first, chunk.stop), parts)
        if progress is not None:
            progress(chunk.stop)


def _chunks(model: Model, ids: Tensor, request: Request) -> Iterator[Chunk]:
    last = model.anatomy.layers
    places = {(layer, site) for site in request.sites for layer in request.layers if layer > 0 or site == "resid_post"}
    if any(lens.reader == "output" for lens in request.lenses):
        places |= {(0, "resid_post"), (last, "resid_post")}
    for window in windows(len(ids), min(model.context, LONGEST), reach=request.reach):
        length = window.stop - window.start
        cache = new_cache(model.module, model.anatomy) if length > CHUNK else None
        # Without a standard cache the window runs whole, and only what is read of it is cut.
        step = length if cache is None else CHUNK
        for start in range(window.start, window.stop, step):
            stop = min(start + step, window.stop)
            wanted = sorted(places) if stop > window.first else []
            with _evaluated(model):
                stream = capture_sites(model, ids[None, start:stop].to(model.device), wanted, cache=cache)
            for first in range(max(start, window.first), stop, CHUNK):
                end = min(first + CHUNK, stop)
                part = {place: h[0, first - start : end - start] for place, h in stream.items()}
                if end == stop:
                    stream.clear()  # so that the chunk alone holds the tensors, and frees them as it is read
                yield Chunk(window, first, end, part)


@contextmanager
def _evaluated(model: Model) -> Generator[None]:
    """Inside, dropout is off, also in a module that its owner has put back into training since it was loaded."""
    training = [module for module in model.module.modules() if module.training]
    model.module.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True)
class _Rows:
    """The rows of one reader in one chunk."""

    reader: Reader
    document: Document
    chunk: Chunk
    request: Request
    last: int

    def read(self, lenses: list[Lens], *, keep: bool) -> list[Part]:
        """Every (lens, site, layer) in one pass; with ``keep`` the chunk's stream stays for another reader."""
        output = lenses[0].reader == "output"
        stream = self.chunk.stream
        final = self.reader.prepare(stream[self.last, "resid_post"]) if output else None
        choice = None if final is None else top1(self.reader, final, precision=self.request.precision)
        rows: list[Rows] = []
        labels: list[tuple[Lens, str, int, Array]] = []
        for lens in lenses:
            base = self.reader.prepare(lens.transport(0, stream[0, "resid_post"])) if output else None
            tokens = self._tokens(lens, choice)
            # The places that several rows share, made once; by identity the read-out sees that they are the same.
            shared = {} if lens.transports.get(self.last) or final is None else {(self.last, "resid_post"): final}
            if base is not None:
                shared[0, "resid_post"] = base
            for site in self.request.sites:
                for layer in self.request.layers:
                    if layer == 0 and site != "resid_post":
                        continue
                    x = shared.get((layer, site))
                    if x is None:
                        free = not keep and lens is lenses[-1]
                        h = stream.pop((layer, site)) if free else stream[layer, site]
                        x = self.reader.prepare(lens.transport(layer, h))
                    rows.append(Rows(x, tokens, None, base))
                    labels.append((lens, site, layer, tokens.numpy()))
        request, job = self.request, len(rows) * len(self.document.ids)
        done = read(self.reader, rows, reference=final, top_k=request.top_k, precision=request.precision, job=job)
        return [Part(*label, columns) for label, columns in zip(labels, done, strict=True)]

    def _tokens(self, lens: Lens, choice: Tensor | None) -> Tensor:
        """``[n, 3 + T]``: the target, the model's first choice, the token read, then the followed ones."""
        ids, chunk = self.document.ids, self.chunk
        at = torch.arange(chunk.first, chunk.stop) + lens.offset
        inside = (at >= 0) & (at < len(ids))
        target = torch.where(inside, ids[at.clamp(0, len(ids) - 1)], -1)
        none = torch.full_like(target, -1)
        first = none if choice is None or lens.offset != 1 else choice.cpu()
        own = torch.stack([target, first, ids[chunk.first : chunk.stop]], dim=1)
        return torch.cat([own, self.document.named[chunk.first : chunk.stop]], dim=1)
