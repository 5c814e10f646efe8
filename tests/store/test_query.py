"""SQL over a store: its views, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import signal
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest

from midstream.errors import RequestError
from midstream.store import query
from midstream.store.layout import Finished, to_json
from midstream.store.query import connect, sql
from midstream.store.store import open_store
from midstream.store.summary import summary
from tests.store.made import Text, store

TEXTS = [Text([1, 2, 3, 4, 5, 6, 7, 8], {"work": "a"}), Text([9, 2, 2, 2, 5, 6, 1, 3, 7, 7], special=(0, 6))]
TEXTS += [Text([], fault="it is not UTF-8"), Text([5, 4, 3, 2, 1, 0, 8])]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    # a folder whose name DuckDB would take for a pattern and a partition, and SQL for the end of a text
    return store(tmp_path_factory.mktemp("query") / "a=1 [x]*'s", TEXTS, lenses=("logit", "tuned"))


def refused(made, text: str) -> str:
    with pytest.raises(RequestError) as caught:
        sql(made[0], text).rows()
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_views_show_what_the_files_hold(made):
    store_, rows = made
    assert sql(store_, "SELECT count(*), count(DISTINCT doc_id) FROM readings").rows() == [(len(rows), 3)]
    with sql(store_, "FROM readings ORDER BY lens, layer, doc_id, position") as found:
        assert found.names == tuple(column.name for column in store_.header.columns)
        key = ("lens", "layer", "doc_id", "position")
        for row, expected in zip(found, sorted(rows, key=lambda row: [row[k] for k in key]), strict=True):
            assert dict(zip(found.names, row, strict=True)) == expected
    assert sql(store_, "SELECT fault FROM documents WHERE fault IS NOT NULL").rows() == [("it is not UTF-8",)]
    tokens = dict(sql(store_, "SELECT token, count FROM tokens").rows())
    assert (tokens["t2"], tokens["t7"], tokens["t39"]) == (5, 3, 0)
    assert len(tokens) == 40


def test_by_layer_is_the_mean_over_text_with_context(made):
    store_, rows = made
    special = {(number, position) for number, text in enumerate(TEXTS) for position in text.special}
    for names in [sql(store_, "FROM by_layer")]:
        for row in names:
            found = dict(zip(names.names, row, strict=True))
            kept = [
                r
                for r in rows
                if (r["lens"], r["layer"]) == (found["lens"], found["layer"])
                and r["context"] >= 4
                and (r["doc_id"], r["position"]) not in special
            ]
            assert found["positions"] == len(kept) == 12
            for name, made_of in query.MEASURES.items():
                values = [r[made_of] for r in kept if r[made_of] is not None]
                expected = np.mean(values if name == made_of else np.equal(values, 1))
                assert found[name] == pytest.approx(expected, rel=1e-6)


def test_answers_can_be_limited_read_again_and_converted(made):
    with sql(made[0], "SELECT doc_id AS d, top_ids FROM readings ORDER BY ALL") as found:
        assert found.rows(2) == found.rows()[:2] == [(0, [1]), (0, [1])]
        assert found.arrow().column_names == ["d", "top_ids"]
        assert found.types == ("INTEGER", "INTEGER[]")
    for text in (
        "DESCRIBE readings",
        "SHOW TABLES",
        "SUMMARIZE tokens",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
    ):
        assert sql(made[0], text).rows()
    assert sql(made[0], "SELECT 1 -- a comment; and no end\n;").rows() == [(1,)]
    assert sql(made[0], "WITH a AS (VALUES (1), (2)) FROM a UNION FROM a ORDER BY 1").rows() == [(1,), (2,)]


def test_answers_are_written_whole(made, tmp_path):
    answer = sql(made[0], "SELECT DISTINCT lens, position, NULL AS nothing FROM readings ORDER BY ALL")
    rows = answer.rows()
    answer.write(tmp_path / "it's.parquet")
    assert pq.read_table(tmp_path / "it's.parquet").to_pylist()[0] == dict(zip(answer.names, rows[0], strict=True))
    answer.write(tmp_path / "a.csv", "csv")
    with (tmp_path / "a.csv").open() as file:
        assert list(csv.reader(file)) == [["lens", "position", "nothing"], *([r[0], str(r[1]), ""] for r in rows)]
    answer.write(tmp_path / "a.json", "json")
    assert [tuple(row.values()) for row in json.loads((tmp_path / "a.json").read_text())] == rows
    odd = """SELECT 'nan'::DOUBLE AS "a""b", ['inf'::FLOAT, 1] AS c, 2::FLOAT AS d, 'é' AS e"""
    sql(made[0], odd).write(tmp_path / "a.json", "json")
    assert json.loads((tmp_path / "a.json").read_text()) == [{'a"b': None, "c": [None, 1.0], "d": 2.0, "e": "é"}]
    with pytest.raises(RequestError, match=r"unknown kind of file 'xlsx': expected one of parquet"):
        answer.write(tmp_path / "a.xlsx", "xlsx")
    with pytest.raises(RequestError, match="Could not convert string 't0'"):
        sql(made[0], "SELECT token::INT FROM tokens ORDER BY token_id").write(tmp_path / "a.csv", "csv")
    assert len((tmp_path / "a.csv").read_text().splitlines()) == len(rows) + 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.json", "it's.parquet"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SELEC 1", 'the query is wrong: syntax error at or near "SELEC"'),
        ("SELECT logprop FROM readings", '"logprob"'),
        ("SELECT * FROM reading", "the query is wrong: Table with name reading does not exist!"),
        ("SELECT 'x'::INT", "Could not convert string 'x'"),
        ("", "there are 0 statements"),
        ("-- nothing", "there are 0 statements"),
        ("SELECT 1; SELECT 2", "there are 2 statements"),
        ("SELECT * FROM made", "made does not exist"),  # a Python variable of whoever calls
    ],
)
def test_wrong_sql_gets_duckdbs_words_in_a_sentence(made, text, said):
    assert said in refused(made, text)


def test_nothing_is_written(made, tmp_path):
    store_, _ = made
    files = {path: path.read_bytes() for path in store_.path.rglob("*") if path.is_file()}
    inside = str(store_.files("readings")[0]).replace("'", "''")
    outside = str(tmp_path / "x.csv")
    copies = [f"COPY (SELECT 1) TO '{path}' (USE_TMP_FILE false)" for path in (inside, outside)]
    texts = [
        "INSERT INTO readings VALUES (1)",
        "DELETE FROM readings",
        "UPDATE readings SET layer = 1",
        "CREATE TABLE x AS SELECT 1",
        "CREATE OR REPLACE VIEW readings AS SELECT 1",
        "DROP VIEW readings",
        "ATTACH 'x.duckdb'",
        f"EXPORT DATABASE '{tmp_path / 'x'}'",
        "SET threads = 4",
        "RESET threads",
        "PRAGMA threads = 4",
        "PRAGMA database_list",
        "CALL enable_logging()",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CHECKPOINT",
        "BEGIN",
        "PREPARE a AS SELECT 1",
        "VACUUM",
        "WITH a AS (INSERT INTO readings VALUES (1) RETURNING *) FROM a",
        "WITH a AS (DELETE FROM documents RETURNING *) FROM a",
        *copies,
    ]
    for copy in copies:
        texts += [f"WITH a AS ({copy}) FROM a", f"SELECT (WITH a AS ({copy}) SELECT 1)", f"EXPLAIN ANALYZE {copy}"]
        texts += [f"DESCRIBE (WITH a AS ({copy}) FROM a)", f"EXPLAIN ANALYZE WITH a AS ({copy}) FROM a"]
        texts += [f"/* */ EXPLAIN /* */ ANALYZE {copy}", f"EXPLAIN (ANALYZE) {copy}"]
        hidden = f"WITH a AS ({copy}) FROM a".replace("'", "''")
        texts += [f"FROM query('{hidden}')", f"SELECT * FROM main.\"QUERY\"('{hidden}')"]
        texts += [f"FROM json_execute_serialized_sql(json_serialize_sql('{hidden}'))"]
    texts += ["FROM enable_profiling(save_location = 'profile.json')", "FROM enable_logging(storage = 'file')"]
    for text in texts:
        refused(made, text)
    assert "a store is only read, and this is INSERT" in refused(made, texts[0])
    assert "there is COPY in this query" in refused(made, f"WITH a AS ({copies[0]}) FROM a")
    assert {path: path.read_bytes() for path in store_.path.rglob("*") if path.is_file()} == files
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "FROM read_csv('/etc/passwd')",
        "FROM read_text('/etc/passwd')",
        "FROM glob('/etc/*')",
        "FROM read_parquet('https://example.com/x.parquet')",
        "FROM '/etc/passwd'",
        "FROM 'other.parquet'",
        "FROM parquet_metadata('other.parquet')",
        "FROM read_text('{store}/store.json')",
    ],
)
def test_no_other_file_is_read(made, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(sql(made[0], "SELECT 1 AS secret").arrow(), "other.parquet")
    said = refused(made, text.format(store=str(made[0].path).replace("'", "''")))
    assert "own files and no others" in said or "does not exist" in said or "Did you mean" in said


def test_a_store_without_shards_has_empty_views(tmp_path):
    empty, _ = store(tmp_path / "s", [])
    assert sql(empty, "FROM readings").rows() == sql(empty, "FROM by_layer").rows() == []
    assert sql(empty, "SELECT max(count) FROM tokens").rows() == [(0,)]


def test_damage_is_named(tmp_path):
    made, _ = store(tmp_path / "s", TEXTS, per_shard=1)
    path = made.files("readings")[1]
    sound = path.read_bytes()
    path.write_bytes(sound[:-4] + b"XXXX")  # the size that it should have
    with pytest.raises(RequestError, match="store check"):
        sql(made, "SELECT sum(layer) FROM readings").rows()
    path.write_bytes(sound + b"x")
    with pytest.raises(RequestError, match=r"readings/000001.parquet has .* bytes"):
        sql(made, "SELECT 1")
    path.unlink()
    with pytest.raises(RequestError, match=r"readings/000001.parquet is missing"):
        sql(made, "SELECT 1")
    entry = made.path / "shards" / "000001.json"
    entry.write_bytes(entry.read_bytes()[:-1])  # no longer finished: what is left can be asked
    assert sql(open_store(made.path), "SELECT DISTINCT doc_id FROM readings ORDER BY 1").rows() == [(0,), (3,)]


def test_shards_left_out_are_noted(tmp_path):
    made, _ = store(tmp_path / "s", TEXTS, per_shard=1)
    assert sql(made, "SELECT 1").notes == ()
    finish(made)
    (made.path / "shards" / "000003.json").unlink()
    (made.path / "shards" / "000001.json").write_text("{}")
    (note,) = sql(open_store(made.path), "SELECT 1").notes
    assert note == (
        "2 shards of the store (1, 3) are left out: damaged, missing or of another scan; "
        f"midstream store check {made.path} says which."
    )
    (made.path / "finished.json").write_text("{}")
    (note,) = sql(open_store(made.path), "SELECT 1").notes
    assert "finished.json is damaged" in note


def finish(made) -> None:
    said = Finished.of(made.entries, made.header.digest, {})
    (made.path / "finished.json").write_bytes(to_json(said))


@pytest.mark.parametrize("how", ["rows", "iterate", "arrow", "write", "summary"])
@pytest.mark.parametrize(
    ("kind", "column"), [("vocabulary", b"token_id"), ("documents", b"fault"), ("readings", b"entropy")]
)
def test_a_damaged_file_is_named_and_the_sql_not_blamed(tmp_path, kind, column, how):
    made, _ = store(tmp_path / "s", TEXTS, per_shard=2)
    path = made.path / ("vocabulary.parquet" if kind == "vocabulary" else f"{kind}/000001.parquet")
    sound = path.read_bytes()
    footer = len(sound) - 8 - int.from_bytes(sound[-8:-4], "little")
    view = {"vocabulary": "tokens"}.get(kind, kind)
    for at, change in ((footer, 0xFF), (sound.index(column, footer), 1)):  # no Parquet any more; another name
        damaged = bytearray(sound)
        damaged[at] ^= change
        path.write_bytes(damaged)
        with pytest.raises(RequestError, match=path.name) as caught:
            HOW[how](sql(made, f"SELECT * FROM {view}"), tmp_path / "x") if how != "summary" else summary(made)
        assert f"midstream store check {made.path}" in str(caught.value)
        assert "query is wrong" not in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_a_page_that_cannot_be_read_is_not_the_sql(tmp_path):
    made, _ = store(tmp_path / "s", TEXTS, per_shard=9)
    (path,) = made.files("positions")
    damaged = bytearray(path.read_bytes())
    damaged[4:24] = b"\xff" * 20
    path.write_bytes(damaged)
    with pytest.raises(RequestError, match=r"cannot be answered: .* midstream store check /"):
        sql(made, "SELECT * FROM positions").rows()


def test_json_has_null_for_what_is_no_number_at_any_depth(made, tmp_path):
    odd = """SELECT {'a': 'nan'::DOUBLE, 'NaN': ['inf'::FLOAT]} s, MAP {'inf': '-inf'::DOUBLE} m, [['nan'::FLOAT, 1]] l,
    ['nan'::DOUBLE]::DOUBLE[1] a, union_value(n := 'nan'::DOUBLE) u, to_json('nan'::DOUBLE) j,
    'a "NaN\\" nan' t, [{'x': ['inf']}] x"""
    sql(made[0], odd).write(tmp_path / "a.json", "json")
    (row,) = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    expected = {"s": {"a": None, "NaN": [None]}, "m": {"inf": None}, "l": [[None, 1.0]], "a": [None]}
    expected |= {"u": {"n": None}, "j": None, "t": 'a "NaN\\" nan', "x": [{"x": ["inf"]}]}
    assert row == expected


HOW = {
    "rows": lambda answer, _: answer.rows(),
    "iterate": lambda answer, _: list(answer),
    "arrow": lambda answer, _: answer.arrow(),
    "write": lambda answer, path: answer.write(path),
}


@pytest.mark.parametrize("how", HOW)
def test_ctrl_c_ends_a_query(made, tmp_path, how):
    answer = sql(made[0], "SELECT count(*) FROM range(100000000) a, range(1000000) b WHERE a.range + b.range = 7")
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            HOW[how](answer, tmp_path / "x.parquet")
    finally:
        timer.cancel()
    assert not list(tmp_path.iterdir())


def test_connections_run_in_one_thread(made):
    connection = connect(made[0])
    assert connection.execute("SELECT current_setting('threads')").fetchall() == [(1,)]
    connection.close()
