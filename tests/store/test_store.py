"""store/store.py, refuse.py: begun, gone on with, refused; one writer at a time; power cuts, kills, full disks."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from store.written import (
    SHARDS,
    TOKENS,
    content,
    digest,
    documents,
    facts,
    header,
    opened,
    scan,
    shard_files,
    vocabulary,
)

from midstream.errors import RequestError
from midstream.record import SCHEMA
from midstream.store import sealed, write
from midstream.store.check import check
from midstream.store.layout import FINISHED, HEADER, VOCABULARY, Finished, Header, entry_name, to_json
from midstream.store.rows import in_memory
from midstream.store.sealed import DamagedError
from midstream.store.shard import Made
from midstream.store.store import create_or_resume, open_store


@pytest.fixture
def whole(tmp_path):
    """A finished store."""
    scan(tmp_path / "store")
    return tmp_path / "store"


def test_a_store_is_what_was_written(whole):
    store = open_store(whole)
    assert [entry.shard for entry in store.entries] == list(range(SHARDS))
    assert store.damaged == ()
    assert store.header.digest == header().digest
    assert store.finished == Finished.of(store.entries, header().digest, {"empty": 1})
    assert [len(store.files(kind)) for kind in ("readings", "watched")] == [SHARDS, SHARDS]
    with in_memory() as database:
        found = database.execute(f"SELECT token_id, token FROM '{store.vocabulary}'").fetchall()
    assert found == list(enumerate(TOKENS))
    assert sorted(path.name for path in whole.iterdir()) == sorted(
        [".lock", "documents", FINISHED, "positions", "readings", "shards", HEADER, VOCABULARY, "watched"]
    )


def test_a_second_scan_has_nothing_to_do(whole):
    before = content(whole)
    stamps = {name: (whole / name).stat().st_mtime_ns for name in before}
    assert scan(whole) == []
    assert content(whole) == before
    assert {name: (whole / name).stat().st_mtime_ns for name in before} == stamps


def test_shards_in_any_order_give_the_same_store(whole, tmp_path):
    with opened(tmp_path / "other") as store:
        for shard in (2, 0, 1):
            store.keep(shard, shard_files(shard), facts(shard))
        store.finish({"empty": 1})
    assert content(tmp_path / "other") == content(whole)


def test_a_store_can_be_read_before_its_scan_has_ended(tmp_path):
    with opened(tmp_path / "store") as writer:
        assert open_store(tmp_path / "store").entries == ()
        entry = writer.keep(1, shard_files(1), facts(1))
        store = open_store(tmp_path / "store")
        assert store.entries == (entry,)
        assert store.finished is None


def test_a_shard_that_is_gone_from_a_finished_store_is_missed(whole):
    assert open_store(whole).damaged == ()
    (whole / entry_name(1)).unlink()
    assert open_store(whole).damaged == (1,)
    (whole / FINISHED).unlink()
    assert open_store(whole).damaged == ()


def test_no_store_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "none", tmp_path / "file"):
        for act in (open_store, check):
            with pytest.raises(RequestError, match="there is no store"):
                act(path)


def test_another_schema_is_refused_with_both_numbers(whole):
    (whole / HEADER).write_bytes(to_json(replace(Header.read(whole), schema=SCHEMA + 1)))
    for act in (open_store, scan, check):
        with pytest.raises(RequestError, match=f"schema {SCHEMA + 1}, and this midstream reads schema {SCHEMA}"):
            act(whole)


OTHERS = [
    ({"identity": "c" * 64, "model": "big"}, "with model tiny aaaaaaaa and this scan has big cccccccc.*the same model"),
    ({"lenses": {"logit": "", "tuned": "5e6f7a8b" + "0" * 56}}, "lens tuned bbbbbbbb and this scan has 5e6f7a8b: give"),
    (
        {"lenses": {"logit": ""}},
        "with lens tuned bbbbbbbb and this scan has none: give another --out, or the same l",
    ),
    ({"lenses": {"logit": "", "tuned": "b" * 64, "x": "d" * 64}}, "without lens x and this scan has dddddddd"),
    ({"request": header().request | {"top_k": 10}}, "top_k 3 and this scan has 10"),
    ({"request": header().request | {"layers": [0, 2]}}, "layers 0, 1, 2 and this scan has 0, 2"),
    ({"request": header().request | {"watch": []}}, "watch 5 and this scan has none"),
    ({"select": header().select | {"share": 0.5, "seed": 1}}, "share 1.0 and this scan has 0.5"),
    ({"cut": {"characters": 200}}, "characters 100 and this scan has 200"),
    ({"where": (("a", "b"),)}, "without where and this scan has a=b"),
]


@pytest.mark.parametrize(("more", "said"), OTHERS)
def test_another_model_lens_or_option_is_refused_and_named(whole, more, said):
    before = content(whole)
    with pytest.raises(RequestError, match=said), opened(whole, header(**more)):
        pytest.fail("mixed")
    assert content(whole) == before


def test_names_and_circumstances_do_not_decide(whole):
    made = header(model="other name", corpus=("moved.txt",), circumstances={"torch": "3"}, midstream="9")
    assert scan(whole, made) == []
    assert scan(whole, header(select=header().select | {"share": 1})) == []


@pytest.mark.parametrize("names", [["notes.txt"], [HEADER], ["notes.txt", "shards"], ["shards", HEADER, "thesis.doc"]])
def test_a_folder_of_something_else_is_left_alone(tmp_path, names):
    for name in names:
        (tmp_path / name).mkdir() if name == "shards" else (tmp_path / name).write_text("mine")
    with pytest.raises(RequestError, match="is no store to go on with"):
        scan(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    with pytest.raises(RequestError, match="it is a file"):
        scan(tmp_path / names[0]) if names[0] != "shards" else scan(tmp_path / names[1])
    with pytest.raises(RequestError, match="Make it first"):
        scan(tmp_path / "none" / "store")


def test_a_readme_beside_a_sound_store_is_no_matter(whole):
    (whole / "README.md").write_text("mine")
    (whole / "readings" / "notes.txt").write_text("mine")
    assert scan(whole) == []
    assert check(whole).damages == ()


def test_a_folder_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "readings").symlink_to(tmp_path)
    with pytest.raises(RequestError, match="is a link"):
        scan(tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("name", [HEADER, VOCABULARY])
@pytest.mark.parametrize("missing", [True, False])
def test_a_damaged_header_or_vocabulary_is_written_again(whole, name, missing):
    before = content(whole)
    if missing:
        (whole / name).unlink()
    else:
        (whole / name).write_bytes(before[name][:-9] + b"x" + before[name][-8:])
    with opened(whole) as store:
        assert [damage.file for damage in store.damages] == [name]
        assert sorted(store.entries) == list(range(SHARDS))
    assert content(whole) == before


def test_a_damaged_header_is_not_replaced_by_another(whole):
    (whole / HEADER).write_bytes(b"{}")
    with pytest.raises(RequestError, match=r"store\.json is damaged, and the shards beside it"):
        scan(whole, header(identity="c" * 64))
    assert (whole / HEADER).read_bytes() == b"{}"


def test_changed_documents_are_named(whole):
    with opened(whole) as store:
        assert store.done(1, digest(1))
        assert not store.done(1, digest(2))
        assert store.changed(1, documents(1)) == ""
        assert store.changed(7, documents(7)) == ""
        one = [*documents(1)[:2], documents(1, edition="new")[2], documents(1)[3]]
        assert store.changed(1, one) == "'text:6'"
        assert store.changed(1, documents(1)[:3]) == "'text:7'"
        assert store.changed(1, [(n + 1, name, sha256) for n, name, sha256 in documents(1)]).endswith("'text:7'")
        many = [(n, "odd\n" * 200, "0" * 64) for n in range(4, 20)]
        assert store.changed(1, many).endswith(" and 11 more")
        assert "\n" not in store.changed(1, many)
        assert store.beyond(0) == [1, 2]


def test_a_shard_lacking_a_file_is_an_error_of_the_program(tmp_path):
    with opened(tmp_path / "store") as store:
        made = shard_files(0)
        del made["watched"]
        with pytest.raises(ValueError, match="has the files"):
            store.keep(0, made, facts(0))
        with pytest.raises(ValueError, match="positions for"):
            store.keep(0, shard_files(0), replace(facts(0), tokens=3))


def test_a_redone_shard_takes_the_last_word_back(whole):
    with opened(whole) as store:
        store.keep(0, shard_files(0), facts(0))
        assert not (whole / FINISHED).exists()


# ---- one writer


HOLD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from store.written import opened
with opened(Path(sys.argv[1])):
    print("holding", flush=True)
    time.sleep(600)
"""


