"""Whether a store is what was written: every damaged or missing file by name, and files that are another's."""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from dataclasses import dataclass
from glob import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from midstream.errors import RequestError
from midstream.store.foreign import OTHER_HEADER, misplaced, other_header, strangers
from midstream.store.layout import (
    FINISHED,
    HEADER,
    KINDS,
    SHARDS,
    VOCABULARY,
    File,
    Finished,
    Header,
    ShardEntry,
    entry_name,
    file_name,
    shards,
)
from midstream.store.rows import in_memory
from midstream.store.sealed import FOLDER, DamagedError

if TYPE_CHECKING:
    import duckdb

Progress = Callable[[int, int], None]
"""Called with the shards verified so far, and how many there are."""

OTHER = "was made by a scan with another model, lens or option"
MOST_MISSING = 1000
"""Missing shards that are named; a damaged count could name any number."""


@dataclass(frozen=True)
class Damage:
    """A file of a store that is not what was written.

    Attributes:
        file: its name within the store.
        reason: what is wrong, to be read after the name.
        shard: the shard that must be redone; None where none must.
        then: what comes of it; empty: the next scan redoes the shard, or writes the file anew.
    """

    file: str
    reason: str
    shard: int | None = None
    then: str = ""

    def __str__(self) -> str:
        """One line."""
        return f"{self.file} {self.reason}"


@dataclass(frozen=True)
class Checked:
    """What a check has found.

    Attributes:
        shards: finished and sound ones; ``documents``, ``tokens`` and ``rows`` are theirs.
        damages: all that is wrong, the store's own files first, then by shard.
        finished: whether the scan says that it has read its whole corpus.
        strangers: the first files that are not of this store, which are no damage.
    """

    shards: int
    documents: int
    tokens: int
    rows: int
    damages: tuple[Damage, ...]
    finished: bool
    strangers: tuple[str, ...] = ()


def check(path: str | Path, progress: Progress | None = None) -> Checked:
    """Reads every byte of a store; damage is named, never raised.

    Raises RequestError where there is no store, or one of another schema.
    """
    store = existing(path)
    damages: list[Damage] = []
    header = finished = None
    try:
        header = Header.read(store)
        damages += _damage(store, VOCABULARY, header.vocabulary)
    except DamagedError as error:
        damages.append(Damage(error.file, error.reason))
    wrong = misplaced(store, header.kinds if header else KINDS)
    damages += [Damage(name, reason, then="until then the next scan refuses") for name, reason in wrong.items()]
    if header is not None and SHARDS not in wrong and other_header(store, header):
        damages.append(Damage(HEADER, OTHER_HEADER, then="until then a scan like theirs refuses"))
        header = None
    entries, found = verify(store, header, progress)
    found = [damage for damage in found if damage.file not in wrong]
    numbers = {*entries, *(damage.shard for damage in found if damage.shard is not None)}
    try:
        finished = Finished.read(store)
        if finished is not None:
            if header is None or finished.header == header.digest:
                entries, found = _within(finished, entries, found)
            damages += _totals(finished, header, entries, [damage for damage in found if damage.shard is not None])
            gone = missing(finished, {*entries, *(damage.shard for damage in found)})
            found += [Damage(entry_name(shard), "is missing", shard) for shard in gone]
    except DamagedError as error:
        damages.append(Damage(error.file, error.reason))
    others = strangers(store, numbers, finished)
    documents = sum(entry.files["documents"].rows for entry in entries.values())
    tokens, rows = (sum(getattr(entry, name) for entry in entries.values()) for name in ("tokens", "rows"))
    return Checked(len(entries), documents, tokens, rows, (*damages, *found), finished is not None, others)


def existing(path: str | Path) -> Path:
    """The absolute path of a folder that holds a store, sound or not. Raises RequestError where it holds none."""
    store = Path(os.path.realpath(path))
    if not any(os.path.lexists(store / name) for name in (HEADER, SHARDS)):
        raise RequestError(f"there is no store in {str(path)!r}: expected a folder that midstream scan has written.")
    return store


