"""The cache folder: whole or not at all, redone when damaged, safe for two at once."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from midstream.errors import ModelError
from midstream.model import cache
from midstream.model.cache import file_sha256, sealed_folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MIDSTREAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    """Fills a folder with a small and a large file, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "small.json").write_text("{}")
        (folder / "large.bin").write_bytes(b"\x01" * ((1 << 24) + 9))


def test_a_folder_is_made_once():
    make = Maker()
    first = sealed_folder("a/b", make)
    assert sealed_folder("a/b", make) == first
    assert make.calls == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "small.json").write_text("[]"),
        lambda folder: (folder / "small.json").unlink(),
        lambda folder: (folder / "large.bin").write_bytes(b"\x01" * (1 << 24)),
        lambda folder: (folder / "large.bin").write_bytes(b"\x02" + b"\x01" * ((1 << 24) + 8)),
        lambda folder: (folder / "sealed.json").write_text("damaged"),
        lambda folder: (folder / "more").write_text(""),
    ],
)
def test_a_damaged_folder_is_made_again(damage):
    make = Maker()
    folder = sealed_folder("a", make)
    damage(folder)
    assert sealed_folder("a", make) == folder
    assert make.calls == 2
    sealed_folder("a", make)
    assert make.calls == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_run_leaves_nothing(own_cache, error):
    def fill(folder: Path) -> None:
        (folder / "part").write_text("half")
        raise error

    with pytest.raises(error):
        sealed_folder("a", fill)
    assert list(own_cache.iterdir()) == []


def test_two_at_once_both_get_a_whole_folder(own_cache):
    make = Maker()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: sealed_folder("a", make), range(8)))
    assert set(found) == {own_cache / "a"}
    assert [path.name for path in own_cache.iterdir()] == ["a"]
    assert (own_cache / "a" / "small.json").read_text() == "{}"


def test_what_a_killed_process_left_is_swept_after_a_day(own_cache):
    old, new = own_cache / ".new-old", own_cache / ".new-new"
    old.mkdir(parents=True)
    new.mkdir()
    os.utime(old, (0, 0))
    sealed_folder("a", Maker())
    assert not old.exists()
    assert new.exists()


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MIDSTREAM_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="set MIDSTREAM_CACHE"):
        sealed_folder("a", Maker())
    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"").hexdigest()


def test_hashes_are_remembered_until_the_file_changes(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    assert file_sha256(path) == hashlib.sha256(b"one").hexdigest()
    with monkeypatch.context() as context:
        context.setattr(cache.hashlib, "file_digest", lambda *_: pytest.fail("was hashed again"))
        assert file_sha256(path) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"two")
    os.utime(path, ns=(0, 123))
    assert file_sha256(path) == hashlib.sha256(b"two").hexdigest()


def test_a_damaged_note_is_ignored(tmp_path, own_cache):
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    file_sha256(path)
    (note,) = (own_cache / "hashes").iterdir()
    note.write_text("{")
    assert file_sha256(path) == hashlib.sha256(b"one").hexdigest()
