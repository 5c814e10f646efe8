import hashlib
import io
import json
import os
import sys
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.corpus import source, text_file
from midstream.corpus.source import cluster_of, open_corpus
from midstream.errors import RequestError

SEPARATOR = "<|endofdoc|>"
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=40)


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def read(path, **options):
    return [document.text for document in open_corpus(path, **options)]


@settings(deadline=None)
@given(written=st.lists(texts.filter(lambda text: SEPARATOR not in text), min_size=1, max_size=6))
def test_a_txt_gives_back_the_texts_that_are_not_blank(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("corpus") / "some.txt"
    path.write_text(f"\n{SEPARATOR}\n".join(written), encoding="utf-8", newline="")
    kept = [text.strip("\n") for text in written if text.strip()]
    corpus = open_corpus(path)
    if not kept:
        with pytest.raises(RequestError, match="no document"):
            list(corpus)
        return
    found = list(corpus)
    assert [document.text for document in found] == kept
    assert [document.number for document in found] == list(range(len(kept)))
    last_is_blank = not written[-1].strip()
    assert corpus.skipped.empty == len(written) - len(kept) - last_is_blank


@settings(deadline=None)
@given(
    records=st.lists(st.fixed_dictionaries({"text": texts, "work": texts}), min_size=1, max_size=6), ascii=st.booleans()
)
def test_a_jsonl_gives_back_texts_and_fields(tmp_path_factory, records, ascii):
    path = tmp_path_factory.mktemp("corpus") / "some.jsonl"
    path.write_text("\n".join(json.dumps(r, ensure_ascii=ascii) for r in records) + "\n", encoding="utf-8")
    kept = [record for record in records if record["text"].strip()]
    corpus = open_corpus(path)
    if not kept:
        with pytest.raises(RequestError, match="no document"):
            list(corpus)
        return
    found = list(corpus)
    assert [(document.text, dict(document.metadata)) for document in found] == [
        (record["text"], {"work": record["work"]}) for record in kept
    ]
    assert corpus.skipped.empty == len(records) - len(kept)
    assert corpus.documents == len(kept)


def test_ids_hashes_and_numbers(write):
    path = write(
        "books.jsonl", lines({"id": "emma-1", "text": "é"}, {"text": " "}, {"text": "b"}, {"id": 7, "text": "c"})
    )
    found = list(open_corpus(path))
    assert [(document.number, document.id) for document in found] == [(0, "emma-1"), (1, "books:1"), (2, "books:2")]
    assert found[0].sha256 == hashlib.sha256("é".encode()).hexdigest()
    assert found[2].metadata == {"id": 7}


def test_the_same_text_has_the_same_hash_however_it_is_stored(write):
    one = write("a.txt", f"\ufefffirst\r\nline\r\n{SEPARATOR}\r\nsecond\r\n")
    other = write("b.jsonl", lines({"text": "first\nline"}, {"text": "second"}))
    one, other = open_corpus(one), open_corpus(other)
    assert [document.sha256 for document in one] == [document.sha256 for document in other]
    assert one.digest == other.digest


def test_the_digest_is_of_the_documents_given_so_far(write):
    path = write("a.txt", f"\n{SEPARATOR}\n".join("abcd"))
    corpus = open_corpus(path)
    whole = [document.sha256 for document in corpus]
    full = corpus.digest
    assert full == hashlib.sha256(bytes.fromhex("".join(whole))).hexdigest()
    for _, document in zip(range(2), corpus, strict=False):
        assert document.sha256 in whole
    assert corpus.documents == 2
    assert corpus.digest == hashlib.sha256(bytes.fromhex("".join(whole[:2]))).hexdigest()
    assert (len(list(corpus)), corpus.digest) == (4, full)


def test_where_keeps_what_holds_and_numbers_stay(write):
    path = write(
        "a.jsonl",
        lines(
            {"text": "a", "split": "fit", "year": 1859},
            {"text": "b", "split": "eval", "year": 1859},
            {"text": "c", "split": "fit", "year": None},
            {"text": "d"},
        ),
    )
    corpus = open_corpus(path, where=["split=fit"])
    assert [(document.number, document.text) for document in corpus] == [(0, "a"), (2, "c")]
    assert corpus.skipped.unmatched == 2
    assert read(path, where=["split=fit", "year=1859"]) == ["a"]
    assert read(path, where="year=null") == ["c"]
    with pytest.raises(RequestError, match=r"4 do not have split=tune,.*0 are empty, 0 are broken\.$"):
        read(path, where=["split=tune"])
    with pytest.raises(RequestError, match="No document has a field 'spilt'; the first has 'split', 'year'"):
        read(path, where=["spilt=fit"])


@pytest.mark.parametrize("condition", ["split", "=fit", ""])
def test_a_condition_that_is_none_is_refused(write, condition):
    with pytest.raises(RequestError, match="expected FIELD=VALUE"):
        open_corpus(write("a.jsonl", lines({"text": "a"})), where=[condition])


def test_a_txt_has_no_fields_to_ask_for(write):
    with pytest.raises(RequestError, match="have no fields"):
        open_corpus(write("a.txt", "a"), where=["split=fit"])


def test_broken_lines_are_counted_and_the_first_three_shown(write):
    bad = [
        '{"text": "cut off',
        '["text"]',
        '{"body": "a"}',
        '{"text": 3}',
        '{"text": "\\ud83d"}',
        "[" * 100_000,
        '{"text": "a", "n": ' + "9" * 5000 + "}",
        '{"text": "a", "n": {"\\udc00": 1}}',
    ]
    path = write("a.jsonl", lines({"text": "good"}) + "\n \n" + "\n".join(bad) + "\n" + '{"text": "\\ud83d\\ude00"}')
    corpus = open_corpus(path)
    assert [document.text for document in corpus] == ["good", "😀"]
    assert corpus.skipped.broken == len(bad)
    first, second, third = corpus.skipped.examples
    assert first == "line 4 is not JSON (Unterminated string starting at column 10)"
    assert second == "line 5 is a JSON list, not an object"
    assert third == "line 6 has no string 'text' beside 'body'"
    assert str(corpus.skipped) == f"8 broken ({first}; {second}; {third}; ...)"


def test_nan_is_read_as_null(write):
    (document,) = open_corpus(write("a.jsonl", '{"text": "a", "score": NaN, "more": [1e999, -1E+400, 1e3]}'))
    assert document.metadata == {"score": None, "more": [None, None, 1000.0]}


def test_a_corpus_without_documents_says_why(write):
    for name, content, said in (
        ("a.txt", "", "holds no document"),
        ("b.txt", f" \n{SEPARATOR}\n\n{SEPARATOR}\n", "of 2 read, 2 are empty, 0 are broken"),
        (
            "c.jsonl",
            '\n\nhello\n{"text": ""}\n',
            "of 2 read, 1 are empty, 1 are broken. The first broken ones: line 3 is",
        ),
    ):
        with pytest.raises(RequestError, match=said):
            read(write(name, content))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"good\nbad \xff\n", r"line 2, byte 9 of the file \(0xff\)"),
        ("b.txt", b"\xef\xbb\xbfa\n<|endofdoc|>\nb\n\xe9t\xe9\n", r"line 4, byte 20 of the file \(0xe9\)"),
        ("c.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', r"line 2, byte 24 of the file \(0xe9\)"),
        ("d.txt", b"\xef\xbb\xbf\xe9\n", r"line 1, byte 3 of the file \(0xe9\)"),
        ("e.txt", "text".encode("utf-16"), r"line 1, byte 0 of the file \(0xff\)"),
    ],
)
def test_what_is_not_utf8_is_refused_with_its_place(write, name, content, said):
    path = write(name, content)
    with pytest.raises(RequestError, match=said) as error:
        read(path)
    place = int(str(error.value).split("byte ")[1].split()[0])
    assert f"0x{content[place]:02x}" in str(error.value)


