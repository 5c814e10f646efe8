"""Documents in one pass: every row as each document alone gives it, whatever the lens and the lengths."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reading_oracle import build

import midstream as ms
from midstream.errors import RequestError
from midstream.lens.read import pack as packing
from midstream.lens.read.chunks import CHUNK
from midstream.lens.read.pack import PACK, PASS, packs, read_pack
from midstream.lens.read.reading import read_chunks
from midstream.lens.read.request import request
from midstream.lens.read.table import join
from midstream.model.tokenizer import Encoded
from midstream.stream.capture import capture_sites
from tests.lens_sample import sample

KINDS = ("tuned", "shortcut", "future:2", "future:4", "input:0", "input:1", "input:3")
CLOSE = 5e-4


@pytest.fixture(scope="module", params=["qwen3", "gpt2"])
def model(request):
    module, tokenizer, _ = build(request.param)
    return ms.load((module, tokenizer))


@pytest.fixture(scope="module")
def lenses(model):
    """One of every kind, with its baselines, and the built-in ones."""
    fitted = [sample(model, kind, seed=seed) for seed, kind in enumerate(KINDS)]
    return [*fitted, *(base for lens in fitted for base in lens.baselines), "logit", "input"]


def texts(model, lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(model.anatomy.vocabulary, (n,), generator=generator).tolist() for n in lengths]
    return [Encoded(ids, ["added", *["text"] * (len(ids) - 1)]) for ids in rows]


def as_alone(model, documents, wanted, positions=None):
    """Each document's own table with its number in it, and the same of those read together."""
    at = positions or [None] * len(documents)
    (pack,) = read_pack(model, documents, wanted, positions=positions)
    for number, document in enumerate(documents):
        tables = list(read_chunks(model, document, wanted, positions=at[number]))
        here = pack.columns["doc_id"] == number
        assert here.any() == bool(tables)
        if not tables:
            continue
        alone = join(tables)
        agree(pack.columns, alone.columns, here)
        agree(pack.watched, alone.watched, pack.watched["doc_id"] == number)
        agree(pack.positions, alone.positions, pack.positions["doc_id"] == number)
        assert alone.vocabulary.items() <= pack.vocabulary.items()
    assert (np.diff(pack.positions["doc_id"]) >= 0).all()
    return pack


def agree(found, alone, here):
    for name, expected in alone.items():
        values = found[name][here]
        assert values.dtype == expected.dtype
        if name == "doc_id":
            continue
        if values.dtype.kind == "f":
            np.testing.assert_allclose(values, expected, atol=CLOSE, err_msg=name)
        elif name in ("top_ids", "rank", "final_top1_rank", "input_rank"):  # by ties two logits may change places
            assert ((values < 0) == (expected < 0)).all(), name
            assert (values != expected).sum() <= 1 + len(values) // 200, name
        else:
            assert (values == expected).all(), name


def test_every_kind_of_lens_reads_a_pack_as_each_document(model, lenses):
    wanted = request(model, {"lens": lenses, "top_k": 4, "watch": ["a", "b"]})
    table = as_alone(model, texts(model, [9, 1, 40, 2, 1, 17, 3]), wanted)
    assert set(table.columns["lens"]) == {lens if isinstance(lens, str) else lens.name for lens in lenses}


def test_every_site_of_a_pack(model):
    wanted = request(model, {"lens": ["logit", "input"], "site": "all", "layers": [0, 1, -1]})
    as_alone(model, texts(model, [5, 12, 1, 12]), wanted)


def test_any_lengths_and_any_positions(model):
    @settings(max_examples=25)
    @given(st.lists(st.integers(1, 24), min_size=1, max_size=7), st.sampled_from(KINDS), st.integers(0, 9))
    def reads_as_alone(lengths, kind, seed):
        draw = np.random.default_rng(seed)
        at = [None, *(np.flatnonzero(draw.random(n) < draw.choice([0, 0.2, 0.9])) for n in lengths)]
        wanted = request(model, {"lens": [sample(model, kind), "logit"], "top_k": 2})
        as_alone(model, texts(model, [3, *lengths], seed=seed), wanted, at)

    reads_as_alone()


def test_a_document_is_its_own_whatever_stands_beside_it(model, lenses):
    """The same text, next to others: nothing of them shows, not in its first rows and not in its last."""
    wanted = request(model, {"lens": lenses, "top_k": 3})
    own, *others = texts(model, [6, 6, 11, 3])
    tables = [
        next(read_pack(model, [before, own, after], wanted)) for before, after in ((others[0], others[1]), others[1:])
    ]
    one, two = (table.pick(table.columns["doc_id"] == 1).columns for table in tables)
    agree(one, two, slice(None))
    ahead = one["position"] + one["offset"]
    assert ((one["target_id"] >= 0) == ((ahead >= 0) & (ahead < 6))).all()
    compared = (one["offset"] > 0) & (one["position"] + one["offset"] - 1 < 6)
    output = ~np.isin(one["lens"], ["input", *(name for name in set(one["lens"]) if name.startswith("input"))])
    assert (np.isnan(one["kl_final_lens"]) == ~(compared & output)).all()


