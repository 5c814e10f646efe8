from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

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


def most(a, b):
    """Length of the longest common subsequence, cell by cell."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_as_many_tokens_are_paired_as_can_be():
    draw = random.Random(0)
    for _ in range(200):
        a, b = ([draw.randrange(4) for _ in range(draw.randint(1, 20))] for _ in range(2))
        pairs = compare._agreeing(np.array(a), np.array(b))
        assert len(pairs) == most(a, b)
        assert all(a[i] == b[j] for i, j in pairs)
        assert all(one[0] < next_[0] and one[1] < next_[1] for one, next_ in pairwise(pairs))


def test_texts_of_one_repeated_word_are_paired_and_books_are_refused():
    """What looks for the longest common run at every place takes minutes here, and the server with it."""
    ones = np.ones(2048, int)
    assert len(compare._agreeing(ones, np.arange(2048) % 2)) == 1024
    with pytest.raises(RequestError, match="cannot be aligned"):
        compare._agreeing(np.zeros(20_000, int), np.ones(20_000, int))


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
