"""A folder of readings of a corpus, opened for reading or for a scan to go on with."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from midstream.errors import RequestError
from midstream.interrupt import undisturbed
from midstream.record import SCHEMA
from midstream.store.check import Damage, Progress, existing, missing, verify
from midstream.store.foreign import OTHER_HEADER, other_header, refuse_folders, refuse_misplaced
from midstream.store.layout import (
    FINISHED,
    HEADER,
    SCRATCH,
    SHARDS,
    TOKENS,
    VOCABULARY,
    File,
    Finished,
    Header,
    ShardEntry,
    entry_name,
    file_name,
    shards,
    to_json,
)
from midstream.store.listed import changed, faults
from midstream.store.refuse import check_folder, lock, refuse_other
from midstream.store.rows import copy, explained, insert, open_rows
from midstream.store.sealed import DamagedError
from midstream.store.shard import Made
from midstream.store.write import publish, sync


@dataclass(frozen=True)
class Store:
    """A store that can be read, whether or not its scan has ended; made by ``open_store``.

    Attributes:
        path: its folder, absolute.
    """

    path: Path
    header: Header

    @cached_property
    def entries(self) -> tuple[ShardEntry, ...]:
        """The finished shards, ascending; those whose entry is damaged or of another scan are left out."""
        return tuple(entry for entry in self._seen.values() if entry is not None)

    @cached_property
    def damaged(self) -> tuple[int, ...]:
        """Numbers of the shards whose entry is damaged or of another scan, or gone though the scan had ended.

        ``check`` says more. Raises DamagedError where the scan's last word is damaged.
        """
        wrong = [shard for shard, entry in self._seen.items() if entry is None]
        gone = missing(self.finished, self._seen) if self.finished else ()
        return tuple(sorted([*wrong, *gone]))

    @cached_property
    def finished(self) -> Finished | None:
        """What the scan said when it had read its whole corpus; None where it has not. Raises DamagedError."""
        return Finished.read(self.path)

    @property
    def vocabulary(self) -> Path:
        """The file of all tokens: token_id, token. Raises DamagedError where it is missing or of another size."""
        assert self.header.vocabulary is not None
        return self._sized(VOCABULARY, self.header.vocabulary.bytes)

    def files(self, kind: str) -> list[Path]:
        """The files of a kind (see ``layout.KINDS``), one a finished shard, ascending; none where none was kept.

        Raises DamagedError where one is missing or of another size; their content is not read.
        """
        kept = [entry for entry in self.entries if kind in entry.files]
        return [self._sized(file_name(kind, entry.shard), entry.files[kind].bytes) for entry in kept]

    @cached_property
    def _seen(self) -> dict[int, ShardEntry | None]:
        return {shard: self._entry(shard) for shard in shards(self.path)}

    def _entry(self, shard: int) -> ShardEntry | None:
        try:
            entry = ShardEntry.read(self.path, shard)
        except DamagedError:
            return None
        ours = entry.header == self.header.digest and set(entry.files) == set(self.header.kinds)
        return entry if ours else None

    def _sized(self, name: str, expected: int) -> Path:
        path = self.path / name
        try:
            seen = path.lstat()
        except OSError:
            seen = None
        if seen is None or not stat.S_ISREG(seen.st_mode):
            raise DamagedError(self.path, name, "is missing")
        if seen.st_size != expected:
            raise DamagedError(self.path, name, f"has {seen.st_size:,} bytes, expected {expected:,}")
        return path


def open_store(path: str | Path) -> Store:
    """The store in a folder, for reading.

    Raises:
        RequestError: there is no store, or one of another schema.
        DamagedError: its header is damaged.
    """
    folder = existing(path)
    return Store(folder, Header.read(folder))


@dataclass(frozen=True)
class Facts:
    """What is known of a shard beside its files; see ``ShardEntry``."""

    documents: tuple[int, int]
    digest: str
    tokens: int
    faults: int
    circumstances: Mapping[str, str]


def create_or_resume(
    path: str | Path,
    header: Header,
    vocabulary: Callable[[], Iterable[tuple[int, str]]],
    progress: Progress | None = None,
) -> StoreWriter:
    """The store in a folder, made where there is none, for a scan to write; use it as a context manager.

    Every file of every finished shard is read first. What is damaged counts as not done; a damaged header or vocabulary
    is written again.

    Args:
        header: of this scan; its ``vocabulary`` is filled in here.
        vocabulary: gives every id of the tokenizer, from 0, and its token; called only where they must be written.
        progress: called with the shards verified so far, and how many there are.

    Raises:
        RequestError: another scan writes there; the store was made with another model, lens or option, or is of another
            schema; the folder holds something else; or nothing can be written there.
    """
    folder = Path(os.path.realpath(path))
    with _explained(folder):
        check_folder(folder)
        refuse_misplaced(folder, header.kinds)
        handle = lock(folder)
    try:
        return StoreWriter(folder, header, vocabulary, handle, progress)
    except BaseException:
        os.close(handle)
        raise


class StoreWriter:
    """A store that this scan alone writes, for as long as the context lasts or the process lives.

    A process forked from this one keeps the lock as long as it lives: start workers anew (``spawn``) instead.

    Attributes:
        path: its folder, absolute.
        header: that of the store, which has the same ``key`` as that of the scan.
        entries: number -> what each finished and sound shard says.
        damages: what was found damaged when it was opened.
        scratch: folder for what is not finished, on the disk of the store; removed at the end.
    """

    def __init__(
        self,
        path: Path,
        header: Header,
        vocabulary: Callable[[], Iterable[tuple[int, str]]],
        handle: int,
        progress: Progress | None,
    ) -> None:
        """On a folder whose lock is held by ``handle``; see ``create_or_resume``."""
        self.path, self._handle = path, handle
        self.scratch = path / f"{SCRATCH}{secrets.token_hex(6)}"
        found, self.damages = _header(path)
        if found is not None and found.digest != header.digest and other_header(path, found):
            raise RequestError(f"{path / HEADER} {OTHER_HEADER}. Then give the scan that made the shards again.")
        if found is not None:
            refuse_other(path, found, header)
        self.entries, damages = verify(path, found, progress)
        if found is None and any(entry.header != header.digest for entry in self.entries.values()):
            raise RequestError(
                f"{path / HEADER} is damaged, and the shards beside it were made with another model, lens or option "
                "than this scan has: give another --out, or the same scan as before."
            )
        self.damages += damages
        refuse_folders(path, (HEADER, VOCABULARY, FINISHED, *(damage.file for damage in self.damages)))
        self._counted = _counted(path, header)
        with _explained(path):
            for old in path.glob(f"{SCRATCH}*"):
                shutil.rmtree(old, ignore_errors=True)
            self.scratch.mkdir(mode=0o700)
        try:
            self.header = self._settle(found, header, vocabulary)
        except BaseException:
            shutil.rmtree(self.scratch, ignore_errors=True)
            raise

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the scratch folder and lets another scan begin."""
        with undisturbed():
            shutil.rmtree(self.scratch, ignore_errors=True)
            if self._handle >= 0:
                os.close(self._handle)
                self._handle = -1

    def done(self, shard: int, digest: str) -> bool:
        """Whether a sound shard of this number holds just these documents (see ``documents_digest``)."""
        return shard in self.entries and self.entries[shard].digest == digest

    def changed(self, shard: int, documents: Sequence[tuple[int, str, str]]) -> str:
        """The names of documents that are not those which the shard holds, the first few; empty where it has none.

        Args:
            documents: doc_id, id and sha256 of each that the corpus now has there.
        """
        return changed(self.path, shard, documents) if shard in self.entries else ""

    def faults(self, most: int) -> list[str]:
        """The first documents that could not be read, each with the reason, of all shards that are done."""
        return faults(self.path, sorted(self.entries), most)

    def beyond(self, last: int) -> list[int]:
        """Numbers of the shards after ``last`` that the store has.

        Entries there that are damaged, and that no scan counted when it ended, are of no shard, and removed.
        """
        found = [shard for shard in shards(self.path) if shard > last]
        stray = [shard for shard in found if shard not in self.entries and shard >= self._counted]
        with _explained(self.path):
            for shard in stray:
                (self.path / entry_name(shard)).unlink()
            if stray:
                sync(self.path / SHARDS)
        return [shard for shard in found if shard not in stray]

    def keep(self, shard: int, files: Mapping[str, Made], facts: Facts) -> ShardEntry:
        """Makes a shard part of the store, whole or not at all, also when the power fails.

        Args:
            files: what ``ShardWriter.finish`` gave.

        Raises RequestError when the disk is full; what was finished before stays.
        """
        if set(files) != set(self.header.kinds):
            raise ValueError(f"a shard of this store has the files {self.header.kinds}, not {tuple(files)}.")
        entry = ShardEntry(
            shard=shard,
            rows=files["readings"].rows,
            header=self.header.digest,
            files={kind: File.of(*made) for kind, made in files.items()},
            documents=facts.documents,
            digest=facts.digest,
            tokens=facts.tokens,
            faults=facts.faults,
            circumstances=dict(facts.circumstances),
        )
        if entry.files["positions"].rows != entry.tokens:
            raise ValueError(f"{entry.files['positions'].rows} positions for {entry.tokens} tokens.")
        with _explained(self.path):
            (self.path / FINISHED).unlink(missing_ok=True)
            sync(self.path)
        self._put({file_name(kind, shard): made.data for kind, made in files.items()})
        self._put({entry_name(shard): to_json(entry)})
        self.entries[shard] = entry
        return entry

    def finish(self, skipped: Mapping[str, int]) -> Finished:
        """Says that the whole corpus has been read.

        Args:
            skipped: what of the corpus was left out -> how often.
        """
        entries = [self.entries[shard] for shard in range(len(self.entries))]
        finished = Finished.of(entries, self.header.digest, skipped)
        try:
            same = Finished.read(self.path) == finished
        except DamagedError:
            same = False
        if not same:
            self._put({FINISHED: to_json(finished)})
        return finished

    def _settle(
        self, found: Header | None, header: Header, vocabulary: Callable[[], Iterable[tuple[int, str]]]
    ) -> Header:
        """The folders, the vocabulary and the header, those of them made that are missing or damaged."""
        with _explained(self.path):
            for name in (*header.kinds, SHARDS):
                (self.path / name).mkdir(exist_ok=True)
            sync(self.path)
            sync(self.path.parent)
        if found is not None and found.vocabulary is not None:
            try:
                found.vocabulary.check(self.path, VOCABULARY)
                return found
            except DamagedError as error:
                self.damages.append(Damage(error.file, error.reason))
        made = self._vocabulary(vocabulary())
        settled = replace(found or header, vocabulary=File.of(*made))
        self._put({VOCABULARY: made.data})
        if settled != found:
            self._put({HEADER: to_json(settled)})
        return settled

    def _vocabulary(self, tokens: Iterable[tuple[int, str]]) -> Made:
        folder = self.scratch / "vocabulary"
        ids, texts = zip(*tokens, strict=True)
        columns = {"token_id": np.array(ids, dtype=np.int32), "token": np.array(texts, dtype=object)}
        with explained(self.path):
            folder.mkdir()
            database = open_rows(folder, {"vocabulary": TOKENS})
            try:
                insert(database, "vocabulary", TOKENS, columns)
                made = copy(database, "vocabulary", TOKENS, folder / "made", {"schema": str(SCHEMA)})
            finally:
                database.close()
            data = made.read_bytes()
            shutil.rmtree(folder)
        return Made(data, len(ids))

    def _put(self, files: Mapping[str, Path | bytes]) -> None:
        """Each file, by its content or moved from elsewhere on this disk; whole or not at all, and lasting."""
        refuse_folders(self.path, files)
        made: dict[Path, Path] = {}
        try:
            with _explained(self.path):
                for name, data in files.items():
                    waiting = data if isinstance(data, Path) else self.scratch / f"put-{secrets.token_hex(6)}"
                    made[waiting] = self.path / name
                    if not isinstance(data, Path):
                        waiting.write_bytes(data)
                publish(made)
        except BaseException:
            for waiting in made:
                waiting.unlink(missing_ok=True)
            raise


def _header(store: Path) -> tuple[Header | None, list[Damage]]:
    """The header, or what is wrong with it; neither in a new store."""
    try:
        return Header.read(store), []
    except DamagedError as error:
        new = not os.path.lexists(store / HEADER) and not shards(store)
        return None, [] if new else [Damage(error.file, error.reason)]


def _counted(store: Path, header: Header) -> int:
    """The shards that a scan like this one counted when it ended; 0 where none says so."""
    try:
        last = Finished.read(store)
    except DamagedError:
        return 0
    return last.shards if last is not None and last.header == header.digest else 0


@contextmanager
def _explained(store: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise RequestError(
            f"cannot write to {str(store)!r}: {error.strerror or error}. What is finished there stays: make room, or "
            "see that files can be written there, and give the same scan again."
        ) from error
