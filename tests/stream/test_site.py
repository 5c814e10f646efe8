"""Sites and layers are checked before anything runs; the error lists what there is."""

from __future__ import annotations

import pytest

from midstream.errors import RequestError
from midstream.model.anatomy import find
from midstream.stream.site import check, tap
from tests.tiny import tiny


@pytest.fixture(scope="module")
def llama():
    module = tiny("llama")
    return find(module, module.config)


def test_layer_0_is_what_enters_block_1(llama):
    assert tap(llama, 0, "resid_post").module is llama.blocks[0]
    assert tap(llama, 0, "resid_post").side == "input"
    assert tap(llama, 4, "resid_post").module is llama.blocks[3]
    assert tap(llama, 4, "resid_post").side == "output"


def test_a_parallel_family_lists_the_sites_it_has():
    module = tiny("gpt_neox")
    with pytest.raises(
        RequestError, match=r"unknown site of a gpt_neox model 'resid_mid'.*attn_out, mlp_out, resid_post"
    ):
        check(find(module, module.config), 1, "resid_mid")


@pytest.mark.parametrize(
    ("layer", "site", "words"),
    [
        (5, "resid_post", "unknown layer 5 for resid_post: expected 0 to 4"),
        (-1, "resid_post", "unknown layer -1"),
        (0, "attn_out", "unknown layer 0 for attn_out: expected 1 to 4"),
        (1, "resid_pre", "attn_out, resid_mid, mlp_out, resid_post"),
    ],
)
def test_unknown_layers_and_sites_are_refused(llama, layer, site, words):
    with pytest.raises(RequestError, match=words) as caught:
        check(llama, layer, site)
    assert caught.value.exit_code == 2
