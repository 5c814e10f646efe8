from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from view.sample import reading

from midstream.errors import RequestError
from midstream.view import chart
from midstream.view.layout import lay_out

TABLE, _ = reading(tokens=6, layers=7, size=120)
SUBS, _ = reading(tokens=6, layers=7, size=120, subs=True)


@given(st.integers(1, 12))
def test_a_stride_never_drops_the_last_layer(every):
    layers = lay_out(TABLE, every=every).layers
    assert layers[0] == 0
    assert layers[-1] == 7
    assert set(layers) == {*range(0, 8, every), 7}


def test_every_cell_holds_its_own_row():
    layout = lay_out(SUBS)
    for row, column in np.ndindex(layout.index.shape):
        at = layout.index[row, column]
        if at < 0:
            assert layout.layers[row] == 0
            continue
        assert SUBS.columns["layer"][at] == layout.layers[row]
        assert SUBS.columns["site"][at] == layout.sites[row]
        assert SUBS.columns["position"][at] == layout.positions[column]


def test_places_inside_a_block_stand_in_the_order_of_computation():
    layout = lay_out(SUBS)
    assert layout.sites[:5] == ["resid_post", "attn_out", "resid_mid", "mlp_out", "resid_post"]
    assert [layout.row_label(row) for row in range(1, 5)] == ["1 attn", "1 mid", "1 mlp", "1"]


def test_right_marks_where_the_top_token_is_the_one_that_came():
    layout = lay_out(TABLE)
    right = layout.right(TABLE)
    by_row = (TABLE.columns["rank"] == 1) & (TABLE.columns["target_id"] >= 0)
    np.testing.assert_array_equal(right, layout.take(by_row))
    assert right.any()
    assert not right[:, -1].any()


def test_missing_rows_are_empty_cells():
    table = TABLE.pick(~((TABLE.columns["layer"] == 3) & (TABLE.columns["position"] == 2)))
    layout = lay_out(table)
    assert layout.index[3, 2] == -1
    assert np.isnan(layout.cells(table, chart.statistic("entropy"))[3, 2])
    assert layout.tops(table)[3, 2] == -1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lens": "tuned"}, "unknown lens 'tuned': expected one of logit"),
        ({"sites": ["attn_out"]}, "unknown site 'attn_out'"),
        ({"every": 0}, "every 0 layers"),
    ],
)
def test_bad_requests(options, message):
    with pytest.raises(RequestError, match=message):
        lay_out(TABLE, **options)


def test_an_empty_table_is_refused():
    with pytest.raises(RequestError, match="no rows"):
        lay_out(TABLE.pick(np.zeros(len(TABLE), bool)))
