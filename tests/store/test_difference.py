"""The difference of two stores: nothing where they are the same, and a planted shift where it was planted."""

from __future__ import annotations

import numpy as np
import pytest

from midstream.errors import RequestError
from midstream.store.difference import difference
from midstream.store.summary import summary
from tests.store.made import Text, drawn, store

DRAW = np.random.default_rng(1)
TEXTS = [Text(DRAW.integers(0, 40, 20), {"work": f"w{n % 12}", "genre": "ab"[n % 2]}) for n in range(24)]

MEASURED = ["entropy", "logprob", "kl_input_lens", "accuracy"]


def shifted(lens, layer, text):
    found = drawn(0, lens, layer, text)
    noise = drawn(9, lens, layer, text)["entropy"] * 0.01
    return found | ({"entropy": found["entropy"] + 0.5 + noise} if layer == 1 else {})


@pytest.mark.parametrize("by", ["layer", "position", "frequency", "genre"])
def test_a_store_less_itself_is_nothing(tmp_path, by):
    one, _ = store(tmp_path / "one", TEXTS, lenses=("logit", "tuned"))
    two, _ = store(tmp_path / "two", TEXTS[::-1], lenses=("logit", "tuned"), per_shard=7)
    for other in (one, two):
        table = difference(one, other, by, measures=MEASURED)
        assert set(table.columns["lens"]) == {"logit", "tuned"}
        for name in ("value", "low", "high"):
            assert (table.columns[name] == 0).all()
    assert table.columns["against"][0] == "two"
    assert len(table) == len(summary(one, by, measures=MEASURED))
    assert any("same model, lenses and request" in note for note in table.notes)
    assert any("24 are in both" in note for note in table.notes)


def test_a_planted_shift_is_found_where_it_is(tmp_path):
    one, _ = store(tmp_path / "one", TEXTS, values=shifted, identity="2" * 64)
    two, _ = store(tmp_path / "two", TEXTS)
    table = difference(one, two)
    for row in range(len(table)):
        found = {name: values[row] for name, values in table.columns.items()}
        if (found["layer"], found["measure"]) != (1, "entropy"):
            assert found["low"] == found["value"] == found["high"] == 0
            continue
        assert 0.51 < found["low"] < found["value"] < found["high"] < 0.53
    one_by_one = summary(one).columns, summary(two).columns
    alone = (one_by_one[0]["value"] - one_by_one[1]["value"]).tolist()
    assert table.columns["value"].tolist() == pytest.approx(alone, abs=1e-12)
    assert any("identity: 2222" in note for note in table.notes)
    assert table.provenance.settings["against"]["identity"] == "1" * 64
    assert (difference(two, one).columns["value"] == -table.columns["value"]).all()


def test_sampled_stores_are_paired_on_the_positions_that_both_have(tmp_path):
    """Every position has the same value in both stores, and positions have very different ones."""

    def steep(lens, layer, text):
        return drawn(0, lens, layer, text) | {"entropy": np.arange(len(text.ids)) * 10.0}

    def even(number, position):
        return position % 2 == 0

    def third(number, position):
        return position % 3 == number % 3

    one, _ = store(tmp_path / "one", TEXTS, values=steep, kept=even, share=0.5)
    two, _ = store(tmp_path / "two", TEXTS[::-1], values=steep, kept=third, share=0.3)
    table = difference(one, two, measures=["entropy"])
    assert (table.columns["value"] == 0).all()
    both = sum(even(n, p) and third(23 - n, p) and p >= 4 for n, text in enumerate(TEXTS) for p in range(len(text.ids)))
    assert table.columns["tokens"].tolist() == [both] * 3
    assert (
        summary(one, measures=["entropy"]).columns["value"][0] != summary(two, measures=["entropy"]).columns["value"][0]
    )


def test_other_tokens_are_paired_by_document(tmp_path):
    texts = [Text(text.ids, text.metadata, text=f"text {n}") for n, text in enumerate(TEXTS)]
    halves = [Text(text.ids[::2], text.metadata, text=text.text) for text in texts]
    one, _ = store(tmp_path / "one", texts)
    two, _ = store(tmp_path / "two", [texts[0], *halves[1:20]])
    table = difference(one, two)
    assert any("19 documents have other tokens" in note for note in table.notes)
    assert any("4 documents are in one of the stores only" in note for note in table.notes)
    assert set(table.columns["documents"]) == {20}
    with pytest.raises(RequestError, match="other tokens: by frequency"):
        difference(one, two, "frequency")


def test_equal_texts_are_paired_one_by_one(tmp_path):
    texts = [TEXTS[0], TEXTS[0], *TEXTS]
    one, _ = store(tmp_path / "one", texts)
    table = difference(one, one)
    assert (table.columns["tokens"] == summary(one).columns["tokens"]).all()
    assert set(table.columns["documents"]) == {26}
    assert (table.columns["value"] == 0).all()


def test_one_lens_each_is_compared_whatever_its_name(tmp_path):
    one, _ = store(tmp_path / "one", TEXTS, lenses=("tuned",), layers=(0, 1))
    two, _ = store(tmp_path / "two", TEXTS, lenses=("logit",), layers=(1, 2))
    table = difference(one, two)
    assert set(table.columns["lens"]) == {"tuned - logit"}
    assert set(table.columns["layer"]) == {1}
    expected = {
        measure: summary(one, measures=[measure]).columns["value"][1]
        - summary(two, measures=[measure]).columns["value"][0]
        for measure in table.columns["measure"].tolist()
    }
    assert table.columns["value"].tolist() == pytest.approx(list(expected.values()), abs=1e-12)
    three, _ = store(tmp_path / "three", TEXTS, lenses=("input", "future:2"))
    with pytest.raises(RequestError, match=r"no lens in common: the first has tuned, the second future:2, input"):
        difference(one, three)


def test_stores_of_other_texts_or_layers_are_refused(tmp_path):
    one, _ = store(tmp_path / "one", TEXTS[:3], layers=(0,))
    two, _ = store(tmp_path / "two", TEXTS[3:], layers=(0,))
    three, _ = store(tmp_path / "three", TEXTS[:3], layers=(1,))
    with pytest.raises(RequestError, match="no document in common"):
        difference(one, two)
    with pytest.raises(RequestError, match="no site and layer in common"):
        difference(one, three)
