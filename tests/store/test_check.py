"""store/check.py, layout.py, sealed.py: every planted fault is found and named, and the next scan redoes it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store.written import SHARDS, content, facts, header, opened, scan, shard_files

from midstream.errors import RequestError
from midstream.store import check as checks
from midstream.store.check import Damage, check
from midstream.store.layout import (
    FINISHED,
    HEADER,
    KINDS,
    VOCABULARY,
    File,
    Finished,
    Header,
    ShardEntry,
    entry_name,
    file_name,
    to_json,
)
from midstream.store.sealed import LARGEST_JSON, DamagedError, dump, seal
from midstream.store.shard import Made
from midstream.store.store import open_store

DATA = [file_name(kind, shard) for kind in KINDS for shard in range(SHARDS)]
ENTRIES = [entry_name(shard) for shard in range(SHARDS)]
FILES = [HEADER, VOCABULARY, FINISHED, *ENTRIES, *DATA]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A finished store, not to be changed."""
    path = tmp_path_factory.mktemp("stores") / "sound"
    scan(path)
    return path


@pytest.fixture
def store(sound, tmp_path):
    """A copy of it."""
    return shutil.copytree(sound, tmp_path / "store")


def shard_of(name):
    return None if name in (HEADER, VOCABULARY, FINISHED) else int(name[-14:].split("/")[-1].split(".")[0])


def test_a_sound_store_is_sound(sound):
    assert sorted(content(sound)) == sorted(FILES)
    seen = []
    found = check(sound, lambda *progress: seen.append(progress))
    assert (found.damages, found.finished, found.shards) == ((), True, SHARDS)
    last = Finished.read(sound)
    assert (found.documents, found.tokens, found.rows) == (last.documents, last.tokens, last.rows)
    assert seen == [(done, SHARDS) for done in range(SHARDS + 1)]


def test_an_unfinished_store_may_have_gaps(tmp_path):
    with opened(tmp_path / "store") as writer:
        writer.keep(2, shard_files(2), facts(2))
    found = check(tmp_path / "store")
    assert (found.damages, found.finished, found.shards) == ((), False, 1)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_anywhere_is_found_named_and_redone(sound, store, name):
    before = content(sound)
    data = before[name]
    places = {0, 1, len(data) // 3, len(data) // 2, len(data) - 5, len(data) - 2, len(data) - 1}
    for place in places:
        for flip in (0x01, 0x80):
            (store / name).write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
            assert [(d.file, d.shard) for d in check(store).damages] == [(name, shard_of(name))]
    assert scan(store) == ([] if shard_of(name) is None else [shard_of(name)])
    assert content(store) == before
    assert check(store).damages == ()


@settings(max_examples=40)
@given(data=st.data())
def test_any_other_content_of_a_json_file_is_damage(sound, tmp_path_factory, data):
    name = data.draw(st.sampled_from([HEADER, FINISHED, *ENTRIES]))
    store = shutil.copytree(sound, tmp_path_factory.mktemp("any") / "store")
    known = (store / name).read_bytes()
    place = data.draw(st.integers(0, len(known) - 1))
    put = data.draw(st.binary(max_size=3))
    changed = known[:place] + put + known[place + data.draw(st.integers(0, 3)) :]
    if changed != known:
        (store / name).write_bytes(changed)
        assert [damage.file for damage in check(store).damages] == [name]
    shutil.rmtree(store)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fault", ["truncated", "longer", "empty", "missing", "folder", "link", "pipe"])
def test_a_file_that_is_not_whole_is_found_and_redone(sound, store, name, fault):
    before, path = content(sound), store / name
    path.unlink()
    if fault == "folder":
        path.mkdir()
    elif fault == "link":
        path.symlink_to(sound / name)
    elif fault == "pipe":
        os.mkfifo(path)
    elif fault != "missing":
        data = before[name]
        path.write_bytes({"truncated": data[:-1], "longer": data + b"\n", "empty": b""}[fault])
    damages = check(store).damages
    if fault == "missing" and name == FINISHED:
        assert damages == ()
    else:
        assert [(damage.file, damage.shard) for damage in damages] == [(name, shard_of(name))]
    if fault == "folder":  # never removed: it may hold anything
        path.rmdir()
    assert scan(store) == ([] if shard_of(name) is None else [shard_of(name)])
    assert content(store) == before


@pytest.mark.parametrize("kind", KINDS)
def test_exchanged_files_are_found(store, kind):
    one, two = (store / file_name(kind, shard) for shard in (0, 2))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert {damage.file for damage in check(store).damages} == {file_name(kind, 0), file_name(kind, 2)}
    assert scan(store) == [0, 2]


def test_exchanged_shards_are_found(sound, store):
    for name in [*KINDS, "shards"]:
        ending = "json" if name == "shards" else "parquet"
        one, two = (store / name / f"00000{shard}.{ending}" for shard in (0, 2))
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)
    assert [str(damage) for damage in check(store).damages] == [
        f"{entry_name(0)} belongs to another shard",
        f"{entry_name(2)} belongs to another shard",
    ]
    assert scan(store) == [0, 2]
    assert content(store) == content(sound)


