"""Documents of a .txt and of a .jsonl, in bounded memory also where one is too large or is no text."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import BinaryIO, NamedTuple

from midstream.corpus.file import LARGEST, SUPPORTED, Piece, Refuse, listed, parsed
from midstream.errors import RequestError

SEPARATOR = b"<|endofdoc|>"
"""A line holding only this parts two documents of a .txt."""


class _Part(NamedTuple):
    """A line, or the next part of one that is too long: its number (from 1), its offset in bytes, its bytes."""

    number: int
    offset: int
    raw: bytes
    begins: bool

    @property
    def end(self) -> int:
        return self.offset + len(self.raw)


def txt(stream: BinaryIO, shown: str, refuse: Refuse) -> Iterator[Piece]:
    """The texts between separator lines. What follows the last separator counts only if it is a text.

    Args:
        stream: the bytes of the file.
        shown: its name in errors.
        refuse: asked about a document that is not UTF-8 or above ``LARGEST``.

    Raises RequestError where the file cannot be read to its end.
    """
    held = _Held(_txt_too_large, refuse)
    for part in _parts(stream, shown):
        if part.begins and part.raw.rstrip(b"\r\n") == SEPARATOR:
            yield held.document(part.end)
            held = _Held(_txt_too_large, refuse)
        else:
            held.add(part)
    if (last := held.document(held.end)).fault or last.text.strip():
        yield last


def jsonl(stream: BinaryIO, shown: str, refuse: Refuse) -> Iterator[Piece]:
    """Text and other fields of each line, or why it is no document; lines of white space are left out.

    Args as for ``txt``. A line that is not UTF-8 keeps the fields that can be read.
    """
    for number, parts in groupby(_parts(stream, shown), attrgetter("number")):
        held = _Held(_line_too_large, refuse)
        for part in parts:
            held.add(part)
        text, fault = held.decoded()
        if fault is None and not text.strip():
            continue
        found = _record(text)
        if fault is not None:
            metadata = None if isinstance(found, str) else found.metadata
            yield Piece(held.end, metadata=metadata, fault=fault, sha256=held.sha256)
        elif isinstance(found, str):
            yield Piece(held.end, broken=f"line {number:,} {found}")
        else:
            yield Piece(held.end, found.text, found.metadata)


class _Held:
    """The bytes of a document, or line, as they are gathered: where they are too many, only their hash."""

    def __init__(self, too_large: Callable[[int], str], refuse: Refuse) -> None:
        self._too_large, self._refuse = too_large, refuse
        self._raw = bytearray()
        self._hash = hashlib.sha256()
        self._fault: str | None = None
        self._first: _Part | None = None
        self.end = 0

    def add(self, part: _Part) -> None:
        self._first = self._first or part._replace(raw=b"")
        self.end = part.end
        if self._fault is None and len(self._raw) + len(part.raw) > LARGEST:
            self._fault = self._refuse(self._too_large(self._first.number))
            self._hash.update(self._raw)
            self._raw.clear()
        if self._fault is None:
            self._raw += part.raw
        else:
            self._hash.update(part.raw)

    def decoded(self) -> tuple[str, str | None]:
        """The text, and why it cannot be read; what can be read of it then is only good for the fields beside it."""
        if self._fault is not None or self._first is None:
            return "", self._fault
        try:
            return self._raw.decode(), None
        except UnicodeDecodeError as error:
            line = self._first.number + self._raw.count(10, 0, error.start)
            said = self._refuse(
                f"{{}} is not UTF-8 in line {line:,}, byte {self._first.offset + error.start:,} of the file "
                f"(0x{self._raw[error.start]:02x}): expected UTF-8 text; convert it first, for example with iconv."
            )
            self._hash.update(self._raw)
            return self._raw.decode(errors="replace"), said

    @property
    def sha256(self) -> str:
        """Of the bytes of what has a fault, hexadecimal."""
        return self._hash.hexdigest()

    def document(self, at: int) -> Piece:
        """A document of a .txt, which ends at this byte."""
        text, fault = self.decoded()
        if fault is not None:
            return Piece(at, fault=fault, sha256=self.sha256)
        return Piece(at, text.replace("\r\n", "\n").strip("\n"))


def _txt_too_large(line: int) -> str:
    return (
        f"the document that begins in line {line:,} of {{}} is larger than {LARGEST // 2**20} MiB: expected smaller "
        f"documents; put a line holding only {SEPARATOR.decode()} between documents."
    )


def _line_too_large(line: int) -> str:
    return (
        f"the line {line:,} of {{}} is larger than {LARGEST // 2**20} MiB: expected smaller documents; cut its text "
        "into several lines."
    )


def _parts(stream: BinaryIO, shown: str) -> Iterator[_Part]:
    """The lines; one without end comes in parts, so that it never fills the memory. A byte order mark is dropped."""
    number, offset, begins = 0, 0, True
    try:
        while raw := stream.readline(LARGEST + 1):
            number += begins
            mark = len(codecs.BOM_UTF8) if not offset and raw.startswith(codecs.BOM_UTF8) else 0
            yield _Part(number, offset + mark, raw[mark:], begins)
            offset += len(raw)
            begins = raw.endswith(b"\n")
    except OSError as error:
        raise RequestError(
            f"cannot read {shown} after line {number:,}: {error.strerror or error}; expected {SUPPORTED}."
        ) from error


def _record(line: str) -> Piece | str:
    """Text and other fields of one line of a .jsonl, or why it is no document."""
    try:
        found = parsed(line.rstrip())
    except ValueError as error:
        return str(error)
    if not isinstance(found, dict):
        return f"is a JSON {type(found).__name__}, not an object"
    text = found.pop("text", None)
    if not isinstance(text, str):
        return f"has no string 'text' beside {listed(found)}"
    return Piece(0, text, found)
