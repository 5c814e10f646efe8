"""One document of a store is the reading of its text."""

from __future__ import annotations

import json

import numpy as np
import pytest

import midstream as ms
from midstream.errors import RequestError
from midstream.store.document import document, worst
from midstream.store.query import sql
from midstream.store.store import open_store
from midstream.view.layout import lay_out

TEXTS = [
    "a king was there and asked why",
    "the capital of France is Paris and that of England is London",
    "why is it blue?",
]


@pytest.fixture(scope="module")
def scanned(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan")
    lines = [json.dumps({"text": text, "id": f"t{n}"}) for n, text in enumerate(TEXTS)]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    ms.scan(tiny, folder / "corpus.jsonl", folder / "store", lens=["logit", "input"], every=10, top_k=3)
    ms.scan(tiny, folder / "corpus.jsonl", folder / "few", lens="logit", every=10, top_k=1, statistics=("logprob",))
    return folder


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_it_is_the_reading_of_the_text(scanned, tiny, number):
    found = document(open_store(scanned / "store"), number)
    read = ms.read(tiny, TEXTS[number], lens=["logit", "input"], every=10, top_k=3)
    keys = ("lens", "site", "layer", "position")
    order, other = (
        np.lexsort([table.columns[name].astype(str if name in ("lens", "site") else int) for name in reversed(keys)])
        for table in (found, read)
    )
    assert found.columns.keys() == read.columns.keys()
    for name, values in read.columns.items():
        if name == "doc_id":
            assert set(found.columns[name].tolist()) == {number}
        elif values.dtype.kind == "f":
            np.testing.assert_allclose(found.columns[name][order], values[other], rtol=2e-4, atol=2e-4, err_msg=name)
        else:
            assert found.columns[name][order].tolist() == values[other].tolist(), name
    assert found.positions["token_id"].tolist() == read.positions["token_id"].tolist()
    assert {token: text for token, text in read.vocabulary.items() if token in found.vocabulary} == found.vocabulary
    assert lay_out(found, lens="input").tops(found).tolist() == lay_out(read, lens="input").tops(read).tolist()


@pytest.mark.parametrize("measure", ["logprob", "final_top1_logprob", "input_logprob", "accuracy", "entropy"])
def test_the_worst_comes_first(scanned, measure):
    values = [one["value"] for one in worst(open_store(scanned / "store"), measure)]
    assert len(values) == len(TEXTS)
    assert values == sorted(values, reverse=measure == "entropy")


def test_what_is_neither_good_nor_bad_has_no_worst(scanned):
    with pytest.raises(RequestError, match="no worse and no better"):
        worst(open_store(scanned / "store"), "lse")


def test_what_was_not_kept_is_undefined(scanned):
    found = document(open_store(scanned / "few"), 1)
    assert np.isnan(found.columns["entropy"]).all()
    assert (found.columns["rank"] == -1).all()
    assert (found.columns["top_ids"] == -1).all()
    assert np.isfinite(found.columns["logprob"][found.columns["target_id"] >= 0]).all()


def test_the_worst_come_first(scanned):
    store = open_store(scanned / "store")
    found = worst(store, "entropy")
    plain = sql(
        store,
        "SELECT doc_id, avg(entropy) AS v FROM readings WHERE layer = 30 AND lens = 'logit' "
        "GROUP BY doc_id ORDER BY v DESC",
    ).rows()
    assert [(one["doc_id"], pytest.approx(one["value"])) for one in found] == plain
    assert {one["id"] for one in found} == {"t0", "t1", "t2"}
    values = [one["value"] for one in worst(store, "logprob")]
    assert values == sorted(values)
    with pytest.raises(RequestError, match="unknown measure"):
        worst(store, "1; DROP")


def test_a_document_that_is_not_there_is_told(scanned):
    with pytest.raises(RequestError, match="document 99 has 0 rows"):
        document(open_store(scanned / "store"), 99)
