"""Stores made by hand, with files and headers as a scan writes them, for tests that need no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from midstream.record import DOCUMENTS, POSITIONS, Column
from midstream.store.layout import (
    HEADER,
    STATISTICS,
    VOCABULARY,
    File,
    Header,
    ShardEntry,
    documents_digest,
    entry_name,
    file_name,
    to_json,
)
from midstream.store.store import Store, open_store

VOCABULARY_SIZE = 40
TOKENS = (Column("token_id", "int32", False, "", ""), Column("token", "str", False, "", ""))
TYPES = {"int16": pa.int16(), "int32": pa.int32(), "float32": pa.float32(), "str": pa.string()}


@dataclass
class Text:
    """A document: its tokens, which of them are special, why it could not be read, and its fields."""

    ids: Sequence[int]
    metadata: dict = field(default_factory=dict)
    special: Sequence[int] = (0,)
    fault: str | None = None
    text: str = ""


def drawn(seed: int, lens: str, layer: int, text: Text) -> dict[str, np.ndarray]:
    """Random statistics of the positions of a text; what is about the target is undefined at the last."""
    name = int.from_bytes(hashlib.sha256(repr((seed, lens, layer, list(text.ids))).encode()).digest()[:8], "big")
    draw, n = np.random.default_rng(name), len(text.ids)
    made = {
        name: draw.integers(1, 4, n) if "rank" in name else draw.gamma(2, 1, n).astype(np.float32)
        for name in STATISTICS
        if not name.startswith("top_")
    }
    about = [name for name in made if not name.startswith("input") and name not in ("lse", "entropy", "kl_input_lens")]
    return {name: np.ma.array(v, mask=(np.arange(n) == n - 1) & (name in about)) for name, v in made.items()}


def store(
    folder: Path,
    texts: Sequence[Text],
    *,
    values: Callable[[str, int, Text], dict[str, np.ndarray]] = lambda *where: drawn(0, *where),
    lenses: Sequence[str] = ("logit",),
    layers: Sequence[int] = (0, 1, 2),
    share: float = 1.0,
    kept: Callable[[int, int], bool] = lambda number, position: True,
    per_shard: int = 3,
    statistics: Sequence[str] = STATISTICS,
    **more,
) -> tuple[Store, list[dict]]:
    """A store of these texts and its rows. ``kept`` says which positions of which document are read."""
    header = {
        "model": "toy",
        "identity": "1" * 64,
        "layers": max(layers),
        "lenses": dict.fromkeys(lenses, ""),
        "request": {"layers": list(layers), "sites": ["resid_post"], "top_k": 1, "watch": [], "precision": "exact"},
        "select": {"statistics": list(statistics), "share": share, "seed": None},
        "cut": {"characters": 100},
    }
    folder.mkdir()
    words = [f"t{i}" for i in range(VOCABULARY_SIZE)]
    vocabulary = _write(folder / VOCABULARY, TOKENS, {"token_id": range(VOCABULARY_SIZE), "token": words})
    made = Header(**(header | more), vocabulary=vocabulary)
    (folder / HEADER).write_bytes(to_json(made))
    rows: list[dict] = []
    for shard, first in enumerate(range(0, len(texts), per_shard)):
        part = list(enumerate(texts))[first : first + per_shard]
        new = [row for number, text in part for row in _rows(number, text, lenses, layers, values, kept)]
        rows += new
        _shard(folder, made, shard, part, new)
    return open_store(folder), rows


def _rows(number, text, lenses, layers, values, kept):
    if text.fault:
        return
    for lens in lenses:
        for layer in layers:
            found = values(lens, layer, text)
            for position, token in enumerate(text.ids):
                if not kept(number, position):
                    continue
                target = int(text.ids[position + 1]) if position + 1 < len(text.ids) else None
                yield {
                    "doc_id": number,
                    "position": position,
                    "context": position,
                    "token_id": int(token),
                    "layer": layer,
                    "site": "resid_post",
                    "lens": lens,
                    "offset": 1,
                    "target_id": target,
                    "top_ids": [1],
                    "top_logprobs": [-1.0],
                } | {
                    name: None if np.ma.getmaskarray(v)[position] else v.data[position].item()
                    for name, v in ((name, np.ma.asarray(v)) for name, v in found.items())
                }


def _shard(folder, header, shard, part, rows):
    files = {}
    positions = [
        (number, position, int(token), "special" if position in text.special else "text")
        for number, text in part
        for position, token in enumerate(text.ids)
        if not text.fault
    ]
    documents = [(n, "c.jsonl", f"c:{n}", digest(t), len(t.ids), t.fault, json.dumps(t.metadata)) for n, t in part]
    tables = {
        "readings": (header.columns, {c.name: [row[c.name] for row in rows] for c in header.columns}),
        "positions": (POSITIONS, dict(zip((c.name for c in POSITIONS), zip(*positions, strict=True), strict=False))),
        "documents": (DOCUMENTS, dict(zip((c.name for c in DOCUMENTS), zip(*documents, strict=True), strict=False))),
    }
    for kind, (declared, columns) in tables.items():
        files[kind] = _write(folder / file_name(kind, shard), declared, columns)
    entry = ShardEntry(
        shard=shard,
        documents=(part[0][0], part[-1][0]),
        digest=documents_digest((n, digest(t)) for n, t in part),
        tokens=len(positions),
        rows=len(rows),
        faults=sum(t.fault is not None for _, t in part),
        header=header.digest,
        files=files,
        circumstances={},
    )
    (folder / entry_name(shard)).parent.mkdir(exist_ok=True)
    (folder / entry_name(shard)).write_bytes(to_json(entry))


def digest(text: Text) -> str:
    """sha256 of a document's text, which is its tokens where it has none of its own."""
    return hashlib.sha256((text.text or repr(list(text.ids))).encode()).hexdigest()


def _write(path, declared, columns):
    path.parent.mkdir(exist_ok=True)
    kinds = {c.name: pa.list_(TYPES[c.dtype[:-2]]) if c.dtype.endswith("[]") else TYPES[c.dtype] for c in declared}
    table = pa.table({name: pa.array(list(columns.get(name, [])), kind) for name, kind in kinds.items()})
    pq.write_table(table, path, compression="zstd")
    return File.of(path.read_bytes(), table.num_rows)
