"""Patching: every effect is that of one run by hand; a patch from the same run does nothing; the control is apart."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import midstream as ms
from midstream.errors import RequestError
from midstream.run.patching import unrelated
from midstream.stream.capture import capture_sites
from midstream.stream.change import Replace, SetCoordinates
from midstream.stream.edit import Edit

TEXT, OTHER, TOKEN = "The capital of France is Paris and", "The capital of England is Paris and", " Paris"


@pytest.fixture(scope="module")
def texts(tiny):
    ids = [tiny.tokenizer.encode(text).ids for text in (TEXT, OTHER)]
    n = min(map(len, ids))
    return [b"".join(tiny.tokenizer.token_bytes(t) for t in text[:n]).decode() for text in ids], [t[:n] for t in ids]


def logprob(model, ids, token, edits=()):
    final = (30, "resid_post")
    h = capture_sites(model, torch.tensor([ids]), [final], edits=edits)[final]
    with torch.no_grad():
        z = model.anatomy.unembedding(model.anatomy.final_norm(h[0, -1].double().float()))
    return float(z.log_softmax(-1)[token])


def test_every_effect_is_that_of_one_run_by_hand(tiny, texts):
    (text, other), (a, b) = texts
    token = tiny.tokenizer.single(TOKEN)
    found = ms.patch(tiny, text, other, TOKEN, layers=[0, 7, 30])
    assert found.unpatched == pytest.approx(logprob(tiny, a, token), abs=1e-4)
    assert found.source == pytest.approx(logprob(tiny, b, token), abs=1e-4)
    places = [(layer, "resid_post") for layer in (0, 7, 30)]
    for name, source in (("effect", b), ("control", unrelated(tiny, len(a)))):
        stream = capture_sites(tiny, torch.tensor([source]), places)
        expected = [
            logprob(tiny, a, token, [Edit("resid_post", (layer,), (p,), Replace(stream[layer, site][:, p : p + 1]))])
            for layer, site in places for p in range(len(a))
        ]  # fmt: skip
        np.testing.assert_allclose(found.columns[name], np.array(expected) - found.unpatched, atol=2e-4)
    last = found.columns["layer"] == 30
    assert np.abs(found.columns["effect"][last][:-1]).max() < 1e-4, "at the last layer only the last position counts"
    assert found.columns["effect"][last][-1] == pytest.approx(found.source - found.unpatched, abs=1e-4)
    np.testing.assert_allclose(found.columns["share"], found.columns["effect"] / (found.source - found.unpatched), 1e-3)


def test_a_patch_from_the_same_run_does_nothing(tiny, texts):
    (text, _), _ = texts
    for more in ({}, {"along": "unembedding: Paris| London"}, {"site": "mlp_out"}):
        found = ms.patch(tiny, text, text, TOKEN, every=10, **more)
        assert np.abs(found.columns["effect"]).max() < 2e-4
        assert np.isnan(found.columns["share"]).all()
        assert np.abs(found.columns["control"]).max() > 1e-3


def test_a_patch_along_vectors_moves_what_lies_along_them(tiny, texts):
    (text, other), (a, b) = texts
    found = ms.patch(tiny, text, other, TOKEN, layers=[7], along=r"unembedding: Paris|\:")
    rows = tiny.anatomy.output_rows(torch.tensor([tiny.tokenizer.single(t) for t in (" Paris", ":")]))
    place = (7, "resid_post")
    h = capture_sites(tiny, torch.tensor([b]), [place])[place]
    what = SetCoordinates(rows, h[:, -1:] @ rows.T)
    expected = logprob(tiny, a, tiny.tokenizer.single(TOKEN), [Edit("resid_post", (7,), (len(a) - 1,), what)])
    assert found.columns["logprob"][-1] == pytest.approx(expected, abs=2e-4)


def test_what_comes_out(tiny, texts, tmp_path, capsys):
    (text, other), (ids, _) = texts
    found = ms.patch(tiny, text, other, TOKEN, every=10)
    document = json.loads(found.json())
    assert len(document["columns"]["effect"]) == len(found) == 4 * len(ids)
    assert document["chosen"] == TOKEN
    found.save(tmp_path / "p.parquet")
    found.plot(tmp_path / "p.svg")
    assert found.arrow().num_rows == len(found)
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(tmp_path / "p.parquet")
    assert table.column_names == [column.name for column in found.DECLARED]
    assert table.schema.metadata[b"chosen"] == TOKEN.encode()
    found.show()
    shown = capsys.readouterr().out
    assert "an unrelated text's stream moves it by" in shown
    assert f"{document['unpatched']:+.2f}".replace("-", "−") in shown


def test_what_was_picked_is_shown_where_it_makes_a_grid(tiny, texts, tmp_path, capsys):
    (text, other), _ = texts
    found = ms.patch(tiny, text, other, TOKEN, every=10)
    layer, position = found.columns["layer"], found.columns["position"]
    found.pick((layer > 0) & (position > 1)).show()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:5]] == ["30", "20", "10"]
    for rows, words in ((layer > 30, "the table has no rows"), ((layer > 0) | (position > 1), "make no grid")):
        few = found.pick(rows)
        for look in (few.show, lambda few=few: few.plot(tmp_path / "p.svg")):
            with pytest.raises(RequestError, match=words):
                look()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("every", [0, -1, 2.5, "2", None])
def test_a_step_that_is_none_is_a_sentence(tiny, texts, every):
    (text, other), _ = texts
    with pytest.raises(RequestError, match=rf"every {every!r} layers: expected a whole number of 1 or more"):
        ms.patch(tiny, text, other, TOKEN, layers=[3]).show(every=every)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((TEXT, "The capital", TOKEN), "tokens .text, other, control.: expected equal numbers"),
        ((TEXT, TEXT, "Paris and"), "expected exactly one"),
        (("", "", TOKEN), "expected two or more"),
    ],
)
def test_what_cannot_be_patched_is_refused(tiny, given, words):
    with pytest.raises(RequestError, match=words):
        ms.patch(tiny, *given)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": [31]}, "unknown layer 31"),
        ({"site": "nowhere"}, "unknown site"),
        ({"along": "unembedding: Paris| Paris"}, "depend on each other"),
        ({"along": "nowhere: Paris"}, "unknown source"),
        ({"along": "lens:logit"}, "names no token"),
        ({"control": "The"}, "expected equal numbers"),
        ({"speed": 3}, "unknown option 'speed'"),
    ],
)
def test_options_that_do_not_fit_are_refused(tiny, options, words):
    with pytest.raises(RequestError, match=words):
        ms.patch(tiny, TEXT, TEXT, TOKEN, **options)
