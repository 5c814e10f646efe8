"""store/foreign.py: what is in the way, of another scan, or of no matter; check and scan say the same of it."""

from __future__ import annotations

import shutil

import pytest
from store.written import SHARDS, content, digest, facts, header, opened, scan, shard_files

from midstream.errors import RequestError
from midstream.store.check import check
from midstream.store.foreign import OTHER_HEADER
from midstream.store.layout import FINISHED, HEADER, KINDS, LOCK, VOCABULARY, entry_name, file_name
from midstream.store.sealed import FOLDER


@pytest.fixture
def whole(tmp_path):
    """A finished store."""
    scan(tmp_path / "store")
    return tmp_path / "store"


FILES = [HEADER, VOCABULARY, FINISHED, entry_name(1), *(file_name(kind, 1) for kind in KINDS)]


@pytest.mark.parametrize("name", FILES)
def test_a_folder_where_a_file_belongs_is_named_and_stays(whole, name):
    before = content(whole)
    (whole / name).unlink()
    (whole / name).mkdir()
    (whole / name / "thesis.txt").write_text("mine")
    assert [(damage.file, damage.reason) for damage in check(whole).damages] == [(name, FOLDER)]
    with pytest.raises(RequestError, match=f"its '{name}' is a folder where a file belongs .remove it.. Then give"):
        scan(whole)
    assert (whole / name / "thesis.txt").read_text() == "mine"
    shutil.rmtree(whole / name)
    scan(whole)
    assert content(whole) == before


def test_a_folder_where_a_shard_is_to_be_written_is_named(whole):
    (whole / file_name("positions", SHARDS)).mkdir()
    with opened(whole) as store, pytest.raises(RequestError, match=r"its 'positions/000003\.parquet' is a folder"):
        store.keep(SHARDS, shard_files(SHARDS), facts(SHARDS))


@pytest.mark.parametrize("name", ["shards", LOCK, *KINDS])
@pytest.mark.parametrize("what", ["file", "folder", "link", "loop"])
def test_what_is_in_the_way_of_a_folder_or_the_lock_is_named(whole, name, what, tmp_path):
    if what == ("file" if name == LOCK else "folder"):
        pytest.skip("it belongs there")
    path, kept = whole / name, tmp_path / "kept"
    path.rename(kept)
    if what == "file":
        path.write_text("mine")
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to(kept if what == "link" else path)
    found = [damage for damage in check(whole).damages if damage.file == name]
    assert len(found) == 1
    assert found[0].then == "until then the next scan refuses"
    with pytest.raises(RequestError) as caught:
        scan(whole)
    assert f"its {name!r} {found[0].reason}. Then give the same scan again" in str(caught.value)
    path.rmdir() if what == "folder" else path.unlink()
    kept.rename(path)
    assert scan(whole) == []
    assert check(whole).damages == ()


def test_a_link_to_itself_is_no_folder_for_a_store(tmp_path):
    (tmp_path / "store").symlink_to(tmp_path / "store")
    with pytest.raises(RequestError, match="it is a link to itself"):
        scan(tmp_path / "store")


def test_a_header_of_another_scan_is_named(whole, tmp_path):
    before = content(whole)
    scan(tmp_path / "other", header(identity="c" * 64))
    shutil.copy(tmp_path / "other" / HEADER, whole / HEADER)
    found = check(whole)
    assert [(damage.file, damage.reason, damage.shard) for damage in found.damages] == [(HEADER, OTHER_HEADER, None)]
    assert found.shards == SHARDS
    with pytest.raises(RequestError) as caught:
        scan(whole)
    assert OTHER_HEADER in str(caught.value)
    (whole / HEADER).unlink()
    assert scan(whole) == []
    assert content(whole) == before
    with pytest.raises(RequestError, match="was made with model tiny"):
        scan(whole, header(identity="c" * 64))


# ---- beyond the end


def end(path, last=SHARDS - 1):
    """What a scan of a corpus of three shards finds beyond them."""
    with opened(path) as store:
        assert all(store.done(shard, digest(shard)) for shard in range(last + 1))
        beyond = store.beyond(last)
        if not beyond:
            store.finish({"empty": 1})
        return beyond


def test_a_damaged_entry_beyond_the_end_is_removed(whole):
    before = content(whole)
    (whole / entry_name(7)).write_text("x")
    [damage] = check(whole).damages
    assert (damage.file, damage.shard) == (entry_name(7), None)
    assert damage.reason.endswith(", and the last shard is 2")
    assert damage.then == f"the next scan removes {entry_name(7)}"
    assert end(whole) == []
    assert content(whole) == before
    assert check(whole).damages == ()


def test_a_sound_entry_beyond_the_end_is_named_and_stays(whole, tmp_path):
    scan(tmp_path / "longer", shards=SHARDS + 1)
    for name in (entry_name(SHARDS), *(file_name(kind, SHARDS) for kind in KINDS)):
        shutil.copy(tmp_path / "longer" / name, whole / name)
    found = check(whole)
    assert [damage.file for damage in found.damages] == [entry_name(SHARDS)]
    assert found.damages[0].reason == "was copied there: the last shard is 2"
    assert found.shards == SHARDS
    assert end(whole) == [SHARDS]
    assert (whole / entry_name(SHARDS)).exists()


def test_a_damaged_shard_that_was_counted_is_not_removed(whole):
    (whole / file_name("readings", 2)).write_bytes(b"x")
    assert end(whole, last=1) == [2]
    assert (whole / entry_name(2)).exists()


# ---- of no matter


def test_files_that_are_not_of_the_store_are_named_and_are_no_damage(whole):
    names = ["notes\n.txt", "readings/000003.parquet", "readings/junk", "shards/x.json", "watched/0.parquet"]
    for name in names:
        (whole / name).write_text("mine")
    (whole / ".midstream-0123").mkdir()
    found = check(whole)
    assert found.damages == ()
    assert found.strangers == ("notes\\n.txt", *names[1:])
    (whole / FINISHED).unlink()
    assert "readings/000003.parquet" not in check(whole).strangers
