"""A store on disk: the names of its files, and what its JSON files say.

Whatever they say may be hostile: every type is checked, and a file's name is made from the number of its shard, never
from what a file says.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from midstream.errors import RequestError
from midstream.record import DOCUMENTS, POSITIONS, READING, SCHEMA, WATCHED, Column
from midstream.store.sealed import DamagedError, Fields, checked, dump, read_file, read_json, seal

HEADER, VOCABULARY, FINISHED, LOCK, SHARDS = "store.json", "vocabulary.parquet", "finished.json", ".lock", "shards"
SCRATCH = ".midstream-"
"""How the names of the scratch folders of a running scan begin."""
KINDS: dict[str, tuple[Column, ...]] = {
    "readings": READING,
    "positions": POSITIONS,
    "documents": DOCUMENTS,
    "watched": WATCHED,
}
"""Folder of a store -> the columns of its files; readings have those that ``Header.columns`` keeps."""
TOKENS = (
    Column("token_id", "int32", False, "", "from 0, every id of the tokenizer"),
    Column("token", "str", False, "", "as in a reading"),
)
"""The columns of ``vocabulary.parquet``."""
STATISTICS = tuple(column.name for column in READING[READING.index(next(c for c in READING if c.name == "logprob")) :])
"""Columns of a reading that ``--select`` may leave out; the others say which reading it is."""

_ENTRY = re.compile(r"[0-9]{6,9}\.json")


def file_name(kind: str, shard: int) -> str:
    """Name within the store of a shard's file of a kind (see ``KINDS``), such as ``readings/000012.parquet``."""
    return f"{kind}/{shard:06d}.parquet"


def entry_name(shard: int) -> str:
    """Name within the store of the file that says that a shard is done."""
    return f"{SHARDS}/{shard:06d}.json"


def shards(store: Path) -> list[int]:
    """Numbers of the shards that have an entry, sound or not, ascending. Raises DamagedError if none can be listed."""
    try:
        names = {path.name for path in (store / SHARDS).iterdir()}
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DamagedError(store, SHARDS, f"cannot be read ({error.strerror})") from error
    numbers = {int(name.removesuffix(".json")) for name in names if _ENTRY.fullmatch(name)}
    return sorted(number for number in numbers if f"{number:06d}.json" in names)


def store_around(path: Path) -> Path | None:
    """The folder above a path, its links resolved, that is a store, sound or not, or was one; None where none is."""
    return next((folder for folder in path.parents if _is_store(folder)), None)


def _is_store(folder: Path) -> bool:
    """Whether a folder holds a header, be it damaged, with what stands beside one; or shards that have lost theirs."""
    if os.path.lexists(folder / HEADER):
        return any(os.path.lexists(folder / name) for name in (SHARDS, VOCABULARY))
    try:
        return (folder / "readings").is_dir() and bool(shards(folder))
    except (DamagedError, OSError):  # what cannot be looked into is taken for no store
        return False


