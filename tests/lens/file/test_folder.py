"""The lens folder: by the identity of the model, where the environment says."""

from __future__ import annotations

import pytest

from midstream.errors import RequestError
from midstream.lens.file.folder import available, files, folder, path, root
from midstream.lens.kind import parse


def test_files_lie_by_identity_and_kind(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("MIDSTREAM_LENSES", str(tmp_path))
    own = tmp_path / tiny.fingerprint.identity[:16]
    assert folder(tiny) == own
    assert path(tiny, "future:2") == path(tiny, parse("future:2")) == own / "future-2.safetensors"
    assert path(tiny, "input:0:shared") == own / "input-0-shared.safetensors"
    with pytest.raises(RequestError, match="unknown kind"):
        path(tiny, "../x")
    assert available(tiny) == []
    own.mkdir()
    for name in ("tuned", "future-2", "input-0-shared", "future:3", "mine", "future-02"):
        (own / f"{name}.safetensors").touch()
    (own / "shortcut.safetensors").mkdir()
    (own / "tuned.sums").touch()
    assert available(tiny) == ["future:2", "input:0:shared", "tuned"]
    assert len(files(own)) == 6


def test_without_a_choice_it_is_the_platforms_place(monkeypatch):
    monkeypatch.delenv("MIDSTREAM_LENSES", raising=False)
    assert root().name == "lenses"
    assert root().parent.name == "midstream"
