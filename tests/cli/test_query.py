"""The command: what it prints and writes, and the sentence that every wrong request gets."""

from __future__ import annotations

import csv
import json

import pyarrow.parquet as pq
import pytest
from store.made import Text, store

TEXTS = [
    Text([1, 2, 3, 4, 5, 6, 7, 8], {"author": "a"}),
    Text([9, 2, 2, 2, 5, 6, 1, 3, 7, 7]),
    Text([5, 4, 3, 2, 1, 0]),
]
MANY = "SELECT a.doc_id FROM readings a, readings b LIMIT 900"


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return store(tmp_path / "store", TEXTS, lenses=("logit", "tuned"))


def test_every_format_gives_the_same_rows(midstream, desk, tmp_path):
    sql = "SELECT doc_id, position, lens, entropy, top_ids, target_id FROM readings ORDER BY ALL"
    rows = json.loads(midstream("query", "store", sql, "--format", "json").stdout)
    assert len(rows) == len(desk[1])
    assert any(row["target_id"] is None for row in rows)
    printed = list(csv.DictReader(midstream("query", "store", sql, "--format", "csv").stdout.splitlines()))
    assert [float(row["entropy"]) for row in printed] == pytest.approx([row["entropy"] for row in rows])
    assert [row["target_id"] for row in printed] == ["" if (n := row["target_id"]) is None else str(n) for row in rows]
    for ending in ("parquet", "csv", "json"):
        done = midstream("query", "store", sql, "--out", f"rows.{ending}")
        assert (done.exit_code, done.stdout) == (0, "")
    assert pq.read_table("rows.parquet").to_pylist() == rows
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
    assert list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines())) == printed
    assert midstream("query", "store", sql, "--format", "csv", "--out", "again.csv").exit_code == 0


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_text_fits_the_width_and_says_how_many_rows_there_are(columns, midstream, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    lines = midstream("query", "store", "FROM readings").stdout.splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert lines[0].split()[0] == "doc_id"
    assert "144 rows" in lines
    assert ("did not fit" in " ".join(" ".join(lines).split())) == (columns != "400")


def test_no_more_than_two_hundred_rows_are_printed(midstream):
    for sql in (MANY, f"{MANY};", f"{MANY} -- all of them"):
        lines = midstream("query", "store", sql).stdout.splitlines()
        assert len(lines) == 1 + 200 + 1
        assert "the first 200 of 900 rows" in lines[-1]
    assert midstream("query", "store", f"{MANY}", "--format", "csv").stdout.count("\n") == 901
    assert "200 rows" in midstream("query", "store", MANY.replace("900", "200")).stdout.splitlines()


def test_views_and_plans_can_be_looked_at(midstream):
    assert "kl_final_lens" in midstream("query", "store", "DESCRIBE readings").stdout
    assert "by_layer" in midstream("query", "store", "SHOW TABLES").stdout
    plan = midstream("query", "store", "EXPLAIN SELECT count(*) FROM readings").stdout
    assert len(plan.splitlines()) > 3


WRONG = {
    "no store": (["nothing", "FROM readings"], "no store"),
    "no SQL": (["store"], "Missing argument"),
    "wrong SQL": (["store", "SELEC 1"], "SELEC"),
    "an unknown column": (["store", "SELECT dok_id FROM readings"], "doc_id"),
    "two statements": (["store", "SELECT 1; SELECT 2"], "one at a time"),
    "writing": (["store", "COPY readings TO 'x.csv'"], "only read"),
    "another file": (["store", "FROM read_csv('secret.csv')"], "own files"),
    "parquet on the terminal": (["store", "FROM readings", "--format", "parquet"], "--out FILE.parquet"),
    "an unknown ending": (["store", "FROM readings", "--out", "x.txt"], ".parquet, .csv or .json"),
    "an ending that is not the format": (["store", "FROM readings", "--format", "csv", "--out", "x.json"], "in .csv"),
    "text into a file": (["store", "FROM readings", "--format", "text", "--out", "x.json"], ".parquet, .csv or .json"),
    "no such folder": (["store", "FROM readings", "--out", "none/x.csv"], "none"),
    "a file of the store": (["store", "FROM readings", "--out", "store/readings/000000.parquet"], "inside the store"),
    "its header": (["store", "FROM readings", "--out", "store/store.json"], "inside the store"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_gets_one_sentence_and_writes_nothing(case, midstream, tmp_path):
    (tmp_path / "secret.csv").write_text("a\n1\n")
    before = sorted(tmp_path.rglob("*"))
    words, expected = WRONG[case]
    done = midstream("query", *words)
    assert done.exit_code == 2, done.output
    assert expected in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.output
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_file_of_a_finished_shard_is_named(midstream, desk):
    (desk[0].path / "readings" / "000000.parquet").unlink()
    done = midstream("query", "store", "FROM readings")
    assert done.exit_code == 2
    assert "readings/000000.parquet is missing" in done.stderr


def test_shards_left_out_are_said_on_standard_error(midstream, desk):
    (desk[0].path / "shards" / "000000.json").write_text("{}")
    done = midstream("query", "store", "SELECT count(*) AS n FROM readings", "--format", "csv")
    assert (done.exit_code, done.stdout.split()) == (0, ["n", "0"])
    assert done.stderr.startswith("midstream: 1 shard of the store (0) is left out: ")
    assert "midstream store check" in done.stderr
