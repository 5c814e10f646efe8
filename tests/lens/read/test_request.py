from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from midstream.errors import RequestError
from midstream.lens.lens import LOGIT, Lens
from midstream.lens.read.request import default_lenses, request


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layers=st.sets(st.integers(-31, 30), min_size=1), every=st.integers(1, 40))
def test_a_stride_never_drops_the_last_layer(tiny, layers, every):
    kept = request(tiny, {"layers": layers, "every": every}).layers
    asked = sorted({layer % 31 for layer in layers})
    assert kept[-1] == asked[-1]
    assert list(kept) == asked[::-1][::every][::-1]


def test_defaults_read_everything_once(tiny):
    wanted = request(tiny, {})
    assert wanted.lenses == (LOGIT,)
    assert wanted.layers == tuple(range(31))
    assert wanted.sites == ("resid_post",)
    assert (wanted.top_k, wanted.precision, wanted.watch, wanted.reach) == (10, "exact", (), 1)


def test_all_sites_are_those_of_the_family(tiny):
    assert request(tiny, {"site": "all"}).sites == tiny.anatomy.sites
    assert request(tiny, {"site": ["resid_post", "attn_out"]}).sites == ("attn_out", "resid_post")


def test_watched_tokens_are_single_and_named_once(tiny):
    assert len(request(tiny, {"watch": [" Paris", " Paris"]}).watch) == 1
    with pytest.raises(RequestError, match="Paris is"):
        request(tiny, {"watch": [" Paris is"]})


def test_reach_is_the_farthest_offset(tiny):
    far = Lens("far", "input", -4)
    assert request(tiny, {"lens": ["logit", far]}).reach == 4
    assert request(tiny, {"lens": ["logit", Lens("future", "output", 3)]}).reach == 3


def test_an_unknown_lens_names_the_known(tiny):
    with pytest.raises(RequestError, match=r"'tunde'.*logit, input"):
        request(tiny, {"lens": "tunde"})
    with pytest.raises(RequestError, match="midstream fit future:2"):
        request(tiny, {"lens": ["logit", "future:2"]})


def test_a_lens_reads_where_it_was_fitted(tiny):
    there = Lens("there", "output", 1, site="mlp_out", layers=(3, 5, 30))
    baseline = Lens("baseline", "output", 1, source="token", layers=(0,))
    wanted = request(tiny, {"lens": ["logit", there, baseline], "layers": range(4, 31)})
    logit = wanted.lenses[0]
    assert wanted.places(logit) == [(layer, "resid_post") for layer in range(4, 31)]
    assert wanted.places(there) == [(5, "mlp_out"), (30, "mlp_out")]
    assert wanted.places(baseline) == [(0, "resid_post")], "whatever the layers asked for"
    both = request(tiny, {"lens": ["logit", there], "layers": [0, 3], "site": ["mlp_out", "resid_post"]})
    assert both.places(logit) == [(3, "mlp_out"), (0, "resid_post"), (3, "resid_post")]
    assert both.places(there) == [(3, "mlp_out")]


def test_a_lens_is_not_read_where_it_was_not_fitted(tiny):
    there = Lens("there", "output", 1, site="mlp_out", layers=(3, 4, 5, 30))
    with pytest.raises(RequestError, match="'there' was fitted at mlp_out and reads only there, not at resid_post"):
        request(tiny, {"lens": ["logit", there], "site": "resid_post"})
    with pytest.raises(RequestError, match=r"none of the layers 0-2, 7 at mlp_out: it has 3-5, 30\."):
        request(tiny, {"lens": ["logit", there], "layers": [0, 1, 2, 7]})
    with pytest.raises(RequestError, match=r"none of the layers 0 at mlp_out: it has 1-30\."):
        request(tiny, {"lens": Lens("any", "output", 1, site="mlp_out"), "layers": [0]})


def test_the_tuned_lens_is_a_default_once_there_is_one(tiny, monkeypatch, tmp_path):
    from midstream.lens.file.folder import path

    monkeypatch.setenv("MIDSTREAM_LENSES", str(tmp_path))
    assert default_lenses(tiny) == ("logit",)
    for kind in ("tuned", "shortcut"):
        file = path(tiny, kind)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"")
    assert default_lenses(tiny) == ("logit", "tuned")
