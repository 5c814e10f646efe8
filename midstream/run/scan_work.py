"""What a scan does with a shard, wherever that is: documents in, the bytes of the shard's files out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import torch

from midstream.corpus.source import Document
from midstream.errors import MidstreamError, RequestError
from midstream.lens.read.pack import packs, read_pack
from midstream.lens.read.reading import Readers
from midstream.lens.read.request import Request
from midstream.model.memory import give_back
from midstream.model.model import Model
from midstream.model.tokenizer import Encoded
from midstream.record import Array, ReadingTable
from midstream.store.layout import Header, documents_digest
from midstream.store.sealed import printable
from midstream.store.shard import Made, ShardWriter
from midstream.store.store import Facts

MANY = 1 << 20
"""Positions that a scan is taken to have, so that the read-out is compiled or not whatever shard is read."""


SHOWN = 3
"""Documents of a shard that cannot be read which are named."""


@dataclass(frozen=True)
class Shard:
    """Documents that are read, written and, where need be, done again together.

    Attributes:
        size: bytes of the corpus that it takes, for progress.
        most: tokens to read of it: later ones of its last document are cut off. None: all.
    """

    number: int
    documents: tuple[Document, ...]
    size: int
    most: int | None = None

    @property
    def digest(self) -> str:
        """Of its documents, as the store keeps it."""
        return documents_digest((document.number, document.sha256) for document in self.documents)

    def __str__(self) -> str:
        """As an error names it."""
        return f"shard {self.number} (documents {self.documents[0].number} to {self.documents[-1].number})"


@dataclass
class Read:
    """What a shard gave.

    Attributes:
        shard: its number; size: as ``Shard``'s.
        facts: what the store's entry says of it beside its files.
        files: kind of file -> the file.
        faults: the first documents that could not be read, each with the reason; the store has them all.
    """

    shard: int
    size: int
    facts: Facts
    files: dict[str, Made]
    faults: list[str]


@dataclass(frozen=True)
class Sampling:
    """Which positions of a document are read: each with probability ``share``, by seed and text alone."""

    share: float
    seed: int

    def positions(self, document: Document, tokens: int) -> Array | None:
        """``[m]`` int64 ascending, or None for all."""
        if self.share >= 1:
            return None
        drawn = hashlib.sha256(f"{self.seed}:{document.sha256}".encode()).digest()[:8]
        return np.flatnonzero(np.random.default_rng(int.from_bytes(drawn)).random(tokens) < self.share)


@dataclass(frozen=True)
class ScanJob:
    """The job of a scan; see ``runner.Job``.

    Attributes:
        header: of the store.
        strict: a document that cannot be read is an error.
        scratch: folder for what is being written; None: the system's, on another machine.
    """

    request: Request
    header: Header
    sampling: Sampling
    strict: bool
    scratch: Path | None

    @property
    def special(self) -> bool:
        """Whether special tokens in the text are parsed."""
        return bool(self.header.request["special"])

    def begin(self, model: Model) -> partial[Read]:
        """What reads one shard with ``model``."""
        return partial(read_shard, model, self, Readers.of(model, self.request.lenses, positions=MANY))


def read_shard(model: Model, job: ScanJob, readers: Readers, shard: Shard) -> Read:
    """Read a shard's documents, packed by length.

    Raises MidstreamError where its files cannot be written, where memory is short, and under ``strict`` where a
    document cannot be read.
    """
    give_back()
    with ShardWriter(job.scratch or Path(gettempdir()), job.header) as writer:
        reading = _Reading(model, job, readers, writer, shard)
        reading.run()
        files = writer.finish(job.scratch)
    give_back()
    facts = Facts(
        documents=(shard.documents[0].number, shard.documents[-1].number),
        digest=shard.digest,
        tokens=sum(len(encoded.ids) for encoded in reading.encoded.values()),
        faults=len(reading.faults),
        circumstances={**model.fingerprint.circumstances, "threads": str(torch.get_num_threads())},
    )
    said = [f"{_named(shard.documents[index])}: {reason}" for index, reason in list(reading.faults.items())[:SHOWN]]
    return Read(shard.number, shard.size, facts, files, said)


@dataclass
class _Reading:
    """A shard being read.

    Attributes:
        encoded: index of a document that can be read -> its tokens; faults: of another -> why not.
    """

    model: Model
    job: ScanJob
    readers: Readers
    writer: ShardWriter
    shard: Shard
    encoded: dict[int, Encoded] = field(default_factory=dict[int, Encoded])
    faults: dict[int, str] = field(default_factory=dict[int, str])

    def run(self) -> None:
        """Every document, and the table of them."""
        documents = self.shard.documents
        left = self.shard.most
        for index, document in enumerate(documents):
            self._encode(index, document, left)
            if left is not None:
                left -= len(self.encoded[index].ids) if index in self.encoded else 0
        readable = [index for index in range(len(documents)) if index in self.encoded]
        lengths = [len(self.encoded[index].ids) for index in readable]
        for pack in packs(lengths, self.model.context):
            self._read([readable[place] for place in pack])
        self._tables()

    def _encode(self, index: int, document: Document, most: int | None) -> None:
        if document.fault is not None:
            self._fail(index, document.fault)
            return
        try:
            encoded = self.model.tokenizer.encode(document.text, special=self.job.special)
        except RequestError as error:
            self._fail(index, str(error))
            return
        if most is not None:
            encoded = Encoded(encoded.ids[:most], encoded.kinds[:most])
        if encoded.ids:
            self.encoded[index] = encoded
        else:
            self._fail(index, "its text gives no token.")

    def _read(self, pack: list[int]) -> None:
        """One pack into the writer; where that cannot be read, its documents one by one, so that only one is lost."""
        documents = self.shard.documents
        numbers = np.array([documents[index].number for index in pack], dtype=np.int32)
        try:
            for table in self._tried(pack):
                self.writer.add(table, numbers)
        except _UnreadableError as error:
            self.writer.drop(numbers)
            if len(pack) > 1:
                for index in pack:
                    self._read([index])
            else:
                del self.encoded[pack[0]]
                self._fail(pack[0], error.reason)

    def _tried(self, pack: list[int]) -> Iterator[ReadingTable]:
        """The tables of a pack. What goes wrong in the model, and only that, is an ``_UnreadableError``."""
        documents = self.shard.documents
        encoded = [self.encoded[index] for index in pack]
        sampled = [self.job.sampling.positions(documents[i], len(self.encoded[i].ids)) for i in pack]
        tables = read_pack(self.model, encoded, self.job.request, readers=self.readers, positions=sampled)
        while True:
            try:
                table = next(tables, None)
            except (MemoryError, torch.OutOfMemoryError) as error:
                raise MidstreamError(
                    f"memory ran out at {', '.join(_named(documents[i]) for i in pack[:SHOWN])}: give it fewer "
                    "workers, fewer layers (--every) or a smaller dtype; everything done until now is kept."
                ) from error
            except Exception as error:
                raise _UnreadableError(_reason(error)) from error
            if table is None:
                return
            yield table

    def _fail(self, index: int, reason: str) -> None:
        if self.job.strict:
            said = f"{_named(self.shard.documents[index])}: {reason}"
            raise MidstreamError(f"{said} It ends the scan under --strict; everything done until now is kept.")
        self.faults[index] = reason

    def _tables(self) -> None:
        """The shard's documents and their tokens."""
        for index, document in enumerate(self.shard.documents):
            row = {
                "doc_id": document.number,
                "source": document.source,
                "id": document.id,
                "sha256": document.sha256,
                "fault": self.faults.get(index),
                "metadata": document.metadata,
            }
            encoded = self.encoded.get(index, Encoded([], []))
            self.writer.document(row, encoded.ids, encoded.kinds)


class _UnreadableError(Exception):
    """A pack that the model cannot read."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _named(document: Document) -> str:
    return f"document {document.number} ({printable(document.id)})"


def _reason(error: Exception) -> str:
    if isinstance(error, MidstreamError):
        return str(error)
    first = (str(error).strip().splitlines() or ["no reason given"])[0]
    return f"{type(error).__name__}: {first[:300]}"
