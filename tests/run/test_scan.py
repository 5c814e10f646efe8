"""A corpus into a store: the rows of each document read alone, once each, whoever reads and whatever interrupts."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import SENTENCES
from lens_sample import sample

from midstream.corpus.source import open_corpus
from midstream.errors import MidstreamError, RequestError
from midstream.lens.file.artifact import save
from midstream.lens.read.reading import read_chunks
from midstream.lens.read.request import request
from midstream.lens.read.table import join
from midstream.run.runner import Serial
from midstream.run.scan import ScanOptions, Update, Work, scan
from midstream.store.check import check
from midstream.store.query import sql
from midstream.store.store import open_store

TESTS = str(Path(__file__).parent.parent)
STATISTICS = ("logprob", "lse", "entropy", "kl_final_lens", "kl_lens_final", "final_top1_logprob", "kl_input_lens")


def texts(count=23, seed=0):
    draw = random.Random(seed)
    words = " ".join(SENTENCES).split()
    return [" ".join(draw.choice(words) for _ in range(draw.choice((1, 2, 7, 20, 60, 150)))) for _ in range(count)]


def written(path, documents):
    lines = [json.dumps({"text": text, "id": f"d{i}", "work": f"w{i % 7}"}) for i, text in enumerate(documents)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def corpus(tmp_path):
    return written(tmp_path / "corpus.jsonl", texts())


def wanted(model, **more):
    return request(model, {"lens": "logit", "every": 10, "top_k": 3, **more})


def run(model, corpus, out, *, work=None, where=(), options=None, **more):
    opened = open_corpus(corpus, where=where, lenient=True)
    return scan(model, opened, out, wanted(model, **more), options or ScanOptions(characters=1000), work=work)


def rows(out, columns="*"):
    answer = sql(open_store(out), f"SELECT {columns} FROM readings ORDER BY doc_id, lens, site, layer, position")
    return answer.rows()


def files(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(Path(out).rglob("*.parquet"))}


def test_rows_are_those_of_each_document_read_alone(tiny, corpus, tmp_path):
    result = run(tiny, corpus, tmp_path / "store")
    assert result.documents == 23
    assert result.unreadable == 0
    store = open_store(tmp_path / "store")
    for document in open_corpus(corpus):
        encoded = tiny.tokenizer.encode(document.text)
        alone = join(list(read_chunks(tiny, encoded, wanted(tiny))))
        where = f"WHERE doc_id = {document.number} ORDER BY lens, site, layer, position"
        kept = sql(
            store, f"SELECT position, layer, target_id, rank, {', '.join(STATISTICS)} FROM readings {where}"
        ).rows()
        assert [row[0] for row in kept] == alone.columns["position"].tolist()
        assert [row[1] for row in kept] == alone.columns["layer"].tolist()
        assert [-1 if row[2] is None else row[2] for row in kept] == alone.columns["target_id"].tolist()
        for place, name in enumerate(STATISTICS, start=4):
            found = np.array([np.nan if row[place] is None else row[place] for row in kept])
            np.testing.assert_allclose(found, alone.columns[name], atol=5e-4, rtol=1e-4, equal_nan=True)
    listed = sql(store, "SELECT id, tokens, metadata, fault, source FROM documents ORDER BY doc_id").rows()
    assert [row[0] for row in listed] == [f"d{i}" for i in range(23)]
    assert json.loads(listed[3][2])["work"] == "w3"
    assert {row[3] for row in listed} == {None}
    assert {row[4] for row in listed} == {"corpus.jsonl"}
    counted = sql(store, "SELECT doc_id, count(*) FROM positions GROUP BY 1 ORDER BY 1").rows()
    assert [row[1] for row in counted] == [row[1] for row in listed]


SCAN = "import sys; from midstream.__main__ import main; sys.argv = ['midstream', 'scan', *sys.argv[1:]]; main()"


def begun(folder, corpus, out, *more):
    command = [sys.executable, "-c", SCAN, "--model", folder, "--corpus", corpus, "--out", out, *more]
    command += ["--lens", "logit", "--every", "10", "--top-k", "3", "--shard", "1000"]
    quiet = subprocess.DEVNULL
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(list(map(str, command)), stdout=quiet, stderr=quiet, env=environment)


def test_every_runner_gives_the_same_bytes(tiny_folder, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", TESTS)
    # the first process ever compiles the loops of the read-out, and its last bits may differ
    assert begun(tiny_folder, corpus, tmp_path / "first").wait(timeout=300) == 0
    for name in ("serial", "pool", "ray"):
        assert begun(tiny_folder, corpus, tmp_path / name, "--runner", name).wait(timeout=300) == 0
    assert files(tmp_path / "serial") == files(tmp_path / "pool") == files(tmp_path / "ray")
    assert not check(tmp_path / "ray").damages


@pytest.mark.parametrize("name", ["serial", "pool"])
def test_a_killed_scan_goes_on_where_it_was(tiny, tiny_folder, tmp_path, name):
    corpus = written(tmp_path / "corpus.jsonl", texts(60, seed=3))
    run(tiny, corpus, tmp_path / "whole")
    out = tmp_path / "killed"
    draw = random.Random(1)
    for _ in range(4 if name == "serial" else 2):
        process = begun(tiny_folder, corpus, out, "--runner", name)
        entries = len(list(out.glob("shards/*.json")))
        while process.poll() is None and len(list(out.glob("shards/*.json"))) <= entries:
            time.sleep(0.01)
        time.sleep(draw.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert begun(tiny_folder, corpus, out, "--runner", name).wait(timeout=300) == 0
    assert not check(out).damages
    assert not list(out.glob(".midstream-*"))
    assert [row[:5] for row in rows(out)] == [row[:5] for row in rows(tmp_path / "whole")]
    assert run(tiny, corpus, out).shards == 0


def test_a_flipped_byte_in_any_file_is_named_and_redone(tiny, corpus, tmp_path):
    out = tmp_path / "store"
    run(tiny, corpus, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.stat().st_size}
    draw = random.Random(0)
    for path, content in before.items():
        at = draw.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :])
        assert str(path.relative_to(out)) in {damage.file for damage in check(out).damages}
        run(tiny, corpus, out)
        assert not check(out).damages, path
        assert path.read_bytes() == content


def test_a_changed_corpus_is_refused_by_document(tiny, tmp_path):
    old, out = texts(), tmp_path / "store"
    run(tiny, written(tmp_path / "a.jsonl", old), out)
    changed = written(tmp_path / "b.jsonl", [*old[:5], old[5] + " city", *old[6:]])
    with pytest.raises(RequestError, match=r"the corpus has changed .* 'd5'"):
        run(tiny, changed, out)
    with pytest.raises(RequestError, match="the corpus has changed"):
        run(tiny, written(tmp_path / "c.jsonl", old[:4]), out)
    whole = open_store(out).entries[0].documents[1] + 1  # ends where a shard does, so that no shard has changed
    with pytest.raises(
        RequestError, match=r"it ends with shard 0, and the store has shard 1 too.*000001\.json was copied"
    ):
        run(tiny, written(tmp_path / "d.jsonl", old[:whole]), out)
    assert run(tiny, written(tmp_path / "a.jsonl", old), out).shards == 0
    (out / "shards" / "000099.json").write_text("x")  # of no shard: the corpus has not changed
    assert run(tiny, written(tmp_path / "a.jsonl", old), out).shards == 0
    assert not check(out).damages


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"every": 15}, "layers"),
        ({"top_k": 4}, "top_k"),
        ({"lens": ["logit", "input"]}, "lens"),
        ({"options": ScanOptions(characters=1000, share=0.5)}, "share"),
        ({"options": ScanOptions(characters=900)}, "characters"),
    ],
)
def test_another_scan_is_refused(tiny, corpus, tmp_path, more, said):
    run(tiny, corpus, tmp_path / "store")
    with pytest.raises(RequestError, match=said):
        run(tiny, corpus, tmp_path / "store", **more)


def test_selected_statistics_and_positions(tiny, corpus, tmp_path):
    chosen = ScanOptions(characters=1000, statistics=("entropy", "rank"), share=0.3, seed=5)
    run(tiny, corpus, tmp_path / "some", options=chosen)
    run(tiny, corpus, tmp_path / "all")
    kept = rows(tmp_path / "some", "doc_id, position, layer, entropy, rank")
    whole = {row[:3]: row[3:] for row in rows(tmp_path / "all", "doc_id, position, layer, entropy, rank")}
    assert 0.15 * len(whole) < len(kept) < 0.45 * len(whole)
    for row in kept:
        assert row[4] == whole[row[:3]][1] or abs(row[4] - whole[row[:3]][1]) <= 2
        assert abs(row[3] - whole[row[:3]][0]) < 5e-4
    names = sql(open_store(tmp_path / "some"), "SELECT * FROM readings LIMIT 0").names
    assert not {"logprob", "kl_final_lens", "top_ids", "token"} & set(names)
    again = tmp_path / "again"
    run(tiny, corpus, again, options=ScanOptions(characters=1000, statistics=("entropy", "rank"), share=0.3, seed=6))
    assert {row[:2] for row in rows(again, "doc_id, position")} != {row[:2] for row in kept}


def test_a_document_that_cannot_be_read_is_recorded(tiny, tmp_path):
    broken = tmp_path / "corpus.txt"
    broken.write_bytes(b"The city\n<|endofdoc|>\n\xff\xfe\n<|endofdoc|>\nof Paris is a city\n")
    result = run(tiny, broken, tmp_path / "store")
    assert result.unreadable == 1
    listed = sql(open_store(tmp_path / "store"), "SELECT doc_id, tokens, fault FROM documents ORDER BY 1").rows()
    assert [row[1] > 0 for row in listed] == [True, False, True]
    assert "UTF-8" in listed[1][2]
    with pytest.raises(MidstreamError, match="--strict"):
        run(tiny, broken, tmp_path / "strict", options=ScanOptions(strict=True))


def test_a_document_that_the_model_fails_on_takes_no_other_with_it(tiny, corpus, tmp_path, monkeypatch):
    from midstream.run import scan_work

    real, bad = scan_work.read_pack, tiny.tokenizer.encode(texts()[4]).ids

    def failing(model, documents, *more, **options):
        for table in real(model, documents, *more, **options):
            yield table
            if any(document.ids == bad for document in documents):
                raise RuntimeError("out of memory\nsecond line")

    monkeypatch.setattr(scan_work, "read_pack", failing)
    result = run(tiny, corpus, tmp_path / "store")
    assert [fault.split(": ", 1)[1] for fault in result.faults] == ["RuntimeError: out of memory"]
    monkeypatch.undo()
    run(tiny, corpus, tmp_path / "whole")
    lost = {row[0] for row in rows(tmp_path / "whole", "doc_id")} - {
        row[0] for row in rows(tmp_path / "store", "doc_id")
    }
    assert lost == {4}


def test_tokens_end_the_corpus(tiny, corpus, tmp_path):
    result = run(tiny, corpus, tmp_path / "store", options=ScanOptions(characters=1000, tokens=333))
    assert result.tokens == 333
    again = run(tiny, corpus, tmp_path / "store", options=ScanOptions(characters=1000, tokens=333))
    assert (again.shards, again.kept > 0) == (0, True)


def test_where_and_watch(tiny, corpus, tmp_path):
    run(tiny, corpus, tmp_path / "store", where=["work=w2"], watch=[" city"])
    store = open_store(tmp_path / "store")
    assert sql(store, "SELECT DISTINCT json_extract_string(metadata, '$.work') FROM documents").rows() == [("w2",)]
    counts = sql(store, "SELECT (SELECT count(*) FROM watched), (SELECT count(*) FROM readings)").rows()[0]
    assert counts[0] == counts[1] > 0


def test_fitted_lenses_are_part_of_the_store(tiny, corpus, tmp_path):
    save(sample(tiny), tmp_path / "tuned.safetensors")
    run(tiny, corpus, tmp_path / "store", lens=["logit", str(tmp_path / "tuned.safetensors")])
    header = open_store(tmp_path / "store").header
    assert set(header.lenses) == {"logit", "tuned"}
    assert header.lenses["tuned"]


def test_progress_counts_the_corpus(tiny, corpus, tmp_path):
    seen: list[Update] = []
    result = run(tiny, corpus, tmp_path / "store", work=Work(Serial(tiny), seen.append))
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    assert seen[-1].done == seen[-1].total == corpus.stat().st_size
    assert seen[-1].tokens == result.tokens
