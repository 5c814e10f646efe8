"""Which files a folder gives, in which order, and what does no harm there."""

from __future__ import annotations

import os

import pytest

from midstream.corpus.source import open_corpus
from midstream.errors import RequestError


@pytest.fixture
def folder(tmp_path):
    """Text files, each holding its own name, among others."""
    for name in ("b.txt", "a/z.jsonl", "a/c.TXT", "a-b/d.txt", "f.txt/e.txt", ".hidden/x.txt", ".x.txt", "no.csv", "g"):
        path = tmp_path / "text" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"text": "{name}"}}\n' if name.endswith("jsonl") else name)
    return tmp_path / "text"


def test_a_folder_is_read_by_name_without_what_is_hidden_or_of_another_kind(folder, monkeypatch):
    corpus = open_corpus(folder)
    found = list(corpus)
    names = ["a/c.TXT", "a/z.jsonl", "a-b/d.txt", "b.txt", "f.txt/e.txt"]
    assert [document.source for document in found] == [document.text for document in found] == names
    assert [document.id for document in found] == ["c:0", "z:1", "d:2", "b:3", "e:4"]
    assert corpus.name == "text"
    assert corpus.bytes == corpus.bytes_read == sum((folder / name).stat().st_size for name in names)
    monkeypatch.chdir(folder)
    assert open_corpus(".").name == "text"
    assert [document.id for document in open_corpus(".")] == [document.id for document in found]


def test_links_and_pipes_in_a_folder_do_no_harm(folder, tmp_path):
    names = [document.source for document in open_corpus(folder)]
    (folder / "a" / "up").symlink_to(folder)
    (folder / "loop").symlink_to("loop")
    (folder / "again").symlink_to(folder / "a-b")
    (folder / "dead.txt").symlink_to("nowhere.txt")
    os.mkfifo(folder / "pipe.txt")
    assert [document.source for document in open_corpus(folder)] == names
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "o.txt").write_text("o")
    (folder / "linked").symlink_to(outside)
    (folder / "z.txt").symlink_to(outside / "o.txt")
    assert [document.source for document in open_corpus(folder)] == [*names, "linked/o.txt", "z.txt"]


def test_a_store_in_the_folder_is_no_part_of_the_corpus(folder):
    names = [document.source for document in open_corpus(folder)]
    for name in ("store/shards", "store/documents"):
        (folder / name).mkdir(parents=True)
    (folder / "store/store.json").write_text("{}")
    (folder / "store/documents/000000.parquet").write_bytes(b"no corpus")
    assert [document.source for document in open_corpus(folder)] == names


def test_a_folder_without_text_is_a_sentence(tmp_path):
    (tmp_path / "a.csv").write_text("a")
    with pytest.raises(RequestError, match=r"holds no \.txt, \.jsonl, \.parquet file"):
        open_corpus(tmp_path)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    if not os.access(closed, os.R_OK):
        with pytest.raises(RequestError, match=r"cannot look into the folder .*closed"):
            open_corpus(tmp_path)


def test_conditions_are_refused_where_a_file_of_a_folder_has_no_fields(folder):
    with pytest.raises(RequestError, match=r"c\.TXT', whose documents have no fields"):
        open_corpus(folder, where=["k=1"])
    assert [document.source for document in open_corpus(folder / "a" / "z.jsonl")] == ["z.jsonl"]


def test_a_name_that_is_no_utf8_can_be_kept(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.txt")).write_text("text")
    (document,) = open_corpus(tmp_path)
    assert (document.source, document.id) == ("\\udcff.txt", "\\udcff:0")
    assert document.text == "text"