def test_a_shard_of_another_scan_is_found(store, tmp_path):
    other = header(lenses={"logit": "", "tuned": "c" * 64})
    scan(tmp_path / "other", other)
    for name in [entry_name(1), *(file_name(kind, 1) for kind in KINDS)]:
        shutil.copy(tmp_path / "other" / name, store / name)
    assert check(store).damages == (Damage(entry_name(1), checks.OTHER, 1),)
    assert open_store(store).damaged == (1,)
    assert [entry.shard for entry in open_store(store).entries] == [0, 2]
    assert scan(store) == [1]
    shutil.copy(tmp_path / "other" / FINISHED, store / FINISHED)
    assert check(store).damages == (Damage(FINISHED, checks.OTHER),)


def test_a_count_that_is_not_the_files_is_found(tmp_path):
    path = tmp_path / "store"
    with opened(path) as writer:
        made = shard_files(0)
        writer.keep(0, made | {"readings": Made(made["readings"].data, made["readings"].rows + 1)}, facts(0))
        writer.keep(1, made | {"documents": Made(b"no Parquet", 4)}, replace(facts(1), tokens=facts(0).tokens))
    rows = made["readings"].rows
    assert [str(damage) for damage in check(path).damages] == [
        f"{file_name('readings', 0)} has {rows:,} rows, expected {rows + 1:,}",
        f"{file_name('documents', 1)} is no Parquet file that can be read",
    ]


def test_the_last_word_is_held_against_the_shards(store):
    last = Finished.read(store)
    for more in ({"rows": 1}, {"corpus": "0" * 64}, {"faults": 9}):
        (store / FINISHED).write_bytes(to_json(replace(last, **more)))
        assert [damage.file for damage in check(store).damages] == [FINISHED]
    (store / FINISHED).write_bytes(to_json(replace(last, shards=2)))
    assert [str(damage) for damage in check(store).damages] == [f"{FINISHED} counts 2 shards, and 3 are there"]
    (store / FINISHED).write_bytes(to_json(replace(last, shards=1 << 60)))
    damages = check(store).damages
    assert len(damages) == checks.MOST_MISSING + 1
    assert damages[-1] == Damage(entry_name(SHARDS + checks.MOST_MISSING - 1), "is missing", 1002)
    assert scan(store) == []
    assert check(store).damages == ()


# ---- hostile JSON, with a checksum that fits


def hostile(store, name, change):
    """Rewrite a JSON file of a store with a change to its fields, and a checksum that fits."""
    fields = json.loads((store / name).read_bytes())
    del fields["checksum"]
    change(fields)
    (store / name).write_bytes(seal(fields))


VALUES = [None, True, -1, 1 << 70, [[]], {"a": []}, "../../etc/passwd\x1b[2J"]