def test_what_cannot_be_read_is_a_sentence(tmp_path, write):
    (tmp_path / "folder.txt").mkdir()
    closed = write("closed.txt", "a")
    closed.chmod(0)
    cases = [("no.txt", "No such file"), ("x" * 300 + ".txt", "name too long"), ("a\0.txt", "null byte")]
    cases += [] if os.access(closed, os.R_OK) else [("closed.txt", "Permission denied")]
    for name in ("a.csv", "a.txt.gz", "a"):
        write(name, "a")
        cases.append((name, "of no kind that can be read"))
    for name, said in cases:
        with pytest.raises(RequestError, match=f"{said}.*expected a .txt, a .jsonl, a .parquet, a folder of these"):
            open_corpus(tmp_path / name)
    for none in ("", [], ["a.txt", ""]):
        with pytest.raises(RequestError, match=r"no corpus was named: expected a .txt"):
            open_corpus(none)


def test_an_error_while_reading_is_a_sentence(write, monkeypatch):
    class Torn(io.BytesIO):
        def readline(self, size=-1):
            if self.tell():
                raise OSError(5, "Input/output error")
            return super().readline(size)

    corpus = open_corpus(write("a.txt", "a"))
    monkeypatch.setattr(source, "opened", lambda path: Torn(b"a\nb\n"))
    with pytest.raises(RequestError, match="after line 1: Input/output error"):
        list(corpus)


def test_standard_input_is_a_txt_read_once(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"a\n{SEPARATOR}\nb\n".encode())))
    corpus = open_corpus("-")
    assert [(document.id, document.text) for document in corpus] == [("stdin:0", "a"), ("stdin:1", "b")]
    assert corpus.name == "standard input"
    with pytest.raises(RequestError, match="can be read once"):
        list(corpus)


