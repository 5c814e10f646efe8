"""Where text comes from: a .txt, a .jsonl or standard input, one document at a time in bounded memory."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from midstream.errors import RequestError

SEPARATOR = b"<|endofdoc|>"
"""A line holding only this parts two documents of a .txt."""

LARGEST = 64 * 2**20
"""Bytes of the largest document of a .txt, or line of a .jsonl: more is a mistake, or meant to fill the memory."""

SUPPORTED = "a .txt, a .jsonl, or - for standard input"

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
        sha256: of the text in UTF-8, hexadecimal.
        metadata: every field of the line but ``text``; empty for a .txt.
    """

    number: int
    id: str
    text: str
    sha256: str
    metadata: Mapping[str, Any]


@dataclass
class Skipped:
    """What an iteration has left out so far.

    Attributes:
        empty: documents that hold only white space.
        broken: lines of a .jsonl that are no document.
        examples: the first three of those, each by its number, with the reason.
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
    """The documents of one source, read anew by each iteration; what it counts is about the latest one.

    Iterating raises RequestError where the source cannot be read, is not UTF-8, holds a document above ``LARGEST``,
    or ends without having given one; and for standard input the second time.

    Attributes:
        name: of the file, without its folder.
        documents: given so far.
        skipped: left out so far.
    """

    def __init__(self, path: Path, conditions: _Conditions) -> None:
        self._path = path
        self._conditions = conditions
        self._spent = False
        self.name = "standard input" if self._is_stdin else path.name
        self._start()

    def _start(self) -> None:
        self.documents = 0
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
        stem = "stdin" if self._is_stdin else self._path.stem
        number = 0
        with self._open() as stream:
            for text, metadata in self._jsonl(stream) if _is_jsonl(self._path) else self._txt(stream):
                if not text.strip():
                    self.skipped.empty += 1
                    continue
                given = metadata.get("id")
                name = given if isinstance(given, str) and given else f"{stem}:{number}"
                yield Document(number, name, text, hashlib.sha256(text.encode()).hexdigest(), metadata)
                number += 1

    def _txt(self, stream: BinaryIO) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The texts between separator lines. What follows the last separator counts only if it is a text."""
        held, line, begin = bytearray(), 1, 0
        for number, offset, raw in self._lines(stream):
            if raw.rstrip(b"\r\n") == SEPARATOR:
                yield self._text(held, line, begin), {}
                held = bytearray()
                continue
            if not held:
                line, begin = number, offset
            held += raw
            if len(held) > LARGEST:
                raise self._too_large(line)
        if (last := self._text(held, line, begin)).strip():
            yield last, {}

    def _text(self, raw: bytearray, line: int, begin: int) -> str:
        """A document of a .txt; ``line`` and ``begin`` say where in the file it starts."""
        return self._decode(bytes(raw), line, begin).replace("\r\n", "\n").strip("\n")

    def _jsonl(self, stream: BinaryIO) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Text and other fields of each line that has a text; the others are counted."""
        for number, offset, raw in self._lines(stream):
            line = self._decode(raw, number, offset).rstrip()
            if not line:
                continue
            found = _record(line)
            if isinstance(found, str):
                self.skipped.broken += 1
                if len(self.skipped.examples) < SHOWN:
                    self.skipped.examples.append(f"line {number:,} {found}")
            else:
                yield found

    def _lines(self, stream: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
        """Number (from 1), offset in bytes, and bytes of each line; one without end never fills the memory."""
        number = offset = 0
        try:
            while raw := stream.readline(LARGEST + 1):
                number += 1
                if len(raw) > LARGEST:
                    raise self._too_large(number)
                mark = len(codecs.BOM_UTF8) if number == 1 and raw.startswith(codecs.BOM_UTF8) else 0
                yield number, offset + mark, raw[mark:]
                offset += len(raw)
        except OSError as error:
            raise RequestError(
                f"cannot read {self._shown} after line {number:,}: {error.strerror or error}; expected {SUPPORTED}."
            ) from error

    def _decode(self, raw: bytes, line: int, offset: int) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise RequestError(
                f"{self._shown} is not UTF-8 in line {line + raw.count(10, 0, error.start):,}, byte "
                f"{offset + error.start:,} of the file (0x{raw[error.start]:02x}): expected UTF-8 text; convert it "
                "first, for example with iconv."
            ) from error

    @contextmanager
    def _open(self) -> Generator[BinaryIO]:
        """The bytes of the source; standard input is left open."""
        if not self._is_stdin:
            with _opened(self._path) as stream:
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

    @property
    def _is_stdin(self) -> bool:
        return str(self._path) == "-"

    @property
    def _shown(self) -> str:
        return self.name if self._is_stdin else repr(str(self._path))

    def _too_large(self, line: int) -> RequestError:
        what, how = (
            ("line", "cut its text into several lines")
            if _is_jsonl(self._path)
            else ("document that begins in line", f"put a line holding only {SEPARATOR.decode()} between documents")
        )
        return RequestError(
            f"the {what} {line:,} of {self._shown} is larger than {LARGEST // 2**20} MiB: expected smaller documents; "
            f"{how}."
        )

    def _why_nothing(self, missing: Sequence[str], fields: Sequence[str]) -> str:
        """Why no document was given: the counts, and what to do about the likeliest reason."""
        skipped = self.skipped
        read = skipped.unmatched + skipped.empty + skipped.broken
        if not read:
            return f"{self._shown} holds no document: expected text."
        said = [f"{self._shown} gives no document: of {read:,} read,"]
        if skipped.unmatched:
            asked = " and ".join(f"{name}={value}" for name, value in self._conditions)
            said.append(f"{skipped.unmatched:,} do not have {asked},")
        said.append(f"{skipped.empty:,} are empty, {skipped.broken:,} are broken.")
        if skipped.examples:
            said.append(f"The first broken ones: {'; '.join(skipped.examples)}.")
        if missing and skipped.unmatched:
            said.append(f"No document has a field {missing[0]!r}; the first has {_listed(fields)}.")
        return " ".join(said)


def open_corpus(path: str | Path, *, where: Sequence[str] = ()) -> Corpus:
    """The documents of a .txt, of a .jsonl, or of standard input (``-``, read as a .txt).

    Args:
        path: its ending says how it is read.
        where: conditions ``FIELD=VALUE`` on the fields of a .jsonl, which must all hold; a value that is not a string
            is compared as JSON writes it (``year=1859``, ``author=null``).

    Raises RequestError where the source is missing, a folder, unreadable, of an unknown kind, or a condition is no
    ``FIELD=VALUE`` or asks for a field of a source that has none.
    """
    path = Path(path)
    conditions = [_condition(text) for text in ([where] if isinstance(where, str) else where)]
    if str(path) != "-":
        _check(path)
    if conditions and not _is_jsonl(path):
        raise RequestError(
            f"{where[0]!r} was asked of {str(path)!r}, whose documents have no fields: expected a .jsonl, or no "
            "condition."
        )
    return Corpus(path, conditions)


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
            f"document {document.id!r} has no field {name!r} to cluster by: it has {_listed(document.metadata)}."
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


def _is_jsonl(path: Path) -> bool:
    return path.suffix.lower() == ".jsonl"


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
        why = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"cannot read {str(path)!r}: {why}; expected {SUPPORTED}.") from error


def _check(path: Path) -> None:
    """Raise RequestError where a file cannot be a corpus, before a model is loaded for it."""
    if os.path.isdir(path):  # noqa: PTH112  Path.is_dir raises for a name that is too long
        raise RequestError(f"{str(path)!r} is a folder: expected {SUPPORTED}.")
    if path.suffix.lower() not in (".txt", ".jsonl"):
        raise RequestError(f"{str(path)!r} is of no kind that can be read: expected {SUPPORTED}.")
    if os.path.isfile(path) or not os.path.exists(path):  # noqa: PTH110, PTH113  opening a pipe here would empty it
        _opened(path).close()


def _record(line: str) -> tuple[str, Mapping[str, Any]] | str:
    """Text and other fields of one line of a .jsonl, or why it is no document."""
    try:
        found = json.loads(line, parse_constant=lambda _: None)  # NaN is not JSON; undefined is null
        if "\\u" in line:
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is no text"
    except RecursionError:
        return "is nested too deeply"
    except json.JSONDecodeError as error:
        return f"is not JSON ({error.msg.removesuffix(' at')} at column {error.colno:,})"
    except ValueError as error:
        return f"holds a number that is too long ({error})"
    if not isinstance(found, dict):
        return f"is a JSON {type(found).__name__}, not an object"
    fields: dict[str, Any] = found
    text = fields.pop("text", None)
    if not isinstance(text, str):
        return f"has no string 'text' beside {_listed(fields)}"
    return text, fields


def _listed(names: Iterable[str]) -> str:
    """The first names of what may be very many and very long, escaped."""
    return ", ".join(repr(name[:40]) for name in islice(names, 20)) or "nothing"