def verify(
    store: Path, header: Header | None, progress: Progress | None = None
) -> tuple[dict[int, ShardEntry], list[Damage]]:
    """The sound shards, each of whose files has been read, and what is wrong with the others.

    Args:
        header: that of the store; None: unknown, so that a shard is sound whichever scan made it.
    """
    sound: dict[int, ShardEntry] = {}
    damages: list[Damage] = []
    try:
        numbers = shards(store)
    except DamagedError as error:
        return {}, [Damage(error.file, error.reason)]
    with in_memory() as database:
        for done, shard in enumerate(numbers):
            if progress is not None:
                progress(done, len(numbers))
            try:
                entry = ShardEntry.read(store, shard)
                if header is not None and (entry.header, *sorted(entry.files)) != (
                    header.digest,
                    *sorted(header.kinds),
                ):
                    raise DamagedError(store, entry_name(shard), OTHER)
            except DamagedError as error:
                damages.append(Damage(error.file, error.reason, shard))
                continue
            names = {file_name(kind, shard): file for kind, file in entry.files.items()}
            wrong = [damage for name, file in names.items() for damage in _damage(store, name, file, shard, database)]
            damages += wrong
            if not wrong:
                sound[shard] = entry
    if progress is not None:
        progress(len(numbers), len(numbers))
    return sound, damages


def _damage(
    store: Path,
    name: str,
    file: File | None,
    shard: int | None = None,
    database: duckdb.DuckDBPyConnection | None = None,
) -> list[Damage]:
    """What is wrong with a file; its rows are counted where a database is given to do it."""
    try:
        assert file is not None
        file.check(store, name)
        rows = file.rows if database is None else _rows(database, store / name)
        if rows is None:
            raise DamagedError(store, name, "is no Parquet file that can be read")
        if rows != file.rows:
            raise DamagedError(store, name, f"has {rows:,} rows, expected {file.rows:,}")
    except DamagedError as error:
        return [Damage(error.file, error.reason, shard)]
    return []


def _rows(database: duckdb.DuckDBPyConnection, path: Path) -> int | None:
    from duckdb import Error

    try:
        [(rows,)] = database.execute(
            "SELECT num_rows FROM parquet_file_metadata($path)", {"path": escape(str(path))}
        ).fetchall()
    except Error:
        return None
    return rows


def missing(finished: Finished, seen: Container[int | None]) -> list[int]:
    """Numbers of the shards that a finished scan counts and that are not among ``seen``, the first of many."""
    return list(islice((shard for shard in range(finished.shards) if shard not in seen), MOST_MISSING))


def _within(
    finished: Finished, entries: dict[int, ShardEntry], found: list[Damage]
) -> tuple[dict[int, ShardEntry], list[Damage]]:
    """The sound shards that a finished scan counts, and all damages, those beyond its end named as that.

    Sound shards are beyond it only where those before them are what was counted: else the count may be wrong.
    """
    last, damages = f"the last shard is {finished.shards - 1}", list[Damage]()
    for damage in found:
        if damage.shard is None or damage.shard < finished.shards:
            damages.append(damage)
        elif damage.reason == FOLDER:
            then = "until then the next scan refuses"
            damages.append(Damage(damage.file, f"is a folder, and {last} (remove it)", then=then))
        else:
            then = f"the next scan removes {entry_name(damage.shard)}"
            damages.append(Damage(damage.file, f"{damage.reason}, and {last}", then=then))
    inside = {shard: entry for shard, entry in entries.items() if shard < finished.shards}
    if finished != Finished.of(list(inside.values()), finished.header, finished.skipped):
        return entries, damages
    then = "until it is deleted the next scan refuses, unless the corpus has more shards now"
    more = [Damage(entry_name(shard), f"was copied there: {last}", then=then) for shard in entries.keys() - inside]
    return inside, damages + more


def _totals(
    finished: Finished, header: Header | None, entries: dict[int, ShardEntry], found: list[Damage]
) -> list[Damage]:
    """Where the scan's last word contradicts the shards; their sums only where all are sound."""
    if header is not None and finished.header != header.digest:
        return [Damage(FINISHED, OTHER)]
    there = len({*entries, *(damage.shard for damage in found)})
    if not 0 <= finished.shards - there <= MOST_MISSING:
        return [Damage(FINISHED, f"counts {finished.shards:,} shards, and {there:,} are there")]
    sums = Finished.of(list(entries.values()), finished.header, finished.skipped)
    if not found and finished.shards == there and sums != finished:
        return [Damage(FINISHED, "contradicts what its shards say")]
    return []
