from __future__ import annotations

import numpy as np
import pytest

from midstream.errors import RequestError
from midstream.lens.read.request import request
from midstream.model.tokenizer import Encoded
from midstream.run.text import chunks, count_rows, encode, read_text, tracks


def test_chunks_hold_the_same_rows_as_the_table(tiny, monkeypatch):
    from midstream.lens.read import chunks as cutting

    monkeypatch.setattr(cutting, "CHUNK", 50)
    encoded = encode(tiny, "a king was there " * 60)
    wanted = request(tiny, {"every": 10})
    table = read_text(tiny, encoded, wanted, command="here")
    parts = list(chunks(tiny, encoded, wanted, command="here"))
    assert len(parts) > 4
    assert sum(map(len, parts)) == len(table)
    rows = {
        (layer, position): entropy
        for part in parts
        for layer, position, entropy in zip(*(part.columns[n] for n in ("layer", "position", "entropy")), strict=True)
    }
    for row in range(0, len(table), 17):
        key = table.columns["layer"][row], table.columns["position"][row]
        assert rows[key] == table.columns["entropy"][row]
    assert {part.provenance.corpus for part in parts} == {table.provenance.corpus}


def test_progress_ends_with_the_last_token(tiny):
    done: list[int] = []
    encoded = encode(tiny, "a king was there " * 60)
    read_text(tiny, encoded, request(tiny, {"layers": [3]}), command="", progress=done.append)
    assert done == sorted(done)
    assert done[-1] == len(encoded.ids)


def test_provenance_says_what_made_it(tiny):
    wanted = request(tiny, {"layers": [3]})
    one = read_text(tiny, encode(tiny, "a king was"), wanted, command="typed").provenance
    other = read_text(tiny, encode(tiny, "a king is"), wanted, command="typed").provenance
    assert one.corpus != other.corpus
    assert one.identity == other.identity == tiny.fingerprint.identity
    assert one.lenses == {"logit": ""}
    assert one.command == "typed"
    assert one.circumstances["engine"] == "plain"
    assert one.seed is None


def test_a_table_that_would_not_fit_is_refused(tiny, monkeypatch):
    from midstream.run import text

    assert 5e8 < text.LARGEST < 5e9, "bytes"
    monkeypatch.setattr(text, "LARGEST", 10)
    with pytest.raises(RequestError, match="--out"):
        read_text(tiny, encode(tiny, "a king was"), request(tiny, {}), command="")


@pytest.mark.parametrize("words", ["", "a"])
def test_too_short_a_text_is_refused(tiny, words):
    with pytest.raises(RequestError, match="at least two"):
        encode(tiny, words)


def test_positions_say_what_each_token_is(tiny):
    encoded = encode(tiny, None, [{"role": "user", "content": "a king"}])
    table = read_text(tiny, encoded, request(tiny, {"layers": [3]}), command="")
    assert table.positions["kind"].tolist() == encoded.kinds
    assert np.array_equal(table.positions["token_id"], encoded.ids)


def test_a_page_that_would_not_open_is_refused(tiny):
    from midstream.run.text import LARGEST_PAGE, check_page

    wanted = request(tiny, {})
    check_page(Encoded([1] * (LARGEST_PAGE // 31), []), wanted)
    with pytest.raises(RequestError, match="cells"):
        check_page(Encoded([1] * (LARGEST_PAGE // 31 + 1), []), wanted)


def test_rows_are_counted_as_they_are_read(tiny):
    from midstream.lens.lens import Lens

    lenses = ["logit", "input", Lens("late", "output", 2, layers=(20, 30)), Lens("mlp", "output", 1, site="mlp_out")]
    encoded = encode(tiny, "a king was there")
    wanted = request(tiny, {"lens": lenses})
    table = read_text(tiny, encoded, wanted, command="")
    assert count_rows(encoded, wanted) == len(table) == len(encoded.ids) * (31 + 31 + 2 + 30)


def test_tokens_that_lead_are_followed_through_lenses_of_unequal_layers(tiny):
    from midstream.lens.lens import Lens

    lenses = [Lens("late", "output", 2, layers=(20, 30)), "logit", Lens("mlp", "output", 1, site="mlp_out")]
    encoded = encode(tiny, "a king was there")
    wanted = request(tiny, {"lens": lenses, "watch": ["a"]})
    table = read_text(tiny, encoded, wanted, command="")
    followed = tracks(tiny, table, wanted)
    best = table.columns["top_ids"][:, 0]
    ranks = {
        key: rank
        for *key, rank in zip(
            *(followed[n].tolist() for n in ("lens", "site", "layer", "position", "watch_id", "rank")), strict=True
        )
        for key in [tuple(key)]
    }
    last = table.columns["layer"] == 30
    for row in np.flatnonzero(last):
        names = [table.columns[n][row] for n in ("lens", "site", "layer", "position")]
        assert ranks[(*names, int(best[row]))] == 1
    assert {key[0] for key in ranks} == {"late", "logit", "mlp"}
