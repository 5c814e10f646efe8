"""Columns that declare nothing, written and read back."""

from __future__ import annotations

import numpy as np
import pytest

from midstream.store.columns import read_columns, write_columns

COLUMNS = {
    "document": np.array([0, -3, 7], np.int32),
    "layer": np.array([1, 2, 3], np.int16),
    "name": np.array(["", "a, b", "ü|\n"]),
    "nats": np.array([1.5, np.nan, -np.inf], np.float32),
    "exact": np.array([1e-300, np.nan, 3.0]),
}


def test_what_is_read_is_what_was_written(tmp_path):
    write_columns(tmp_path / "x.parquet", COLUMNS)
    found = read_columns(tmp_path / "x.parquet")
    assert list(found) == list(COLUMNS)
    for name, values in COLUMNS.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype.kind == values.dtype.kind
        assert values.dtype.kind == "U" or found[name].dtype == values.dtype


def test_the_same_columns_are_the_same_bytes(tmp_path):
    one, two = (write_columns(tmp_path / name, COLUMNS).read_bytes() for name in ("a.parquet", "b.parquet"))
    assert one == two


def test_nothing_and_nonsense_are_none(tmp_path):
    assert read_columns(tmp_path / "x.parquet") is None
    write_columns(tmp_path / "x.parquet", COLUMNS)
    for size in (0, 10, 200):
        (tmp_path / "y.parquet").write_bytes((tmp_path / "x.parquet").read_bytes()[:size])
        assert read_columns(tmp_path / "y.parquet") is None


def test_other_types_are_refused(tmp_path):
    with pytest.raises(ValueError, match="complex"):
        write_columns(tmp_path / "x.parquet", {"z": np.zeros(2, complex)})


def test_a_name_is_no_pattern(tmp_path):
    for folder, number in (("x1", 1), ("x[1]", 2)):
        (tmp_path / folder).mkdir()
        write_columns(tmp_path / folder / "a*.parquet", {"n": np.array([number], np.int32)})
    assert read_columns(tmp_path / "x[1]" / "a*.parquet")["n"].tolist() == [2]