def documents_digest(documents: Iterable[tuple[int, str]]) -> str:
    """sha256 in hex over the documents of a shard or a corpus, each its doc_id and the sha256 of its text, in order."""
    digest = hashlib.sha256()
    for number, sha256 in documents:
        digest.update(f"{number} {sha256}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class File:
    """What an entry says of one file: its ``bytes``, their ``sha256`` in hex, and its ``rows``."""

    bytes: int
    sha256: str
    rows: int

    @classmethod
    def of(cls, data: Path | bytes, rows: int) -> Self:
        """Of a file, or of its content."""
        if not isinstance(data, Path):
            return cls(len(data), hashlib.sha256(data).hexdigest(), rows)
        with data.open("rb") as file:
            return cls(data.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest(), rows)

    def check(self, store: Path, name: str) -> None:
        """Raises DamagedError unless the file of that name has these bytes; its rows are not counted."""
        digest, seen = hashlib.sha256(), 0
        with checked(store, name):
            for part in read_file(store / name, largest=self.bytes):
                digest.update(part)
                seen += len(part)
            if seen != self.bytes:
                raise ValueError(f"has {seen:,} bytes, expected {self.bytes:,}")
            if digest.hexdigest() != self.sha256:
                raise ValueError("is damaged (its checksum does not fit)")

    @classmethod
    def read(cls, found: Any) -> Self:
        """From JSON. Raises ValueError."""
        seen = Fields(found, cls)
        return cls(seen.whole("bytes"), seen.sha256("sha256"), seen.whole("rows"))


@dataclass(frozen=True)
class Header:
    """What a store is: which rows a scan into it has.

    Attributes:
        model: the name the user gave.
        identity: sha256 in hex of what the model is.
        layers: number L of its blocks.
        lenses: name -> hash of its file, ``""`` for one that needs none.
        request: what is read of each position: ``layers``, ``sites``, ``top_k``, ``watch`` (ids), ``precision``, and
            whatever else changes the rows. JSON values.
        select: which rows and columns are kept: ``statistics`` (list of names of ``STATISTICS``), ``share`` of the
            positions (1 = all), ``seed`` of their draw (None where nothing is drawn).
        cut: how the corpus is cut into shards. JSON values.
        where: (field, value) pairs that a document must have.
        corpus: names of its sources, as given.
        circumstances: engine, versions, dtype, device of the scan that made the store; each shard has its own.
        midstream: version that made the store.
        schema: version of the columns.
        vocabulary: what is known of ``vocabulary.parquet``; None until it is written.
    """

    model: str
    identity: str
    layers: int
    lenses: Mapping[str, str]
    request: Mapping[str, Any]
    select: Mapping[str, Any]
    cut: Mapping[str, Any]
    where: tuple[tuple[str, str], ...] = ()
    corpus: tuple[str, ...] = ()
    circumstances: Mapping[str, str] = field(default_factory=dict[str, str])
    midstream: str = ""
    schema: int = SCHEMA
    vocabulary: File | None = None

    @property
    def key(self) -> dict[str, Any]:
        """The parts that decide which rows the store has, as JSON values; two scans share a store if these agree."""
        names = ("schema", "identity", "layers", "lenses", "request", "cut", "where")
        kept = [name for name in STATISTICS if name in self.select["statistics"]]
        select = {**self.select, "statistics": kept, "share": float(self.select["share"])}
        return json.loads(json.dumps({name: getattr(self, name) for name in names} | {"select": select}))

    @cached_property  # asked for once a shard
    def digest(self) -> str:
        """sha256 in hex of ``key``, which every entry of a shard repeats."""
        return hashlib.sha256(dump(self.key)).hexdigest()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the store's readings: those of ``READING`` but ``token`` and what is not selected."""
        kept = self.select["statistics"]
        return tuple(c for c in READING if c.name != "token" and (c.name in kept or c.name not in STATISTICS))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The files that a shard has: ``watched`` only where tokens are watched."""
        return tuple(kind for kind in KINDS if kind != "watched" or self.request.get("watch"))

    @property
    def tables(self) -> dict[str, tuple[Column, ...]]:
        """Kind -> the columns of its files."""
        return {kind: self.columns if kind == "readings" else KINDS[kind] for kind in self.kinds}

    @classmethod
    def read(cls, store: Path) -> Self:
        """From ``store.json``. Raises DamagedError, or RequestError for a store of another schema."""
        found = read_json(store, HEADER)
        if (schema := found.get("schema")) != SCHEMA and type(schema) is int:
            raise RequestError(
                f"{store} is a store of schema {schema}, and this midstream reads schema {SCHEMA}: use the midstream "
                f"that made it ({str(found.get('midstream'))[:20]!r}), or scan the corpus into another folder."
            )
        with checked(store, HEADER):
            seen = Fields(found, cls)
            seen.whole("schema")
            select, request = seen.object("select"), seen.object("request")
            _check_select(select)
            _check_request(request)
            return cls(
                model=seen.text("model"),
                identity=seen.sha256("identity"),
                layers=seen.whole("layers"),
                lenses=seen.texts("lenses"),
                request=request,
                select=select,
                cut=seen.object("cut"),
                where=tuple((name, value) for name, value in seen.lists("where", 2)),
                corpus=tuple(seen.strings("corpus")),
                circumstances=seen.texts("circumstances"),
                midstream=seen.text("midstream"),
                vocabulary=File.read(found["vocabulary"]),
            )


def _check_select(select: Mapping[str, Any]) -> None:
    """Raises ValueError unless it says what ``Header.select`` does."""
    if set(select) != {"statistics", "share", "seed"}:
        raise ValueError("selects by other fields than it should")
    kept, share, seed = select["statistics"], select["share"], select["seed"]
    if not isinstance(kept, list) or any(name not in STATISTICS for name in kept):
        raise ValueError("its statistics are none")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError("its share of positions is none")
    if seed is not None and type(seed) is not int:
        raise ValueError("its seed is none")


def _check_request(request: Mapping[str, Any]) -> None:
    """Raises ValueError unless it says what is read of each position; what else it says changes only the rows."""
    lacking = [name for name in ("layers", "sites", "top_k", "watch") if name not in request]
    if lacking:
        raise ValueError(f"does not say the {lacking[0]} of its request")
    layers, top_k, watch = request["layers"], request["top_k"], request["watch"]
    if not isinstance(layers, list) or not layers or any(type(layer) is not int for layer in layers):
        raise ValueError("its layers are none")
    Fields(request).strings("sites")
    if type(top_k) is not int or top_k < 0:
        raise ValueError("its number of best tokens is none")
    if not isinstance(watch, list) or any(type(token) is not int for token in watch):
        raise ValueError("its watched tokens are none")


@dataclass(frozen=True)
class ShardEntry:
    """What a finished shard says of itself.

    Attributes:
        shard: its number, from 0.
        documents: first and last doc_id; with ``where`` there may be gaps between.
        digest: ``documents_digest`` of its documents.
        tokens: of its documents, read or not.
        rows: of its readings.
        faults: documents that could not be read.
        header: ``Header.digest`` of the scan that made it.
        files: kind -> what its file holds.
        circumstances: engine, versions, dtype, device of the worker that made it.
    """

    shard: int
    documents: tuple[int, int]
    digest: str
    tokens: int
    rows: int
    faults: int
    header: str
    files: Mapping[str, File]
    circumstances: Mapping[str, str]

    @classmethod
    def read(cls, store: Path, shard: int) -> Self:
        """From the shard's file. Raises DamagedError."""
        name = entry_name(shard)
        found = read_json(store, name)
        with checked(store, name):
            seen = Fields(found, cls)
            if seen.whole("shard") != shard:
                raise ValueError("belongs to another shard")
            ends = found["documents"]
            if not isinstance(ends, list) or len(ends) != 2 or any(type(end) is not int for end in ends):
                raise ValueError("names no documents")
            if not 0 <= ends[0] <= ends[1] < 1 << 31:
                raise ValueError(f"names the documents {ends}")
            files = {kind: File.read(value) for kind, value in seen.object("files").items() if kind in KINDS}
            if set(files) != set(found["files"]) or not {"readings", "positions", "documents"} <= set(files):
                raise ValueError("names other files than a shard has")
            if files["readings"].rows != seen.whole("rows") or files["positions"].rows != seen.whole("tokens"):
                raise ValueError("contradicts itself about its rows")
            return cls(
                shard=shard,
                documents=(ends[0], ends[1]),
                digest=seen.sha256("digest"),
                tokens=seen.whole("tokens"),
                rows=seen.whole("rows"),
                faults=seen.whole("faults"),
                header=seen.sha256("header"),
                files=files,
                circumstances=seen.texts("circumstances"),
            )


@dataclass(frozen=True)
class Finished:
    """What a scan says once it has read its whole corpus.

    Attributes:
        shards, documents, tokens, rows, faults: totals of the store; faults: documents that could not be read.
        corpus: sha256 in hex of all documents: over the ``digest`` of every shard.
        header: ``Header.digest``.
        skipped: what of the corpus was left out -> how often.
    """

    shards: int
    documents: int
    tokens: int
    rows: int
    faults: int
    corpus: str
    header: str
    skipped: Mapping[str, int]

    @classmethod
    def of(cls, entries: Sequence[ShardEntry], header: str, skipped: Mapping[str, int]) -> Self:
        """Of all shards, ascending; ``header``: ``Header.digest``."""
        return cls(
            shards=len(entries),
            documents=sum(entry.files["documents"].rows for entry in entries),
            tokens=sum(entry.tokens for entry in entries),
            rows=sum(entry.rows for entry in entries),
            faults=sum(entry.faults for entry in entries),
            corpus=documents_digest((entry.shard, entry.digest) for entry in entries),
            header=header,
            skipped=dict(skipped),
        )

    @classmethod
    def read(cls, store: Path) -> Self | None:
        """From ``finished.json``; None where there is none. Raises DamagedError."""
        if not os.path.lexists(store / FINISHED):
            return None
        found = read_json(store, FINISHED)
        with checked(store, FINISHED):
            seen = Fields(found, cls)
            whole = {name: seen.whole(name) for name in ("shards", "documents", "tokens", "rows", "faults")}
            skipped = Fields(seen.object("skipped"))
            counts = {name: skipped.whole(name) for name in skipped.found}
            return cls(corpus=seen.sha256("corpus"), header=seen.sha256("header"), skipped=counts, **whole)


def to_json(value: Header | ShardEntry | Finished) -> bytes:
    """The content of a JSON file of a store: canonical, with its checksum."""
    return seal(asdict(value))