def test_closed_standard_input_is_a_sentence(monkeypatch):
    closed = io.TextIOWrapper(io.BytesIO())
    closed.close()
    for stream in (None, closed, io.StringIO("a")):
        monkeypatch.setattr(sys, "stdin", stream)
        with pytest.raises(RequestError, match="standard input is closed"):
            list(open_corpus("-"))


@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", "x" * 5000), ("b.txt", "x\n" * 2000), ("c.jsonl", lines({"text": "x" * 5000}))]
)
def test_a_document_that_is_too_large_is_refused(write, monkeypatch, name, content):
    path = write(name, content)
    monkeypatch.setattr(text_file, "LARGEST", 3000)
    with pytest.raises(RequestError, match="is larger than"):
        read(path)
    monkeypatch.setattr(text_file, "LARGEST", 6000)
    assert len(read(path)) == 1


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_line_that_never_ends_is_not_read_to_its_end(write, monkeypatch, name):
    given = []

    class Endless(io.BytesIO):
        def readline(self, size=-1):
            given.append(super().readline(size))
            return given[-1]

    monkeypatch.setattr(text_file, "LARGEST", 3000)
    monkeypatch.setattr(source, "opened", lambda path: Endless(b"x" * 1_000_000))
    with pytest.raises(RequestError, match="is larger than"):
        read(write(name, "a"))
    assert sum(map(len, given)) == 3001