def child(code: str, *words: object) -> subprocess.Popen:
    tests = str(Path(__file__).parent.parent)
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words), tests], stdout=subprocess.PIPE, text=True)


def test_a_second_writer_is_refused_until_the_first_dies(tmp_path):
    path = tmp_path / "store"
    with child(HOLD, path) as holder:
        try:
            assert holder.stdout.readline() == "holding\n"
            with pytest.raises(RequestError, match="another scan is writing to"):
                scan(path)
            assert open_store(path).entries == ()
            [scratch] = path.glob(".midstream-*")
        finally:
            holder.kill()
    assert scan(path) == list(range(SHARDS))
    assert not scratch.exists()


def test_a_lock_in_this_process_holds_too(tmp_path):
    with opened(tmp_path / "store"):
        with pytest.raises(RequestError, match="another scan"):
            scan(tmp_path / "store")
        assert scan(tmp_path / "other") == list(range(SHARDS))
    assert scan(tmp_path / "store") == list(range(SHARDS))


def test_a_refused_scan_holds_no_lock(whole):
    with pytest.raises(RequestError):
        scan(whole, header(identity="c" * 64))
    assert scan(whole) == []


# ---- power cuts, kills, full disks


def test_everything_is_on_disk_before_the_entry(tmp_path, monkeypatch):
    done = []
    real_sync, real_replace = write.sync, Path.replace

    def sync(path):
        done.append(("sync", path.name))
        real_sync(path)

    def move(source, target):
        assert ("sync", source.name) in done
        done.append(("move", str(target.relative_to(tmp_path / "store"))))
        return real_replace(source, target)

    with opened(tmp_path / "store") as store:
        monkeypatch.setattr(write, "sync", sync)
        monkeypatch.setattr(Path, "replace", move)
        store.keep(0, shard_files(0), facts(0))
    entry = done.index(("move", entry_name(0)))
    for kind in ("readings", "positions", "documents", "watched"):
        assert done.index(("move", f"{kind}/000000.parquet")) < done.index(("sync", kind)) < entry
    assert ("sync", "shards") in done[entry:]


