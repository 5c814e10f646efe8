"""store/shard.py and rows.py: what a shard's files hold, the same bytes in any order, and nothing left behind."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
from store.written import LAYERS, documents, fill, header, readings, shard_files, tokens

from midstream.errors import RequestError
from midstream.record import DOCUMENTS, POSITIONS, READING, WATCHED, as_list
from midstream.store import rows, shard
from midstream.store.layout import STATISTICS
from midstream.store.shard import ShardWriter


def ask(query: str) -> list[tuple]:
    with duckdb.connect() as database:
        return database.execute(query).fetchall()


@pytest.fixture
def put(tmp_path):
    """The files of a shard on disk: kind -> path."""

    def write(files):
        for kind, made in files.items():
            (tmp_path / f"{kind}.parquet").write_bytes(made.data)
        return {kind: f"'{tmp_path / kind}.parquet'" for kind in files}

    return write


def test_every_file_holds_its_rows_in_order(put):
    made = shard_files(1)
    at = put(made)
    numbers = [number for number, _, _ in documents(1)]
    table = readings(numbers)
    names = [column.name for column in READING if column.name != "token"]
    columns = {**table.columns, "doc_id": np.array(numbers, np.int32)[table.columns["doc_id"]]}
    keys = [names.index(name) for name in ("doc_id", "lens", "site", "layer", "position")]
    expected = sorted(zip(*(as_list(columns[n]) for n in names), strict=True), key=lambda row: [row[k] for k in keys])
    assert ask(f"SELECT * FROM {at['readings']}") == expected
    assert made["readings"].rows == len(expected)
    kinds = [(n, i, t, "text" if i else "special") for n in numbers for i, t in enumerate(tokens(n))]
    assert ask(f"SELECT * FROM {at['positions']}") == kinds
    assert ask(f"SELECT * FROM {at['documents']}") == [
        (n, "a.txt", name, sha256, len(tokens(n)), None, f'{{"work": "w{n}"}}') for n, name, sha256 in documents(1)
    ]
    assert len(ask(f"SELECT * FROM {at['watched']}")) == made["watched"].rows == len(expected)


def test_types_are_those_declared(put):
    at = put(shard_files(0))
    sql = {"int16": "SMALLINT", "int32": "INTEGER", "float32": "FLOAT", "str": "VARCHAR"}
    declared = {"readings": header().columns, "positions": POSITIONS, "documents": DOCUMENTS, "watched": WATCHED}
    for kind, columns in declared.items():
        types = [sql[c.dtype.removesuffix("[]")] + ("[]" if c.dtype.endswith("[]") else "") for c in columns]
        found = [row[:2] for row in ask(f"DESCRIBE SELECT * FROM {at[kind]}")]
        assert found == list(zip([c.name for c in columns], types, strict=True))


def test_same_rows_same_bytes_in_any_order(tmp_path, monkeypatch):
    expected = shard_files(2)
    monkeypatch.setattr(shard, "_WAITING", 3)
    for seed in range(4):
        order = random.Random(seed).sample(range(4), 4)
        with ShardWriter(tmp_path, header()) as writer:
            fill(writer, 2, order, together=seed % 2 == 0)
            assert writer.finish() == expected
        assert not list(tmp_path.iterdir())


def test_unselected_columns_are_left_out(put):
    made = header(
        select={"statistics": ["entropy", "rank"], "share": 0.5, "seed": 3}, request={"top_k": 3, "watch": []}
    )
    at = put(shard_files(0, made))
    assert sorted(at) == ["documents", "positions", "readings"]
    names = [row[0] for row in ask(f"DESCRIBE SELECT * FROM {at['readings']}")]
    assert names == [
        c.name for c in READING if c.name != "token" and c.name not in set(STATISTICS) - {"entropy", "rank"}
    ]
    assert {"doc_id", "target_id", "offset"} < set(names)


def test_a_document_that_could_not_be_read(put, tmp_path):
    with ShardWriter(tmp_path, header()) as writer:
        fill(writer, 0)
        row = {"doc_id": 9, "source": "odd\udc80", "id": "x", "sha256": "0" * 64, "fault": "it is not UTF-8"}
        writer.document(row | {"metadata": '{"a": 1}'})
        made = writer.finish()
    at = put(made)
    assert ask(f"SELECT * FROM {at['documents']} WHERE doc_id = 9") == [
        (9, "odd\\udc80", "x", "0" * 64, 0, "it is not UTF-8", '{"a": 1}')
    ]
    assert ask(f"SELECT count(*) FROM {at['documents']} WHERE fault IS NULL") == [(4,)]


def test_dropped_documents_are_as_if_never_read(tmp_path):
    with ShardWriter(tmp_path, header()) as writer:
        first = documents(0)[0][0]
        writer.add(readings([first], seed=1), np.array([first]))
        writer.add(readings([40, 41], seed=1), np.array([40, 41]))
        writer.drop(np.array([first, 40, 41]))
        fill(writer, 0)
        assert writer.finish() == shard_files(0)


def test_a_shard_without_readings_has_empty_files(put, tmp_path):
    with ShardWriter(tmp_path, header()) as writer:
        made = writer.finish()
    at = put(made)
    assert [ask(f"SELECT count(*) FROM {at[kind]}") for kind in at] == [[(0,)]] * 4


def test_nothing_is_left_behind_after_a_failure(tmp_path):
    with pytest.raises(IndexError), ShardWriter(tmp_path, header()) as writer:
        writer.add(readings([1, 2]), np.array([1]))
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_is_a_sentence(tmp_path):
    with pytest.raises(RequestError, match="cannot write"):
        ShardWriter(tmp_path / "none", header())


def test_the_rows_wait_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MEMORY", 56)
    table = readings(list(range(200)))
    with ShardWriter(tmp_path, header()) as writer:
        for start in range(0, 10_000, 200):
            writer.add(table, np.arange(start, start + 200))
        [folder] = tmp_path.iterdir()
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) > 10e6, "rows waited in memory"
        assert writer.finish()["readings"].rows == 50 * len(table)


def test_no_database_draws_a_progress_bar(tmp_path, monkeypatch):
    real = duckdb.connect

    def as_in_a_terminal(*given, **named):
        opened = real(*given, **named)
        opened.execute("SET enable_progress_bar = true")
        return opened

    monkeypatch.setattr(duckdb, "connect", as_in_a_terminal)
    draws = "SELECT current_setting('enable_progress_bar'), current_setting('threads')"
    with rows.in_memory() as database:
        assert database.execute(draws).fetchall() == [(False, 1)]
    (tmp_path / "a").mkdir()
    database = rows.open_rows(tmp_path / "a", {"readings": READING})
    assert database.execute(draws).fetchall() == [(False, 1)]
    database.close()


def test_every_database_is_opened_by_rows():
    package = Path(rows.__file__).parent
    users = {path.name for path in package.glob("*.py") if "duckdb.connect(" in path.read_text()}
    assert users <= {"rows.py", "query.py"}


def test_the_header_of_a_shard_names_its_scan(put):
    at = put(shard_files(0))
    for path in at.values():
        found = dict(ask(f"SELECT decode(key), decode(value) FROM parquet_kv_metadata({path})"))
        assert found == {"schema": "1", "layers": str(LAYERS), "header": header().digest}
    assert replace(header(), model="other", corpus=("b",)).digest == header().digest
