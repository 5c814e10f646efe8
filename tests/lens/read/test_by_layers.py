"""A reading that comes group of layers by group is the reading."""

from __future__ import annotations

import numpy as np
import pytest
from lens_sample import sample

from midstream.lens.read import chunks as cutting
from midstream.lens.read.reading import read_by_layers
from midstream.lens.read.request import request
from midstream.lens.read.table import join
from midstream.readout import read as readout
from midstream.run.edit_spec import edits_of
from midstream.run.edit_vector import Setting
from midstream.run.text import chunks, encode

GROUPS = ((30,), (29, 28, 15), (9, 1, 0))


@pytest.mark.parametrize("edited", [False, True])
def test_groups_of_layers_are_the_whole_reading(tiny, monkeypatch, edited):
    """Several lenses and sites, one lens about a later token, and more than one chunk."""
    monkeypatch.setattr(cutting, "CHUNK", 20)
    encoded = encode(tiny, "a king was there " * 20)
    edits = edits_of(Setting(tiny, encoded.ids), ["layers=12 scale=2"]) if edited else ()
    lenses = ["logit", "input", sample(tiny), sample(tiny, "future:2")]
    layers = [layer for group in GROUPS for layer in group]
    wanted = request(tiny, {"lens": lenses, "layers": layers, "site": "all", "edits": edits, "versus": edited})
    whole = join(list(chunks(tiny, encoded, wanted, command="")))
    parts = list(read_by_layers(tiny, encoded, wanted, GROUPS))
    assert len(parts) > 2 * len(GROUPS)

    def rows(tables, name):
        keys = ("lens", "site", "layer", "position")
        return {
            key: value
            for table in tables
            for *key, value in zip(*(table.columns[n].tolist() for n in (*keys, name)), strict=True)
            for key in [tuple(key)]
        }

    for name in whole.columns:
        before, now = rows([whole], name), rows(parts, name)
        assert before.keys() == now.keys()
        if isinstance(next(iter(before.values())), (float, list)):
            for key, value in before.items():
                np.testing.assert_allclose(
                    now[key], value, rtol=2e-4, atol=2e-4, equal_nan=True, err_msg=f"{name} {key}"
                )
        else:
            assert before == now


def test_each_group_is_read_by_the_pass_of_the_whole(tiny, monkeypatch):
    """Which pass is chosen depends on how many rows there are: the same for a group as for all of it."""
    counted = []

    def chosen(reader, count, precision, top_k):
        counted.append(count)
        return choose(reader, count, precision, top_k)

    choose = readout._choose
    monkeypatch.setattr(readout, "_choose", chosen)
    encoded = encode(tiny, "a king was there " * 4)
    wanted = request(tiny, {"layers": [layer for group in GROUPS for layer in group]})
    list(chunks(tiny, encoded, wanted, command=""))
    whole, counted[:] = counted[0], []
    list(read_by_layers(tiny, encoded, wanted, GROUPS))
    assert len(counted) == len(GROUPS)
    assert min(counted) >= whole
