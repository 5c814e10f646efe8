"""Summaries: equal to a slow plain computation, with intervals that count clusters."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.errors import RequestError
from midstream.interval import ratio
from midstream.store.query import MEASURES
from midstream.store.summary import summary
from midstream.store.sums import DEFAULT
from tests.store.made import Text, digest, drawn, store

ids = st.lists(st.integers(0, 39), min_size=0, max_size=20)
texts = st.builds(
    Text,
    ids=ids,
    metadata=st.dictionaries(st.sampled_from(["work", "cluster", "n"]), st.sampled_from(["a", "b", "", None, 3, [1]])),
    special=st.lists(st.integers(0, 19), max_size=3),
    fault=st.sampled_from([None, None, None, "unreadable"]),
)


def label(text: Text) -> str:
    for name in ("work", "cluster"):
        value = text.metadata.get(name)
        if value is not None and value != "":
            return value if isinstance(value, str) else json.dumps(value)
    return digest(text)


def group_of(by: str, row: dict, texts, counts) -> str | None:
    if by == "layer":
        return ""
    if by == "position":
        first = 1
        while first * 2 <= row["position"]:
            first *= 2
        return "0" if row["position"] == 0 else "1" if first == 1 else f"{first}-{2 * first - 1}"
    if by == "frequency":
        if row["target_id"] is None:
            return None
        return next(f"{10**d}-{10 ** (d + 1) - 1}" for d in range(9) if counts[row["target_id"]] < 10 ** (d + 1))
    value = texts[row["doc_id"]].metadata.get(by)
    return "(none)" if value in (None, "") else value if isinstance(value, str) else json.dumps(value)


def plain(rows, texts, by: str, least: int) -> dict[tuple, list[tuple[int, float]]]:
    """(lens, layer, group, measure) -> (document, value) of every position that counts."""
    counts = [sum(list(text.ids).count(token) for text in texts if not text.fault) for token in range(40)]
    made: dict[tuple, list[tuple[int, float]]] = {}
    for row in rows:
        if row["context"] < least or row["position"] in texts[row["doc_id"]].special:
            continue
        group = group_of(by, row, texts, counts)
        for measure, column in MEASURES.items():
            if group is not None and row[column] is not None:
                value = row[column] if column == measure else float(row[column] == 1)
                made.setdefault((row["lens"], row["layer"], group, measure), []).append((row["doc_id"], value))
    return made


@settings(max_examples=25)
@given(
    st.lists(texts, min_size=1, max_size=8),
    st.sampled_from(["layer", "position", "frequency", "n"]),
    st.sampled_from([0, 1, 4, 7]),
    st.integers(1, 4),
)
def test_a_summary_is_the_plain_mean(texts, by, least, per_shard):
    with tempfile.TemporaryDirectory() as folder:
        made, rows = store(Path(folder) / "s", texts, lenses=("logit", "tuned"), layers=(0, 5), per_shard=per_shard)
        expected = plain(rows, texts, by, least)
        if not expected or (by == "n" and not any("n" in text.metadata for text in texts)):
            with pytest.raises(RequestError):
                summary(made, by, measures=list(MEASURES), min_context=least)
            return
        table = summary(made, by, measures=list(MEASURES), min_context=least)
    columns, seen = table.columns, set()
    for row in range(len(table)):
        found = {name: values[row] for name, values in columns.items()}
        key = found["lens"], found["layer"], found["group"], found["measure"]
        values = expected.get(key, [])
        seen.add(key)
        assert found["tokens"] == len(values)
        assert found["documents"] == len({number for number, _ in values})
        assert found["clusters"] == len({label(texts[number]) for number, _ in values})
        if not values:
            assert math.isnan(found["value"])
            continue
        assert found["value"] == pytest.approx(np.mean([value for _, value in values]), rel=1e-9, abs=1e-12)
        assert found["unit"] == ("1" if found["measure"].endswith(("accuracy", "agreement")) else "nats")
        assert np.isnan([found["low"], found["high"]]).all() == (found["clusters"] < 6)
    assert seen >= set(expected)
    assert len(seen) == len(table)


def world(tmp_path, works: int, shift: float):
    """60 documents of 30 tokens; each work's values are moved together."""
    draw = np.random.default_rng(3)
    texts = [Text(draw.integers(0, 40, 30), {"work": f"w{n % works}", "n": n}) for n in range(60)]
    moves = {f"w{n}": move for n, move in enumerate(draw.normal(0, shift, works))}

    def values(lens, layer, text):
        found = drawn(0, lens, layer, text)
        return found | {"entropy": found["entropy"] + moves[text.metadata["work"]]}

    return store(tmp_path / f"s{works}", texts, values=values, per_shard=20), texts


