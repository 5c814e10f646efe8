"""Edits in a file come back as they were; a hostile file is a sentence."""

from __future__ import annotations

import pytest
import torch

from midstream.errors import RequestError
from midstream.stream.change import KINDS, Add, Interpolate, ProjectOut, Replace, Scale, SetCoordinates
from midstream.stream.container import write
from midstream.stream.edit import Edit
from midstream.stream.edit_file import load_edits, save_edits, stated

H = torch.randn(2, 3, 8)
WHATS = [
    Add(torch.randn(8), 0.5, relative=True),
    Replace(torch.randn(1, 3, 8).bfloat16()),
    Interpolate(torch.randn(8), 0.25, keep_norm=False),
    Interpolate(torch.randn(1, 3, 8), torch.rand(2, 3)),
    ProjectOut(torch.randn(2, 8)),
    SetCoordinates(torch.randn(2, 8), torch.randn(2, 3, 2)),
    Scale(-1.5),
]
PLACES = [("resid_post", (0, 3), None, None), ("mlp_out", (2,), (1, -1), (0, 2)), ("resid_mid", (1,), "new", None)]


def test_every_kind_comes_back(tmp_path):
    edits = [Edit(site, layers, positions, what, texts) for site, layers, positions, texts in PLACES for what in WHATS]
    digest = save_edits(tmp_path / "e.safetensors", edits)
    assert {type(what) for what in WHATS} == set(KINDS.values())
    back = load_edits(tmp_path / "e.safetensors")
    for edit, other in zip(edits, back, strict=True):
        assert (edit.site, edit.layers, edit.positions, edit.texts) == (
            other.site, other.layers, other.positions, other.texts
        )  # fmt: skip
        assert type(edit.what) is type(other.what)
        assert torch.equal(edit.what.apply(H), other.what.apply(H))
    assert save_edits(tmp_path / "again.safetensors", back) == digest, "equal edits give equal bytes"


def test_a_kind_of_the_users_own_is_not_kept(tmp_path):
    class Own(Scale):
        pass

    with pytest.raises(RequestError, match=r"edit 1 is of a kind that no file holds .Own"):
        save_edits(tmp_path / "e.safetensors", [Edit("resid_post", (1,), None, Own(2.0))])
    assert not list(tmp_path.iterdir())


class Halve:
    """Not of midstream."""

    def apply(self, h):
        return h / 2

    def part(self, kept):
        return self

    def __repr__(self):
        return "Halve of " + "all " * 1000


def test_a_kind_of_the_users_own_is_stated_by_name(tmp_path):
    edits = [Edit("mlp_out", (1, 2), "new", Halve()), Edit("resid_post", (1,), (0,), Add(torch.ones(8)))]
    own, known = stated(edits)
    assert own["what"]["kind"] == f"{__name__}.Halve"
    assert own["what"]["repr"].startswith("Halve of all all")
    assert len(own["what"]["repr"]) <= 500
    assert (own["site"], own["layers"], own["positions"], own["texts"]) == ("mlp_out", [1, 2], "new", None)
    assert known == stated(edits[1:])[0]
    with pytest.raises(RequestError, match=r"edit 1 is of a kind that no file holds .Halve"):
        save_edits(tmp_path / "e.safetensors", edits)
    assert not list(tmp_path.iterdir())


GOOD = {"site": "resid_post", "layers": [1], "positions": None, "texts": None, "what": {"kind": "scale", "factor": 2.0}}


@pytest.mark.parametrize(
    "text",
    [
        {"kind": "lens", "edits": [GOOD]},
        {"kind": "edits"},
        {"kind": "edits", "edits": [7]},
        {"kind": "edits", "edits": [GOOD | {"layers": "1"}]},
        {"kind": "edits", "edits": [GOOD | {"layers": [1.5]}]},
        {"kind": "edits", "edits": [GOOD | {"positions": "old"}]},
        {"kind": "edits", "edits": [GOOD | {"what": {"kind": "exec"}}]},
        {"kind": "edits", "edits": [GOOD | {"what": {"kind": "scale"}}]},
        {"kind": "edits", "edits": [GOOD | {"what": {"kind": "scale", "factor": "2"}}]},
        {"kind": "edits", "edits": [GOOD | {"what": {"kind": "add", "vector": {"tensor": "none"}}}]},
        {"kind": "edits", "edits": [GOOD | {"what": {"kind": "add", "vector": [1.0]}}]},
    ],
)
def test_a_hostile_file_is_a_sentence(tmp_path, text):
    write(tmp_path / "e.safetensors", {}, text)
    with pytest.raises(RequestError, match=r"e\.safetensors"):
        load_edits(tmp_path / "e.safetensors")


def test_a_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "e.safetensors"
    save_edits(path, [Edit("resid_post", (1,), None, Add(torch.ones(8)))])
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(RequestError, match="damaged"):
        load_edits(path)
