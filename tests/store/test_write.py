"""store/write.py: types and nulls, order, bounded memory, and whole files or none."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from midstream.errors import RequestError
from midstream.record import READING, WATCHED, Provenance, ReadingTable, as_list
from midstream.store import rows
from midstream.store.write import atomic, check_target, write_csv, write_parquet
from tests.store.made import Text, store
from tests.store.written import content as held

TOKENS = [" Paris", "\n", "<script>'\"", "\\xF0\\x9F", "ab\0", "\u202e", ""]
SQL = {"int16": "SMALLINT", "int32": "INTEGER", "float32": "FLOAT", "str": "VARCHAR"}


def table(start: int, length: int, *, layers: int = 3, k: int = 4, watch: int = 0, seed: int = 0) -> ReadingTable:
    """Positions ``start`` to ``start + length`` of one text under two lenses, rows in an unhelpful order."""
    draw = np.random.default_rng(seed + start)
    lens, layer, position = (
        axis.ravel() for axis in np.meshgrid([1, 0], range(layers)[::-1], np.arange(length) + start, indexing="ij")
    )
    rows = len(layer)

    def values(name: str, dtype: str, nullable: bool) -> Any:
        shape = (rows, k) if dtype.endswith("[]") else (rows,)
        kind = dtype.removesuffix("[]")
        if kind == "str":
            return np.array(TOKENS, dtype=object)[draw.integers(0, len(TOKENS), rows)]
        if kind == "float32":
            found = draw.normal(size=shape).astype(np.float32)
            return np.where(draw.random(shape) < 0.2, np.float32(np.nan), found) if nullable else found
        return draw.integers(-1 if nullable else 0, 5, shape).astype(kind)

    columns = {column.name: values(column.name, column.dtype, column.nullable) for column in READING}
    columns |= {"doc_id": np.zeros(rows, np.int32), "position": position.astype(np.int32)}
    columns |= {"layer": layer.astype(np.int16), "site": np.full(rows, "resid_post")}
    columns |= {"lens": np.array(["input", "logit"])[lens], "offset": np.full(rows, -1, np.int16)}
    keys = {name: np.repeat(columns[name], watch) for name in ("doc_id", "position", "layer", "site", "lens")}
    watched = keys | {
        "watch_id": np.tile(np.arange(watch, dtype=np.int32), rows),
        "logprob": np.full(rows * watch, np.nan, np.float32),
        "rank": np.full(rows * watch, -1, np.int32),
    }
    provenance = Provenance(model='it\'s a "model"', seed=3, precision={"exact": 0.5})
    return ReadingTable(columns, {}, watched, {}, provenance, layers - 1)


def ask(query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as database:
        return database.execute(query).fetchall()


def rows_of(path: Path) -> list[tuple[Any, ...]]:
    return ask(f"SELECT * FROM '{path}'")


def expected_rows(chunks: list[ReadingTable]) -> list[tuple[Any, ...]]:
    columns = [[cell for chunk in chunks for cell in as_list(chunk.columns[column.name])] for column in READING]
    names = [column.name for column in READING]
    keys = [names.index(name) for name in ("doc_id", "lens", "site", "layer", "position")]
    return sorted(zip(*columns, strict=True), key=lambda row: [row[key] for key in keys])


def test_values_order_and_nulls(tmp_path: Path) -> None:
    chunks = [table(0, 5), table(5, 5), table(10, 2)]
    assert write_parquet(tmp_path / "x.parquet", iter(chunks)) == [tmp_path / "x.parquet"]
    assert rows_of(tmp_path / "x.parquet") == expected_rows(chunks)
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_types_are_those_declared(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", [table(0, 2, watch=1)])
    for name, declared in (("x.parquet", READING), ("x.watched.parquet", WATCHED)):
        found = ask(f"DESCRIBE SELECT * FROM '{tmp_path / name}'")
        types = [SQL[c.dtype.removesuffix("[]")] + ("[]" if c.dtype.endswith("[]") else "") for c in declared]
        assert [row[:2] for row in found] == list(zip([c.name for c in declared], types, strict=True))


def test_metadata_and_compression(tmp_path: Path) -> None:
    chunk = table(0, 2)
    write_parquet(tmp_path / "x.parquet", [chunk])
    query = f"SELECT decode(key), decode(value) FROM parquet_kv_metadata('{tmp_path / 'x.parquet'}')"
    found: dict[str, str] = dict(ask(query))
    assert (found["schema"], found["layers"]) == ("1", "2")
    assert Provenance(**json.loads(found["provenance"])) == chunk.provenance
    query = f"SELECT DISTINCT compression FROM parquet_metadata('{tmp_path / 'x.parquet'}')"
    assert ask(query) == [("ZSTD",)]


def test_watched_tokens_go_beside(tmp_path: Path) -> None:
    chunks = [table(0, 3, watch=2), table(3, 3), table(6, 1, watch=2)]
    assert [path.name for path in write_parquet(tmp_path / "x.parquet", chunks)] == ["x.parquet", "x.watched.parquet"]
    found = rows_of(tmp_path / "x.watched.parquet")
    assert len(found) == 2 * 3 * 4 * 2
    assert {row[-2:] for row in found} == {(None, None)}
    names = [column.name for column in WATCHED]
    order = [names.index(name) for name in ("doc_id", "lens", "site", "layer", "position", "watch_id")]
    assert found == sorted(found, key=lambda row: [row[place] for place in order])


def test_a_stale_watched_file_does_not_outlive_its_result(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", [table(0, 3, watch=1)])
    write_parquet(tmp_path / "x.parquet", [table(0, 3)])
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


@pytest.mark.parametrize("name", ["x", "a[b]*?"])
def test_a_stranger_of_that_name_stays(tmp_path: Path, name: str) -> None:
    beside = tmp_path / f"{name}.watched.parquet"
    for content in ("SELECT 1 AS schema", None):
        if content is None:
            beside.write_bytes(b"no Parquet at all")
        else:
            ask(f"COPY ({content}) TO '{beside}' (FORMAT parquet)")
        before = beside.read_bytes()
        write_parquet(tmp_path / f"{name}.parquet", [table(0, 3)])
        assert beside.read_bytes() == before
    write_parquet(tmp_path / f"{name}.parquet", [table(0, 3, watch=1)])
    write_parquet(tmp_path / f"{name}.parquet", [table(0, 3)])
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.parquet"]


def test_where_watched_tokens_cannot_go_is_said_with_the_first_of_them(tmp_path: Path) -> None:
    (tmp_path / "x.watched.parquet").mkdir()

    def chunks() -> Iterator[ReadingTable]:
        yield table(0, 3, watch=1)
        pytest.fail("work went on")

    with pytest.raises(RequestError, match=r"x\.watched\.parquet.*is a folder"):
        write_parquet(tmp_path / "x.parquet", chunks())


def test_undefined_best_tokens_are_null_and_empty(tmp_path: Path) -> None:
    chunk, stream = table(0, 2, k=2), io.StringIO()
    chunk.columns["top_ids"][:] = [[-1, -1], [7, -1]] * (len(chunk) // 2)
    chunk.columns["top_logprobs"][:] = np.nan
    write_parquet(tmp_path / "x.parquet", [chunk])
    found = ask(f"SELECT DISTINCT top_ids, top_logprobs FROM '{tmp_path / 'x.parquet'}' ORDER BY top_ids")
    assert found == [([7, None], [None, None]), ([None, None], [None, None])]
    write_csv(chunk, stream)
    lines = list(csv.DictReader(io.StringIO(stream.getvalue(), newline="")))
    assert [(line["top_ids"], line["top_logprobs"]) for line in lines[:2]] == [("", ""), ("7 ", "")]


def test_same_rows_same_bytes_however_cut(tmp_path: Path) -> None:
    whole = table(0, 40)
    first = whole.columns["position"] < 17
    write_parquet(tmp_path / "one.parquet", [whole])
    write_parquet(tmp_path / "two.parquet", [whole.pick(~first), whole.pick(first)])
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_more_rows_than_memory_spill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MEMORY", 56)
    on_disk = []

    def chunks() -> Iterator[ReadingTable]:
        for start in range(0, 48_000, 2_000):
            yield table(start, 2_000, layers=8)
            on_disk.append(sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()))

    write_parquet(tmp_path / "x.parquet", chunks())
    assert max(on_disk) > 10e6, "rows waited in memory"
    found = ask(f"SELECT lens, layer, position FROM '{tmp_path / 'x.parquet'}'")
    assert len(found) == 2 * 8 * 48_000
    assert found == sorted(found)
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


@pytest.mark.parametrize("k", [0, 300])
def test_any_number_of_best_tokens(tmp_path: Path, k: int) -> None:
    chunks = [table(start, 300, layers=8, k=k) for start in (0, 300, 600)]
    write_parquet(tmp_path / "x.parquet", chunks)
    query = f"SELECT count(*), min(len(top_ids)), max(len(top_logprobs)) FROM '{tmp_path / 'x.parquet'}'"
    assert ask(query) == [(2 * 8 * 900, k, k)]


def failing(error: BaseException) -> Iterator[ReadingTable]:
    yield table(0, 3, watch=1)
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RequestError("the model broke"), OSError("not about writing")])
def test_failure_on_the_way_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    write_parquet(tmp_path / "x.parquet", [table(0, 3, watch=2)])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(type(error)) as caught:
        write_parquet(tmp_path / "x.parquet", failing(error))
    assert caught.value is error
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


INTERRUPTED = """
import sys
from pathlib import Path
from midstream.store import rows
database = rows.open_rows(Path(sys.argv[1]), {})
try:
    print("begun", flush=True)
    with rows.explained(Path(sys.argv[1])):
        database.execute("SELECT sum(hash(a.range + b.range)) FROM range(10000000) a, range(200) b")
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_inside_duckdb_is_a_keyboard_interrupt(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "begun\n"
        # one that comes between Python and the query is lost, and DuckDB may finish a query that it was asked to stop
        while child.poll() is None:
            time.sleep(0.2)
            child.send_signal(signal.SIGINT)
        assert child.stdout.read().split()[:1] == ["interrupted"]


def test_an_error_of_the_program_is_not_dressed_up(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_parquet(tmp_path / "x.parquet", [ReadingTable({}, {}, {"watch_id": []}, {}, Provenance(), 2)])
    with pytest.raises(RuntimeError, match="of another kind"), rows.explained(tmp_path):
        raise RuntimeError("of another kind")
    with pytest.raises(ValueError, match="no chunks"):
        write_parquet(tmp_path / "x.parquet", [])
    assert list(tmp_path.iterdir()) == []


def test_the_target_is_refused_before_the_first_chunk_is_made(tmp_path: Path) -> None:
    def never() -> Iterator[ReadingTable]:
        pytest.fail("work was begun")
        yield table(0, 1)

    for path, reason in (
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "x.parquet", "no folder"),
        (Path("/dev/null"), "no ordinary file"),
    ):
        with pytest.raises(RequestError, match=reason):
            write_parquet(path, never())
        with pytest.raises(RequestError, match=reason), atomic(path):
            pytest.fail("work was begun")


@pytest.mark.parametrize("state", ["sound", "damaged", "headless"])
@pytest.mark.parametrize("name", ["store.json", "readings/000000.parquet", "new.parquet", "../link/finished.json"])
def test_no_result_is_written_into_a_store(tmp_path: Path, name: str, state: str) -> None:
    made, _ = store(tmp_path / "s", [Text([1, 2, 3])])
    (tmp_path / "link").symlink_to(made.path)
    if state == "headless":
        (made.path / "store.json").unlink()
    elif state == "damaged":
        (made.path / "store.json").write_text("{")
    before = held(made.path)
    for write in (check_target, lambda path: write_parquet(path, [table(0, 2)])):
        with pytest.raises(RequestError, match=r"inside the store .* outside it") as caught:
            write(made.path / name)
        assert "\n" not in str(caught.value)
    assert held(made.path) == before


def test_a_file_that_happens_to_be_called_store_json_makes_no_store(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"shop": 1}')
    (tmp_path / "s").mkdir()
    assert check_target(tmp_path / "s" / "x.parquet") == tmp_path / "s" / "x.parquet"
    assert check_target(tmp_path / "store.json") == tmp_path / "store.json"


def test_a_folder_whose_name_duckdb_takes_for_an_address_is_written_to(tmp_path: Path) -> None:
    (folder := tmp_path / "q?a=1 [x]*'s").mkdir()
    write_parquet(folder / "x?.parquet", [table(0, 5)])
    write_parquet(tmp_path / "x.parquet", [table(0, 5)])
    assert (folder / "x?.parquet").read_bytes() == (tmp_path / "x.parquet").read_bytes()


def test_a_folder_that_takes_no_files_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RequestError, match=r"cannot write .*x\.html.*Permission denied"):
        check_target(tmp_path / "x.html")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB; only root can mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(small_disk / "x.parquet", [table(0, 3, watch=2)])
    before = {path.name: path.read_bytes() for path in small_disk.iterdir()}
    with pytest.raises(RequestError, match="cannot write"):  # the final file does not fit
        write_parquet(small_disk / "x.parquet", (table(start, 1000, layers=8) for start in range(0, 5000, 1000)))
    monkeypatch.setattr(rows, "MEMORY", 56)
    with pytest.raises(RequestError, match="cannot write"):  # nor does the spill
        write_parquet(small_disk / "x.parquet", (table(start, 2000, layers=8) for start in range(0, 40000, 2000)))
    with pytest.raises(RequestError, match="No space left"), atomic(small_disk / "x.parquet") as path:
        path.write_bytes(bytes(3_000_000))
    assert {path.name: path.read_bytes() for path in small_disk.iterdir()} == before


