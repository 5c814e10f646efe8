"""Reads a corpus through lenses into a store, shard by shard; what is there already is not read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from midstream.corpus.source import Corpus, Document
from midstream.corpus.window import LONGEST, windows
from midstream.errors import RequestError
from midstream.lens.read.request import Request
from midstream.model.model import Model
from midstream.run.runner import Runner, Serial
from midstream.run.scan_work import SHOWN, Read, Sampling, ScanJob, Shard
from midstream.store.layout import STATISTICS, Header, entry_name
from midstream.store.store import StoreWriter, create_or_resume

CHARACTERS = 16_384
"""Characters of text from which on a shard is full: some 4,000 tokens of English."""


DOCUMENTS = 4096
"""Documents from which on it is full however short they are."""


@dataclass(frozen=True)
class ScanOptions:
    """What a user may ask of a scan beside what is read.

    Attributes:
        statistics: columns of a reading to keep (see ``store.layout.STATISTICS``).
        share: of the positions that are read, each drawn alone; seed: of that draw.
        tokens: read the corpus up to this many, the last document cut; None: all.
        characters: of text from which on a shard is full.
        where: conditions that the corpus was opened with, for the record.
        special: parse special tokens in the text.
        strict: the first document that cannot be read ends the scan.
    """

    statistics: tuple[str, ...] = STATISTICS
    share: float = 1.0
    seed: int = 0
    tokens: int | None = None
    characters: int = CHARACTERS
    where: tuple[str, ...] = ()
    special: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        """Raise RequestError for numbers that make no sense."""
        if unknown := [name for name in self.statistics if name not in STATISTICS]:
            raise RequestError(f"unknown statistic {unknown[0]!r} to select: expected some of {', '.join(STATISTICS)}.")
        if not 0 < self.share <= 1:
            raise RequestError(f"a share of {self.share} of the positions: expected more than 0 and at most 1.")
        if self.tokens is not None and self.tokens < 1:
            raise RequestError(f"--tokens is {self.tokens}: expected a positive number.")
        if self.characters < 1:
            raise RequestError(f"--shard is {self.characters} characters: expected a positive number.")


@dataclass(frozen=True)
class Update:
    """Where a scan stands.

    Attributes:
        stage: ``checking`` what is there or ``reading``.
        done, total: bytes of the corpus (checking: shards); total None where it is not known.
        tokens, rows: read in this run.
        documents: the same.
    """

    stage: str
    done: int
    total: int | None
    tokens: int = 0
    rows: int = 0
    documents: int = 0


Progress = Callable[[Update], None]


@dataclass
class ScanResult:
    """What a scan has done.

    Attributes:
        shards, documents, tokens, rows: read in this run; kept: shards that were there.
        unreadable: documents that could not be read in this run, or ever, where ``barren``; faults: the first of them,
            each with the reason.
        barren: no document of the whole corpus could be read, in this run or before.
        skipped: what of the corpus was left out, as a sentence; empty for nothing.
    """

    store: Path
    shards: int = 0
    kept: int = 0
    documents: int = 0
    tokens: int = 0
    rows: int = 0
    unreadable: int = 0
    faults: list[str] = field(default_factory=list[str])
    barren: bool = False
    skipped: str = ""


@dataclass(frozen=True)
class Work:
    """Who does a scan and who is told where it stands."""

    runner: Runner
    progress: Progress = lambda _: None


def scan(
    model: Model,
    corpus: Corpus,
    out: str | Path,
    request: Request,
    options: ScanOptions,
    *,
    work: Work | None = None,
) -> ScanResult:
    """Reads every document of a corpus into the store ``out``, which is made or gone on with.

    Args:
        request: lenses, layers, sites and the rest of what is read at each position.
        work: who does it and who is told; None: this process, nobody.

    Raises:
        RequestError: the store is of another scan, another scan is writing to it, the corpus has changed since, or
            nothing can be written.
        MidstreamError: under ``strict`` a document that cannot be read; a worker that dies again and again.
    """
    return _Scan(model, corpus, request, options, work or Work(Serial(model))).run(Path(out))


@dataclass
class _Scan:
    """A scan under way."""

    model: Model
    corpus: Corpus
    request: Request
    options: ScanOptions
    work: Work

    def run(self, out: Path) -> ScanResult:
        self.result = ScanResult(out)
        self.read, self.last = 0, -1
        windows(0, min(self.model.context, LONGEST), reach=self.request.reach)  # refuses lenses that reach too far
        header, options = self.header(), self.options
        with create_or_resume(out, header, self._vocabulary, self._checked) as store:
            sampling = Sampling(options.share, options.seed)
            job = ScanJob(
                self.request, header, sampling, options.strict, store.scratch if self.work.runner.here else None
            )
            with closing(self.work.runner.run(job, self._missing(store))) as results:
                for read in results:
                    self._keep(store, read)
            self._finish(store)
        return self.result

    def header(self) -> Header:
        """What the store is."""
        request, options, model = self.request, self.options, self.model
        return Header(
            model=model.name,
            identity=model.fingerprint.identity,
            layers=model.anatomy.layers,
            lenses={lens.name: lens.digest for lens in request.lenses},
            request={
                "layers": list(request.layers),
                "sites": list(request.sites),
                "top_k": request.top_k,
                "watch": list(request.watch),
                "precision": request.precision,
                "dtype": str(model.dtype).removeprefix("torch."),
                "special": options.special,
            },
            select={
                "statistics": [name for name in STATISTICS if name in options.statistics],
                "share": options.share,
                "seed": options.seed if options.share < 1 else None,
            },
            cut={"characters": options.characters, "tokens": options.tokens},
            where=tuple((name, value) for name, _, value in (text.partition("=") for text in options.where)),
            corpus=(self.corpus.name,),
            circumstances={**model.fingerprint.circumstances, "threads": str(torch.get_num_threads())},
            midstream=version("midstream"),
        )

    def _vocabulary(self) -> Iterator[tuple[int, str]]:
        tokenizer = self.model.tokenizer
        size = min(tokenizer.vocabulary, self.model.anatomy.vocabulary)
        return ((token, tokenizer.token(token)) for token in range(size))

    def _checked(self, done: int, total: int) -> None:
        self.work.progress(Update("checking", done, total))

    def _missing(self, store: StoreWriter) -> Iterator[Shard]:
        """The shards of the corpus that the store lacks."""
        for shard in self._shards():
            self.last = shard.number
            if store.done(shard.number, shard.digest):
                self.result.kept += 1
                self._advance(shard.size)
                continue
            listed = [(document.number, document.id, document.sha256) for document in shard.documents]
            if changed := store.changed(shard.number, listed):
                raise RequestError(
                    f"the corpus has changed since {store.path} was begun: {changed}. Scan the new text into another "
                    "folder, or give the old text."
                )
            yield shard

    def _shards(self) -> Iterator[Shard]:
        """The corpus in shards of whole documents; where only so many tokens are wanted, they are counted here."""
        held: list[Document] = []
        characters = number = begun = 0
        most = left = self.options.tokens
        for document in self.corpus:
            held.append(document)
            characters += len(document.text)
            if left is not None:
                left -= self._tokens(document)
            over = left is not None and left <= 0
            if characters >= self.options.characters or len(held) >= DOCUMENTS or over:
                yield Shard(number, tuple(held), self.corpus.bytes_read - begun, most if over else None)
                if over:
                    return
                held, characters, number, begun, most = [], 0, number + 1, self.corpus.bytes_read, left
        if held:
            yield Shard(number, tuple(held), self.corpus.bytes_read - begun)

    def _tokens(self, document: Document) -> int:
        """Tokens of a document; none of one that cannot be read."""
        if document.fault is not None:
            return 0
        try:
            return len(self.model.tokenizer.encode(document.text, special=self.options.special).ids)
        except RequestError:
            return 0

    def _keep(self, store: StoreWriter, read: Read) -> None:
        store.keep(read.shard, read.files, read.facts)
        result = self.result
        result.shards += 1
        result.documents += read.files["documents"].rows
        result.tokens += read.facts.tokens
        result.rows += read.files["readings"].rows
        result.unreadable += read.facts.faults
        result.faults = [*result.faults, *read.faults][:SHOWN]
        self._advance(read.size)

    def _advance(self, size: int) -> None:
        self.read += size
        result = self.result
        total = self.corpus.bytes
        self.work.progress(Update("reading", self.read, total, result.tokens, result.rows, result.documents))

    def _finish(self, store: StoreWriter) -> None:
        """Say what the whole corpus was, and what of it was left out."""
        if extra := store.beyond(self.last):
            raise RequestError(
                f"the corpus has changed since {store.path} was begun: it ends with shard {self.last}, and the store "
                f"has shard {extra[0]} too. Scan the new text into another folder, or give the old text; or, if "
                f"{entry_name(extra[0])} was copied there from elsewhere, delete it."
            )
        skipped = self.corpus.skipped
        self.result.skipped = str(skipped)
        last = store.finish({"empty": skipped.empty, "broken": skipped.broken, "unmatched": skipped.unmatched})
        self.result.barren = last.documents == last.faults > 0
        if self.result.barren:
            self.result.unreadable, self.result.faults = last.faults, store.faults(SHOWN)
