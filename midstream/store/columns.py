"""Tables that declare nothing beforehand, such as what a study measures: a Parquet file each, a checksum beside."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from glob import escape
from pathlib import Path

import numpy as np

from midstream.record import Array, Column
from midstream.store.rows import copy, explained, in_memory, insert, open_rows
from midstream.store.write import beside, check_target, publish

_DTYPES = {"i": "int32", "f": "float64", "U": "str"}


def write_columns(path: str | Path, columns: Mapping[str, Array]) -> Path:
    """Writes columns of one length: whole numbers of 32 bits or fewer, floats, texts; NaN becomes null.

    The file's sha256 lies beside it, in ``NAME.sha256``; both are there or the table counts as missing.

    Raises:
        RequestError: nothing can be written there, or the disk is full.
        ValueError: a column of another type, or with larger numbers.
    """
    declared = [Column(name, _dtype(name, values), False, "", "") for name, values in columns.items()]
    target = check_target(path)
    with beside(target) as folder, explained(target):
        database = open_rows(folder, {"rows": declared})
        given = {
            name: values.astype(object) if values.dtype.kind == "U" else values for name, values in columns.items()
        }
        try:
            insert(database, "rows", declared, given)
            made = copy(database, "rows", declared, folder / "s", {})
        finally:
            database.close()
        (folder / "sha256").write_text(hashlib.sha256(made.read_bytes()).hexdigest() + "\n")
        publish({made: target, folder / "sha256": _checksum(target)})
    return target


def read_columns(path: str | Path) -> dict[str, Array] | None:
    """The columns of such a file, null as NaN; None where there is none, or not what was written."""
    path = Path(path)
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != _checksum(path).read_text().strip():
            return None
    except (OSError, UnicodeDecodeError):
        return None
    with in_memory() as database:
        found = database.execute("SELECT * FROM read_parquet($path)", {"path": escape(str(path))}).fetchnumpy()
    columns: dict[str, Array] = {}
    for name, values in found.items():
        whole = np.ma.filled(values, np.nan) if values.dtype.kind == "f" else np.ma.getdata(values)
        columns[name] = whole.astype(str) if whole.dtype.kind == "O" else whole
    return columns


def _checksum(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _dtype(name: str, values: Array) -> str:
    kind = values.dtype.kind
    if kind not in _DTYPES or (kind in "if" and values.dtype.itemsize > 8):
        raise ValueError(f"column {name} holds {values.dtype}: expected whole numbers, floats or texts.")
    if kind == "i" and len(values) and max(-int(values.min()), int(values.max())) >= 2**31:
        raise ValueError(f"column {name} holds numbers beyond 32 bits.")
    exact = values.dtype.name
    return exact if exact in ("int16", "int32", "float32", "float64") else _DTYPES[kind]
