"""What the readers of a corpus share: a file, what is found in it, and how much of it is too much."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from midstream.errors import RequestError

ENDINGS = (".txt", ".jsonl", ".parquet")
"""Of the files that can be read."""

SUPPORTED = (
    "a .txt, a .jsonl, a .parquet, a folder of these, hf:OWNER/NAME for a data set of the hub, or - for standard input"
)

LARGEST = 64 * 2**20
"""Bytes of the largest document of a .txt, line of a .jsonl, or row of a .parquet: more is a mistake, or meant to fill
the memory."""

Refuse = Callable[[str], str]
"""Told why a document cannot be read, ``{}`` in place of its file: raises RequestError, or gives the sentence back."""


@dataclass(frozen=True)
class File:
    """A file of a corpus.

    Attributes:
        path: on this machine, or in its repository; ``-`` is standard input.
        source: its name in records: without its folder; in a folder or data set that was named, from there on.
        shown: its name in errors.
        size: in bytes; None where that is unknown.
        fetch: gives the local copy of one that is on the hub.
    """

    path: Path
    source: str
    shown: str
    size: int | None = None
    fetch: Callable[[], Path] | None = None

    @property
    def ending(self) -> str:
        """Which reader it gets: one of ``ENDINGS``."""
        return ".txt" if self.is_stdin else self.path.suffix.lower()

    @property
    def is_stdin(self) -> bool:
        """Whether it is standard input."""
        return self.fetch is None and str(self.path) == "-"

    def local(self) -> Path:
        """Where it lies on this machine, fetched if need be. Raises RequestError where it cannot be had."""
        return self.path if self.fetch is None else self.fetch()


@dataclass(frozen=True)
class Piece:
    """What a reader found at one place of a file: a document, or why there is none.

    Attributes:
        at: bytes of the file up to its end.
        text: of the document.
        metadata: its other fields.
        broken: where and why this is no document.
        fault: why its text cannot be read; ``text`` is empty then.
        sha256: hexadecimal, of the bytes that cannot be read.
    """

    at: int
    text: str = ""
    metadata: Mapping[str, Any] | None = None
    broken: str | None = None
    fault: str | None = None
    sha256: str | None = None


def opened(path: Path) -> BinaryIO:
    """The file, open. Raises RequestError where it cannot be read."""
    try:
        return path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
        why = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"cannot read {str(path)!r}: {why}; expected {SUPPORTED}.") from error


def parsed(text: str) -> object:
    """The value of a JSON text, NaN and the infinite as null. Raises ValueError that says, after "line 3", why none."""
    try:
        # NaN is not JSON, and what 1e999 is read as neither; undefined is null
        found = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair, which is no text") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg.removesuffix(' at')} at column {error.colno:,})") from error
    except ValueError as error:
        raise ValueError(f"holds a number that is too long ({error})") from error
    return found


def _finite(text: str) -> float | None:
    return value if math.isfinite(value := float(text)) else None


def listed(names: Iterable[str]) -> str:
    """The first names of what may be very many and very long, escaped."""
    return ", ".join(repr(name[:40]) for name in islice(names, 20)) or "nothing"
