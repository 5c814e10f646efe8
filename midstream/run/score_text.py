"""Which text a score reads: documents that no lens was fitted on, and positions spread evenly over them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from midstream.corpus.source import Document
from midstream.errors import RequestError
from midstream.interval import FEWEST
from midstream.lens.lens import Lens
from midstream.lens.passage import MIN_CONTEXT
from midstream.model.model import Model
from midstream.record import Array

GOLDEN = (5**0.5 - 1) / 2
"""Its multiples, less their whole part, fill 0 to 1 evenly however many are taken (Kronecker sequence)."""

LONG_TOKEN = 16
"""Characters a token has at most on average in the part of a document that is tokenised; where not, more is taken."""


@dataclass(frozen=True)
class Span:
    """Which of a document's tokens may be read: the first ``tokens``, less those without enough on either side."""

    tokens: int
    before: int
    ahead: int

    @classmethod
    def of(cls, lenses: Sequence[Lens], tokens: int) -> Span:
        """Such that every lens's token lies among those read, so that all lenses have the same positions."""
        offsets = [lens.offset for lens in lenses]
        return cls(tokens, max(MIN_CONTEXT, -min(offsets)), max(1, *offsets))

    def room(self, ids: Array) -> int:
        """How many positions of a document may be read."""
        return max(0, len(ids) - self.before - self.ahead)


@dataclass(frozen=True, eq=False)
class Held:
    """A document to be scored.

    Attributes:
        cluster: label of its cluster.
        ids: its first token ids, ``[n]`` of any integer type.
        sha256: of its text, hexadecimal.
    """

    cluster: str
    ids: Array
    sha256: str


Given = Held | tuple[Document, str]
"""A document with its cluster, tokenised already or not."""


@dataclass
class Found:
    """The documents that can be scored, and what was counted on the way.

    Attributes:
        held: every ``stride``-th of those that can.
        given: all documents; usable: those that can be scored.
        fitted: those that a lens was fitted on; by: the names of such lenses.
        chosen: those that a lens's fit held out and chose its strength by.
        short: those too short to have a position.
    """

    held: list[Held] = field(default_factory=list[Held])
    given: int = 0
    usable: int = 0
    stride: int = 1
    fitted: int = 0
    by: list[str] = field(default_factory=list[str])
    chosen: int = 0
    short: int = 0
    digest: str = ""

    def add(self, held: Held, most: int) -> None:
        """One more, in bounded memory: beyond twice ``most`` documents every other one is dropped."""
        if self.usable % self.stride == 0:
            self.held.append(held)
            if len(self.held) > 2 * most:
                self.held, self.stride = self.held[::2], self.stride * 2
        self.usable += 1


def find(model: Model, documents: Iterable[Given], lenses: Sequence[Lens], span: Span, *, most: int) -> Found:
    """The documents that can be scored, in order.

    Args:
        documents: each with its cluster.
        most: positions that will be read.
    """
    fitted = {lens.name: frozenset(lens.about.get("documents", ())) for lens in lenses}
    chosen = frozenset(sha for lens in lenses for sha in lens.about.get("held_out_documents", ()))
    found, digest = Found(), hashlib.sha256()
    for given in documents:
        sha = given.sha256 if isinstance(given, Held) else given[0].sha256
        found.given += 1
        digest.update(bytes.fromhex(sha))
        by = [name for name, hashes in fitted.items() if sha in hashes]
        found.by += [name for name in by if name not in found.by]
        if by:
            found.fitted += 1
            continue
        held = _held(model, given, span.tokens)
        if span.room(held.ids):
            found.chosen += sha in chosen
            found.add(held, most)
        else:
            found.short += 1
    found.digest = digest.hexdigest()
    return found


def _held(model: Model, given: Given, tokens: int) -> Held:
    if isinstance(given, Held):
        return replace(given, ids=given.ids[:tokens])
    document, cluster = given
    return Held(cluster, first_tokens(model, document.text, tokens), document.sha256)


