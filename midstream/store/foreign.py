"""What lies in a store's folder and is not the store's: in the way of a scan, of another scan, or of no matter."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from midstream.errors import RequestError
from midstream.store.layout import (
    FINISHED,
    HEADER,
    KINDS,
    LOCK,
    SCRATCH,
    SHARDS,
    VOCABULARY,
    Finished,
    Header,
    ShardEntry,
    entry_name,
    shards,
)
from midstream.store.sealed import FOLDER, DamagedError, printable

OWN = (HEADER, VOCABULARY, FINISHED, LOCK, SHARDS, *KINDS)
"""Names in the folder of a store."""
OTHER_HEADER = "is of another scan than all the shards beside it (remove it)"
MOST_STRANGERS = 100
"""Files that are not of a store which are named."""


def misplaced(store: Path, kinds: Iterable[str]) -> dict[str, str]:
    """Names of links and files where a store has its folders, and of what is no file where it has its lock.

    Each with what is wrong, to be read after the name. ``kinds``: those of the store.
    """
    found: dict[str, str] = {}
    for name in (*kinds, SHARDS):
        path = store / name
        if path.is_symlink():
            found[name] = "is a link where a folder belongs (put the folder itself there)"
        elif os.path.lexists(path) and not path.is_dir():
            found[name] = "is a file where a folder belongs (remove it)"
    if (store / LOCK).is_symlink():
        found[LOCK] = "is a link where a file belongs (remove it)"
    elif (store / LOCK).is_dir():
        found[LOCK] = FOLDER
    return found


def refuse_misplaced(store: Path, kinds: Iterable[str]) -> None:
    """Raises RequestError where something is in the way of the store's folders or its lock."""
    for name, reason in misplaced(store, kinds).items():
        raise RequestError(f"cannot scan into {str(store)!r}: its {name!r} {reason}. Then give the same scan again.")


def refuse_folders(store: Path, names: Iterable[str]) -> None:
    """Raises RequestError where a folder has the name of one of these files: it may hold anything, and stays."""
    for name in names:
        path = store / name
        if path.is_dir() and not path.is_symlink():
            raise RequestError(
                f"cannot scan into {str(store)!r}: its {name!r} {FOLDER}. Then give the same scan again."
            )


def other_header(store: Path, header: Header) -> bool:
    """Whether the header is of one scan, and all that can be read beside it of one other."""
    seen: set[str] = set()
    for shard in shards(store):
        try:
            seen.add(ShardEntry.read(store, shard).header)
        except DamagedError:
            continue
        if header.digest in seen:
            return False
    try:
        if (last := Finished.read(store)) is not None and seen:
            seen.add(last.header)
    except DamagedError:
        pass
    return len(seen) == 1 and header.digest not in seen


def strangers(store: Path, numbers: Collection[int], finished: Finished | None) -> tuple[str, ...]:
    """Names of the first files that are not of this store, ascending, as they may be printed.

    Args:
        numbers: of the shards that have an entry.
        finished: where the scan has not ended, a shard without an entry may be being written.
    """
    found = [name for name in _names(store) if name not in OWN and not name.startswith(SCRATCH)]
    for folder in (*KINDS, SHARDS):
        if not (store / folder).is_dir() or (store / folder).is_symlink():
            continue
        for name in _names(store / folder):
            number = _number(name, ".json" if folder == SHARDS else ".parquet")
            begun = number is not None and folder != SHARDS and (finished is None or number < finished.shards)
            if number not in numbers and not begun:
                found.append(f"{folder}/{name}")
    return tuple(printable(name) for name in sorted(found)[:MOST_STRANGERS])


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _number(name: str, ending: str) -> int | None:
    """Of the shard whose file has this name; None for another name."""
    stem = name.removesuffix(ending)
    known = name.endswith(ending) and stem.isascii() and stem.isdigit() and len(stem) <= 9
    return int(stem) if known and entry_name(int(stem)) == f"{SHARDS}/{stem}.json" else None
