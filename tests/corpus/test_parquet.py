"""Parquet: texts and columns come back whatever their types; a damaged file is a sentence, never a crash."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.corpus import parquet
from midstream.corpus.source import open_corpus
from midstream.errors import RequestError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture
def write(tmp_path):
    def write(name="a.parquet", **columns):
        pq.write_table(pa.table(columns), tmp_path / name)
        return tmp_path / name

    return write


@settings(max_examples=25)
@given(rows=st.lists(st.tuples(st.none() | texts, texts), min_size=1, max_size=9), group=st.integers(1, 4))
def test_texts_and_fields_come_back_in_order(tmp_path_factory, rows, group):
    path = tmp_path_factory.mktemp("corpus") / "a.parquet"
    table = pa.table({"work": [b for _, b in rows], "text": pa.array([a for a, _ in rows], pa.string())})
    pq.write_table(table, path, row_group_size=group)
    kept = [(a, {"work": b}) for a, b in rows if a is not None and a.strip()]
    corpus = open_corpus(path)
    if not kept:
        with pytest.raises(RequestError, match="gives no document"):
            list(corpus)
    else:
        found = list(corpus)
        assert [(document.text, document.metadata) for document in found] == kept
        assert [document.sha256 for document in found] == [hashlib.sha256(a.encode()).hexdigest() for a, _ in kept]
    assert corpus.skipped.broken == sum(a is None for a, _ in rows)
    assert corpus.bytes_read == corpus.bytes == path.stat().st_size


def test_a_name_is_a_name_and_no_pattern(write, tmp_path):
    names = ["a*.parquet", "ab.parquet", "a?.parquet", "a[b].parquet", "a*\\.parquet", "ax\\.parquet", "~.parquet"]
    folder = tmp_path / "year=2020"
    folder.mkdir()
    for name in names:
        write(text=[name]).rename(folder / name)
    for name in names:
        assert [(document.text, document.metadata) for document in open_corpus(folder / name)] == [(name, {})]
    assert sorted(document.text for document in open_corpus(folder)) == sorted(names)


def test_a_null_text_is_broken_with_its_row(write):
    corpus = open_corpus(write(text=["a", None, "", "b"], id=["x", "y", None, ""]))
    assert [(document.number, document.id) for document in corpus] == [(0, "x"), (1, "a:1")]
    assert str(corpus.skipped) == "1 empty, 1 broken (row 2 has null as its 'text')"


def test_every_type_becomes_what_json_can_hold(write):
    name = "we \"ird' \\"
    zone = pa.timestamp("us", "Pacific/Auckland")
    path = write(
        fields=pa.array([float("nan"), 1.5]),
        text=["a", "b"],
        infinite=[float("inf"), 1.0],
        time=pa.array([datetime.datetime(2020, 1, 1)] * 2, zone),
        day=[datetime.date(2020, 1, 1)] * 2,
        money=[decimal.Decimal("1.50")] * 2,
        bytes=[b"\xff\x00"] * 2,
        list=[[1, None], None],
        nested=[{"a": {"b": True}}] * 2,
        large=pa.array([2**64 - 1] * 2, pa.uint64()),
        map=pa.array([[("k", 1)]] * 2, pa.map_(pa.string(), pa.int32())),
        repeated=pa.array(["x", "x"]).dictionary_encode(),
        Text=["X", "Y"],
        **{name: [1, 2]},
    )
    first, second = open_corpus(path)
    assert json.loads(json.dumps(first.metadata, allow_nan=False)) == first.metadata
    assert first.metadata["fields"] is first.metadata["infinite"] is None
    assert second.metadata["fields"] == 1.5
    assert first.metadata[name] == 1
    assert first.metadata["list"] == [1, None]
    assert first.metadata["nested"] == {"a": {"b": True}}
    assert first.metadata["large"] == 2**64 - 1
    assert first.metadata["day"] == "2020-01-01"
    assert first.metadata["time"] == "2020-01-01 00:00:00+00"
    assert first.metadata["repeated"] == "x"


def test_where_asks_columns(write):
    path = write(text=["a", "b", "c"], split=["fit", "eval", "fit"], year=[1, 2, None])
    corpus = open_corpus(path, where=["split=fit"])
    assert [(document.number, document.text) for document in corpus] == [(0, "a"), (2, "c")]
    assert [document.text for document in open_corpus(path, where=["year=2"])] == ["b"]
    with pytest.raises(RequestError, match="No document has a field 'spilt'; the first has 'split', 'year'"):
        list(open_corpus(path, where=["spilt=fit"]))


def test_a_row_that_is_too_large_is_refused_or_has_a_fault(write, monkeypatch):
    monkeypatch.setattr(parquet, "LARGEST", 1000)
    path = write(text=["a", "x" * 1000, "b", "c"], note=["", "n", "y" * 2000, ""])
    with pytest.raises(RequestError, match=r"the row 2 of '.*a\.parquet' is larger than 0 MiB"):
        list(open_corpus(path))
    a, large, wide, c = open_corpus(path, lenient=True)
    assert [a.text, large.text, wide.text, c.text] == ["a", "", "", "c"]
    assert large.fault.startswith("the row 2 of a.parquet is larger than")
    assert large.sha256 == hashlib.sha256(b"x" * 1000).hexdigest()
    assert (large.metadata, wide.metadata) == ({"note": "n"}, {})
    assert "row 3" in wide.fault


def test_fields_that_are_no_json_of_ours_make_a_row_broken(write):
    values = pa.array(["9" * 5000, "[1]"])
    corpus = open_corpus(write(text=["a", "b"], field=pa.ExtensionArray.from_storage(pa.json_(), values)))
    assert [document.metadata for document in corpus] == [{"field": [1]}]
    assert corpus.skipped.examples[0].startswith("row 1 holds a number that is too long")


def test_a_text_column_of_another_kind_is_a_sentence(write):
    with pytest.raises(RequestError, match=r"'text' of .* holds BIGINT: expected strings"):
        open_corpus(write(text=[1, 2]))
    with pytest.raises(RequestError, match=r"'text' of .* holds BLOB: expected strings"):
        open_corpus(write(text=[b"a"]))
    with pytest.raises(RequestError, match="no column 'text': it has 'body', 'Text'"):
        open_corpus(write(body=["a"], Text=["b"]))
    with pytest.raises(RequestError, match=r"holds no document"):
        list(open_corpus(write(text=pa.array([], pa.string()))))


def test_what_is_no_parquet_is_a_sentence(tmp_path):
    path = tmp_path / "a.parquet"
    for content in (b"", b"PAR1", b"hello " * 100, b"PAR1" + b"\0" * 100 + b"PAR1", b"PAR1\xff\xff\xff\x7fPAR1"):
        path.write_bytes(content)
        with pytest.raises(RequestError, match=r"cannot read '.*a\.parquet': .*Expected a whole \.parquet"):
            open_corpus(path)
    with pytest.raises(RequestError, match="No such file"):
        open_corpus(tmp_path / "none.parquet")


def test_a_text_that_is_not_utf8_ends_the_file_with_a_sentence(tmp_path):
    raw = pa.array([b"good"] * 3000 + [b"b\xffd"], pa.binary())
    table = pa.table({"text": pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())})
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False)
    found = []
    with pytest.raises(RequestError, match=r"cannot read .*not valid UTF8"):
        found.extend(open_corpus(tmp_path / "a.parquet"))


@settings(max_examples=60)
@given(where=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_damage_gives_documents_or_a_sentence(tmp_path_factory, where, byte, cut):
    path = tmp_path_factory.mktemp("corpus") / "a.parquet"
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(50)], "n": list(range(50))}), path, row_group_size=20)
    content = bytearray(path.read_bytes())
    place = int(where * len(content))
    content[place] = byte
    path.write_bytes(content[:place] if cut else content)
    with suppress(RequestError):
        for document in open_corpus(path):
            json.dumps(document.metadata)


def test_a_corpus_left_early_can_be_read_again(write):
    corpus = open_corpus(write(text=[f"text {n}" for n in range(5000)]))
    documents = iter(corpus)
    first = next(documents)
    assert 0 < corpus.bytes_read < corpus.bytes
    documents.close()
    assert next(iter(corpus)) == first


def test_rows_that_take_too_much_memory_are_a_sentence(write, monkeypatch):
    path = write(text=[str(n % 10) * 2_000_000 + str(n) for n in range(30)])
    monkeypatch.setattr(parquet, "MEMORY", "30MB")
    with pytest.raises(RequestError, match="takes more than 30MB: write it with smaller row groups"):
        list(open_corpus(path))
