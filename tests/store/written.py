"""A small store as a scan writes it, with random rows and no model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from midstream.record import READING, WATCHED, Provenance, ReadingTable
from midstream.store.layout import STATISTICS, Header, documents_digest
from midstream.store.shard import Made, ShardWriter
from midstream.store.store import Facts, StoreWriter, create_or_resume

LAYERS, SHARDS, DOCUMENTS = 2, 3, 4
TOKENS = [" Paris", "\n", "<script>'\"", "\\xF0\\x9F", "ab\0", "\u202e", ""]


def header(**more: Any) -> Header:
    request = {"layers": [0, 1, 2], "sites": ["resid_post"], "top_k": 3, "watch": [5], "precision": "exact"}
    select = {"statistics": list(STATISTICS), "share": 1.0, "seed": None}
    made = {"model": "tiny", "identity": "a" * 64, "layers": LAYERS, "lenses": {"logit": "", "tuned": "b" * 64}}
    return Header(**(made | {"request": request, "select": select, "cut": {"characters": 100}} | more))


def vocabulary() -> Iterator[tuple[int, str]]:
    return iter(enumerate(TOKENS))


def documents(shard: int, *, edition: str = "") -> list[tuple[int, str, str]]:
    """Numbers, ids and hashes of a shard's documents."""
    numbers = range(shard * DOCUMENTS, (shard + 1) * DOCUMENTS)
    return [(n, f"text:{n}", hashlib.sha256(f"{n}{edition}".encode()).hexdigest()) for n in numbers]


def digest(shard: int) -> str:
    return documents_digest((number, sha256) for number, _, sha256 in documents(shard))


def tokens(number: int) -> list[int]:
    return [(number * 7 + i) % len(TOKENS) for i in range(2 + number % 5)]


def readings(numbers: list[int], *, seed: int = 0, k: int = 3, watch: int = 1) -> ReadingTable:
    """Readings of these documents, which the table calls 0, 1 ...; the rows of each depend on its number alone."""
    parts, watched = [], []
    for index, number in enumerate(numbers):
        draw, n = np.random.default_rng([seed, number]), len(tokens(number))
        grid = np.meshgrid([0, 1], range(LAYERS + 1), np.arange(n), indexing="ij")
        lens, layer, position = (axis.ravel() for axis in grid)
        rows = len(layer)
        fixed = {
            "doc_id": np.full(rows, index),
            "position": position,
            "token_id": np.array(tokens(number))[position],
            "layer": layer,
            "site": np.full(rows, "resid_post", dtype=object),
            "lens": np.array(["logit", "tuned"], dtype=object)[lens],
        }
        part = {}
        for column in READING:
            shape = (rows, k) if column.dtype.endswith("[]") else (rows,)
            kind = column.dtype.removesuffix("[]")
            if kind == "float32":
                found = np.where(draw.random(shape) < 0.1, np.nan, draw.normal(size=shape))
            else:
                found = draw.integers(-1 if column.nullable else 0, 7, shape)
            part[column.name] = fixed.get(column.name, found).astype("object" if kind == "str" else kind)
        parts.append(part)
        more = {"watch_id": np.full(rows, 5, np.int32), "logprob": part["logprob"], "rank": part["rank"]}
        watched.append({name: np.repeat((part | more)[name], watch) for name in (c.name for c in WATCHED)})
    columns, seen = ({name: np.concatenate([p[name] for p in some]) for name in some[0]} for some in (parts, watched))
    return ReadingTable(columns, {}, seen, {}, Provenance(), LAYERS)


def fill(writer: ShardWriter, shard: int, order: list[int] | None = None, *, together: bool = False) -> None:
    """All rows of a shard, its documents in any order, one table each or all in one."""
    listed = documents(shard)
    listed = listed if order is None else [listed[place] for place in order]
    numbers = [number for number, _, _ in listed]
    for some in [numbers] if together else [[number] for number in numbers]:
        writer.add(readings(some), np.array(some))
    for number, name, sha256 in listed:
        row = {"doc_id": number, "source": "a.txt", "id": name, "sha256": sha256, "fault": None}
        ids = tokens(number)
        writer.document(row | {"metadata": {"work": f"w{number}"}}, ids, ["special"] + ["text"] * (len(ids) - 1))


_MADE: dict[tuple[int, str], dict[str, Made]] = {}


def shard_files(shard: int, made: Header | None = None) -> dict[str, Made]:
    """The files of a shard, each made once."""
    made = made or header()
    if (shard, made.digest) not in _MADE:
        with TemporaryDirectory() as folder, ShardWriter(Path(folder), made) as writer:
            fill(writer, shard)
            _MADE[shard, made.digest] = writer.finish()
    return dict(_MADE[shard, made.digest])


def facts(shard: int) -> Facts:
    listed = documents(shard)
    total = sum(len(tokens(number)) for number, _, _ in listed)
    return Facts((listed[0][0], listed[-1][0]), digest(shard), total, 0, {"engine": "plain"})


@contextmanager
def opened(path: Path, made: Header | None = None) -> Iterator[StoreWriter]:
    with create_or_resume(path, made or header(), vocabulary) as writer:
        yield writer


def scan(path: Path, made: Header | None = None, *, shards: int = SHARDS) -> list[int]:
    """Write what is missing of a store; returns the numbers of the shards that were written."""
    redone = []
    with opened(path, made) as store:
        for shard in range(shards):
            if not store.done(shard, digest(shard)):
                store.keep(shard, shard_files(shard, made), facts(shard))
                redone.append(shard)
        store.finish({"empty": 1})
    return redone


def content(path: Path) -> dict[str, bytes]:
    """Every file of a store but the lock."""
    found = {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file() and not p.is_symlink()}
    return {name: data for name, data in found.items() if name != ".lock"}
