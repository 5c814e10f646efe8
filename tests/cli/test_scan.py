"""``midstream scan`` as a user types it."""

from __future__ import annotations

import json

import pytest
from conftest import SENTENCES

from midstream.run import scan_work
from midstream.store.store import create_or_resume, open_store


@pytest.fixture
def desk(tmp_path, monkeypatch, tiny_folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIDSTREAM_MODEL", str(tiny_folder))
    lines = [json.dumps({"text": text, "lang": "en"}) for text in SENTENCES]
    (tmp_path / "corpus.jsonl").write_text("\n".join([*lines, "{broken", '{"body": 1}', "[]", '"text"', ""]))
    return tmp_path


BASE = ("scan", "--corpus", "corpus.jsonl", "--out", "store", "--lens", "logit", "--every", "15")


def test_it_says_what_it_read_and_what_it_left_out(desk, midstream):
    done = midstream(*BASE)
    assert done.exit_code == 0, done.stderr
    assert "1 shard read: 4 documents" in done.stdout
    assert "4 broken" in done.stderr
    assert "line 5 is not JSON" in done.stderr
    again = midstream(*BASE)
    assert "1 shard there already; 0 shards read" in again.stdout


def test_select_keeps_what_it_names(desk, midstream):
    done = midstream(*BASE[:-2], "--select", "layers=10,-1", "--select", "entropy,rank", "--select", "positions=50%")
    assert done.exit_code == 0, done.stderr
    header = open_store("store").header
    assert header.request["layers"] == [10, 30]
    assert header.select == {"statistics": ["rank", "entropy"], "share": 0.5, "seed": 0}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--select", "surprise"), "unknown statistic 'surprise'"),
        (("--select", "colour=red"), "expected one of statistics=NAME"),
        (("--select", "positions=many"), "expected a share such as 0.1"),
        (("--select", "positions=0"), "more than 0"),
        (("--select", "rank", "--select", "entropy"), "selected twice"),
        (("--layers", "1", "--select", "layers=2"), "selected twice"),
        (("--tokens", "0"), "expected a positive number"),
        (("--shard", "0"), "expected a positive number"),
        (("--address", "127.0.0.1:1"), "add --runner ray"),
        (("--runner", "ray", "--address", "127.0.0.1:1"), "no Ray cluster answers"),
        (("--where", "lang=fr"), "gives no document"),
        (("--lens", "nonsense"), "nonsense"),
        (("--model", "nowhere/at/all"), "nowhere"),
    ],
)
def test_a_wrong_request_is_a_sentence(desk, midstream, more, said):
    done = midstream(*BASE, *more)
    assert done.exit_code == 2, done.output
    assert said in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.output


def test_another_model_is_refused(desk, midstream, monkeypatch, tmp_path):
    midstream(*BASE)
    path = desk / "store" / "store.json"
    assert midstream(*BASE, "--top-k", "2").exit_code == 2
    done = midstream(*BASE, "--lens", "input")
    assert "lens" in done.stderr
    assert path.exists()


def test_interrupted_it_says_that_the_same_command_goes_on_and_it_does(desk, midstream, monkeypatch):
    words = (*BASE, "--shard", "40")
    read_shard = scan_work.read_shard

    def interrupted(model, job, readers, shard):
        if shard.number == 1:
            raise KeyboardInterrupt
        return read_shard(model, job, readers, shard)

    with monkeypatch.context() as patch:
        patch.setattr(scan_work, "read_shard", interrupted)
        done = midstream(*words)
    assert done.exit_code == 130
    assert "goes on" in done.stderr
    again = midstream(*words)
    assert again.exit_code == 0, again.output
    assert "1 shard there already" in again.stdout


def test_a_second_scan_at_once_is_refused(desk, midstream):
    midstream(*BASE)
    header = open_store("store").header
    with create_or_resume("store", header, list):
        done = midstream(*BASE)
    assert done.exit_code == 2
    assert "another scan" in done.stderr
    assert midstream(*BASE).exit_code == 0


def test_a_folder_that_is_no_store_is_refused(desk, midstream):
    (desk / "store").mkdir()
    (desk / "store" / "thesis.txt").write_text("mine")
    assert midstream(*BASE).exit_code == 2
    assert [path.name for path in (desk / "store").iterdir()] == ["thesis.txt"]


def test_strict_ends_at_the_first_document_that_cannot_be_read(desk, midstream):
    (desk / "bad.txt").write_bytes(b"The city\n<|endofdoc|>\n\xff\n<|endofdoc|>\nParis")
    words = ("scan", "--corpus", "bad.txt", "--out", "bad", "--lens", "logit", "--every", "15")
    done = midstream(*words, "--strict")
    assert done.exit_code == 1
    assert "bad:1" in done.stderr
    done = midstream(*words)
    assert done.exit_code == 0
    assert "1 document could not be read" in done.stderr


def test_a_corpus_of_which_nothing_can_be_read_fails_each_time(desk, midstream):
    (desk / "bad.txt").write_bytes(b"\xff\n<|endofdoc|>\n\xfe\n<|endofdoc|>\n\xff")
    words = ("scan", "--corpus", "bad.txt", "--out", "bad", "--lens", "logit", "--every", "15")
    for there in ("bad: 1 shard read", "bad: 1 shard there already; 0 shards read"):
        done = midstream(*words)
        assert done.exit_code == 1
        assert done.stdout.startswith(there)
        assert "3 documents could not be read: document 0 (bad:0): bad.txt is not UTF-8 in line 1" in done.stderr
        assert "document 2" in done.stderr
