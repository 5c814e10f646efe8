"""The user's cache folder: hashes of files already read, and folders that are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from midstream.errors import ModelError

_SEAL = "sealed.json"
_SMALL = 1 << 24
"""Files up to this size are hashed whole when an entry is opened, larger ones at their two ends."""


def cache_folder() -> Path:
    """Where midstream keeps what it can make again: ``$MIDSTREAM_CACHE``, or the platform's place for such files."""
    chosen = os.environ.get("MIDSTREAM_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("midstream"))


def file_sha256(path: Path) -> str:
    """sha256 of a file in hex; remembered by its path, size and time of change, since large files take seconds.

    Raises:
        ModelError: if the file cannot be read.
    """
    try:
        path = path.resolve()
        state = path.stat()
        known = {"path": str(path), "size": state.st_size, "mtime": state.st_mtime_ns}
        note = (
            cache_folder() / "hashes" / f"{hashlib.sha256(str(path).encode(errors='surrogateescape')).hexdigest()}.json"
        )
        remembered = _read_json(note)
        if {name: remembered.get(name) for name in known} == known and isinstance(remembered.get("sha256"), str):
            return remembered["sha256"]
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}.") from error
    with suppress(OSError):  # a cache that cannot be written only costs time
        _write_whole(note, json.dumps(known | {"sha256": digest}))
    return digest


def sealed_folder(name: str, fill: Callable[[Path], None]) -> Path:
    """The cached folder ``name``, made by ``fill`` if it is missing or damaged.

    ``fill`` writes into a new folder, which takes its name only when it is complete: an interrupted run leaves
    nothing behind, and of two processes that make the same folder at once one wins and both get it.

    Raises:
        ModelError: if the cache folder cannot be written. Whatever ``fill`` raises.
    """
    place = cache_folder() / name
    if _sealed(place):
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _sweep(place.parent)
        work = Path(tempfile.mkdtemp(prefix=".new-", dir=place.parent))
    except OSError as error:
        raise _unwritable(place, error) from error
    try:
        fill(work)
        (work / _SEAL).write_text(json.dumps(_seal(work)), encoding="utf-8")
        return _take_name(work, place)
    except OSError as error:
        raise _unwritable(place, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _take_name(work: Path, place: Path) -> Path:
    if place.exists() and not _sealed(place):
        damaged = Path(tempfile.mkdtemp(prefix=".old-", dir=place.parent))
        place.rename(damaged / "entry")
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        work.rename(place)
    except OSError:
        if not _sealed(place):  # otherwise another process was first, with the same content
            raise
    return place


def _seal(folder: Path) -> dict[str, list[Any]]:
    return {path.name: [path.stat().st_size, _ends(path)] for path in sorted(folder.iterdir()) if path.name != _SEAL}


def _sealed(folder: Path) -> bool:
    try:
        seal = _read_json(folder / _SEAL)
        return bool(seal) and seal == _seal(folder)
    except OSError:
        return False


def _ends(path: Path) -> str:
    """sha256 of a small file, or of the first and last MiB of a large one."""
    with path.open("rb") as file:
        if path.stat().st_size <= _SMALL:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(file.read(1 << 20))
        file.seek(-(1 << 20), os.SEEK_END)
        digest.update(file.read())
        return digest.hexdigest()


def _sweep(folder: Path) -> None:
    """Removes what a process killed more than a day ago left half written."""
    for left in [*folder.glob(".new-*"), *folder.glob(".old-*")]:
        with suppress(FileNotFoundError):  # another process has given it its name just now
            if time.time() - left.stat().st_mtime > 86400:
                shutil.rmtree(left, ignore_errors=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _unwritable(place: Path, error: OSError) -> ModelError:
    return ModelError(
        f"cannot write the dequantised weights to {place.parent}: {error.strerror or error}. "
        "Free some space there, or set MIDSTREAM_CACHE to a folder that can be written."
    )