WRITE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from store.written import scan
print("begun", flush=True)
scan(Path(sys.argv[1]), shards=8)
"""


def test_killed_at_any_moment_it_goes_on_to_the_same_store(tmp_path):
    scan(tmp_path / "expected", shards=8)
    path, draw = tmp_path / "store", random.Random(0)
    killed = 0
    for longest in np.linspace(0, 1.5, 10):  # the first at once, so that some are killed however fast it writes
        with child(WRITE, path) as writer:
            writer.stdout.readline()
            time.sleep(draw.uniform(0, longest))
            writer.send_signal(signal.SIGKILL)
        killed += writer.returncode == -signal.SIGKILL
        if (path / HEADER).exists():
            assert check(path).damages == ()
            assert all(
                data == content(tmp_path / "expected")[name]
                for name, data in content(path).items()
                if not name.startswith(".midstream-") and not name.startswith(("shards", "finished"))
            )
    assert killed
    scan(path, shards=8)
    assert content(path) == content(tmp_path / "expected")
    assert check(path).damages == ()


@pytest.mark.parametrize("at", range(1, 12))
def test_a_full_disk_is_a_sentence_and_what_is_done_stays(tmp_path, monkeypatch, at):
    path = tmp_path / "store"
    scan(path, shards=1)
    before, calls = content(path), []

    def full(*_):
        calls.append(1)
        if len(calls) >= at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    made = {shard: shard_files(shard) for shard in (1, 2)}
    with opened(path) as store:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RequestError, match=r"No space left on device\. What is finished there stays: make room"):
            [store.keep(shard, made[shard], facts(shard)) for shard in (1, 2)]
    monkeypatch.undo()
    assert {name: content(path)[name] for name in before if name != FINISHED} == {
        name: data for name, data in before.items() if name != FINISHED
    }
    assert not list(path.glob(".midstream-*"))
    assert check(path).damages == ()
    assert 2 in scan(path)
    assert check(path).damages == ()


def test_a_small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        big = {kind: Made(made.data + bytes(400_000), made.rows) for kind, made in shard_files(0).items()}
        with opened(disk / "store") as store:
            store.keep(0, big, facts(0))
            with pytest.raises(RequestError, match="No space left"):
                store.keep(1, big, replace(facts(1), tokens=facts(0).tokens))
        assert {damage.shard for damage in check(disk / "store").damages} <= {0}  # its files are no Parquet
        with opened(disk / "store") as store:
            assert store.damages
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_writer_that_fails_leaves_no_scratch(tmp_path):
    with pytest.raises(ZeroDivisionError), opened(tmp_path / "store") as store:
        (store.scratch / "x").write_text(str(1 / 0))
    assert not list((tmp_path / "store").glob(".midstream-*"))

    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        create_or_resume(tmp_path / "other", header(), broken)
    assert not list((tmp_path / "other").glob(".midstream-*"))
    assert scan(tmp_path / "other") == list(range(SHARDS))
    assert isinstance(DamagedError(tmp_path, "x", "y"), RequestError)
    assert sealed.printable("a\n\u202eb" + "c" * 500).startswith("a\\n\\u202eb")
    assert list(vocabulary()) == list(enumerate(TOKENS))


def test_entries_that_name_a_missing_file(whole):
    (whole / "readings" / "000001.parquet").unlink()
    with pytest.raises(DamagedError, match=r"readings/000001\.parquet is missing"):
        open_store(whole).files("readings")
    (whole / "positions" / "000001.parquet").write_bytes(b"x")
    with pytest.raises(DamagedError, match="has 1 bytes, expected"):
        open_store(whole).files("positions")