def test_no_more_is_run_than_the_positions_need(tiny, monkeypatch):
    run = []

    def count(model, ids, places):
        run.append((tuple(ids.shape), len(places)))
        return capture_sites(model, ids, places)

    monkeypatch.setattr(packing, "capture_sites", count)
    far = sample(tiny, "future:4")
    documents = texts(tiny, [20, 9, 30])
    at = [np.array([19]), np.array([], dtype=int), np.array([2, 5])]
    wanted = request(tiny, {"lens": [far], "layers": [3, 5]})
    as_alone(tiny, documents, wanted, at)
    assert run == [((2, 20), 4)], "two of three documents, the places of layers 0, 3, 5 and the last"
    run.clear()
    assert list(read_pack(tiny, documents, wanted, positions=[np.array([], dtype=int)] * 3)) == []
    assert list(read_pack(tiny, [Encoded([], [])], wanted)) == []
    assert not run


def test_long_documents_go_in_chunks_of_their_own(tiny):
    assert tiny.context == CHUNK
    documents = texts(tiny, [300, 4, CHUNK, 257])
    wanted = request(tiny, {"every": 10, "watch": ["a"]})
    tables = list(read_pack(tiny, documents, wanted, positions=[None, None, np.array([255]), None]))
    assert [set(table.columns["doc_id"]) for table in tables] == [{1, 2}, {0}, {0}, {3}, {3}]
    assert [set(table.watched["doc_id"]) for table in tables] == [{1, 2}, {0}, {0}, {3}, {3}]
    for number, parts in ((0, tables[1:3]), (3, tables[3:])):
        found, alone = join(parts), join(list(read_chunks(tiny, documents[number], wanted)))
        agree(found.columns, alone.columns, slice(None))
        assert set(found.positions["doc_id"]) == {number}


def test_what_is_refused(tiny):
    documents = texts(tiny, [5, 3])
    with pytest.raises(RequestError, match="from 0 to 2"):
        list(read_pack(tiny, documents, request(tiny, {}), positions=[None, np.array([3])]))
    far = replace(sample(tiny, "future:2"), offset=300)
    with pytest.raises(RequestError, match="smaller offset"):
        list(read_pack(tiny, documents, request(tiny, {"lens": far})))


def test_a_pack_lets_its_stream_go_as_it_is_read(tiny, monkeypatch):
    held: list[weakref.ref] = []
    alive: list[int] = []
    chunks = []

    def watch(model, ids, places):
        seen = capture_sites(model, ids, places)
        held.extend(weakref.ref(h) for h in seen.values())
        return seen

    def count(h, at):
        alive.append(sum(ref() is not None for ref in held))
        return take(h, at)

    make, take = packing._chunk, packing.rows_at
    monkeypatch.setattr(packing, "capture_sites", watch)
    monkeypatch.setattr(packing, "rows_at", count)
    monkeypatch.setattr(packing, "_chunk", lambda *a: chunks.append(make(*a)) or chunks[-1])
    wanted = request(tiny, {"lens": ["logit", "input", sample(tiny, "future:2")]})
    list(read_pack(tiny, texts(tiny, [5, 9]), wanted))
    assert len(held) == len(alive) == 31
    assert max(alive[index] + index for index in range(31)) <= 31, "the padded stream goes as the rows are taken"
    assert chunks[0].stream == {}
    assert chunks[0].final is None, "every output compared with is among the rows read"


def test_a_broken_vector_stays_in_its_document():
    """Padding is a token that the document begins with: no other row, which may not be a number, gets into it."""
    module, tokenizer, _ = build("qwen3")
    model = ms.load((module, tokenizer))
    with torch.no_grad():
        module.get_input_embeddings().weight[0] = torch.nan
    documents = [Encoded(ids, ["text"] * len(ids)) for ids in ([0, 7], [5, 6], [0, 8, 9, 10, 11, 12])]
    (table,) = read_pack(model, documents, request(model, {"layers": -1}))
    spoiled = np.isnan(table.columns["entropy"])
    assert (spoiled == (table.columns["doc_id"] != 1)).all()


LENGTHS = st.lists(st.integers(0, 40) | st.integers(0, 700), max_size=120)


@given(LENGTHS, st.integers(16, 600))
def test_packs_hold_every_document_once_and_no_more_than_fits(lengths, context):
    found = packs(lengths, context)
    assert sorted(index for pack in found for index in pack) == list(range(len(lengths)))
    assert found == packs(lengths, context)
    for pack in found:
        assert pack == sorted(pack)
        longest = max(max(lengths[index], 1) for index in pack)
        if len(pack) > 1:
            assert longest <= min(CHUNK, context)
            assert len(pack) * longest <= PACK
    by_length = [sorted(lengths[index] for index in pack) for pack in found]
    assert [n for pack in by_length for n in pack] == sorted(lengths)


def test_packs_are_full_where_lengths_are_equal_and_split_where_they_are_not():
    assert [len(pack) for pack in packs([32] * 40, 256)] == [16, 16, 8]
    assert packs([60, 8, 8, 8, 61], 256) == [[1, 2, 3], [0, 4]], (
        "51 tokens of padding thrice would cost more than a pass"
    )
    assert packs([CHUNK + 1, 3, 300], 1024) == [[1], [0], [2]]
    assert packs([8, 8 + PASS // 2, 8], 256) == [[0, 1, 2]]
    assert packs([], 256) == []
