from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from view.sample import reading

from midstream.view import pack, token_text
from midstream.view.layout import lay_out

TABLE, TRACKS = reading(tokens=9, layers=4, subs=True)


def unpacked(block: bytes) -> tuple[dict, bytes]:
    raw = gzip.decompress(block)
    length = int.from_bytes(raw[:4], "little")
    return json.loads(raw[4 : 4 + length]), raw[4 + length :]


def array(blob: bytes, place: dict) -> np.ndarray:
    """An independent reading of the format: byte planes, lowest first; all bits set is undefined."""
    size = place["bytes"] * place["count"]
    planes = (
        np.frombuffer(blob[place["at"] : place["at"] + size], np.uint8).reshape(place["bytes"], -1).astype(np.uint64)
    )
    whole = sum(plane << np.uint64(8 * i) for i, plane in enumerate(planes))
    return np.where(whole == 2 ** (8 * place["bytes"]) - 1, np.nan, place["low"] + place["step"] * whole)


def test_every_column_and_top_token_comes_back():
    header, blob = unpacked(pack.pack(TABLE, tracks=TRACKS))
    grid, layout = header["grids"][0], lay_out(TABLE)
    there = (layout.index >= 0).ravel()
    for name, place in grid["columns"].items():
        column = TABLE.columns[name].astype(float)
        wanted = layout.take(np.where(column < 0, np.nan, column) if "rank" in name else column).ravel()
        np.testing.assert_allclose(array(blob, place)[there], wanted[there], atol=pack.STEP)
        assert np.isnan(array(blob, place)[~there]).all()
    assert set(grid["columns"]) == set(pack.COLUMNS)
    tops = array(blob, grid["uneditedTop"]).reshape(layout.index.shape)
    row = TABLE.columns["unedited_top_id"][layout.index[-1]]
    wanted = [token_text.visible(TABLE.vocabulary[int(i)]) for i in row]
    assert [header["vocabulary"][int(i)] for i in tops[-1]] == wanted
    assert (tops[layout.index < 0] == -1).all()
    ids = array(blob, grid["topIds"]).reshape(10, *layout.index.shape)
    texts = [header["vocabulary"][int(i)] for i in ids[:, -1, -1]]
    row = TABLE.columns["top_ids"][layout.index[-1, -1]]
    assert texts == [token_text.visible(TABLE.vocabulary[int(i)]) for i in row]


def test_tracks_are_exact_and_watched_tokens_are_among_them():
    header, blob = unpacked(pack.pack(TABLE, tracks=TRACKS))
    grid, layout = header["grids"][0], lay_out(TABLE)
    ranks = array(blob, grid["trackRanks"]).reshape(-1, len(layout.layers))
    places = {(column, header["vocabulary"][token]): row for row, (column, token) in enumerate(grid["trackPlaces"])}
    for source in (TRACKS, TABLE.watched):
        for i in range(0, len(source["rank"]), 7):
            token = token_text.visible(TABLE.vocabulary[int(source["watch_id"][i])])
            line = list(zip(layout.layers, layout.sites, strict=True)).index((source["layer"][i], source["site"][i]))
            assert ranks[places[int(source["position"][i]), token], line] == source["rank"][i]
    assert header["watched"] == [header["vocabulary"].index("·Paris")]


@pytest.mark.parametrize(
    "values", [[], [np.nan], [-np.inf, np.nan, np.inf], [0.0], [1e9, -1e9, np.nan], [-120.5, -1e-4]]
)
def test_any_numbers_can_be_kept(values):
    blob = pack._Blob()
    place = blob.add(np.array(values, float), pack.STEP)
    back = array(b"".join(blob.parts), place) if values else np.array([])
    wanted = np.where(np.isfinite(values), values, np.nan)
    np.testing.assert_allclose(back, wanted, atol=max(pack.STEP, place["step"]))


def test_packing_is_deterministic():
    assert pack.pack(TABLE, tracks=TRACKS) == pack.pack(TABLE, tracks=TRACKS)
