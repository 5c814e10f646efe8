"""JSON files that say when a byte of them has changed, and files that may be hostile, read with care."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from midstream.errors import RequestError

LARGEST_JSON = 1 << 22
"""Bytes of the largest JSON file of a store that is opened."""

FOLDER = "is a folder where a file belongs (remove it)"
"""What is said of one; nothing removes it, for it may hold anything."""

_LONGEST = 400
"""Characters of a hostile text that an error shows."""
_MOST = 1 << 62
_SHA256 = re.compile(r"[0-9a-f]{64}")


class DamagedError(RequestError):
    """A file of a store is not what was written.

    Attributes:
        file: its name within the store.
        reason: what is wrong with it.
    """

    def __init__(self, store: Path, file: str, reason: str) -> None:
        super().__init__(f"{store / file} {reason}: give the same scan again, which redoes what is damaged.")
        self.file, self.reason = file, reason


def read_json(store: Path, name: str) -> dict[str, Any]:
    """The fields of a JSON file of a store, the checksum left out.

    Raises DamagedError unless its bytes are exactly those that ``seal`` gives for them.
    """
    with checked(store, name):
        data = b"".join(read_file(store / name, largest=LARGEST_JSON))
        try:
            found = json.loads(data)
            seen = found.pop("checksum") if isinstance(found, dict) else None
            if isinstance(seen, str) and seal(found) == data:
                return found
        except (ValueError, LookupError, RecursionError):
            pass
        raise ValueError("is damaged (its checksum does not fit)")


def read_file(path: Path, *, largest: int) -> Iterator[bytes]:
    """An ordinary file of at most ``largest`` bytes, no link, part by part.

    Raises ValueError with what is wrong with it.
    """
    try:  # a pipe or a device would be waited for, or never end
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ValueError("is missing") from error
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    try:
        seen = os.fstat(handle)
        if stat.S_ISDIR(seen.st_mode):
            raise ValueError(FOLDER)
        if not stat.S_ISREG(seen.st_mode):
            raise ValueError("is no ordinary file")
        if seen.st_size > largest:
            raise ValueError(f"has {seen.st_size:,} bytes, expected at most {largest:,}")
        while part := os.read(handle, 1 << 20):
            yield part
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    finally:
        os.close(handle)


def printable(text: str) -> str:
    """The first part of a text from a file, as it may stand in an error."""
    cut = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in cut)


def dump(value: Any) -> bytes:
    """The one way in which these files spell a JSON value."""
    plain = json.loads(json.dumps(value, allow_nan=False))  # joins the halves of a character, as reading it will
    text = json.dumps(plain, ensure_ascii=False, sort_keys=True, indent=1) + "\n"
    # a lone surrogate, as odd file names have, becomes the escape that JSON has for it
    return text.encode("utf-8", "backslashreplace")


def seal(fields: dict[str, Any]) -> bytes:
    """The content of a JSON file with these fields and the checksum over them."""
    return dump({**fields, "checksum": hashlib.sha256(dump(fields)).hexdigest()})


@contextmanager
def checked(store: Path, name: str) -> Generator[None]:
    """Turns a ValueError about what is in a file of a store into a DamagedError."""
    try:
        yield
    except ValueError as error:
        raise DamagedError(store, name, str(error)) from error


class Fields:
    """The fields of a JSON object; each is given once its type is checked, or a ValueError is raised.

    Args:
        declared: the dataclass whose fields it must have, no more and no less.
    """

    def __init__(self, found: Any, declared: Any = None) -> None:
        if not isinstance(found, dict):
            raise ValueError("holds no object where one belongs")
        if declared is not None and set(found) != set(declared.__dataclass_fields__):
            raise ValueError("has other fields than it should")
        self.found: dict[str, Any] = found

    def whole(self, name: str) -> int:
        """A count: a whole number from 0."""
        value = self.found[name]
        if type(value) is not int or not 0 <= value < _MOST:
            raise ValueError(f"has a field {name!r:.40} that is no count")
        return value

    def text(self, name: str) -> str:
        """A text."""
        if not isinstance(value := self.found[name], str):
            raise ValueError(f"has a field {name!r:.40} that is no text")
        return value

    def sha256(self, name: str) -> str:
        """A sha256 in hex."""
        if not _SHA256.fullmatch(value := self.text(name)):
            raise ValueError(f"has a field {name!r:.40} that is no hash")
        return value

    def object(self, name: str) -> dict[str, Any]:
        """An object."""
        if not isinstance(value := self.found[name], dict):
            raise ValueError(f"has a field {name!r:.40} that is no object")
        return value

    def texts(self, name: str) -> dict[str, str]:
        """An object whose values are texts."""
        value = self.object(name)
        if not all(isinstance(entry, str) for entry in value.values()):
            raise ValueError(f"has a field {name!r:.40} that holds no texts")
        return value

    def strings(self, name: str) -> list[str]:
        """A list of texts."""
        value = self.found[name]
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise ValueError(f"has a field {name!r:.40} that is no list of texts")
        return value

    def lists(self, name: str, length: int) -> list[list[str]]:
        """A list of lists of ``length`` texts each."""
        value = self.found[name]
        if not isinstance(value, list):
            raise ValueError(f"has a field {name!r:.40} that is no list")
        for entry in value:
            if len(Fields({"entry": entry}).strings("entry")) != length:
                raise ValueError(f"has a field {name!r:.40} of another length")
        return value
