"""Short documents read together: one forward pass and one pass over the vocabulary for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from midstream.corpus.window import LONGEST, Window, windows
from midstream.errors import RequestError
from midstream.lens.read.chunks import CHUNK, Chunk, Texts, Wanted, ahead, rows_at
from midstream.lens.read.reading import Document, Readers, positions_of, read_chunks
from midstream.lens.read.request import Request
from midstream.model.model import Model
from midstream.model.tokenizer import Encoded
from midstream.record import Array, ReadingTable
from midstream.stream.capture import capture_sites

PACK = 512
"""Tokens of a pack at most, padding included: with twice as many the default model is no faster."""

PASS = 32
"""Tokens of padding that cost as much as a pass more: the default model's forward alone 24, with its read-out 42."""


def packs(lengths: Sequence[int], context: int) -> list[list[int]]:
    """Which documents are read together: every index once, ascending in a pack; packs ascend by length.

    Args:
        lengths: of the documents, in tokens.
        context: of the model, in tokens; what is longer than that or than a chunk is read alone.
    """
    found: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda index: (lengths[index], index)):
        length = max(lengths[index], 1)
        count = len(found[-1]) if found else 0
        padding = count * (length - longest)
        if count and length <= min(CHUNK, context) and padding <= PASS and (count + 1) * length <= PACK:
            found[-1].append(index)
        else:
            found.append([index])
        longest = length
    return [sorted(pack) for pack in found]


def read_pack(
    model: Model,
    documents: Sequence[Encoded],
    request: Request,
    *,
    readers: Readers | None = None,
    positions: Sequence[Array | None] | None = None,
) -> Iterator[ReadingTable]:
    """Read several documents, each as ``read_chunks`` reads it, up to rounding; ``doc_id`` is a document's index.

    Those of at most a chunk, within the model's context, make one table, in their order; it holds the stream of them
    all at once, so give no more than ``packs`` puts together. Then each longer one follows, one table a chunk.

    Args:
        readers: those of the request's lenses, where more is read with them; None: made for these documents.
        positions: for each document those to read, ascending; the model runs no further than they need. None: all.

    Raises:
        RequestError: for positions that do not ascend or lie outside; for a lens that reaches beyond every window.
    """
    if request.edits:
        raise RequestError("edits are for one text at a time: their positions mean nothing in several.")
    readers = readers or Readers.of(model, request.lenses)
    windows(0, min(model.context, LONGEST), reach=request.reach)  # refuses what it would refuse in a long document
    given = [None] * len(documents) if positions is None else positions
    at = {index: positions_of(one, len(documents[index].ids)) for index, one in enumerate(given)}
    short = {i: one for i, one in enumerate(documents) if len(one.ids) <= min(CHUNK, model.context) and len(at[i])}
    if short:
        document = Document.of(Texts.of(short), request)
        wanted = document.wanted(_laid(short, at), model)
        yield document.read(model, _chunk(model, document.texts, wanted), readers.at_least(len(wanted.positions)))
    for index, one in enumerate(documents):
        if len(one.ids) > min(CHUNK, model.context):
            for part in read_chunks(model, one, request, positions=given[index], readers=readers):
                for rows in (part.columns, part.positions, part.watched):
                    rows["doc_id"] = np.full_like(rows["doc_id"], index)
                yield part


def _laid(documents: Mapping[int, Encoded], at: Mapping[int, Tensor]) -> Tensor:
    """The positions ``at`` of each document where the documents lie one after another."""
    laid: list[Tensor] = []
    start = 0
    for index, document in documents.items():
        laid.append(at[index] + start)
        start += len(document.ids)
    return torch.cat(laid)


def _chunk(model: Model, texts: Texts, wanted: Wanted) -> Chunk:
    """The stream of all the documents, by one pass, run no further than some document needs."""
    read = wanted.positions
    later = ahead(read, wanted, texts.stop[read])
    later = later[~torch.isin(later, read)]
    start = texts.start[read].unique()
    needed = torch.cat([read, later])
    width = int((needed - texts.start[needed]).max()) + 1
    # Padding stands on the right: in a causal decoder nothing of it reaches the positions before it, so that no mask
    # is needed. It is the document's own first token, which every position sees anyway: an id that the model treats
    # in a way of its own, or whose row is broken, comes in by no other way.
    there = start[:, None] + torch.arange(width)
    inside = there < texts.stop[start][:, None]
    ids = torch.where(inside, there, start[:, None])
    stream = capture_sites(model, texts.ids[ids].to(model.device), sorted(wanted.places))
    row = torch.full((len(texts.ids),), -1)
    row[there[inside]] = inside.flatten().nonzero()[:, 0]
    last = model.anatomy.layers, "resid_post"
    final = rows_at(stream[last].flatten(0, 1), row[later]) if len(later) else None
    part = {place: rows_at(stream.pop(place).flatten(0, 1), row[read]) for place in list(stream)}
    return Chunk(Window(0, len(texts.ids), 0), read, len(texts.ids), part, later, final)