@pytest.mark.parametrize("name", [HEADER, FINISHED, ENTRIES[1]])
def test_any_type_in_any_field_is_a_sentence(sound, store, name):
    fields = json.loads((sound / name).read_bytes())
    for field in [*fields, "more"]:
        for value in VALUES:
            shutil.copy(sound / name, store / name)
            hostile(store, name, lambda found, field=field, value=value: found.update({field: value}))
            try:
                found = check(store).damages
            except RequestError as error:  # another schema
                assert (name, field) == (HEADER, "schema")
                assert "schema" in str(error)  # noqa: PT017
                continue
            assert all(str(damage).isprintable() for damage in found)
            try:
                opened = open_store(store)
                assert str(store) in str(opened.vocabulary)
                for kind in KINDS:
                    opened.files(kind)
                _ = opened.finished
                _ = opened.header.columns
            except RequestError as error:
                assert str(error).isprintable()  # noqa: PT017


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (ENTRIES[1], lambda found: found["files"].update({"../../x": found["files"]["readings"]})),
        (ENTRIES[1], lambda found: found["files"].pop("readings")),
        (ENTRIES[1], lambda found: found["files"]["readings"].update(bytes=1 << 61)),
        (ENTRIES[1], lambda found: found["files"]["readings"].update(path="/etc/passwd")),
        (ENTRIES[1], lambda found: found.update(documents=[5, 4])),
        (ENTRIES[1], lambda found: found.update(documents=[0, 1 << 31])),
        (ENTRIES[1], lambda found: found.update(rows=found["rows"] + 1)),
        (HEADER, lambda found: found["select"].update(statistics=["doc_id); DROP TABLE x"])),
        (HEADER, lambda found: found["select"].update(statistics=[["rank"]])),
        (HEADER, lambda found: found["select"].update(share=True)),
        (HEADER, lambda found: found["select"].pop("seed")),
        (HEADER, lambda found: found["request"].update(watch=["5"])),
        (HEADER, lambda found: found.update(request={})),
        (HEADER, lambda found: found["request"].update(layers=["0"])),
        (HEADER, lambda found: found["request"].update(top_k="3")),
        (HEADER, lambda found: found.update(where=[["a"]])),
        (HEADER, lambda found: found["lenses"].update(logit=5)),
        (FINISHED, lambda found: found["skipped"].update(empty=-1)),
    ],
)
def test_what_makes_no_sense_is_damage(store, name, change):
    hostile(store, name, change)
    files = {damage.file for damage in check(store).damages}
    assert files & {name, file_name("readings", 1)}
    assert files <= {name, file_name("readings", 1)}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]\n",
        b"null\n",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"checksum": "x"}',
        b"9" * 100_000,
        b'{"a": NaN}',
        b'{"a": 1, "a": 1}',
        dump({"checksum": None}),
    ],
    ids=range(10),
)
def test_what_is_no_json_of_a_store_is_damage(store, data):
    for name in (HEADER, FINISHED, ENTRIES[0]):
        (store / name).write_bytes(data)
    assert [damage.file for damage in check(store).damages] == [HEADER, FINISHED, ENTRIES[0]]
    assert scan(store) == [0]


def test_a_huge_file_is_not_read(store):
    for name in (ENTRIES[0], DATA[1]):
        with (store / name).open("wb") as file:
            file.truncate(1 << 40)
    found = check(store).damages
    assert [str(damage) for damage in found] == [
        f"{ENTRIES[0]} has {1 << 40:,} bytes, expected at most {LARGEST_JSON:,}",
        f"{DATA[1]} has {1 << 40:,} bytes, expected at most {(len(shard_files(1)['readings'].data)):,}",
    ]


def test_names_that_are_no_shards_are_ignored(store):
    for name in (
        "0.json",
        "0000000.json",
        "00000a.json",
        "-00001.json",
        "000003.json.tmp",
        "\u0661\u0661\u0661\u0661\u0661\u0661.json",
    ):
        (store / "shards" / name).write_text("x")
    (store / "shards" / "000009.json.d").mkdir()
    assert check(store).damages == ()


def test_no_folder_of_shards_can_be_listed(store):
    shutil.rmtree(store / "shards")
    assert [damage.file for damage in check(store).damages] == ENTRIES
    (store / "shards").write_text("")
    assert "shards" in [damage.file for damage in check(store).damages]
    with pytest.raises(DamagedError, match="shards cannot be read"):
        _ = open_store(store).entries


# ---- what is written is what is read


TEXT = st.text(max_size=8) | st.sampled_from(["\udc80", "\ud800\udc00", "\\udc80", '"', "\x00", "\u2028"])


@given(model=TEXT, corpus=st.lists(TEXT, max_size=3), pairs=st.lists(st.tuples(TEXT, TEXT), max_size=2))
def test_a_header_comes_back(tmp_path_factory, model, corpus, pairs):
    folder = tmp_path_factory.getbasetemp()
    made = header(model=model, corpus=tuple(corpus), where=tuple(pairs), circumstances=dict(pairs))
    made = replace(made, vocabulary=File.of(b"x", 1))
    (folder / HEADER).write_bytes(to_json(made))
    again = Header.read(folder)
    assert again.digest == made.digest
    assert to_json(again) == to_json(made)
    if not any("\ud800" <= char <= "\udfff" for text in (model, *corpus, *sum(pairs, ())) for char in text):
        assert again == made


def test_an_entry_comes_back(sound):
    entry = ShardEntry.read(sound, 1)
    assert to_json(entry) == (sound / ENTRIES[1]).read_bytes()
    assert entry.files["readings"].rows == entry.rows
    assert entry.documents == (4, 7)
