from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lens_sample import sample

import midstream as ms
from midstream.errors import RequestError
from midstream.view import chart, compare

ONE = "a king was there and asked why"
OTHER = "once a king was here and asked why"


@pytest.fixture(scope="module")
def readings(tiny):
    return ms.read(tiny, ONE, every=10), ms.read(tiny, OTHER, every=10)


def test_tokens_are_paired_in_order_and_alike(readings):
    one, other = readings
    pairs = compare.aligned(one, other)
    assert len(pairs) >= 5
    assert pairs == sorted(pairs)
    for a, b in pairs:
        assert one.positions["token_id"][a] == other.positions["token_id"][b]
    assert compare.aligned(one, one) == [(i, i) for i in range(len(one.positions["position"]))]


def test_a_difference_is_that_of_the_rows_that_both_have(readings):
    one, other = readings
    found = compare.difference(one, other)
    pairs = {b: a for a, b in compare.aligned(one, other)}
    change = chart.values(found, chart.statistic("logprob_change"))
    rows = {
        (layer, position): number
        for number, (layer, position) in enumerate(zip(one.columns["layer"], one.columns["position"], strict=True))
    }
    known = parted = 0
    for number in range(len(found)):
        layer, position = found.columns["layer"][number], found.columns["position"][number]
        if position not in pairs:
            assert np.isnan(change[number])
            assert found.columns["unedited_rank"][number] == -1
            continue
        row = rows[layer, pairs[position]]
        before = one.columns["logprob"][row]
        if one.columns["target_id"][row] != found.columns["target_id"][number]:
            before = np.nan
            parted += 1
        np.testing.assert_allclose(change[number], found.columns["logprob"][number] - before, rtol=1e-6)
        known += np.isfinite(change[number])
    assert known > 10
    assert parted >= 4
    assert found.provenance.settings["less"]["corpus"] == one.provenance.corpus != found.provenance.corpus


def test_curves_are_means_over_the_common_positions(readings):
    one, other = readings
    found = compare.curves(one, other)
    assert found["layers"] == [0, 10, 20, 30]
    ids = [table.positions["token_id"].tolist() for table in readings]
    places = [
        a for a, b in compare.aligned(one, other) if b + 1 < len(ids[1]) and ids[0][a + 1 : a + 2] == [ids[1][b + 1]]
    ]
    assert 2 < found["positions"] == len(places) < len(compare.aligned(one, other))
    own = (one.columns["layer"] == 20) & np.isin(one.columns["position"], places)
    assert found["measures"]["entropy"]["one"][2] == pytest.approx(float(one.columns["entropy"][own].mean()))


def test_an_id_that_is_another_token_to_the_second_is_not_named(readings):
    one, other = readings
    token = int(compare.difference(one, other).columns["unedited_top_id"].max())
    strange = replace(other, vocabulary={**other.vocabulary, token: "something else"})
    found = compare.difference(one, strange)
    assert token not in found.columns["unedited_top_id"]
    assert found.vocabulary[token] == "something else"


def test_what_cannot_be_compared_says_why(readings, tiny):
    one, _ = readings
    with pytest.raises(RequestError, match="no token in common"):
        compare.difference(one, ms.read(tiny, "XYZXYZ", every=10))
    ahead = ms.read(tiny, ONE, lens=[sample(tiny, "future:2")], every=10)
    with pytest.raises(RequestError, match="about the same token"):
        compare.difference(one, ahead)
