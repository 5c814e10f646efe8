"""How long a summary by layer of a large store takes, and whether its intervals are those of a plain bootstrap.

    python bench/store.py [--rows 20000000] [--into FOLDER] [--repeat 3]

The store is synthetic: 2 lenses of 31 layers over texts of 1,000 documents of 200 works, with every column that a scan
at top-5 keeps, in shards of at most 250,000 rows. A value is its layer's mean, plus a work's and a document's own
shift, plus noise. The time is that of ``summary`` with nothing in memory but what the system keeps of the files. Every
interval is compared with the percentile bootstrap over works, written out here from sums that DuckDB is not asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np

from midstream.store.layout import (
    HEADER,
    KINDS,
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
from midstream.store.summary import summary

LENSES, LAYERS, DOCUMENTS, WORKS = ("logit", "tuned"), 31, 1000, 200
GROUPS = len(LENSES) * LAYERS
SHARD = 250_000
VOCABULARY_SIZE = 49_152
DRAWS = 4000
OPTIONS = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 3, PARQUET_VERSION v2, ROW_GROUP_SIZE 16384"

TABLES = """
SELECT setseed(0.5);
CREATE TABLE works AS SELECT w, random() - 0.5 AS shift FROM range({works}) t(w);
CREATE TABLE docs AS
SELECT d::INT AS doc_id, 'corpus.jsonl' AS source, 'd' || d AS id, sha256(d::VARCHAR) AS sha256,
    ({positions} // {documents} + (d < {positions} % {documents})::INT)::INT AS tokens, NULL::VARCHAR AS fault,
    json_object('work', 'w' || (d % {works}))::VARCHAR AS metadata, random() - 0.5 AS shift
FROM range({documents}) t(d);
"""
POSITIONS = """
CREATE OR REPLACE TABLE pos AS
SELECT doc_id, p::INT AS position, (pow(random(), 3) * 49151)::INT AS token_id,
    CASE p WHEN 0 THEN 'special' ELSE 'text' END AS kind
FROM docs, range(0, 100000) t(p) WHERE p < tokens AND doc_id BETWEEN {first} AND {last} ORDER BY doc_id, p
"""
READINGS = """
SELECT p.doc_id, p.position, p.position AS context, p.token_id, layer::SMALLINT AS layer, 'resid_post' AS site, lens,
    1::SMALLINT AS "offset", q.token_id AS target_id,
    CASE WHEN q.token_id >= 0 THEN (layer / 10 - 9 + 0.4 * w.shift + d.shift - random())::FLOAT END AS logprob,
    CASE WHEN q.token_id >= 0 THEN (1 + floor(pow(random(), 4) * 1000))::INT END AS rank,
    (10 + random())::FLOAT AS lse, (3 + 0.4 * w.shift + random())::FLOAT AS entropy,
    (2 + 0.4 * w.shift - ln(random() + 1e-9))::FLOAT AS kl_final_lens, (2 + random())::FLOAT AS kl_lens_final,
    (1 + floor(pow(random(), 4) * 1000))::INT AS final_top1_rank, (-3 * random())::FLOAT AS final_top1_logprob,
    (1 + floor(random() * 1000))::INT AS input_rank, (-9 * random())::FLOAT AS input_logprob,
    random()::FLOAT AS kl_input_lens,
    list_transform(range(5), lambda i: (random() * 49151)::INT) AS top_ids,
    list_transform(range(5), lambda i: (-i - random())::FLOAT) AS top_logprobs
FROM pos p LEFT JOIN pos q ON p.doc_id = q.doc_id AND q.position = p.position + 1 JOIN docs d ON d.doc_id = p.doc_id
    JOIN works w ON w.w = p.doc_id % {works}, range({layers}) l(layer), (VALUES ('logit'), ('tuned')) x(lens)
ORDER BY p.doc_id, lens, layer, p.position
"""


def build(folder: Path, rows: int) -> Store:
    """A store of about so many rows, written as a scan writes it; the same bytes every time."""
    positions = rows // GROUPS
    numbers = {"works": WORKS, "documents": DOCUMENTS, "positions": positions, "layers": LAYERS}
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("SET enable_progress_bar = false")
    connection.execute(TABLES.format(**numbers))

    def copy(query: str, name: str) -> File:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        ((count,),) = connection.execute(f"COPY ({query}) TO '{path}' ({OPTIONS})").fetchall()
        return File.of(path.read_bytes(), count)

    words = f"SELECT i::INT AS token_id, 't' || i AS token FROM range({VOCABULARY_SIZE}) t(i)"
    header = Header(
        model="synthetic",
        identity="0" * 64,
        layers=LAYERS - 1,
        lenses=dict.fromkeys(LENSES, ""),
        request={"layers": list(range(LAYERS)), "sites": ["resid_post"], "top_k": 5, "watch": [], "precision": "exact"},
        select={"statistics": list(STATISTICS), "share": 1, "seed": None},
        cut={},
        vocabulary=copy(words, VOCABULARY),
    )
    (folder / HEADER).write_bytes(to_json(header))
    step = max(1, SHARD * DOCUMENTS // (positions * GROUPS))
    for shard, first in enumerate(range(0, DOCUMENTS, step)):
        last = min(first + step, DOCUMENTS) - 1
        connection.execute(POSITIONS.format(first=first, last=last))
        own = f"FROM docs WHERE doc_id BETWEEN {first} AND {last}"
        queries = {
            "readings": READINGS.format(**numbers),
            "positions": "FROM pos",
            "documents": f"SELECT * EXCLUDE shift {own} ORDER BY doc_id",
        }
        files = {kind: copy(query, file_name(kind, shard)) for kind, query in queries.items() if kind in KINDS}
        listed = connection.execute(f"SELECT doc_id, sha256 {own} ORDER BY doc_id").fetchall()
        entry = ShardEntry(
            shard=shard,
            documents=(first, last),
            digest=documents_digest(listed),
            tokens=files["positions"].rows,
            rows=files["readings"].rows,
            faults=0,
            header=header.digest,
            files=files,
            circumstances={},
        )
        (folder / entry_name(shard)).parent.mkdir(exist_ok=True)
        (folder / entry_name(shard)).write_bytes(to_json(entry))
    connection.close()
    return open_store(folder)


def plain(store: Store, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Sums of a measure and positions, ``[lenses, layers, works]``, row by row in numpy."""
    column = {"accuracy": "rank", "agreement": "final_top1_rank"}.get(measure, measure)
    sums, counts = np.zeros((2, GROUPS * WORKS))
    connection = duckdb.connect(config={"threads": 1})
    for path in store.files("readings"):
        query = f"SELECT doc_id, lens = 'tuned' AS lens, layer, context, {column} AS value FROM '{path}'"
        found = connection.execute(query).fetchnumpy()
        value = np.ma.masked_invalid(found["value"])
        kept = (found["context"] >= 4) & ~np.ma.getmaskarray(value)
        which = ((found["lens"] * LAYERS + found["layer"]) * WORKS + found["doc_id"] % WORKS)[kept].astype(np.int64)
        value = np.asarray(value[kept] if column == measure else value[kept] == 1, dtype=np.float64)
        sums += np.bincount(which, value, GROUPS * WORKS)
        counts += np.bincount(which, minlength=GROUPS * WORKS)
    connection.close()
    return sums.reshape(len(LENSES), LAYERS, WORKS), counts.reshape(len(LENSES), LAYERS, WORKS)


def percentile(sums: np.ndarray, counts: np.ndarray, draw: np.random.Generator) -> tuple[float, float, float]:
    """Value and the middle 95 % of it over works drawn with replacement."""
    drawn = draw.integers(0, len(sums), (DRAWS, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    return float(sums.sum() / counts.sum()), float(low), float(high)


def compare(store: Store, columns: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest difference of a value, and the ratios of the widths of the intervals to the bootstrap's."""
    draw = np.random.default_rng(0)
    widths, off = [], []
    for measure in dict.fromkeys(columns["measure"].tolist()):
        sums, counts = plain(store, measure)
        for place in np.flatnonzero(columns["measure"] == measure).tolist():
            at = LENSES.index(columns["lens"][place]), int(columns["layer"][place])
            value, low, high = percentile(sums[at], counts[at], draw)
            off.append(abs(columns["value"][place] - value))
            widths.append((columns["high"][place] - columns["low"][place]) / (high - low))
    ratios = np.array(widths)
    return {
        "largest difference of a value": float(max(off)),
        "width to bootstrap's, median": float(np.median(ratios)),
        "least": float(ratios.min()),
        "greatest": float(ratios.max()),
        "intervals": len(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument(
        "--into", type=Path, help="a folder to build the store in, or that has it; else a temporary one"
    )
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.into or Path(scratch) / "store"
        folder.mkdir(parents=True, exist_ok=True)
        begun = time.perf_counter()
        store = open_store(folder) if (folder / HEADER).exists() else build(folder, options.rows)
        built = time.perf_counter() - begun
        seconds, busy = [], []
        for _ in range(options.repeat):
            begun, before = time.perf_counter(), time.process_time()
            table = summary(open_store(folder))
            seconds.append(round(time.perf_counter() - begun, 2))
            busy.append(round(time.process_time() - before, 2))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        size = sum(path.stat().st_size for path in store.files("readings"))
        rows = sum(entry.rows for entry in store.entries)
        found = {
            "rows": rows,
            "shards": len(store.entries),
            "bytes a row": round(size / rows, 1),
            "built in s": round(built, 1),
            "summary in s": seconds,
            "processor time of it in s": busy,
            "estimates": len(table),
            "cores": os.cpu_count(),
            "load before": os.getloadavg()[0],
            "peak MB": round(peak),
        }
        print(json.dumps(found | compare(store, table.columns), indent=1))


if __name__ == "__main__":
    main()