@pytest.mark.parametrize("ending", ["txt", "jsonl"])
def test_memory_holds_one_document(write, ending):
    text = "word " * 20_000
    record = lines({"text": text}) if ending == "jsonl" else f"{text}\n{SEPARATOR}\n"
    path = write(f"a.{ending}", record * 100)
    tracemalloc.start()
    try:
        count = sum(1 for _ in open_corpus(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 100
    assert peak < 15 * len(text)


def test_numbers_run_on_over_several_sources(write):
    one = write("a.txt", f"x\n{SEPARATOR}\n \n{SEPARATOR}\ny")
    two = write("b.jsonl", lines({"text": "z", "id": "own"}, {"body": 1}, {"text": "w"}))
    corpus = open_corpus([one, two, str(one)])
    found = list(corpus)
    assert [(d.number, d.id, d.source) for d in found] == [
        (0, "a:0", "a.txt"),
        (1, "a:1", "a.txt"),
        (2, "own", "b.jsonl"),
        (3, "b:3", "b.jsonl"),
        (4, "a:4", "a.txt"),
        (5, "a:5", "a.txt"),
    ]
    assert corpus.skipped.empty == 2
    assert corpus.skipped.examples == ["b.jsonl line 2 has no string 'text' beside 'body'"]
    assert corpus.name == "a.txt, b.jsonl, a.txt"
    assert open_corpus([one] * 5).name == "a.txt, a.txt, a.txt, 2 more"
    assert open_corpus([two, two], where=["id=own"]).documents == 0
    with pytest.raises(RequestError, match=r"a\.txt', whose documents have no fields"):
        open_corpus([two, one], where=["id=own"])
    empty = write("none.txt", "")
    assert read([empty, two]) == ["z", "w"]
    with pytest.raises(RequestError, match=r"none\.txt, none\.txt holds no document"):
        read([empty, empty])


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbfa\nb\n<|endofdoc|>\nc\n\n<|endofdoc|>\n  \n", b'{"text": "a"}\n\nhello\n{"text": "b"}\n\n'],
)
def test_the_bytes_read_grow_to_those_of_the_files(write, content):
    path = write("a.txt" if content.startswith(b"\xef") else "a.jsonl", content)
    corpus = open_corpus([path, path])
    assert (corpus.bytes, corpus.bytes_read) == (2 * len(content), 0)
    seen = [corpus.bytes_read for _ in corpus]
    assert seen == sorted(set(seen))
    assert 0 < seen[0] < len(content) < seen[-1] <= corpus.bytes_read == corpus.bytes


def test_standard_input_has_no_known_size_and_is_read_once(monkeypatch, write):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a")))
    corpus = open_corpus([write("a.txt", "a"), "-"])
    assert corpus.bytes is None
    assert [document.source for document in corpus] == ["a.txt", "standard input"]
    with pytest.raises(RequestError, match="named twice"):
        open_corpus(["-", "-"])


def test_a_lenient_corpus_gives_what_it_cannot_read_with_its_fault(write):
    bad, end = b"bad \xff\n", f"{SEPARATOR}\n".encode()
    path = write("a.txt", b"good\n" + end + bad + end + b"more\n" + end + b"\xfe")
    with pytest.raises(RequestError, match=r"a\.txt' is not UTF-8 in line 3, byte 22 of the file \(0xff\)"):
        read(path)
    corpus = open_corpus(path, lenient=True)
    good, first, more, last = corpus
    assert (good.text, good.fault, more.text, more.fault) == ("good", None, "more", None)
    assert (first.number, first.id, first.text, first.metadata) == (1, "a:1", "", {})
    assert first.sha256 == hashlib.sha256(bad).hexdigest()
    assert first.fault.startswith("a.txt is not UTF-8 in line 3, byte 22 of the file (0xff)")
    assert "line 7" in last.fault
    assert last.sha256 == hashlib.sha256(b"\xfe").hexdigest()
    assert corpus.documents == 4


def test_a_lenient_corpus_counts_lines_that_are_no_document(write):
    content = b'{"text": "a", "k": 1}\nhello\n{"id": "b", "k": 1, "text": "\xff"}\n\xff\n'
    path = write("a.jsonl", content)
    corpus = open_corpus(path, lenient=True)
    found = [(document.id, document.text, document.metadata, bool(document.fault)) for document in corpus]
    assert found == [
        ("a:0", "a", {"k": 1}, False),
        ("b", "", {"id": "b", "k": 1}, True),
        ("a:2", "", {}, True),
    ]
    assert corpus.skipped.broken == 1
    corpus = open_corpus(path, where=["k=1"], lenient=True)
    assert [document.number for document in corpus] == [0, 1]
    assert corpus.skipped.unmatched == 1


@pytest.mark.parametrize("ending", ["txt", "jsonl"])
@pytest.mark.parametrize("line", [7000, 6001, 40])
def test_a_lenient_corpus_goes_on_after_what_is_too_large(write, monkeypatch, ending, line):
    monkeypatch.setattr(text_file, "LARGEST", 3000)
    large = b"".join(b"x" * line + b"\n" for _ in range(7000 // line))
    if ending == "jsonl":
        large = b'"' + large.replace(b"\n", b"") + b'"\n'
        content = b'{"text": "a"}\n' + large + b'{"text": "b"}\n' + large.strip()
        last, said = large.strip(), "the line 2 of"
    else:
        end = f"{SEPARATOR}\n".encode()
        content = b"a\n" + end + large + end + b"b\n" + end + large
        last, said = large, "the document that begins in line 3 of"
    path = write(f"a.{ending}", content)
    corpus = open_corpus(path, lenient=True)
    found = list(corpus)
    assert [document.text for document in found] == ["a", "", "b", ""]
    assert found[1].fault.startswith(f"{said} a.{ending} is larger than")
    assert [found[1].sha256, found[3].sha256] == [hashlib.sha256(raw).hexdigest() for raw in (large, last)]
    assert corpus.bytes_read == len(content)


def documents(write, *records):
    return list(open_corpus(write("a.jsonl", lines(*records))))


def test_a_cluster_is_the_work_else_the_document(write):
    a, b, c, d = documents(
        write, {"text": "a", "work": "emma"}, {"text": "b"}, {"text": "c", "work": None}, {"text": "d", "work": 12}
    )
    assert [cluster_of(x) for x in (a, b, c, d)] == ["emma", b.sha256, c.sha256, "12"]


def test_a_cluster_by_a_field_of_choice(write):
    a, b, c = documents(
        write, {"text": "a", "author": "Austen"}, {"text": "b", "author": None}, {"id": "c", "text": "c", "work": "x"}
    )
    assert cluster_of(a, "author") == "Austen"
    assert cluster_of(b, "author") == b.sha256
    with pytest.raises(RequestError, match="document 'c' has no field 'author' to cluster by: it has 'id', 'work'"):
        cluster_of(c, "author")


def test_names_in_an_error_are_escaped_and_few(write):
    (document,) = documents(write, {"text": "a", "\x1b[31m": 1, "x" * 1000: 2} | {str(i): i for i in range(1000)})
    with pytest.raises(RequestError) as error:
        cluster_of(document, "work")
    assert "\x1b" not in str(error.value)
    assert len(str(error.value)) < 500


def test_a_separator_at_the_end_of_a_line_that_is_too_long_parts_nothing(write, monkeypatch):
    monkeypatch.setattr(text_file, "LARGEST", 3000)
    content = b"x" * 3001 + f"{SEPARATOR}\nmore\n{SEPARATOR}\nb".encode()
    first, second = open_corpus(write("a.txt", content), lenient=True)
    assert first.sha256 == hashlib.sha256(content.rpartition(SEPARATOR.encode())[0]).hexdigest()
    assert second.text == "b"


def test_a_mark_that_is_not_at_the_start_is_text(write):
    assert read(write("a.txt", "\ufeffa\n\ufeffb")) == ["a\n\ufeffb"]
