"""``midstream store``: what a store is, damage by name, and averages; both formats say the same, in any width."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from store.made import Text, drawn, store

from midstream.record import SCHEMA, SUMMARY
from midstream.store.sealed import seal

TEXTS = [Text([(7 * n + 3 * i) % 40 for i in range(30)], {"author": "ab"[n % 2], "work": f"w{n}"}) for n in range(14)]
TEXTS += [Text([], fault="it is not UTF-8")]


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return store(tmp_path / "store", TEXTS, lenses=("logit", "tuned"))


@pytest.mark.parametrize("columns", ["80", "200"])
def test_show_says_what_a_store_is(columns, midstream, desk, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    found = json.loads(midstream("store", "show", "store", "--format", "json").stdout)
    assert (found["model"], found["lenses"], found["layers"]) == ("toy", {"logit": "", "tuned": ""}, [0, 1, 2])
    assert (found["shards"], found["documents"], found["faults"]) == (5, 15, 1)
    assert (found["tokens"], found["rows"]) == (14 * 30, len(desk[1]))
    parts = [*desk[0].path.glob("*/*.parquet")]
    assert found["bytes"] == sum(path.stat().st_size for path in parts)
    assert found["finished"] is False
    text = midstream("store", "show", "store").stdout
    assert max(map(len, text.splitlines())) <= int(columns)
    for part in ("logit, tuned", "2,520", "1: documents that could not be read", "no: midstream scan, given again"):
        assert part in text


def test_check_names_each_damaged_file_and_what_the_next_scan_does(midstream, desk):
    clean = midstream("store", "check", "store")
    assert (clean.exit_code, clean.stderr) == (0, "")
    assert clean.stdout.startswith("sound: 5 shards, 15 documents, 420 tokens, 2,520 rows; its scan has not ended")
    path = desk[0].path
    damaged = bytearray((path / "readings/000003.parquet").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (path / "readings/000003.parquet").write_bytes(damaged)
    (path / "documents/000001.parquet").unlink()
    (path / "vocabulary.parquet").write_bytes(b"")
    found = midstream("store", "check", "store")
    assert found.exit_code == 1
    lines = found.stdout.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("vocabulary.parquet ")
    assert lines[0].endswith("; the next scan writes it anew")
    assert lines[1] == "documents/000001.parquet is missing; the next scan redoes shard 1"
    assert lines[2].startswith("readings/000003.parquet ")
    assert lines[2].endswith("; the next scan redoes shard 3")
    assert lines[3].startswith("otherwise sound: 3 shards, ")
    same = midstream("store", "check", "store", "--format", "json")
    assert same.exit_code == 1
    damages = json.loads(same.stdout)["damages"]
    assert [(damage["file"], damage["shard"]) for damage in damages] == [
        ("vocabulary.parquet", None),
        ("documents/000001.parquet", 1),
        ("readings/000003.parquet", 3),
    ]


@pytest.mark.parametrize("columns", ["80", "200"])
@pytest.mark.parametrize("by", ["layer", "position", "frequency", "author"])
def test_a_summary_says_the_same_in_every_form(by, columns, midstream, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    words = ("store", "summary", "store", "--by", by, "--measure", "entropy", "--measure", "accuracy")
    found = json.loads(midstream(*words, "--format", "json").stdout)
    assert (found["schema"], found["by"]) == (SCHEMA, by)
    columns_ = found["columns"]
    assert list(columns_) == [column.name for column in SUMMARY]
    assert set(columns_["measure"]) == {"entropy", "accuracy"}
    assert set(columns_["lens"]) == {"logit", "tuned"}
    assert found["provenance"]["command"].split()[0] == "midstream"
    text = midstream(*words, "--plot", "s.svg", "--out", "s.parquet")
    assert text.exit_code == 0, text.stderr
    lines = text.stdout.splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert any("entropy, nats" in line for line in lines)
    assert (tmp_path / "s.svg").read_text().count("<!-- logit -->") == 2
    written = pq.read_table("s.parquet")
    assert written.column_names == list(columns_)
    assert written.column("value").to_pylist() == columns_["value"]
    assert json.loads(written.schema.metadata[b"notes"]) == found["notes"]
    assert written.schema.metadata[b"grouped_by"].decode() == by


def test_a_store_differs_from_itself_by_nothing_and_is_paired_by_document(midstream, tmp_path):
    store(tmp_path / "other", TEXTS[:9], values=lambda *where: drawn(1, *where), lenses=("logit", "tuned"))
    same = json.loads(midstream("store", "summary", "store", "--against", "store", "--format", "json").stdout)[
        "columns"
    ]
    assert {value for value in same["value"] if value is not None} == {0.0}
    words = ("store", "summary", "store", "--against", "other", "--measure", "entropy")
    less = json.loads(midstream(*words, "--format", "json").stdout)
    assert set(less["columns"]["documents"]) == {9}
    assert any(value for value in less["columns"]["value"])
    text = midstream(*words, "--plot", "d.png")
    assert text.exit_code == 0, text.stderr
    assert "difference of entropy, nats" in text.stdout
    assert "other, paired by document" in text.stdout
    assert (tmp_path / "d.png").stat().st_size > 0


WRONG = {
    "an unknown measure": (["summary", "store", "--measure", "beauty"], "beauty"),
    "a measure that was not kept, by name": (["summary", "store", "--measure", "rank"], "rank"),
    "an unknown field": (["summary", "store", "--by", "editor"], "editor"),
    "an unknown cluster": (["summary", "store", "--cluster", "editor"], "editor"),
    "no other store": (["summary", "store", "--against", "nothing"], "no store"),
    "wrong ending": (["summary", "store", "--out", "s.csv"], ".parquet"),
    "wrong figure": (["summary", "store", "--plot", "s.gif"], ".svg"),
    "no such folder": (["summary", "store", "--out", "none/s.parquet"], "none"),
    "into a store": (["summary", "store", "--out", "store/readings/000000.parquet"], "inside the store"),
    "a figure in a store": (["summary", "store", "--plot", "store/s.svg"], "inside the store"),
    "no store": (["show", "nothing"], "no store"),
    "nothing to check": (["check", "nothing"], "no store"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_gets_one_sentence_and_writes_nothing(case, midstream, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    words, expected = WRONG[case]
    done = midstream("store", *words)
    assert done.exit_code == 2, done.output
    assert expected in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.output
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.update(request={}),
        lambda found: found["request"].update(layers="all"),
        lambda found: found["select"].pop("seed"),
        lambda found: found["request"].update(lenses=5, cut=[]),
    ],
)
def test_a_header_that_lacks_fields_is_no_traceback(change, midstream, desk):
    path = desk[0].path / "store.json"
    fields = json.loads(path.read_bytes())
    del fields["checksum"]
    change(fields)
    path.write_bytes(seal(fields))
    done = midstream("store", "show", "store")
    assert done.exit_code in (0, 2)
    assert done.exit_code == 0 or "store.json" in done.stderr
    assert isinstance(done.exception, SystemExit | None)