def test_read_only_disk(small_disk: Path) -> None:
    (small_disk / "x.csv").write_text("old")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for act in (check_target, lambda path: write_parquet(path, [table(0, 1)])):
        with pytest.raises(RequestError, match="Read-only file system"):
            act(small_disk / "x.csv")
    assert (small_disk / "x.csv").read_text() == "old"


def test_atomic_writes_replaces_and_keeps(tmp_path: Path) -> None:
    target = tmp_path / "x.html"
    with atomic(target) as path:
        path.write_text("one")
        assert not target.exists()
    with pytest.raises(ZeroDivisionError), atomic(target) as path:
        path.write_text(str(1 / (path.write_text("two") - 3)))
    assert target.read_text() == "one"
    with atomic(target) as path:
        path.write_text("three")
    assert target.read_text() == "three"
    assert [path.name for path in tmp_path.iterdir()] == ["x.html"]
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real" / "x.txt")
    with atomic(tmp_path / "link.txt") as path:
        path.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real" / "x.txt").read_text() == "new"


def test_csv() -> None:
    chunk, stream = table(0, 3), io.StringIO()
    write_csv(chunk, stream)
    lines = list(csv.DictReader(io.StringIO(stream.getvalue(), newline="")))
    assert list(lines[0]) == [column.name for column in READING]
    assert len(lines) == len(chunk)
    for place, line in enumerate(lines):
        assert line["token"] == chunk.columns["token"][place]
        ids = [int(cell or -1) for cell in line["top_ids"].split(" ")] if line["top_ids"] else [-1] * 4
        assert ids == chunk.columns["top_ids"][place].tolist()
        value = chunk.columns["logprob"][place]
        assert (line["logprob"] == "") if np.isnan(value) else np.float32(line["logprob"]) == value
        assert line["rank"] == ("" if chunk.columns["rank"][place] < 0 else str(chunk.columns["rank"][place]))
        assert line["offset"] == "-1"
    tail = io.StringIO()
    write_csv(chunk, tail, header=False)
    assert stream.getvalue().endswith(tail.getvalue())
    assert stream.getvalue().count("\n") > tail.getvalue().count("\n")


@pytest.mark.parametrize("moment", ["mkdir", "rmtree"])
def test_a_signal_at_any_moment_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    owner, name = {"mkdir": (Path, "mkdir"), "rmtree": (shutil, "rmtree")}[moment]
    real = getattr(owner, name)

    def signalled(*given: Any, **named: Any) -> None:
        if moment == "mkdir":
            real(*given, **named)
        signal.raise_signal(signal.SIGTERM)
        if moment == "rmtree":
            real(*given, **named)

    def terminated(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(owner, name, signalled)
    before = signal.signal(signal.SIGTERM, terminated)
    try:
        with pytest.raises(SystemExit):
            check_target(tmp_path / "x.parquet")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not list(tmp_path.iterdir())


def test_no_signal_comes_into_the_import_of_duckdb(tmp_path, monkeypatch):
    seen = []

    class Finder:
        def find_spec(self, name, *_):
            if name == "duckdb":
                seen.append(signal.getsignal(signal.SIGINT))
                raise ImportError(name)

    monkeypatch.delitem(sys.modules, "duckdb", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(ImportError):
        write_parquet(tmp_path / "x.parquet", [table(0, 2)])
    assert seen
    assert signal.default_int_handler not in seen
    assert not list(tmp_path.iterdir())