def test_what_works_share_widens_the_interval(tmp_path):
    (made, _), _ = world(tmp_path, 20, 0.5)
    by_work = summary(made, measures=["entropy", "kl_final_lens"]).columns
    by_document = summary(made, measures=["entropy", "kl_final_lens"], cluster="n").columns
    assert by_work["clusters"].tolist() == [20] * 6
    assert by_document["clusters"].tolist() == [60] * 6
    wider = (by_work["high"] - by_work["low"]) / (by_document["high"] - by_document["low"])
    assert (by_work["value"] == by_document["value"]).all()
    assert (wider[by_work["measure"] == "entropy"] > 1.4).all()
    assert (wider[by_work["measure"] == "kl_final_lens"] < 1.4).all()


def test_intervals_are_those_of_ratio(tmp_path):
    (made, rows), texts = world(tmp_path, 20, 0.5)
    columns = summary(made, measures=["entropy"], seed=7).columns
    for layer, low, high in zip(columns["layer"], columns["low"], columns["high"], strict=True):
        sums, counts = np.zeros((2, 60))
        for row in rows:
            if row["layer"] == layer and row["context"] >= 4:
                sums[row["doc_id"]] += row["entropy"]
                counts[row["doc_id"]] += 1
        labels = [text.metadata["work"] for text in texts]
        draw = np.random.default_rng(7)
        expected = ratio(sums, counts, clusters=labels, generator=draw, unit="nats")
        assert [low, high] == pytest.approx([expected.low, expected.high], rel=1e-6)


def test_few_clusters_have_no_interval_and_say_so(tmp_path):
    (made, _), _ = world(tmp_path, 5, 0.5)
    table = summary(made)
    assert np.isnan(table.columns["low"]).all()
    assert np.isfinite(table.columns["value"]).all()
    assert "18 of 18 rows have fewer than 6 clusters and no interval." in table.notes
    assert not any("no interval" in note for note in summary(made, cluster="n").notes)


def test_notes_and_provenance_say_what_was_left_out(tmp_path):
    texts = [Text(range(10), {"work": str(n)}) for n in range(7)] + [Text([], fault="it is not UTF-8")]
    made, _ = store(tmp_path / "s", texts, per_shard=2, share=0.5, kept=lambda _, position: position % 2 == 0)
    table = summary(made, min_context=3, seed=5)
    assert "21 positions of 7 documents" in table.notes[0]
    assert "7 clusters" in table.notes[1]
    assert any(
        "1 documents of the store could not be read" in note and "c:7: it is not UTF-8" in note for note in table.notes
    )
    assert any("has not ended" in note for note in table.notes)
    assert any("a share of 0.5" in note for note in table.notes)
    assert (table.provenance.identity, table.provenance.seed) == ("1" * 64, 5)
    assert table.provenance.precision == {"name": "exact"}
    assert table.provenance.settings["min_context"] == 3
    assert json.loads(table.json())["by"] == "layer"
    (made.path / "shards" / "000001.json").write_text("{}")
    from midstream.store.store import open_store

    assert any("1 shard of the store (1) is left out" in note for note in summary(open_store(made.path)).notes)


def test_a_value_that_reads_like_no_value_is_a_group_of_its_own(tmp_path):
    values = ["(none)", '"(none)"', None, "a"]
    made, _ = store(tmp_path / "s", [Text(range(10), {"f": value}) for value in values])
    groups = summary(made, "f", measures=["entropy"]).columns["group"]
    assert list(dict.fromkeys(groups)) == ['"(none)"', json.dumps('"(none)"'), "a", "(none)"]


def test_a_name_from_the_corpus_cannot_write_to_the_terminal(tmp_path):
    texts = [Text(range(10)), Text([], fault="\x1b[2Jgone")]
    made, _ = store(tmp_path / "s", texts)
    assert not any("\x1b" in note for note in summary(made).notes)
    assert any("\\x1b[2Jgone" in note for note in summary(made).notes)


def test_measures_are_those_that_are_kept(tmp_path):
    made, _ = store(tmp_path / "s", [Text(range(10))], statistics=["entropy", "rank"])
    assert set(summary(made).columns["measure"]) == {"entropy", "accuracy"}
    with pytest.raises(RequestError, match="'logprob' cannot be averaged here: expected one of entropy, accuracy"):
        summary(made, measures=["logprob"])
    whole, _ = store(tmp_path / "t", [Text(range(10))])
    assert set(summary(whole).columns["measure"]) == set(DEFAULT)


def test_fields_that_make_no_groups_are_refused(tmp_path):
    texts = [Text([n % 40] * 6, {"n": n, "it's": 'x"'}) for n in range(51)]
    made, _ = store(tmp_path / "s", texts, layers=(0,), per_shard=60)
    with pytest.raises(RequestError, match=r"'n' has 51 values, and a summary at most 50 groups: choose a coarser"):
        summary(made, "n")
    with pytest.raises(RequestError, match=r"no document has the field 'genre': .* which have it's, n"):
        summary(made, "genre")
    with pytest.raises(RequestError, match="no document has the field 'author'"):
        summary(made, cluster="author")
    assert set(summary(made, "it's").columns["group"]) == {'x"'}
    with pytest.raises(RequestError, match="nothing to average"):
        summary(made, min_context=100)
