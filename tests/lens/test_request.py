from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from midstream.errors import RequestError
from midstream.lens.lens import LOGIT, Lens, built_in
from midstream.lens.request import request


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
    with pytest.raises(RequestError, match="2 ahead"):
        request(tiny, {"lens": Lens("future", "output", 2)})


def test_an_unknown_lens_names_the_known():
    with pytest.raises(RequestError, match=r"'tuned'.*logit, input"):
        built_in("tuned")
