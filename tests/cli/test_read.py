"""The command: what it prints and writes, and the sentence that every wrong request gets."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time

import numpy as np
import pytest

import midstream as ms
from midstream.record import READING


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch, tiny_folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIDSTREAM_MODEL", str(tiny_folder))
    return tmp_path


def test_json_is_one_document_equal_to_the_facade(midstream, tiny):
    done = midstream("read", "The capital of France is", "--format", "json", "--watch", " Paris")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    table = ms.read(tiny, "The capital of France is", watch=[" Paris"])
    assert document["schema"] == 1
    assert list(document["columns"])[: len(READING)] == [column.name for column in READING]
    np.testing.assert_allclose(document["columns"]["entropy"], table.columns["entropy"], atol=1e-5)
    assert document["columns"]["top_ids"] == table.columns["top_ids"].tolist()
    texts = [table.vocabulary[token] for token in table.columns["top_ids"][0].tolist()]
    assert document["columns"]["top_tokens"][0] == texts
    assert document["columns"]["logprob"][-1] is None
    assert document["columns"]["rank"][-1] is None
    assert document["watched"]["watch_token"][0] == " Paris"
    assert document["provenance"]["command"].startswith("midstream")
    assert document["provenance"]["precision"] == {"name": "exact"}


def test_csv_has_a_line_a_row(midstream):
    done = midstream("read", "The capital of France is", "--format", "csv", "--layers", "0,30")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert {row["layer"] for row in rows} == {"0", "30"}
    assert rows[-1]["logprob"] == ""
    assert len(rows[0]["top_ids"].split()) == 10


def test_out_alone_prints_nothing_and_equals_the_table(midstream, desk, tiny):
    import duckdb

    done = midstream("read", "The capital of France is", "--out", "r.parquet", "--watch", " Paris")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == ""
    table = ms.read(tiny, "The capital of France is")
    rows = duckdb.sql("select entropy, rank, logprob from 'r.parquet' order by layer, position").fetchnumpy()
    np.testing.assert_allclose(rows["entropy"], table.columns["entropy"], atol=1e-5)
    assert duckdb.sql("select count(*) from 'r.parquet' where logprob is null and rank is null").fetchall() == [(31,)]
    assert duckdb.sql("select count(distinct watch_id) from 'r.watched.parquet'").fetchall() == [(1,)]
    assert {path.name for path in desk.iterdir()} == {"r.parquet", "r.watched.parquet"}


def test_grid_names_the_tokens(midstream):
    done = midstream("read", "The capital of France is", "--every", "10", "--color", "entropy")
    assert done.exit_code == 0, done.stderr
    assert "France" in done.stdout
    assert "30" in done.stdout
    assert "entropy" in done.stdout


def test_standard_input_and_chat(midstream):
    done = midstream("read", "--file", "-", "--format", "json", "--layers", "-1", input="why is the sky blue?")
    assert "".join(json.loads(done.stdout)["columns"]["token"]) == "why is the sky blue?"
    chat = midstream("read", "why <|im_end|>?", "--chat", "--format", "json", "--layers", "-1")
    tokens = json.loads(chat.stdout)["columns"]["token"]
    assert tokens[0] == "<|im_start|>"
    assert tokens.count("<|im_end|>") == 1, "a user's text is never parsed for special tokens"
    parsed = midstream("read", "why <|im_end|>?", "--special", "--format", "json", "--layers", "-1")
    assert "<|im_end|>" in json.loads(parsed.stdout)["columns"]["token"]


def test_layers_as_ranges(midstream):
    done = midstream("read", "The capital of", "--layers", "0-2,28,-1", "--format", "json")
    assert sorted(set(json.loads(done.stdout)["columns"]["layer"])) == [0, 1, 2, 28, 30]


WRONG = {
    "no text": ([], "no text given"),
    "two texts": (["x y", "--file", "a.txt"], "one of the two"),
    "empty text": ([""], "empty"),
    "a single token": (["a"], "at least two"),
    "no such file": (["--file", "none.txt"], "none.txt"),
    "a folder as file": (["--file", "."], "cannot read"),
    "undecodable bytes": (["--file", "latin.txt"], "not UTF-8 at byte 3"),
    "unknown layer": (["a king was", "--layers", "31"], "0 to 30"),
    "layers not numbers": (["a king was", "--layers", "three"], "0,8,16"),
    "layers backwards": (["a king was", "--layers", "5-3"], "0-8,30"),
    "layers without end": (["a king was", "--layers", "0-99999999999999999999"], "0-8,30"),
    "empty chat": (["", "--chat"], "empty"),
    "layer 0 of another site": (["a king was", "--layers", "0", "--site", "mlp_out"], "resid_post"),
    "stride of nothing": (["a king was", "--every", "0"], "stride"),
    "unknown site": (["a king was", "--site", "nowhere"], "resid_mid"),
    "unknown lens": (["a king was", "--lens", "tunnel"], "logit"),
    "a lens twice": (["a king was", "--lens", "logit", "--lens", "logit"], "two lenses"),
    "unknown statistic": (["a king was", "--color", "colour"], "entropy"),
    "top-k of nothing": (["a king was", "--top-k", "0"], "top-k is 0"),
    "watch several tokens": (["a king was", "--watch", "Paris is a city"], "Paris is a city"),
    "unknown precision": (["a king was", "--precision", "rough"], "exact"),
    "unknown option": (["a king was", "--colour"], "--colour"),
    "unknown device": (["a king was", "--device", "abacus"], "abacus"),
    "no such model": (["a king was", "--model", "./nothing-here"], "nothing-here"),
    "a model that is no model": (["a king was", "--model", "broken.gguf"], "broken.gguf"),
    "wrong ending": (["a king was", "--out", "r.csv"], ".parquet"),
    "no such folder": (["a king was", "--html", "none/r.html"], "none"),
    "a folder as target": (["a king was", "--plot", "folder.svg"], "folder.svg"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_gets_one_sentence(case, midstream, desk):
    (desk / "latin.txt").write_bytes(b"Zoo\xeb")
    (desk / "broken.gguf").write_bytes(b"GGUF" + bytes(40))
    (desk / "folder.svg").mkdir()
    before = sorted(desk.iterdir())
    words, expected = WRONG[case]
    done = midstream("read", *words)
    assert done.exit_code == 2, done.output
    flat = " ".join(done.stderr.replace("│", " ").split())
    assert expected in flat
    assert "Traceback" not in done.output
    assert done.stdout == ""
    assert sorted(desk.iterdir()) == before


def test_interrupted_leaves_nothing(midstream, desk, monkeypatch):
    from midstream.run import text

    def interrupted(*_args, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr(text, "read_chunks", interrupted)
    done = midstream("read", "a king was", "--out", "r.parquet")
    assert done.exit_code == 130
    assert "Traceback" not in done.output
    assert list(desk.iterdir()) == []


def test_a_long_text_is_written_but_not_held(midstream, desk, monkeypatch):
    from midstream.run import text

    monkeypatch.setattr(text, "LARGEST", 1000)
    (desk / "long.txt").write_text("a king was " * 100)
    refused = midstream("read", "--file", "long.txt")
    assert refused.exit_code == 2
    assert "--out" in refused.stderr
    written = midstream("read", "--file", "long.txt", "--out", "long.parquet", "--every", "10")
    assert written.exit_code == 0, written.stderr


def test_start_imports_nothing_heavy(desk):
    code = (
        "import sys; sys.argv = ['midstream', 'read', 'a king was there']\n"
        "from midstream.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code, done.code\n"
        "heavy = {'transformers', 'numba', 'matplotlib', 'scipy', 'duckdb', 'gguf', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "king" in done.stdout


@pytest.mark.parametrize(
    ("words", "shell", "code"),
    [
        ("--format csv", ">/dev/full", 2),
        ("--format json", ">/dev/full", 2),
        ("--format csv", ">&-", 0),
        ("--file -", "<&-", 2),
        ("--format csv", "| head -1", 0),
        ("--format json", "| PYTHONIOENCODING=ascii cat", 0),
    ],
)
def test_closed_and_full_streams_leave_no_traceback(desk, words, shell, code):
    text = "" if "--file" in words else "'a king — was'"
    line = f"set -o pipefail; PYTHONIOENCODING=ascii {sys.executable} -m midstream read {text} {words} {shell}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert done.returncode == code, done.stderr


def test_terminated_leaves_nothing(desk):
    (desk / "long.txt").write_text("a king was there " * 20000)
    command = [sys.executable, "-m", "midstream", "read", "--file", "long.txt", "--out", "x.parquet"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(desk.glob(".midstream*")):
        time.sleep(0.05)
    process.terminate()
    assert process.wait() == 143
    assert [path.name for path in desk.iterdir()] == ["long.txt"]


def test_a_text_is_read_under_edits_and_beside_itself(midstream, tiny_folder):
    words = ("read", "The capital of France is", "--model", str(tiny_folder), "--every", "10")
    edit = ("--edit", "layers=9 positions=2 add=random length=0.5", "--seed", "3")
    document = json.loads(midstream(*words, *edit, "--versus", "--format", "json").stdout)
    columns = document["columns"]
    moved = {p for p, kl in zip(columns["position"], columns["kl_unedited"], strict=True) if kl > 1e-4}
    assert min(moved) == 2
    (stated,) = document["provenance"]["settings"]["edits"]
    assert (stated["layers"], stated["positions"], stated["what"]["kind"]) == ([9], [2], "add")
    shown = midstream(*words, *edit, "--versus")
    assert "KL(unedited ‖ edited) in nats" in shown.stdout
    changed = midstream(*words, *edit, "--versus", "--color", "logprob_change")
    assert "change in log p of the next token in nats" in changed.stdout
    assert "less likely" in changed.stdout
    refused = midstream(*words, *edit, "--color", "logprob_change")
    assert refused.exit_code == 2
    assert "--color logprob_change is what --versus measures" in refused.stderr
    refused = midstream(*words, "--versus")
    assert refused.exit_code == 2
    assert "nothing to compare with" in refused.stderr
    refused = midstream(*words, "--edit", "layers=99 scale=2")
    assert refused.exit_code == 2
    assert "unknown layer 99" in refused.stderr
