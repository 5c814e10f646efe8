"""Which files a corpus is made of: those named, those in a folder, those of a data set of the hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from midstream.corpus import hub, parquet
from midstream.corpus.file import ENDINGS, SUPPORTED, File, opened
from midstream.errors import RequestError

SHOWN = 3
"""Names of several sources that are shown."""


def find(names: Sequence[str]) -> list[File]:
    """The files of each source, in order.

    Args:
        names: paths, ``-``, or names of the hub.

    Raises RequestError where a source is missing, unreadable, of an unknown kind or a folder without any file of a
    known one, and where standard input is named twice.
    """
    if not names or "" in names:  # an empty path would be the folder that the process is in
        raise RequestError(f"no corpus was named: expected {SUPPORTED}.")
    found = [file for name in names for file in _files(name)]
    if sum(file.is_stdin for file in found) > 1:
        raise RequestError("standard input was named twice as a corpus: it can be read once.")
    return found


def title(names: Sequence[str]) -> str:
    """What a corpus of these sources is called: their names without folders, the first three of many."""
    told = [_title(name) for name in names[:SHOWN]]
    more = [f"{len(names) - SHOWN:,} more"] if len(names) > SHOWN else []
    return ", ".join(told + more)


def _title(name: str) -> str:
    if name == "-":
        return "standard input"
    return name if name.startswith(hub.PREFIX) else _readable(Path(name).name or Path(name).absolute().name)


def _files(name: str) -> list[File]:
    if name.startswith(hub.PREFIX):
        return hub.files(name)
    if name == "-":
        return [File(Path(name), _title(name), _title(name))]
    path = Path(name)
    if os.path.isdir(path):  # noqa: PTH112  Path.is_dir raises for a name that is too long
        return _in_folder(path)
    if path.suffix.lower() not in ENDINGS:
        raise RequestError(f"{str(path)!r} is of no kind that can be read: expected {SUPPORTED}.")
    file = _file(path, _readable(path.name))
    if file.ending == ".parquet":
        parquet.check(path, file.shown)
    return [file]


def _in_folder(folder: Path) -> list[File]:
    """The files below a folder, by name; each folder once, so that a link back up does no harm, and no store."""
    found: list[Path] = []
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        if (real := os.path.realpath(place)) in seen or _is_store(place):
            continue
        seen.add(real)
        try:
            inside = sorted(entry for entry in place.iterdir() if not entry.name.startswith("."))
        except OSError as error:
            raise RequestError(f"cannot look into the folder {str(place)!r}: {error.strerror}.") from error
        waiting += [entry for entry in reversed(inside) if os.path.isdir(entry)]  # noqa: PTH112  as above
        found += [entry for entry in inside if entry.suffix.lower() in ENDINGS and os.path.isfile(entry)]  # noqa: PTH113
    if not found:
        raise RequestError(f"{str(folder)!r} is a folder that holds no {', '.join(ENDINGS)} file: expected some.")
    found.sort(key=lambda path: path.relative_to(folder).parts)
    return [_file(path, _readable(path.relative_to(folder).as_posix())) for path in found]


def _is_store(folder: Path) -> bool:
    """Whether a scan writes there: its own files would be another corpus when it is given again."""
    return os.path.isfile(folder / "store.json") and os.path.isdir(folder / "shards")  # noqa: PTH112, PTH113  as above


def _file(path: Path, source: str) -> File:
    """A file on this machine. Raises RequestError where it cannot be read, before a model is loaded for it."""
    size = None
    if os.path.isfile(path) or not os.path.exists(path):  # noqa: PTH110, PTH113  opening a pipe here would empty it
        with opened(path) as stream:
            size = os.fstat(stream.fileno()).st_size
    elif path.suffix.lower() == ".parquet":
        raise RequestError(f"{str(path)!r} is no ordinary file: expected {SUPPORTED}.")
    return File(path, source, repr(str(path)), size)


def _readable(name: str) -> str:
    """A name as text, also where its bytes are not UTF-8."""
    return name.encode(errors="backslashreplace").decode()
