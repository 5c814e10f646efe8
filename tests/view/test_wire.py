from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from lens_sample import sample

from midstream.lens.read import chunks as cutting
from midstream.lens.read.request import request
from midstream.run.desk import Desk
from midstream.run.text import encode, read_text
from midstream.view import chart
from midstream.view.wire import Sent

TEXT = "a king was there " * 9


@pytest.fixture
def sent(tiny, monkeypatch):
    """All blocks of a reading in several chunks, and the reading itself."""
    monkeypatch.setattr(cutting, "CHUNK", 20)
    desk = Desk(lambda _: tiny, {"tiny": "tiny"})
    options = {"lens": ["logit", "input"], "site": "all", "every": 7}
    shown = desk.show(TEXT, options, command="here")
    found = Sent(shown.outline)
    opening = found.opening()
    blocks = [block for part in desk.rows(shown) for block in found.cells(part)]
    table = read_text(tiny, encode(tiny, TEXT), request(tiny, options), command="here")
    return found, opening, blocks, table


def decoded(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


def test_blocks_put_together_are_the_reading(sent):
    _, opening, blocks, table = sent
    wide = len(opening["tokens"])
    for number, grid in enumerate(opening["grids"]):
        high = len(grid["layers"])
        cells = {name: np.full((high, wide), np.nan) for name in ("logprob", "rank", "entropy")}
        top = np.full((opening["k"], high, wide), -1)
        for block in (block for block in blocks if block["grid"] == number):
            where = np.ix_(block["rows"], range(block["from"], block["from"] + block["count"]))
            shape = (len(block["rows"]), block["count"])
            for name, values in cells.items():
                assert np.isnan(values[where]).all()  # no cell twice
                values[where] = decoded(block["columns"][name], "<f4").reshape(shape)
            for plane, values in zip(top, decoded(block["topIds"], "<i4").reshape(-1, *shape), strict=True):
                plane[where] = values
        for row, (layer, site) in enumerate(zip(grid["layers"], grid["sites"], strict=True)):
            columns = table.columns
            own = (columns["lens"] == grid["lens"]) & (columns["layer"] == layer) & (columns["site"] == site)
            assert columns["position"][own].tolist() == list(range(wide))
            np.testing.assert_array_equal(top[:, row].T, columns["top_ids"][own])
            for name, values in cells.items():
                there = columns[name][own].astype(float)
                there[there < 0 if name == "rank" else np.isnan(there)] = np.nan
                np.testing.assert_allclose(values[row], there, rtol=1e-4, atol=1e-4)


def test_what_was_sent_can_be_kept(sent):
    found, _, _, table = sent
    whole = found.whole()
    for name, values in table.columns.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(whole.columns[name], values, rtol=2e-4, atol=2e-4)
        else:
            np.testing.assert_array_equal(whole.columns[name], values)
    assert whole.positions["position"].tolist() == table.positions["position"].tolist()
    assert json.loads(whole.json())["provenance"]["command"] == "here"


def test_every_token_is_named_once_and_limits_are_those_of_all(sent):
    found, opening, blocks, _ = sent
    names = [token for part in (opening, *blocks) for token in part["vocabulary"]]
    assert len(names) == len(set(names))
    used = {token for block in blocks for token in decoded(block["topIds"], "<i4").tolist() if token >= 0}
    assert used <= set(names)
    for stat in blocks[-1]["statistics"]:
        scale = chart.scale(found.whole(), chart.statistic(stat["name"]))
        assert (stat["low"], stat["high"]) == (scale.low, scale.high)


def test_it_is_json_without_nan(sent):
    _, opening, blocks, _ = sent
    json.dumps([opening, blocks], allow_nan=False)


def test_a_lens_of_a_file_is_sent_under_its_name(tiny, tmp_path):
    from midstream.lens.file.artifact import save

    save(sample(tiny), tmp_path / "x.safetensors")
    desk = Desk(lambda _: tiny, {"tiny": "tiny"}, (tmp_path,))
    shown = desk.show(TEXT, {"lens": [f"{tmp_path.name}/x"], "every": 10}, command="")
    assert Sent(shown.outline).opening()["grids"][0]["lens"] == "tuned"
