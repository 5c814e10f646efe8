"""Read one text: tokens in, a table out, with its provenance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from midstream.errors import RequestError
from midstream.lens.read.reading import read_chunks
from midstream.lens.read.request import Request
from midstream.lens.read.table import join
from midstream.model.model import Model
from midstream.model.tokenizer import Encoded
from midstream.record import Array, ReadingTable
from midstream.run.provenance import provenance

LARGEST = 1_000_000_000
"""Bytes of a table held in memory; a longer reading is written as it is made."""

LARGEST_PAGE = 300_000
"""Rows of an interactive page: about 25 MB of HTML."""

FOLLOWED = 8
"""Tokens followed at each position of a page: the output's own first, then those that lead at most layers."""

Progress = Callable[[int], None]
"""Called with the number of tokens of the text read so far."""


def encode(
    model: Model, text: str | None, messages: Sequence[Mapping[str, str]] | None = None, *, special: bool = False
) -> Encoded:
    """The tokens of a text, or of chat messages in the model's template.

    Raises RequestError unless exactly one of the two is given and gives at least two tokens.
    """
    if (text is None) == (messages is None):
        raise RequestError("expected a text or messages, one of the two.")
    if messages is not None:
        if special:
            raise RequestError("special tokens in messages are not parsed: leave --special out, or give a text.")
        from midstream.model.chat import encode_chat

        encoded = encode_chat(model.tokenizer, messages)
    else:
        if not isinstance(text, str):
            raise RequestError(f"a text was given as {type(text).__name__}: expected str.")
        if not text:
            raise RequestError("the text is empty: expected at least two tokens to read.")
        encoded = model.tokenizer.encode(text, special=special)
    if len(encoded.ids) < 2:
        raise RequestError(
            f"the text {text!r} is {len(encoded.ids)} token: expected at least two, since the first position attends "
            "only to itself and has no next token to compare with; give a longer text."
        )
    return encoded


def count_rows(encoded: Encoded, request: Request) -> int:
    """Rows that a reading will have."""
    return len(encoded.ids) * sum(len(request.places(lens)) for lens in request.lenses)


def check_page(encoded: Encoded, request: Request) -> None:
    """Raise RequestError where the interactive page would be too large to open."""
    if (rows := count_rows(encoded, request)) > LARGEST_PAGE:
        raise RequestError(
            f"a page of {rows:,} cells would not open well: expected at most {LARGEST_PAGE:,}; read a part of the "
            "text, or fewer layers with --every or --layers."
        )


def chunks(
    model: Model, encoded: Encoded, request: Request, *, command: str, progress: Progress | None = None
) -> Iterator[ReadingTable]:
    """The reading of ``encoded`` in tables of a chunk each, in bounded memory."""
    stamp = provenance(model, request, encoded.ids, command)
    for part in read_chunks(model, encoded, request):
        yield replace(part, provenance=stamp)
        if progress is not None:
            progress(int(part.positions["position"][-1]) + 1)


def read_text(
    model: Model, encoded: Encoded, request: Request, *, command: str, progress: Progress | None = None
) -> ReadingTable:
    """The reading of ``encoded`` as one table. Raises RequestError when it would not fit in memory."""
    rows = count_rows(encoded, request)
    held = rows * (2 * (100 + 8 * request.top_k) + 40 * len(request.watch))  # twice while chunks are joined
    if held > LARGEST:
        raise RequestError(
            f"{len(encoded.ids):,} tokens make {rows:,} rows, about {held / 1e9:.1f} GB in memory, and at most "
            f"{LARGEST / 1e9:.1f} are held: write them as they are read with --out FILE.parquet and nothing printed, "
            "or read fewer layers with --every or --layers."
        )
    return join(list(chunks(model, encoded, request, command=command, progress=progress)))


def tracks(model: Model, table: ReadingTable, request: Request) -> dict[str, Array]:
    """The exact rank and log-probability, at every layer, of the tokens that led at some layer of their position.

    A second pass over the text of ``table``, every position of it; the result has the columns of ``record.WATCHED``,
    at most ``FOLLOWED`` tokens a position. The watched tokens of the request come first. Raises RequestError when the
    model's weights have changed since.
    """
    ids = table.positions["token_id"].tolist()
    leaders = table.columns["top_ids"][:, 0].reshape(-1, len(ids))  # positions run fastest
    last = table.columns["layer"].reshape(-1, len(ids))[:, 0] == max(request.layers)
    named = np.full((len(ids), FOLLOWED + len(request.watch)), -1, dtype=np.int64)
    for at in range(len(ids)):
        often = [token for token, _ in Counter(leaders[:, at].tolist()).most_common()]
        followed = list(dict.fromkeys([*request.watch, *leaders[last, at].tolist(), *often]))[: named.shape[1]]
        named[at, : len(followed)] = followed
    encoded = Encoded(ids, table.positions["kind"].tolist())
    again = join(list(read_chunks(model, encoded, replace(request, top_k=1, versus=False), named=named)))
    before, now = (part.columns["top_logprobs"][:, 0] for part in (table, again))
    if not np.allclose(before, now, atol=1e-2, equal_nan=True):
        raise RequestError("the model has changed since this text was read: read it again.")
    return again.watched
