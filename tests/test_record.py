from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

import midstream as ms
from midstream.record import READING, SCORE, Provenance, ScoreTable, as_list

UNDEFINED_SOMEWHERE = {
    "target_id", "logprob", "rank", "lse", "entropy", "kl_final_lens", "kl_lens_final", "final_top1_rank",
    "final_top1_logprob", "input_logprob", "kl_input_lens", "top_logprobs",
}  # fmt: skip
"""In a reading by the logit and the unfitted input lens."""
TEXT = "The capital of France is Paris"


@pytest.fixture(scope="module")
def table(tiny):
    return ms.read(tiny, TEXT, lens=["logit", "input"], every=15)


@pytest.mark.parametrize("column", READING, ids=lambda column: column.name)
def test_column_is_as_declared(column, table):
    values = table.columns[column.name]
    base = column.dtype.removesuffix("[]")
    assert values.ndim == (2 if column.dtype.endswith("[]") else 1)
    assert values.dtype == (object if base == "str" else base)
    field = table.arrow().schema.field(column.name)
    expected = {"str": pa.string()}.get(base) or getattr(pa, base)()
    assert field.type == (pa.list_(expected) if column.dtype.endswith("[]") else expected)
    arrow = table.arrow().column(column.name)
    nulls = (
        arrow.null_count
        if not column.dtype.endswith("[]")
        else sum(x is None for row in arrow.to_pylist() for x in row)
    )
    assert column.nullable or not nulls
    assert bool(nulls) == (column.name in UNDEFINED_SOMEWHERE)
    assert column.meaning


def test_rows_are_in_order(table):
    keys = list(zip(table.columns["lens"], table.columns["layer"], table.columns["position"], strict=True))
    names = ["logit", "input"]
    assert keys == sorted(keys, key=lambda key: (names.index(key[0]), key[1], key[2]))


def test_json_has_null_where_undefined_and_no_nan(table):
    document = json.loads(table.json(), parse_constant=lambda name: pytest.fail(name))
    assert None in document["columns"]["logprob"]
    assert document["columns"]["position"][0] == 0


def test_pick_keeps_the_chosen_rows(table):
    picked = table.pick(table.columns["layer"] == 30)
    assert len(picked) == 2 * len(table.positions["position"])
    assert set(picked.columns["layer"]) == {30}
    assert picked.keys() == [("logit", "resid_post"), ("input", "resid_post")]


def test_undefined_is_none():
    assert as_list(np.array([1.5, np.nan], dtype=np.float32)) == [1.5, None]
    assert as_list(np.array([3, -1], dtype=np.int32)) == [3, None]
    assert as_list(np.array([-1, 2], dtype=np.int16)) == [-1, 2]


def test_a_score_has_null_where_undefined_and_where_an_interval_has_no_end():
    columns = {
        column.name: np.array(["a", "b"], dtype=object) if column.dtype == "str" else np.zeros(2, column.dtype)
        for column in SCORE
    }
    columns |= {"low": np.array([np.nan, -np.inf]), "layer": np.array([-1, 3], np.int16)}
    table = ScoreTable(columns, Provenance(), ("said",), 30)
    document = json.loads(table.json(), parse_constant=lambda name: pytest.fail(name))
    assert document["columns"]["low"] == [None, None]
    assert document["columns"]["layer"] == [-1, 3]
    assert document["notes"] == ["said"]
    assert [field.name for field in table.arrow().schema] == [column.name for column in SCORE]
    assert len(table.pick(columns["layer"] > 0)) == 1
