"""Where text comes from: files, folders, standard input or the hub, one document at a time in bounded memory."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from midstream.corpus import text_file
from midstream.corpus.file import File, Piece, listed, opened
from midstream.corpus.find import find, title
from midstream.corpus.parquet import parquet
from midstream.errors import RequestError

SHOWN = 3
"""Broken lines that are kept to be shown; the rest are only counted."""

_Conditions = Sequence[tuple[str, str]]
"""Field and the text its value must have; all must hold."""


@dataclass(frozen=True)
class Document:
    """One document of a corpus.

    Attributes:
        number: order in the corpus, from 0. Counts every document that is not empty or broken, whether or not ``where``
            keeps it, so that a document has the same number under every condition.
        id: the field ``id`` where that is a string and not empty, else ``<name of the file without ending>:<number>``.
        text: as given; in a .txt with ``\\n`` line ends and without newlines around it.
        sha256: of the text in UTF-8, hexadecimal; of a text that cannot be read, of its bytes.
        metadata: every field of the line, or column of the row, but ``text``; empty for a .txt.
        source: the file it is from: its name, in a folder that was named from there on, or ``hf:OWNER/NAME/FILE``.
        fault: why the text, which is empty then, cannot be read; else None.
    """

    number: int
    id: str
    text: str
    sha256: str
    metadata: Mapping[str, Any]
    source: str = ""
    fault: str | None = None


@dataclass
class Skipped:
    """What an iteration has left out so far.

    Attributes:
        empty: documents that hold only white space.
        broken: lines of a .jsonl, or rows of a .parquet, that are no document.
        examples: the first three of those, each by its number, with the reason; by its file too where
            there are several.
        unmatched: documents for which ``where`` does not hold.
    """

    empty: int = 0
    broken: int = 0
    examples: list[str] = field(default_factory=list[str])
    unmatched: int = 0

    def __str__(self) -> str:
        """What was left out against expectation, to be shown: nothing where there was none."""
        parts = [f"{self.empty:,} empty"] if self.empty else []
        if self.broken:
            dots = "; ..." if self.broken > len(self.examples) else ""
            parts.append(f"{self.broken:,} broken ({'; '.join(self.examples)}{dots})")
        return ", ".join(parts)


class Corpus:
    """The documents of one or more sources, read anew by each iteration; what it counts is about the latest one.

    Iterating raises RequestError where a file cannot be read, or ends without having given a document; unless lenient,
    where it holds a document that is not UTF-8 or above ``file.LARGEST``; and for standard input the second time.

    Attributes:
        name: of the source, without its folder; of the first three of several.
        documents: given so far.
        skipped: left out so far.
        bytes: of all files; None where that is unknown.
        bytes_read: of the files so far; for a .parquet by its share of rows.
    """

    def __init__(
        self, name: str, files: Sequence[File], conditions: _Conditions = (), *, lenient: bool = False
    ) -> None:
        self._files = files
        self._conditions = conditions
        self._lenient = lenient
        self._spent = False
        self.name = name
        sizes = [file.size for file in files]
        self.bytes = None if None in sizes else sum(size or 0 for size in sizes)
        self._start()

    def _start(self) -> None:
        self.documents = self.bytes_read = 0
        self.skipped = Skipped()
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        """sha256, hexadecimal, over the 32-byte sha256 of each document given so far, in order."""
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[Document]:
        """The documents for which every condition holds, in order."""
        self._start()
        missing = [name for name, _ in self._conditions]
        fields: list[str] = []
        for document in self._all():
            fields = fields or list(document.metadata)
            missing = [name for name in missing if name not in document.metadata]
            if not _holds(self._conditions, document.metadata):
                self.skipped.unmatched += 1
                continue
            self.documents += 1
            self._hash.update(bytes.fromhex(document.sha256))
            yield document
        if not self.documents:
            raise RequestError(self._why_nothing(missing, fields))

    def _all(self) -> Iterator[Document]:
        """Every document that is neither empty nor broken, whatever the conditions."""
        number = before = 0
        for file in self._files:
            stem = "stdin" if file.is_stdin else Path(file.source).stem
            for piece in self._pieces(file):
                self.bytes_read = before + piece.at
                if piece.broken:
                    self._count_broken(file, piece.broken)
                elif not piece.text.strip() and not piece.fault:
                    self.skipped.empty += 1
                else:
                    metadata = piece.metadata or {}
                    given = metadata.get("id")
                    name = given if isinstance(given, str) and given else f"{stem}:{number}"
                    sha256 = piece.sha256 or hashlib.sha256(piece.text.encode()).hexdigest()
                    yield Document(number, name, piece.text, sha256, metadata, file.source, piece.fault)
                    number += 1
            before += file.size or 0
            self.bytes_read = max(before, self.bytes_read)

    def _pieces(self, file: File) -> Iterator[Piece]:
        def refuse(why: str) -> str:
            if not self._lenient:
                raise RequestError(why.format(file.shown))
            return why.format(file.source)

        if file.ending == ".parquet":
            yield from parquet(file.local(), file.shown, refuse)
            return
        with self._open(file) as stream:
            read = text_file.jsonl if file.ending == ".jsonl" else text_file.txt
            yield from read(stream, file.shown, refuse)

    def _count_broken(self, file: File, why: str) -> None:
        self.skipped.broken += 1
        if len(self.skipped.examples) < SHOWN:
            self.skipped.examples.append(why if len(self._files) == 1 else f"{file.source} {why}")

    @contextmanager
    def _open(self, file: File) -> Generator[BinaryIO]:
        """The bytes of a file; standard input is left open."""
        if not file.is_stdin:
            with opened(file.local()) as stream:
                yield stream
            return
        if self._spent:
            raise RequestError(
                "standard input was given as a corpus and has been read: it can be read once; save it to a .txt and "
                "name that."
            )
        stream = getattr(sys.stdin, "buffer", None)  # a notebook's has none
        if stream is None or stream.closed:
            raise RequestError("standard input is closed: expected a text there, or the name of a .txt or .jsonl.")
        self._spent = True
        yield stream

    def _why_nothing(self, missing: Sequence[str], fields: Sequence[str]) -> str:
        """Why no document was given: the counts, and what to do about the likeliest reason."""
        skipped = self.skipped
        shown = self._files[0].shown if len(self._files) == 1 else self.name
        read = skipped.unmatched + skipped.empty + skipped.broken
        if not read:
            return f"{shown} holds no document: expected text."
        said = [f"{shown} gives no document: of {read:,} read,"]
        if skipped.unmatched:
            asked = " and ".join(f"{name}={value}" for name, value in self._conditions)
            said.append(f"{skipped.unmatched:,} do not have {asked},")
        said.append(f"{skipped.empty:,} are empty, {skipped.broken:,} are broken.")
        if skipped.examples:
            said.append(f"The first broken ones: {'; '.join(skipped.examples)}.")
        if missing and skipped.unmatched:
            said.append(f"No document has a field {missing[0]!r}; the first has {listed(fields)}.")
        return " ".join(said)


def open_corpus(path: str | Path | Sequence[str | Path], *, where: Sequence[str] = (), lenient: bool = False) -> Corpus:
    """The documents of one or more sources, whose numbers run on; a corpus of the hub is looked up, not fetched.

    Args:
        path: a .txt, .jsonl or .parquet; a folder of these, read by name and recursively, hidden files left out;
            standard input (``-``, read as a .txt); ``hf:OWNER/NAME`` or ``hf:OWNER/NAME/PATH`` for a data set of the
            hub, or a file or folder of one; or several of these.
        where: conditions ``FIELD=VALUE`` on the fields of each document, which must all hold; a value that is not a
            string is compared as JSON writes it (``year=1859``, ``author=null``).
        lenient: give a document that is not UTF-8 or too large with its ``fault``, instead of ending there.

    Raises RequestError where a source is missing, unreadable, of an unknown kind, or a folder without a file of a known
    one, or a condition is no ``FIELD=VALUE`` or asks for a field of a source that has none.
    """
    names = [str(one) for one in ([path] if isinstance(path, (str, Path)) else path)]
    where = [where] if isinstance(where, str) else where
    conditions = [_condition(text) for text in where]
    files = find(names)
    without = [file for file in files if file.ending == ".txt"]
    if conditions and without:
        raise RequestError(
            f"{where[0]!r} was asked of {without[0].shown}, whose documents have no fields: expected a .jsonl or "
            ".parquet, or no condition."
        )
    return Corpus(title(names), files, conditions, lenient=lenient)


def cluster_of(document: Document, name: str | None = None) -> str:
    """Which cluster a document belongs to, as text: the unit that a split never cuts and an interval counts.

    Args:
        document: of a corpus.
        name: the field that says so, or None for ``work`` where the document has that.

    A document whose field is null or empty, and without ``name`` one that has no ``work``, is a cluster of its own,
    labelled by its sha256, so that equal texts stay together: two works without a known author are not one author's.
    Raises RequestError where a document does not have the field ``name`` at all.
    """
    if name is not None and name not in document.metadata:
        raise RequestError(
            f"document {document.id!r} has no field {name!r} to cluster by: it has {listed(document.metadata)}."
        )
    value = document.metadata.get("work" if name is None else name)
    return document.sha256 if value is None or value == "" else _as_text(value)


def _condition(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise RequestError(f"the condition {text!r} cannot be read: expected FIELD=VALUE, such as split=fit.")
    return name, value


def _holds(conditions: _Conditions, metadata: Mapping[str, Any]) -> bool:
    return all(name in metadata and _as_text(metadata[name]) == value for name, value in conditions)


def _as_text(value: object) -> str:
    """A string as it is, anything else as JSON writes it. Raises RequestError for what is nested too deeply."""
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    except RecursionError as error:
        raise RequestError("the value of a field is nested too deeply to be compared or to cluster by.") from error
