"""What a scan refuses to write to: a folder that is no store, one that another scan is writing, one of other rows."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from midstream.errors import RequestError
from midstream.store.foreign import OWN
from midstream.store.layout import KINDS, LOCK, SCRATCH, SHARDS, Header
from midstream.store.sealed import DamagedError, printable


def check_folder(store: Path) -> None:
    """Makes the folder where there is none; its parent must be there.

    Raises RequestError where it holds something else than a store: a damaged header is written again only where
    everything beside it is a store's.
    """
    if store.is_symlink():  # what it leads to has been named where there is any
        raise RequestError(f"cannot scan into {str(store)!r}: it is a link to itself. Name a folder.")
    if store.exists() and not store.is_dir():
        raise RequestError(f"cannot scan into {str(store)!r}: it is a file. Name a folder.")
    if not store.parent.is_dir():
        raise RequestError(f"cannot scan into {str(store)!r}: there is no folder {str(store.parent)!r}. Make it first.")
    store.mkdir(exist_ok=True)
    names = sorted(path.name for path in store.iterdir() if not path.name.startswith(SCRATCH))
    others = [name for name in names if name not in OWN]
    if not others and (SHARDS in names or not set(names) - {LOCK, *KINDS}):
        return
    try:
        Header.read(store)
    except DamagedError as error:
        what = f"holds {others[0]!r}" if others else f"its {error.file} {error.reason}"
        raise RequestError(
            f"cannot scan into {str(store)!r}: it is no store to go on with, and {what}. Give a new folder."
        ) from error


def lock(store: Path, what: str = "scan", wait: Callable[[], None] | None = None) -> int:
    """A handle that holds a folder until it is closed or the process ends.

    Args:
        what: writes there, in a word.
        wait: called between tries where another holds the folder.

    Raises RequestError where another holds it and there is no ``wait``.
    """
    handle = os.open(store / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    try:
        while not _taken(handle):
            if wait is None:
                raise RequestError(
                    f"another {what} is writing to {str(store)!r}: wait until it has ended, or give another --out."
                )
            wait()
    except BaseException:
        os.close(handle)
        raise
    return handle


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def refuse_other(store: Path, found: Header, header: Header) -> None:
    """Raises RequestError, naming the first part that differs with both values, unless both have the same ``key``."""
    then, now = _parts(found), _parts(header)
    for name in dict.fromkeys([*now, *then]):
        (was, said), (is_now, has) = then.get(name, (None, "")), now.get(name, (None, ""))
        if was != is_now:
            made = f"with {printable(name)} {said}" if said else f"without {printable(name)}"
            raise RequestError(
                f"{store} was made {made} and this scan has {has or 'none'}: give another --out, or the same "
                f"{printable(name.split()[0])}."
            )


def _parts(header: Header) -> dict[str, tuple[Any, str]]:
    """Name -> value of each part of a key and how it is said, in the order in which they are compared."""
    key = header.key
    lenses = {f"lens {name}": digest for name, digest in key["lenses"].items()}
    where = [f"{name}={value}" for name, value in key["where"]]
    rest = {"blocks": key["layers"], **key["request"], **key["select"], **key["cut"], "where": where}
    return {
        "model": (key["identity"], f"{printable(header.model)} {key['identity'][:8]}"),
        **{name: (digest, printable(digest[:8]) or "(built in)") for name, digest in lenses.items()},
        **{name: (value, _said(value)) for name, value in rest.items()},
    }


def _said(value: Any) -> str:
    if isinstance(value, list):
        return printable(", ".join(map(str, value)))
    return "" if value is None else printable(str(value))