def check(found: Found, span: Span, *, unseen: bool) -> None:
    """Refuse text that a lens was fitted on, and text with nothing to read.

    Raises RequestError; with ``unseen`` fitted documents may be there, if enough clusters are left without them.
    """
    clusters = len({held.cluster for held in found.held})
    if found.fitted and not unseen:
        raise RequestError(
            f"{found.fitted:,} of the {found.given:,} documents are among those that {_listed(found.by)} "
            f"{'was' if len(found.by) == 1 else 'were'} fitted on: expected text that no lens has seen. Give other "
            "text, or score only the others with --unseen."
        )
    if found.fitted and clusters < FEWEST:
        raise RequestError(
            f"without the {found.fitted:,} documents that {_listed(found.by)} saw, {clusters} clusters of documents "
            f"are left of {found.given:,} documents: expected at least {FEWEST}. Give other text."
        )
    if not found.held:
        raise RequestError(
            f"none of the {found.given:,} documents has a position to score: {found.short:,} are shorter than "
            f"{span.before + span.ahead + 1} tokens. Give longer text."
        )


def first_tokens(model: Model, text: str, count: int) -> Array:
    """The first ``count`` token ids of a text, ``[n]`` int32; of a long text no more is tokenised than it takes."""
    characters = LONG_TOKEN * count
    while True:
        ids = model.tokenizer.encode(text[:characters]).ids
        # the last word of a text that was cut may come out in other tokens than in the whole
        if characters >= len(text) or len(ids) >= 2 * count:
            return np.array(ids[:count], dtype=np.int32)
        characters *= 4


def spread(room: Sequence[int], total: int) -> list[Array]:
    """Which positions of each document are read, counted from the first that may be: ascending, ``total`` in all.

    Documents get equal numbers, those with less room all they have. Within a document they lie at equal distances,
    ``floor((j + u) room / n)``, with u the golden ratio's multiple of the document's number, less its whole part, so
    that documents are read at different places. Nothing is drawn at random.
    """
    sizes = np.array(room, dtype=np.int64)
    counts = np.zeros_like(sizes)
    left = min(total, int(sizes.sum()))
    while left:
        open_ = np.flatnonzero(counts < sizes)
        each = left // len(open_)
        if not each:
            open_ = open_[np.arange(left) * len(open_) // left]
        more = np.minimum(sizes[open_] - counts[open_], max(1, each))
        counts[open_] += more
        left -= int(more.sum())
    shifts = (np.arange(1, len(sizes) + 1) * GOLDEN) % 1
    return [
        np.floor((np.arange(n) + u) * size / max(n, 1)).astype(np.int64)
        for n, u, size in zip(counts.tolist(), shifts.tolist(), sizes.tolist(), strict=True)
    ]


def notes(found: Found, span: Span, read: Sequence[tuple[str, int]]) -> list[str]:
    """What was read and what was left out, in sentences; ``read``: cluster and positions of each document read."""
    clusters = len({cluster for cluster, _ in read})
    said = [
        f"{sum(count for _, count in read):,} positions of {len(read):,} documents in {clusters:,} clusters, among the "
        f"first {span.tokens:,} tokens of each, with at least {span.before} before them."
    ]
    if found.short:
        said.append(f"{found.short:,} of {found.given:,} documents are too short and left out.")
    if found.fitted:
        said.append(f"{found.fitted:,} of {found.given:,} documents are left out: {_listed(found.by)} saw them.")
    if found.chosen:
        said.append(
            f"{found.chosen:,} of them were held out by a lens's own fit, which chose its ridge and its end by them: "
            "give other text for a score without that choice."
        )
    if len(read) < found.usable:
        said.append(
            f"{len(read):,} of {found.usable:,} documents are read, evenly spaced: no more positions are wanted."
        )
    if clusters < FEWEST:
        said.append(f"{clusters} clusters of documents are too few for intervals: {FEWEST} are needed.")
    return said


def settings(found: Found, span: Span, positions: int) -> dict[str, Any]:
    """What decides which positions are read, for the provenance; ``positions``: those asked for."""
    return {
        "tokens": span.tokens,
        "positions": positions,
        "before": span.before,
        "ahead": span.ahead,
        "documents": found.given,
        "fitted": found.fitted,
        "short": found.short,
    }


def _listed(names: Sequence[str]) -> str:
    return ("lens " if len(names) == 1 else "lenses ") + ", ".join(repr(name) for name in names)
